"""The lean decoder: a forward pass of our own for small models on the CPU.

`decoder.LeanDecoder` is the `Decoder`; `plan` says whether it can run, `pack` and `weights` bring the weights
into its layout, `compiler`, `check` and `machine` build, try and drive `kernels.cpp`, with one header for
each instruction set and threads of its own (`team.h`). Where nothing compiles, it runs on PyTorch's
operators.
"""
