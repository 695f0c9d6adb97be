"""Grammars that mask logits, so that an answer is valid JSON under its schema by construction.

`schema` prepares a JSON schema, `grammar` compiles it and masks tokens, `close` finds a short end for a text
whose budget runs out.
"""
