"""Page tables of the KV cache: which pages hold which tokens of which slot, on the host, without tensors.

A page holds the keys and values of a fixed number of tokens over all layers. Forked slots share pages. A page
that two slots hold is copied before one of them writes to it.

    >>> pages = Pages(count=4, size=64, slots=2)
    >>> pages.grow(0, 100)
    True
    >>> pages.tables[0]
    [1, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llms.errors import NotEnoughMemory


def _nothing(*pages: int) -> None:
    """Do nothing: the pages of a pool need no memory of their own."""


class Pages:
    """A page table for each slot.

    Args:
        count: Pages in the pool, of which page 0 is never handed out: unused columns of a step write to it.
            None if pages are made as they are needed.
        size: Tokens per page.
        slots: Number of slots.
        make: Called with each page that is handed out. It may raise; then nothing has changed.
        drop: Called with each page that no slot holds any more.

    Attributes:
        tables: The pages of each slot, in the order of its tokens.
        lengths: The number of tokens of each slot, which the owner counts up.
    """

    def __init__(
        self,
        count: int | None,
        size: int,
        slots: int,
        *,
        make: Callable[[int], None] = _nothing,
        drop: Callable[[int], None] = _nothing,
    ) -> None:
        self.size = size
        self.lengths = [0] * slots
        self.tables: list[list[int]] = [[] for _ in range(slots)]
        self.total = None if count is None else count - 1
        self._make, self._dropped = make, drop
        self._free = list(range((count or 1) - 1, 0, -1))
        self._holders = [0] * (count or 1)

    @property
    def free_pages(self) -> int:
        """Return the number of pages of the pool that no slot holds."""
        return len(self._free)

    def held(self, slots: Iterable[int]) -> int:
        """Return the number of pages that these slots hold; what they share counts once."""
        return len({page for slot in slots for page in self.tables[slot]})

    def needed(self, slot: int, tokens: int) -> int:
        """Return the number of pages that `grow` would take."""
        length, table = self.lengths[slot], self.tables[slot]
        return max(-(-(length + tokens) // self.size) - len(table), 0) + self._shares_its_last(slot)

    def grow(self, slot: int, tokens: int, copy: Callable[[int, int, int], None] = _nothing) -> bool:
        """Make room for tokens after the slot's last one, and return whether its table has changed.

        The slot's length stays the same.

        Args:
            slot: The slot.
            tokens: Number of tokens.
            copy: Called with (from, to, count) to copy the first `count` tokens of a page. It may raise.

        Raises:
            NotEnoughMemory: The pool has too few free pages; nothing has changed.
        """
        need = self.needed(slot, tokens)
        if self.total is not None and need > len(self._free):
            raise NotEnoughMemory(
                f"expected {need} free pages of {self.size} tokens in the KV cache, found {len(self._free)} "
                f"of {self.total}. Free a conversation, or give the decoder a larger cache."
            )
        at, used = divmod(self.lengths[slot], self.size)
        table = self.tables[slot]
        taken: list[int] = []
        replaces = self._shares_its_last(slot)
        try:
            while len(taken) < need:
                taken.append(self._take())
            if replaces:
                copy(table[at], taken[0], used)
        except BaseException:
            self._release(taken)
            raise
        if replaces:
            self._release([table[at]])
            table[at] = taken.pop(0)
        table += taken
        return need > 0

    def fork(self, source: int, target: int, length: int) -> None:
        """Make the target hold the source's first `length` tokens; they share pages."""
        if source == target:
            self.truncate(source, length)
            return
        self.truncate(target, 0)
        table = self.tables[source][: -(-length // self.size)]
        for page in table:
            self._holders[page] += 1
        self.tables[target] = table
        self.lengths[target] = length

    def truncate(self, slot: int, length: int) -> None:
        """Keep a slot's first `length` tokens and free the pages after them."""
        table, keep = self.tables[slot], -(-length // self.size)
        self.lengths[slot] = length
        over = table[keep:]
        del table[keep:]
        self._release(over)

    def _shares_its_last(self, slot: int) -> bool:
        """Return whether the slot's next token goes to a page that another slot holds as well."""
        at, used = divmod(self.lengths[slot], self.size)
        return bool(used) and self._holders[self.tables[slot][at]] > 1

    def _take(self) -> int:
        if not self._free and self.total is None:
            self._free.append(len(self._holders))
            self._holders.append(0)
        page = self._free[-1]
        self._make(page)
        self._free.pop()
        self._holders[page] = 1
        return page

    def _release(self, pages: Iterable[int]) -> None:
        for page in pages:
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._free.append(page)
                self._dropped(page)
