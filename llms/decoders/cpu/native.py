"""The compiled kernels: which instruction sets there are, which object this CPU runs, and how to call it.

`kernels.cpp` is compiled when the package is installed (setup.py), once for each instruction set. `load`
opens the object of the best set that the CPU has. `python native.py OBJECT` tests an object: setup.py runs
that on each object that it built and drops one that computes wrongly, so this file imports the standard
library only.

    >>> from llms.decoders.cpu import native
    >>> [one.name for one in native.SETS]
    ['NEON', 'AVX512-BF16', 'AVX512-VNNI', 'AVX2']
    >>> native.missing() or native.load().instructions.name  # doctest: +SKIP
    'AVX512-BF16'
"""

from __future__ import annotations

import ctypes
import math
import platform
import random
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

INTERFACE = 3
"""Counted up, here and in `kernels.cpp`, when one of the structures below changes."""

LANES = 16
"""Rows of a matrix that are stored next to each other."""

BLOCK = 32
"""Columns of a block; in GGUF's Q4_1 and Q8_0 they share a scale."""

PAGE = 32
"""Tokens of a page of the KV cache."""

BITS = {320: 4, 544: 8, 1024: 16}
"""Bits of a weight, by the size of a block in bytes; also the number of its format in gguf_blocks.h."""

BF16 = 30
"""The number of bf16 among GGUF's types."""

OUT_OF_MEMORY = 1
"""What `cpu_forward` returns if it could not allocate its buffers; 0 is success."""

REMEDY = "install a C++ compiler (g++ or clang++), then install the package again"


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionSet:
    """CPU instructions that the kernels are compiled for.

    Attributes:
        name: Its usual name.
        needs: CPU flags that it needs, as Linux spells them.
        header: The header next to `matmul.h` that implements the products.
        machine: The machine that has them, as `platform.machine` spells it.
        base: The compiler's option for the least CPU that has them.
    """

    name: str
    needs: frozenset[str]
    header: str
    machine: str = "x86_64"
    base: str = "-march=x86-64"

    @property
    def options(self) -> tuple[str, ...]:
        """Return the compiler's options."""
        flags = sorted(self.needs) if self.machine == "x86_64" else ()
        return (
            self.base,
            *(f"-m{flag.replace('_', '')}" for flag in flags),
            f'-DINSTRUCTIONS="{self.header}"',
        )

    @property
    def object(self) -> str:
        """Return the file name of the compiled kernels."""
        return f"kernels-{self.name.lower()}.so"


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_VNNI = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}

SETS = (
    InstructionSet(
        name="NEON",
        needs=frozenset({"asimd", "asimddp"}),
        header="neon.h",
        machine="aarch64",
        base="-march=armv8.2-a+dotprod",
    ),
    InstructionSet(name="AVX512-BF16", needs=_VNNI | {"avx512_bf16"}, header="avx512.h"),
    InstructionSet(name="AVX512-VNNI", needs=_VNNI, header="avx512.h"),
    InstructionSet(name="AVX2", needs=_AVX2, header="avx2.h"),
)
"""Best first of each machine. BF16: AMD from Zen 4 on, Intel servers from Cooper Lake on. VNNI: Intel servers
from Cascade Lake on, laptops of the 10th and 11th generation. AVX2: Intel from Haswell (2013), AMD from Zen
(2017) on. NEON: 64-bit ARM with dot products (Cortex-A76, Graviton 2); it was compiled and emulated, and has
never run on such a machine."""


class MatrixStruct(ctypes.Structure):
    """`Matrix` of matmul.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("groups", "width", "format", "blocks", "source", "type", "rows", "turned", "packed")
    ]


class LayerStruct(ctypes.Structure):
    """`Layer` of kernels.cpp; norms and the bias are addresses of fp32 numbers, 0 if there are none."""

    _fields_ = [
        ("qkv", MatrixStruct * 3),
        *((name, MatrixStruct) for name in ("out", "gate", "up", "down")),
        *(
            (name, ctypes.c_int64)
            for name in ("attention_norm", "mlp_norm", "bias", "query_norm", "key_norm")
        ),
    ]


class ModelStruct(ctypes.Structure):
    """`Model` of kernels.cpp; `norm`, `embedding`, `cos` and `sin` are addresses."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "width", "heads", "kv_heads", "head_dim")),
        *((name, ctypes.c_int64) for name in ("sliding_window", "threads")),
        ("epsilon", ctypes.c_double),
        ("layer", ctypes.POINTER(LayerStruct)),
        ("norm", ctypes.c_int64),
        ("head", MatrixStruct),
        *((name, ctypes.c_int64) for name in ("embedding", "embedding_type", "cos", "sin")),
    ]


class BatchStruct(ctypes.Structure):
    """`Batch` of kernels.cpp; all but the counts are addresses."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("count", "kept", "ids", "positions", "pages", "keep", "logits")
    ]


Forward = Callable[[ModelStruct, BatchStruct], None]
"""Runs one pass.

Raises:
    MemoryError: There was no memory for its buffers. Nothing has changed.
    RuntimeError: It failed in another way.
