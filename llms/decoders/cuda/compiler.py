"""Compiles CUDA sources with NVRTC, caches the cubins on disk, and launches the kernels on torch's stream.

It needs `cuda.bindings`, on which torch's CUDA builds depend. It does not need a CUDA toolkit, because the
sources include no header.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "kernels"
SHARED = ("common.cuh", "linear.cuh", "multiply.cuh")


class CudaError(RuntimeError):
    """The driver or NVRTC failed, so the decoder cannot be used on this machine."""


class Kernel:
    """One kernel of a loaded module.

    Args:
        function: The driver's handle.
        threads: Threads per block.
        shared_bytes: Dynamic shared memory per block, in bytes.
        overlap: Whether to start while the previous kernel still runs (programmatic dependent launch). The
            kernel then waits by itself before it reads what that one wrote.
    """

    def __init__(self, function: Any, *, threads: int, shared_bytes: int = 0, overlap: bool = False) -> None:
        from cuda.bindings import driver

        self._driver, self._function = driver, function
        self._threads, self._shared, self._overlap = threads, shared_bytes, overlap
        names = driver.CUfunction_attribute
        if shared_bytes > 48 * 1024:
            attribute = names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _check(driver.cuFuncSetAttribute(function, attribute, shared_bytes))
        # All kernels use one split of L1 and shared memory; a multiprocessor must be idle to change it.
        carveout = names.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        _check(driver.cuFuncSetAttribute(function, carveout, 100))

    def __call__(self, grid: tuple[int, ...], arguments: ctypes.Structure) -> None:
        """Launch on torch's current stream; a capture of that stream records the launch."""
        driver = self._driver
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = (*grid, 1, 1)[:3]
        config.blockDimX, config.blockDimY, config.blockDimZ = self._threads, 1, 1
        config.sharedMemBytes = self._shared
        config.hStream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
        config.numAttrs = 0
        if self._overlap:
            attribute, value = driver.CUlaunchAttribute(), driver.CUlaunchAttributeValue()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            value.programmaticStreamSerializationAllowed = 1
            attribute.value = value
            config.attrs, config.numAttrs = [attribute], 1
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        _check(driver.cuLaunchKernelEx(config, self._function, ctypes.addressof(pointers), 0))


class Module:
    """The kernels of one source file, compiled for one set of options."""

    def __init__(
        self, name: str, defines: Mapping[str, int], capability: tuple[int, int], cache: Path
    ) -> None:
        """Compile, or read the cached cubin, and load it into torch's context."""
        from cuda.bindings import driver

        torch.cuda.current_stream().synchronize()  # makes torch's context current
        self._driver = driver
        self._image = cubin(name, defines, capability, cache)
        (self._module,) = _check(driver.cuModuleLoadData(self._image))

    def kernel(self, name: str, *, threads: int, shared_bytes: int = 0, overlap: bool = False) -> Kernel:
        """Return one of the module's kernels."""
        (function,) = _check(self._driver.cuModuleGetFunction(self._module, name.encode()))
        return Kernel(function, threads=threads, shared_bytes=shared_bytes, overlap=overlap)


def source(name: str) -> str:
    """Return the source of one kernel file, preceded by the files that all kernels share."""
    return "\n".join((FOLDER / part).read_text() for part in (*SHARED, f"{name}.cu"))


def cubin(name: str, defines: Mapping[str, int], capability: tuple[int, int], cache: Path) -> bytes:
    """Return machine code for one kernel file, from the cache folder if it is there.

    Raises:
        CudaError: NVRTC refused the source; the message has its log.
    """
    from cuda.bindings import nvrtc

    text = source(name)
    special = "a" if defines.get("WGMMA") else ""  # instructions of this one architecture
    options = [f"-arch=sm_{capability[0]}{capability[1]}{special}", "-std=c++17", "-default-device"]
    options += [f"-D{key}={value}" for key, value in sorted(defines.items())]
    _, major, minor = nvrtc.nvrtcVersion()
    key = hashlib.sha256("\0".join([text, *options, f"{major}.{minor}"]).encode()).hexdigest()[:32]
    path = cache / f"{name}-{key}.cubin"
    with contextlib.suppress(OSError):
        image = path.read_bytes()
        if image[:4] == b"\x7fELF":
            return image
    image = _compile(nvrtc, name, text, options)
    with contextlib.suppress(OSError):  # without a writable cache the next start takes a second longer
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            file.write(image)
        os.replace(file.name, path)
    return image


def _compile(nvrtc: Any, name: str, text: str, options: list[str]) -> bytes:
    (program,) = _check(nvrtc.nvrtcCreateProgram(text.encode(), f"{name}.cu".encode(), 0, [], []))
    status = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    if int(status[0]) != 0:
        (size,) = _check(nvrtc.nvrtcGetProgramLogSize(program))
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise CudaError(f"expected {name}.cu to compile with {options!r}, found:\n{log.decode()}")
    (size,) = _check(nvrtc.nvrtcGetCUBINSize(program))
    image = b" " * size
    _check(nvrtc.nvrtcGetCUBIN(program, image))
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(image)


def _check(result: tuple[Any, ...]) -> tuple[Any, ...]:
    if int(result[0]) != 0:
        raise CudaError(f"expected a CUDA call to succeed, found {result[0]!r}")
    return result[1:]
