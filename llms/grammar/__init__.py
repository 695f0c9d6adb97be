"""Grammars that mask the logits: text that is valid by construction.

`grammar` compiles and drives them, `schema` writes one from a JSON schema, `close` knows the shortest way to
an end, `schema_sources` makes a JSON schema of pydantic models, TypedDicts and functions.
"""
