"""Page tables of the KV cache: which pages hold which tokens of which slot, on the host, without tensors.

Forked slots share whole pages. A page that two slots hold is copied before one of them writes to it.

    >>> pages = Pages(count=4, size=64, slots=2)
    >>> pages.grow(0, 100), pages.tables[0]
    ([], [1, 2])
"""

from __future__ import annotations

from llms.errors import NotEnoughMemory


class Pages:
    """A page table for each slot.

    Args:
        count: Pages in the pool; unused columns of a step write to page 0.
        size: Tokens per page.
        slots: Number of slots.
    """

    def __init__(self, count: int, size: int, slots: int) -> None:
        self.size = size
        self.lengths = [0] * slots
        self.tables: list[list[int]] = [[] for _ in range(slots)]
        self._free = list(range(count - 1, 0, -1))
        self._holders = [0] * count
        self.total = count - 1

    @property
    def free_pages(self) -> int:
        """Return the number of pages that no slot holds."""
        return len(self._free)

    def needed(self, slot: int, tokens: int) -> int:
        """Return the number of pages that `grow` would take from the pool."""
        length, table = self.lengths[slot], self.tables[slot]
        new = -(-(length + tokens) // self.size) - len(table)
        shared = length % self.size and self._holders[table[length // self.size]] > 1
        return max(new, 0) + bool(shared)

    def grow(self, slot: int, tokens: int) -> list[tuple[int, int]]:
        """Make room for tokens after the slot's last one; return pages to copy as (from, to).

        The slot's length stays the same.

        Raises:
            NotEnoughMemory: The pool has too few free pages; nothing has changed.
        """
        if (need := self.needed(slot, tokens)) > len(self._free):
            raise NotEnoughMemory(
                f"expected {need} free pages of {self.size} tokens in the KV cache, found {len(self._free)} "
                f"of {self.total}. Free a conversation, or give the decoder a larger cache."
            )
        length, table, copies = self.lengths[slot], self.tables[slot], []
        if length % self.size:
            at = length // self.size
            if self._holders[table[at]] > 1:
                page = self._take()
                copies.append((table[at], page))
                self._drop(table[at])
                table[at] = page
        while len(table) * self.size < length + tokens:
            table.append(self._take())
        return copies

    def fork(self, source: int, target: int, length: int) -> None:
        """Make the target hold the source's first `length` tokens; they share pages."""
        if source == target:
            self.truncate(source, length)
            return
        self.truncate(target, 0)
        table = self.tables[source][: -(-length // self.size)]
        for page in table:
            self._holders[page] += 1
        self.tables[target] = list(table)
        self.lengths[target] = length

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first `length` tokens and free the pages after them."""
        table, keep = self.tables[slot], -(-length // self.size)
        for page in table[keep:]:
            self._drop(page)
        del table[keep:]
        self.lengths[slot] = length

    def _take(self) -> int:
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def _drop(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page] == 0:
            self._free.append(page)
