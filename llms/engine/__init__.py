"""The engine: it turns requests into tokens, one decoder step at a time.

`engine.Engine` is the entry point. `scheduler`, `steps`, `prefix`, `score` and `speculation` are its parts,
and `request` is what a caller submits and reads. The arithmetic is done by a `Decoder`
(`llms.decoders.base`).
"""
