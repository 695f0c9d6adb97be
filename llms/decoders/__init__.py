"""Decoders: the interface that the engine calls, and its implementations for CPUs and GPUs."""
