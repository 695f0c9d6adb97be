"""The engine: requests become tokens. Policy only; a `Decoder` (`llms.decoder`) below it does the arithmetic.

`engine.Engine` is the entry; `queue`, `lead`, `run`, `flight` and `score` are its parts, `request` is what
its callers hold, `shared.Runtime` what a chat model talks to. Refuses to know messages and model files.
"""
