"""Plain text at work: words, sentences, windows and vectors; no language model, no files."""