"""


@dataclass(frozen=True, slots=True)
class LoadedKernels:
    """Kernels that this process can call.

    Attributes:
        instructions: What they are compiled for.
        forward: Runs a pass.
        library: The object, for `cpu_dequantize`.
    """

    instructions: InstructionSet
    forward: Forward
    library: ctypes.CDLL


@cache
def cpu_flags() -> frozenset[str]:
    """Return the flags of the CPU as Linux spells them; empty on other systems."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):  # x86-64, ARM
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def supported_platform() -> bool:
    """Return whether the kernels can be compiled here at all: on Linux on x86-64 or 64-bit ARM."""
    return sys.platform == "linux" and platform.machine() in {one.machine for one in SETS}


def supported_sets() -> tuple[InstructionSet, ...]:
    """Return the sets that this CPU has, best first."""
    return tuple(one for one in SETS if one.needs <= cpu_flags() and one.machine == platform.machine())


def load(name: str | None = None, folder: Path = FOLDER) -> LoadedKernels | str:
    """Return the best kernels that this CPU runs, or in a few words why there are none.

    Args:
        name: The only set to load; None for any that the CPU has.
        folder: The folder of the objects.

    Raises:
        ValueError: There is no set of that name.
    """
    if name not in (None, *(names := [one.name for one in SETS])):
        raise ValueError(f"expected an instruction set of {', '.join(names)}, or None; found {name!r}.")
    if not supported_platform():
        here = f"{sys.platform} on {platform.machine()}"
        return f"the kernels are written for Linux on x86-64 and 64-bit ARM, this is {here}"
    if not supported_sets():
        least = [one for one in SETS if one.machine == platform.machine()][-1]
        return f"a CPU without {min(least.needs - cpu_flags())}"
    wanted = [one for one in supported_sets() if name in (None, one.name)]
    if not wanted:
        return f"a CPU without {name}"
    found = (_opened(one, folder / one.object) for one in wanted)
    return next(filter(None, found), "the package was installed without its native code")


def missing() -> str | None:
    """Return in a few words why there are no kernels for this CPU here; None if there are."""
    found = load()
    return found if isinstance(found, str) else None


def notice() -> str:
    """Return one line that says how to get the kernels; empty if they are there or cannot be had here."""
    if not supported_sets() or not supported_platform() or missing() is None:
        return ""
    return (
        "this installation has no native code for the CPU, so small models run several times slower; "
        f"{REMEDY}"
    )


@cache
def _opened(instructions: InstructionSet, path: Path) -> LoadedKernels | None:
    """Open an object; None if it is missing, damaged, or built from other sources."""
    try:
        library = ctypes.CDLL(str(path))
        return (
            LoadedKernels(instructions, _forward(library), library)
            if library.cpu_interface() == INTERFACE
            else None
        )
    except (OSError, AttributeError):
        return None


def _forward(library: ctypes.CDLL) -> Forward:
    library.cpu_forward.argtypes = [ctypes.POINTER(ModelStruct), ctypes.POINTER(BatchStruct)]

    def forward(model: ModelStruct, batch: BatchStruct) -> None:
        status = library.cpu_forward(model, batch)
        if status == OUT_OF_MEMORY:
            raise MemoryError(f"no memory for a pass of {batch.count} tokens")
        if status:
            raise RuntimeError(f"the kernels failed on a pass of {batch.count} tokens (status {status})")

    return forward


# The self-test: one layer of made-up weights, whose logits PyTorch computed.

EXPECTED = {
    (4, 32): (-0.046, -0.215, 0.031, -0.194, -0.130, -0.142, 0.309, -0.601),
    (8, 64): (-0.205, -1.272, -0.011, 0.599, 0.203, -0.079, 0.213, 0.545),
    (16, 96): (-0.299, 1.108, 1.026, 0.487, -0.244, -0.083, 1.236, -0.175),
    (4, 128): (-0.967, -1.179, -0.585, 0.229, -0.257, -0.251, 0.788, 0.486),
}
"""The last logits of the made-up layer, from PyTorch (tests/test_llms_cpu_native.py), by bits of a weight and
size of a head. The four cases cover every weight format and every head size of the kernels."""

STEPS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Tokens of successive passes. The kernels have code of its own for each of these numbers of rows."""

TOLERANCE = 0.02
"""Largest relative error of the logits. 0.001 to 0.007 was measured; keys and values are rounded to bf16."""

WIDTH, INNER, HEADS, WORDS = 64, 128, 2, 48
NORMS = ("attention_norm", "mlp_norm", "norm")


def self_test(forward: Forward) -> float:
    """Return the largest relative error of the logits; infinite if a token's logits depend on the batch."""
    worst = 0.0
    for (bits, dim), expected in EXPECTED.items():
        layer = MadeUpLayer(bits, dim)
        together = layer.logits(forward, 0, [sum(STEPS)], threads=2)
        if layer.logits(forward, 1, STEPS, threads=1) != together:
            return math.inf
        found = together[-len(expected) :]
        error = math.dist(found, expected) / math.hypot(*expected)
        worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst


def halves(matrix: MatrixStruct) -> tuple[MatrixStruct, MatrixStruct]:
    """Return the upper and the lower half of a packed matrix."""
    groups = matrix.groups // 2
    size = next(size for size, bits in BITS.items() if bits == matrix.format)
    first = {"groups": groups, "width": matrix.width, "format": matrix.format}
    return (
        MatrixStruct(**first, blocks=matrix.blocks),
        MatrixStruct(**first, blocks=matrix.blocks + groups * matrix.width // BLOCK * size),
    )


class MadeUpLayer:
    """A model of one layer with random weights.

    Args:
        bits: Bits of a weight.
        dim: Size of a head.
    """

    def __init__(self, bits: int, dim: int) -> None:
        self._random, self._bits, self._dim = random.Random(bits + dim), bits, dim
        self.arrays: dict[str, array[Any]] = {}
        shapes = {
            "qkv": ((HEADS + 2) * dim, WIDTH),
            "out": (WIDTH, HEADS * dim),
            "gate_up": (2 * INNER, WIDTH),
            "down": (WIDTH, INNER),
            "head": (WORDS, WIDTH),
        }
        structs = {name: self._matrix(name, *shape) for name, shape in shapes.items()}
        count = sum(STEPS)
        norms = [self._keep(name, "f", (self._between(0.5, 1.5) for _ in range(WIDTH))) for name in NORMS]
        angles = [p * 10_000 ** (-2 * i / dim) for p in range(count) for i in range(dim // 2)]
        gate, up = halves(structs["gate_up"])
        self._layer = LayerStruct(
            (MatrixStruct * 3)(structs["qkv"]), structs["out"], gate, up, structs["down"], *norms[:2]
        )
        self._model = ModelStruct(
            *(1, WIDTH, HEADS, 1, dim, 0, 1, 1e-5, ctypes.pointer(self._layer), norms[2], structs["head"]),
            self._keep("embedding", "H", (self._bf16() for _ in range(WORDS * WIDTH))),
            BF16,
            self._keep("cos", "f", map(math.cos, angles)),
            self._keep("sin", "f", map(math.sin, angles)),
        )
        self._tables = []
        for row in range(2):
            pages = [
                self._keep(f"{row} {page}", "H", [0] * (2 * PAGE * dim)) for page in range(-(-count // PAGE))
            ]
            self._tables.append(self._keep(f"table {row}", "q", pages))

    def logits(self, forward: Forward, row: int, steps: Sequence[int], *, threads: int) -> list[float]:
        """Return the logits of all tokens, `steps` of them in each pass, with the pages of a table."""
        found: list[float] = []
        self._model.threads = threads
        for start, count in zip(accumulate(steps, initial=0), steps, strict=False):
            positions = range(start, start + count)
            tables = [self._tables[row]] * count
            lists = ([7 * p % WORDS for p in positions], positions, tables, range(count))
            arrays = [array("q", numbers) for numbers in lists]
            logits = array("f", [0.0] * (count * WORDS))
            pointers = [numbers.buffer_info()[0] for numbers in arrays]
            forward(self._model, BatchStruct(count, count, *pointers, logits.buffer_info()[0]))
            found += logits
        return found

    def _keep(self, name: str, code: str, values: Iterable[float]) -> int:
        self.arrays[name] = array(code, values)
        return self.arrays[name].buffer_info()[0]

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()

    def _bf16(self) -> int:
        return _bf16(self._between(-1, 1))

    def _matrix(self, name: str, rows: int, width: int) -> MatrixStruct:
        """Make up blocks as `matmul.h` describes them."""
        blocks = b""
        for _ in range(rows * width // (LANES * BLOCK)):
            if self._bits == 16:
                blocks += array(
                    "H", [_bf16(self._between(-0.2, 0.2)) for _ in range(LANES * BLOCK)]
                ).tobytes()
                continue
            scales = [self._between(0.5, 1) / (60 if self._bits == 4 else 800) for _ in range(LANES)]
            scales += [-8 * scale for scale in scales] if self._bits == 4 else []
            blocks += bytes(int(self._between(0, 256)) for _ in range(LANES * BLOCK * self._bits // 8))
            blocks += struct.pack(f"<{len(scales)}e", *scales)
        return MatrixStruct(rows // LANES, width, self._bits, self._keep(name, "B", blocks))


def _bf16(value: float) -> int:
    """Return the bits of a number that is rounded to bf16, towards zero."""
    return int.from_bytes(struct.pack("<f", value), "little") >> 16


def main() -> None:
    """Test the object named on the command line, or without one say which kernels this CPU will run."""
    if len(sys.argv) == 1:
        found = load()
        text = f"no native code: {found}" if isinstance(found, str) else found.instructions.name
        sys.stdout.write(f"CPU decoder: {text}\n")
        return
    error = self_test(_forward(ctypes.CDLL(sys.argv[1])))
    sys.exit(
        0 if error <= TOLERANCE else f"expected a relative error of {TOLERANCE} at most, found {error:.3g}"
    )


if __name__ == "__main__":
    main()
