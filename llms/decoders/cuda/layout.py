"""The layout of NF4 weights in memory for the kernels (records and row tiles), and the way back.

Everything here runs on any device, and unpacking returns exactly the bytes that were packed.

A record has 16 rows x 256 columns: 2,048 bytes of codes in the order in which 32 lanes feed them to
`mma.m16n8k16` (see kernels/linear.cuh), then the absmax of 16 rows x 4 blocks of 64 columns. The 16 rows of a
tile are two runs of 8, so that rows that are used together meet in one lane: gate and up, or a rotary pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 256
"""Columns of a record."""
BLOCK = 64
"""Columns that share one absmax, bitsandbytes' blocksize."""
GROUP = 256
"""Absmax values that share one second-level absmax (double quantization)."""
ZERO = 0x77
"""Two codes 7, the NF4 value 0; it pads a row to a multiple of 256 columns."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A quantized matrix in bitsandbytes' layout.

    Attributes:
        codes: uint8 [rows, width / 2], the even column in the high half of a byte.
        absmax: uint8 [rows, width / 64] if nested, else fp32 of that shape.
        absmax2: fp32 [ceil(rows * width / 64 / 256)] if nested, else None.
        offset: Number that is added to every nested absmax.
    """

    codes: Tensor
    absmax: Tensor
    absmax2: Tensor | None = None
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Matrices joined along their rows, as records.

    Attributes:
        records: uint8 [tiles, units, record bytes].
        tiles: int32 [tiles, 6], the C struct `Tile`: first row of the low and high run, the number of each
            run's first absmax block, and each run's offset (fp32 bits).
        absmax2: fp32, the matrices' second-level absmax one after the other (one zero if not nested).
        rows: Number of rows of the joined matrix.
        width: Number of columns, without padding.
    """

    records: Tensor
    tiles: Tensor
    absmax2: Tensor
    rows: int
    width: int

    @property
    def nested(self) -> bool:
        """Return whether absmax values are bytes."""
        return self.records.shape[-1] == record_bytes(True)

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that a product reads."""
        return sum(t.numel() * t.element_size() for t in (self.records, self.tiles, self.absmax2))


def record_bytes(nested: bool) -> int:
    """Return the size of a record in bytes."""
    return UNIT * 16 // 2 + 16 * 4 * (1 if nested else 4)


def plain_runs(rows: int) -> Tensor:
    """Return the first rows [tiles, 2] of the two runs of 8 of each tile, in order."""
    low = torch.arange(0, rows, 16)
    return torch.stack([low, low + 8], 1)


