"""The kernels of one model on one GPU: which variants, how much shared memory, which grids, which arguments.

Knows the C structs of kernels/*.cu (each class here mirrors one, field by field) and the GPU's limits.
Refuses to know slots, graphs and tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from llms.fast.compiler import Kernel, Module
from llms.fast.layout import record_bytes
from llms.fast.weights import Shape

PAGE = 64
"""Tokens a page of the KV cache: half a page is lost per conversation, and 16-key tiles never cross one."""
WARPS = 8
LUT_BYTES = 32768 + 1024
KINDS = ("qkv", "residual", "silu")

_P, _I, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_float


def _struct(name: str, pointers: str, integers: str = "", floats: str = "") -> type[ctypes.Structure]:
    fields = [(f, _P) for f in pointers.split()] + [(f, _I) for f in integers.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields + [(f, _F) for f in floats.split()]})


Linear = _struct(
    "Linear",
    "records tiles absmax2 code2 lut x ssq_in partial counters h x_out gain ssq_out q kv slot pos pages rope",
    "num_tiles units ssq_count splits q_rows k_rows max_pages columns width blocks_per_row",
    "eps inv_width",
)
Attention = _struct(
    "Attention",
    "q kv out slot pos pages group_first group_count partial counters",
    "max_pages splits sliding nt",
    "scale_log2",
)
Embed = _struct("Embed", "tokens table gain h x ssq", "width nt")
Norm = _struct("Norm", "h gain x", "width", "eps")
Unpack = _struct("Unpack", "records tiles absmax2 code2 codes out", "num_tiles units blocks_per_row width")
Rotate = _struct("Rotate", "qkv kv pages rope", "first q_heads")
Product = _struct("Product", "joined", "width")
Sample = _struct("Sample", "logits top_k temperature top_p min_p seed_low seed_high pos out", "vocabulary")


class Machine:
    """Compiled kernels and the choices that depend on the GPU.

    Args:
        shape: The model's sizes.
        device: A CUDA device of compute capability 8.0 or more.
        cache: Folder for compiled kernels.
        overlap: Whether kernels start while the one before still runs; default: where the GPU can.
        extra: Compile-time choices in place of those made here, for measuring.

    Attributes:
        columns: Most tokens a step can take on this GPU: 64, or 16 where shared memory is short.
        processors: Number of multiprocessors.
    """

    def __init__(
        self,
        shape: Shape,
        device: torch.device,
        cache: Path,
        *,
        overlap: bool | None = None,
        extra: Mapping[str, int] | None = None,
    ) -> None:
        properties: Any = torch.cuda.get_device_properties(device)
        self.shape, self.device = shape, device
        self.processors: int = properties.multi_processor_count
        self.name = properties.name
        capability = (properties.major, properties.minor)
        self._limit: int = properties.shared_memory_per_block_optin
        self._per_processor: int = properties.shared_memory_per_multiprocessor
        self._record = record_bytes(shape.nested)
        self.overlap = capability >= (9, 0) if overlap is None else overlap
        widest = -(-max(shape.inner, shape.width, shape.heads * shape.head_dim) // 256)
        narrow = -(-shape.width // 256)
        defines = self._choose(dict(extra or {}))
        with ThreadPoolExecutor() as pool:
            loads = {n: pool.submit(self._module, n, d, capability, cache) for n, d in defines.items()}
            modules = {n: load.result() for n, load in loads.items()}
        self._load(modules, narrow, widest)

    def _choose(self, chosen: dict[str, int]) -> dict[str, dict[str, int]]:
        """Settle what depends on the GPU's shared memory; return each module's compile-time constants."""
        shape = self.shape
        large = self._limit > 200_000
        self._warps = 16 if large else 8
        self._depth = 2  # 3 and 4 were 1 and 5 % slower: what a kernel needs first queues behind them
        self._warps = chosen.setdefault("GEMV_WARPS", self._warps)
        self._depth = chosen.setdefault("STAGES", self._depth)
        chosen.setdefault("GEMV_BLOCKS", 1)
        self._rows = {1: 1, 2: 1, 4: 2, 8: 2}
        self._deep = {1: 3, 2: 3, 4: 3, 8: 2} if large else {1: 2, 2: 2, 4: 0, 8: 0}
        for nt in self._rows:
            self._rows[nt] = chosen.setdefault(f"RT{nt}", self._rows[nt])
            self._deep[nt] = chosen.setdefault(f"STAGES{nt}", self._deep[nt])
        self.columns = 64 if large else 16
        base = {
            "PDL": int(self.overlap), "NESTED": int(shape.nested), "HEAD_DIM": shape.head_dim,
            "KV_HEADS": shape.kv_heads, "GROUP": shape.heads // shape.kv_heads, "PAGE": PAGE,
        }  # fmt: skip
        per_width = {k: v for k, v in chosen.items() if k[-1].isdigit()}
        defines = {"gemv": base | {k: v for k, v in chosen.items() if k not in per_width}}
        defines["gemm"] = base | per_width
        defines |= {n: base for n in ("edges", "sample")}
        defines |= {f"attention/{n}": base | {"ATTENTION_WARPS": n} for n in (4, 8)}
        return defines

    def _module(self, name: str, defines: dict[str, int], capability: tuple[int, int], cache: Path) -> Module:
        with torch.cuda.device(self.device):
            return Module(name.partition("/")[0], defines, capability, cache)

    def _load(self, modules: dict[str, Module], narrow: int, widest: int) -> None:
        gemv, gemm, edges = modules["gemv"], modules["gemm"], modules["edges"]
        over = self.overlap
        self.linear: dict[tuple[int, str], Kernel] = {}
        for kind in KINDS:
            units = widest if kind == "residual" else narrow
            size = self._gemv_bytes(kind, units, self._depth)
            threads = 32 * self._warps
            self.linear[0, kind] = gemv.kernel(
                f"gemv_{kind}", threads=threads, shared_bytes=size, overlap=over
            )
            for nt in (1, 2, 4, 8):
                if nt * 8 <= self.columns:
                    size = self._gemm_bytes(nt)
                    kernel = gemm.kernel(f"gemm{nt}_{kind}", threads=256, shared_bytes=size, overlap=over)
                    self.linear[nt, kind] = kernel
        rows = 16 * (self.shape.head_dim + 4) * 4
        self.attention = {
            warps: modules[f"attention/{warps}"].kernel(
                "attention", threads=32 * warps, shared_bytes=warps * rows, overlap=over
            )
            for warps in (4, 8)
        }
        self.embed = edges.kernel("embed", threads=256)
        self.final_norm = edges.kernel("final_norm", threads=512, overlap=over)
        self.unpack = edges.kernel("unpack", threads=256)
        self.rotate_store = edges.kernel("rotate_store", threads=128)
        self.silu_product = edges.kernel("silu_product", threads=128)
        self.sample = modules["sample"].kernel("sample", threads=1024)

    def _gemv_bytes(self, kind: str, units: int, depth: int) -> int:
        norm = 0 if kind == "residual" else units * 64
        sums = (16 if kind == "silu" else 4) * self._warps * 64
        return LUT_BYTES + norm + sums + units * 512 + self._warps * depth * self._record

    def _gemm_bytes(self, nt: int) -> int:
        rows, depth = self._rows[nt], self._deep[nt]
        return (
            LUT_BYTES
            + 256
            + max(WARPS * rows * nt * 32, 1024)
            + depth * (nt * 4096 + WARPS * rows * self._record)
        )

    def blocks(self, tiles: int, units: int, nt: int) -> tuple[int, int]:
        """Return the grid of a product: blocks of rows, and how many share a row's columns."""
        if nt == 0:
            return min(tiles, self.processors), 1
        rows = -(-tiles // (WARPS * self._rows[nt]))
        # Blocks that share a row wait for each other, so all must run at once.
        together = self._per_processor // (self._gemm_bytes(nt) + 1024)
        at_once = self.processors * min(together, 2 if nt <= 2 else 1)
        return rows, max(1, min(at_once // rows, units // 2))

    def attention_splits(self, columns: int) -> int:
        """Return over how many blocks the keys of one slot are spread."""
        wanted: int = 4 * self.processors // (self.shape.kv_heads * columns)
        return max(2, min(32, wanted)) if columns > 1 else max(2, min(32, wanted // 4))

    @property
    def group_tokens(self) -> int:
        """How many tokens of one slot one block of attention takes."""
        return max(1, 16 // (self.shape.heads // self.shape.kv_heads))
