"""The engine: it turns requests into tokens, one decoder step at a time, on a thread of its own.

`engine.Engine` is the entry point, and `stream.Stream` is what a caller reads. `scheduler`, `steps`,
`prefix`, `score` and `speculation` are the engine's parts, and `request` has what passes between them. The
arithmetic is done by a `Decoder` (`llms.decoders.base`).
"""
