"""The KV cache of the decoders that run on the host's kernels or on transformers: pages of `PAGE` tokens.

Every page is an allocation of its own. A slot grows by whole pages, so growth copies nothing and touches no
other slot, and a page that no slot holds goes back to the system.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llms.decoders.base import SlotChecks
from llms.decoders.pages import Pages
from llms.decoders.reference_plan import PAGE

SPARE_BYTES = 16 * 2**20
"""Bytes of free pages that are kept on the CPU for the next slot. A new page of the embedded model costs 180
page faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KVShape:
    """The sizes of the stored keys and values."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """The size of one token's keys and values over all layers, in bytes."""
        return 2 * self.layers * self.heads * self.dim * self.dtype.itemsize

    @property
    def page_bytes(self) -> int:
        """The size of a page, in bytes."""
        return PAGE * self.bytes_per_token


class SlotStore:
    """The pages of every slot, and their tokens.

    Args:
        shape: Sizes of keys and values.
        slots: Number of slots.

    Attributes:
        pages: The page tables.
        tokens: The tokens of each slot.
    """

    def __init__(self, shape: KVShape, slots: int) -> None:
        self.shape = shape
        self.pages = Pages(None, PAGE, slots, make=self._make, drop=self._drop)
        self.tokens: list[list[int]] = [[] for _ in range(slots)]
        self._memory: dict[int, Tensor] = {}
        self._spare: list[Tensor] = []
        self._addresses = [array("q") for _ in range(slots)]

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each slot."""
        return self.pages.lengths

    @property
    def allocated(self) -> int:
        """The size of all pages, spare ones included, in bytes."""
        return (len(self._memory) + len(self._spare)) * self.shape.page_bytes

    def tensors(self, slot: int) -> list[Tensor]:
        """Return the pages of a slot, each [layers, 2, heads, PAGE, dim]: keys and values of every layer."""
        return [self._memory[page] for page in self.pages.tables[slot]]

    def addresses(self, slot: int) -> int:
        """Return the address of a slot's page table, which holds the address of each page as int64.

        It is valid until the slot changes.
        """
        return self._addresses[slot].buffer_info()[0]

    def reserve(self, slot: int, tokens: int) -> None:
        """Make room for tokens after the slot's last one.

        Raises:
            MemoryError: There was none; nothing has changed.
        """
        if self.pages.grow(slot, tokens, self._copy):
            self._renew(slot)

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        """Record tokens whose keys and values a pass has written to the slot."""
        self.tokens[slot] += tokens
        self.pages.lengths[slot] += len(tokens)

    def fork(self, source: int, target: int, length: int) -> None:
        """Replace a slot by the first `length` tokens of another one; they share pages."""
        self.pages.fork(source, target, length)
        self.tokens[target] = self.tokens[source][:length]
        self._renew(target)

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a slot, and the room that was reserved after them."""
        self.pages.truncate(slot, length)
        del self.tokens[slot][length:]
        self._renew(slot)

    def trim(self) -> None:
        """Give the pages that no slot holds back to the system."""
        self._spare.clear()
        if self.shape.device.type == "cuda":
            torch.cuda.empty_cache()

    def _renew(self, slot: int) -> None:
        self._addresses[slot] = array("q", [page.data_ptr() for page in self.tensors(slot)])

    def _copy(self, old: int, new: int, count: int) -> None:
        self._memory[new][..., :count, :] = self._memory[old][..., :count, :]

    def _make(self, page: int) -> None:
        self._memory[page] = self._spare.pop() if self._spare else self._new_page()

    def _drop(self, page: int) -> None:
        memory = self._memory.pop(page)
        keeps = self.shape.device.type == "cpu" and (len(self._spare) + 1) * self.shape.page_bytes
        if keeps and keeps <= SPARE_BYTES and self._memory:
            self._spare.append(memory)
        if not self._memory:
            self._spare.clear()

    def _new_page(self) -> Tensor:
        s = self.shape
        sizes = (s.layers, 2, s.heads, PAGE, s.dim)
        if s.device.type != "cpu":
            return torch.empty(sizes, dtype=s.dtype, device=s.device)
        # A mapping of its own goes back to the system when it is dropped. Blocks of malloc may stay: it keeps
        # what lies below another block, and a process that had decoded 8,000 tokens kept their memory.
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        try:
            block = mmap.mmap(-1, s.page_bytes, **private)
        except OSError as error:
            raise MemoryError(f"no memory for a page of {PAGE} tokens ({s.page_bytes:,} bytes)") from error
        return torch.frombuffer(block, dtype=s.dtype).view(sizes)


class StoredSlots(SlotChecks):
    """The slots of a decoder that keeps its KV in a `SlotStore`: their length, and how they change."""

    _store: SlotStore

    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""
        self._check_slot(slot)
        return self._store.lengths[slot]

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Replace the target by the source's first `length` tokens; the two share pages."""
        length = self._check_length(source, self.length(source) if length is None else length)
        self._check_slot(target)
        if source == target:
            self.truncate(source, length)
        else:
            self._store.fork(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        """Keep only the first `length` tokens of a slot."""
        self._store.truncate(slot, self._check_length(slot, length))

    def free(self, slot: int) -> None:
        """Empty a slot. Its pages go back to the system, except for a few that the next slot takes."""
        self._check_slot(slot)
        self._store.truncate(slot, 0)

    def bytes_held(self, slots: Iterable[int]) -> int:
        """Return the size of the pages that these slots hold, in bytes; what they share counts once."""
        return self._store.pages.held(slots) * self._store.shape.page_bytes

    def trim(self) -> None:
        """Give memory that no slot holds back to the system."""
        self._store.trim()
