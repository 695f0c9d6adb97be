"""Tool calls: whether, which and with what arguments, how they stand in a prompt, and how they are read back.

`plan` puts the others together for one request. Knows LangChain's messages; refuses to know decoders.
"""
