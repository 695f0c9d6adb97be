"""Tools for plain text: words, sentences, windows and vectors.

A leaf of the package: nothing here needs a language model, a file or another chain, so every chain and
`chains.retrieval` may import it.
"""
