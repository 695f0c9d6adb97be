"""The kernels of one model on one GPU: their variants, shared memory, grids and arguments.

Each ctypes structure here mirrors a C struct of kernels/*.cu field by field; a test compares them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from llms.decoders.cuda.attend import Attend, attention
from llms.decoders.cuda.compiler import Kernel, Module
from llms.decoders.cuda.layout import Packed, record_bytes
from llms.decoders.cuda.weights import ModelShape

PAGE = 64
"""Tokens per page of the KV cache. A conversation wastes half a page, and 16-key tiles never cross pages."""
KINDS = ("qkv", "residual", "silu")

_P, _I, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_float


def _struct(
    name: str,
    pointers: str,
    integers: str = "",
    floats: str = "",
    *,
    ahead: bool = False,
) -> type[ctypes.Structure]:
    fields: list[tuple[str, Any]] = [(f, _P) for f in pointers.split()]
    fields += [(f, _I) for f in integers.split()] + [(f, _F) for f in floats.split()]
    if ahead:
        fields.append(("ahead", Ahead))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Ahead = _struct("Ahead", "records", "n pieces grain bytes")
"""The weights that a kernel prefetches into L2 for the next one; see kernels/common.cuh."""
Linear = _struct(
    "Linear",
    "records tiles absmax2 code2 lut x ssq_in partial counters h x_out gain ssq_out q kv slot pos pages rope",
    "num_tiles units ssq_count splits q_rows k_rows max_pages columns width blocks_per_row",
    "eps inv_width code_scale",
    ahead=True,
)
Attention = _struct(
    "Attention",
    "q kv out slot pos pages group_first group_count partial counters",
    "max_pages splits sliding nt least soon",
    "scale_log2",
)
Embed = _struct("Embed", "tokens table gain h x ssq", "width nt")
Norm = _struct("Norm", "h gain x", "width", "eps")
Unpack = _struct(
    "Unpack", "records tiles absmax2 code2 codes out", "num_tiles units blocks_per_row width low high"
)
Rotate = _struct("Rotate", "qkv kv pages rope", "first q_heads")
AddNorm = _struct("AddNorm", "h y gain x", "width", "eps")
Product = _struct("Product", "joined act", "width stride")
Sample = _struct(
    "Sample",
    "logits wide history bias_ids bias_values token slot pos "
    "top_k temperature top_p min_p seed_low seed_high penalty biases out",
    "vocabulary window most",
)


class Machine:
    """Compiled kernels and the choices that depend on the GPU.

    Args:
        shape: The model's sizes.
        device: A CUDA device of compute capability 8.0 or more.
        cache: Folder for compiled kernels.
        overlap: Whether kernels start while the previous one still runs; by default if the GPU can.
        wgmma: Whether products of several columns use warpgroup instructions; by default if the GPU has them.
        extra: Compile-time choices in place of those made here, for measurements.

    Attributes:
        columns: Most tokens of a step on this GPU: 64, or 16 if there is little shared memory.
        processors: Number of multiprocessors.
    """

    def __init__(
        self,
        shape: ModelShape,
        device: torch.device,
        cache: Path,
        *,
        overlap: bool | None = None,
        wgmma: bool | None = None,
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
        self.wgmma = capability == (9, 0) if wgmma is None else wgmma
        widest = -(-max(shape.inner, shape.width, shape.heads * shape.head_dim) // 256)
        narrow = -(-shape.width // 256)
        defines = self._choose(dict(extra or {}))
        with ThreadPoolExecutor() as pool:
            loads = {n: pool.submit(self._module, n, d, capability, cache) for n, d in defines.items()}
            modules = {n: load.result() for n, load in loads.items()}
        self._load(modules, narrow, widest)

    def _choose(self, chosen: dict[str, int]) -> dict[str, dict[str, int]]:
        """Return each module's compile-time constants; they depend on the GPU's shared memory."""
        shape = self.shape
        large = self._limit > 200_000
        row = 256 if large else 128
        self._tables = 256 * row + 1024
        self._warps = chosen.setdefault("GEMV_WARPS", 16 if large else 8)
        self._depth = chosen.setdefault("STAGES", 2)
        self._rows = dict.fromkeys((1, 2, 4, 8), 1) if self.wgmma else {1: 1, 2: 1, 4: 2, 8: 2}
        self._deep = {1: 3, 2: 3, 4: 3, 8: 2} if large else {1: 2, 2: 2, 4: 0, 8: 0}
        if self.wgmma:
            self._deep = {1: 2, 2: 3, 4: 3, 8: 2}
        self._together = 16 if self.wgmma else 8
        self._x_units = self._largest_share() if self.wgmma else 0
        if self._gemm_bytes(1) > self._limit:
            self._x_units = 0
        for nt in self._rows:
            self._rows[nt] = chosen.setdefault(f"RT{nt}", self._rows[nt])
            self._deep[nt] = chosen.setdefault(f"STAGES{nt}", self._deep[nt])
        self.columns = 64 if large else 16
        base = {
            "PDL": int(self.overlap), "WGMMA": int(self.wgmma), "NESTED": int(shape.nested),
            "TABLE_ROW": row, "HEAD_DIM": shape.head_dim, "KV_HEADS": shape.kv_heads, "PAGE": PAGE,
            "GROUP": shape.heads // shape.kv_heads,
        }  # fmt: skip
        per_width = {k: v for k, v in chosen.items() if k[-1].isdigit()}
        defines = {"gemv": base | {k: v for k, v in chosen.items() if k not in per_width}}
        defines["gemm"] = base | per_width | {"X_UNITS": self._x_units}
        defines |= {n: base for n in ("edges", "sample")}
        defines |= {
            f"attention/{n}": base | {"ATTENTION_WARPS": n, "ATTENTION_REGISTERS": 128 if n == 4 else 192}
            for n in (4, 8)
        }
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
                    self.linear[nt, kind] = gemm.kernel(
                        f"gemm{nt}_{kind}", threads=32 * self._together, shared_bytes=size, overlap=over
                    )
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
        self.add_norm = edges.kernel("add_norm", threads=512)
        self.rotate_store = edges.kernel("rotate_store", threads=128)
        self.silu_product = edges.kernel("silu_product", threads=128)
        seen = 4 * -(-self.shape.vocabulary // 32)
        self.sample = modules["sample"].kernel("sample", threads=1024, shared_bytes=seen)

    def _gemv_bytes(self, kind: str, units: int, depth: int) -> int:
        sums = (16 if kind == "silu" else 4) * self._warps * 64
        return self._tables + 128 + sums + units * 512 + self._warps * depth * self._record

    def _gemm_bytes(self, nt: int) -> int:
        tiles, depth = self._together * self._rows[nt], self._deep[nt]
        sums = max(tiles * nt * 32, self._together * 128)
        units = self._x_units if nt == 1 and self._x_units else depth
        return self._tables + 256 + sums + units * nt * 4096 + depth * tiles * self._record

    def _largest_share(self) -> int:
        """Return the most units of a row that one block takes of any product with 8 columns."""
        s = self.shape
        heads = s.heads * s.head_dim
        sizes = ((heads + 2 * s.kv_heads * s.head_dim, s.width), (s.width, heads), (2 * s.inner, s.width))
        most = 0
        for rows, width in (*sizes, (s.width, s.inner)):
            units = -(-width // 256)
            splits = self._splits(-(-rows // 16), units, self.processors)[1]
            most = max(most, -(-units // splits))
        return most

    def _splits(self, tiles: int, units: int, at_once: int, rows: int = 1) -> tuple[int, int]:
        blocks = -(-tiles // (self._together * rows))
        return blocks, max(1, min(at_once // blocks, units // 2))

    def blocks(self, tiles: int, units: int, nt: int) -> tuple[int, int]:
        """Return the grid of a product: blocks of rows, and blocks that share a row's columns."""
        if nt == 0:
            return min(tiles, self.processors), 1
        # Blocks that share a row wait for each other, so all of them must run at the same time.
        together = self._per_processor // (self._gemm_bytes(nt) + 1024)
        at_once = self.processors * min(together, 2 if nt <= 2 and not self.wgmma else 1)
        return self._splits(tiles, units, at_once, self._rows[nt])

    def ahead(self, p: Packed, nt: int) -> ctypes.Structure:
        """Return the records that a kernel prefetches into L2 for the next product, at most two per warp.

        With one column the kernels' own ring does that; a larger prefetch made a step 3 % slower there, and
        2 % faster with 8 columns.

        Args:
            p: The product's weights.
            nt: Columns / 8; 0 for one column.
        """
        if nt == 0:
            return Ahead()
        tiles, units = p.records.shape[:2]
        splits = self.blocks(tiles, units, nt)[1]
        count = min(2, units // splits)
        return Ahead(p.records.data_ptr(), tiles * units, tiles * splits, self._record, count * self._record)

    def attend(self, columns: int) -> Attend:
        """Return the spread of each slot's keys over blocks."""
        return attention(self.processors, self.shape.kv_heads, columns)

    @property
    def group_tokens(self) -> int:
        """Return the number of tokens of one slot that one block of attention takes."""
        return max(1, 16 // (self.shape.heads // self.shape.kv_heads))