def rotary_runs(heads: int, head_dim: int) -> Tensor:
    """Return runs [tiles, 2] that put row d and row d + head_dim / 2 of a head into one lane."""
    low = torch.arange(heads)[:, None] * head_dim + torch.arange(0, head_dim // 2, 8)[None]
    return torch.stack([low.flatten(), low.flatten() + head_dim // 2], 1)


def qkv_runs(heads: int, kv_heads: int, head_dim: int) -> Tensor:
    """Return runs for q, k and v joined."""
    q, k = rotary_runs(heads, head_dim), rotary_runs(kv_heads, head_dim)
    v = plain_runs(kv_heads * head_dim)
    return torch.cat([q, k + heads * head_dim, v + (heads + kv_heads) * head_dim])


def gate_up_runs(width: int) -> Tensor:
    """Return runs for gate and up joined: 8 rows of gate, the same 8 of up."""
    low = torch.arange(0, width, 8)
    return torch.stack([low, low + width], 1)


def packed_bytes(tiles: int, width: int, nested: bool) -> int:
    """Return the size in bytes of a matrix's records."""
    return tiles * -(-width // UNIT) * record_bytes(nested)


def pack(matrices: list[Matrix], runs: Tensor, memory: Tensor | None = None) -> Packed:
    """Return matrices, joined along their rows, as records.

    Args:
        matrices: Matrices of the same width, all nested or none.
        runs: int64 [tiles, 2], first rows of the two runs of each tile in the joined matrix; no run may cross
            from one matrix into the next.
        memory: uint8 [`packed_bytes`] for the records; by default newly allocated.
    """
    nested = matrices[0].absmax2 is not None
    codes = torch.cat([m.codes for m in matrices])
    absmax = torch.cat([m.absmax for m in matrices])
    device, width, blocks = codes.device, codes.shape[1] * 2, absmax.shape[1]
    units = -(-width // UNIT)
    runs = runs.to(device)
    order = (runs[:, :, None] + torch.arange(8, device=device)).reshape(-1)
    if memory is None:
        memory = torch.empty(packed_bytes(len(runs), width, nested), dtype=torch.uint8, device=device)
    records = memory.view(len(runs), units, record_bytes(nested))
    # tile, run, g, unit, block, step, half, t -> tile, unit, block, g, t, step, half, run
    split = (len(runs), 2, 8, units, 4, 4, 2, 4)
    moved = _widen(codes, units * UNIT // 2, ZERO)[order].view(split).permute(0, 3, 4, 2, 7, 5, 6, 1)
    records[:, :, :2048] = moved.reshape(len(runs), units, 2048)
    spread = _widen(absmax, units * 4, 0)[order].view(len(runs), 2, 8, units, 4).permute(0, 3, 2, 4, 1)
    records[:, :, 2048:] = spread.contiguous().view(torch.uint8).view(len(runs), units, -1)
    tiles, absmax2 = _tiles(matrices, runs, blocks)
    return Packed(records=records, tiles=tiles, absmax2=absmax2, rows=len(codes), width=width)


def unpack(packed: Packed) -> tuple[Tensor, Tensor]:
    """Return the joined (codes uint8 [rows, width / 2], absmax [rows, width / 64]), bit for bit as packed."""
    tiles, units, _ = packed.records.shape
    runs = packed.tiles[:, :2].long()
    order = (runs[:, :, None] + torch.arange(8, device=runs.device)).reshape(-1)
    moved = packed.records[:, :, :2048].view(tiles, units, 4, 8, 4, 4, 2, 2)
    codes = moved.permute(0, 7, 3, 1, 2, 5, 6, 4).reshape(tiles * 16, units * UNIT // 2)
    spread = packed.records[:, :, 2048:].contiguous()
    spread = (spread if packed.nested else spread.view(torch.float32)).view(tiles, units, 8, 4, 2)
    absmax = spread.permute(0, 4, 2, 1, 3).reshape(tiles * 16, units * 4)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return codes[back, : packed.width // 2], absmax[back, : packed.width // BLOCK]


def pack_activations(x: Tensor, wgmma: bool = False) -> Tensor:
    """Return activations [m, k] as B fragments (kernels/common.cuh, `packed`); m is 1 or a multiple of 8."""
    m, k = x.shape
    if m == 1:
        return x.view(k // 32, 2, 2, 4, 2).permute(0, 3, 1, 2, 4).reshape(-1)
    if wgmma:
        return x.view(m, k // 8, 8).permute(1, 0, 2).reshape(-1)
    return x.view(m // 8, 8, k // 32, 2, 2, 4, 2).permute(2, 0, 1, 5, 3, 4, 6).reshape(-1)


def unpack_activations(x: Tensor, m: int, wgmma: bool = False) -> Tensor:
    """Return the activations [m, k] that `pack_activations` packed."""
    k = x.numel() // m
    if m == 1:
        return x.view(k // 32, 4, 2, 2, 2).permute(0, 2, 3, 1, 4).reshape(1, k)
    if wgmma:
        return x.view(k // 8, m, 8).permute(1, 0, 2).reshape(m, k)
    return x.view(k // 32, m // 8, 8, 4, 2, 2, 2).permute(1, 2, 0, 4, 5, 3, 6).reshape(m, k)


def _widen(x: Tensor, width: int, value: int) -> Tensor:
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, width - x.shape[1]), value=value)


def _tiles(matrices: list[Matrix], runs: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Return the tile table and the joined second-level absmax."""
    device = runs.device
    starts, offsets, seconds, base = [], [], [], 0
    for m in matrices:
        count = len(m.codes)
        starts.append(base * GROUP + torch.arange(count, device=device) * blocks)
        offsets.append(torch.full((count,), m.offset, dtype=torch.float32, device=device))
        if m.absmax2 is not None:
            seconds.append(m.absmax2.float())
            base += m.absmax2.numel()
    start, offset = torch.cat(starts)[runs], torch.cat(offsets)[runs]
    tiles = torch.cat([runs.int(), start.int(), offset.contiguous().view(torch.int32)], 1).contiguous()
    return tiles, torch.cat(seconds) if seconds else torch.zeros(1, device=device)
