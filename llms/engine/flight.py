"""Steps under way: launched, their tokens not read by the host yet.

Knows handles, rows of a launched step, and tensors on their way to the host; refuses to know slots and text.
A decoder that runs ahead is given step k + 1 before step k's tokens are read: they go from step to step on
the device, and the host's work on a token costs no time while the GPU's work on the next takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llms.decoder import StepResult
from llms.engine.request import Handle


class Incoming:
    """A small tensor on its way to the host: it can be read without waiting for what was launched later."""

    def __init__(self, tensor: Tensor) -> None:
        """Start the copy behind what is on the current stream."""
        self._event: Any = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[Any]:
        """Return the values, waiting for this tensor alone."""
        if self._event is not None:
            self._event.synchronize()
        found: list[Any] = self._host.tolist()
        return found


class Flight:
    """One launched step.

    Args:
        handles: The request of each row.
        result: What the decoder gave back.

    Attributes:
        rows: Row of each request that takes its token; who leaves meanwhile is taken out.
        tokens: int64 [n] on the decoder's device.
        logits: fp32 [n, V] on the decoder's device.
    """

    def __init__(self, handles: Sequence[Handle], result: StepResult) -> None:
        assert result.tokens is not None and isinstance(result.logits, Tensor)
        self.tokens, self.logits = result.tokens, result.logits
        self.rows = {handle: row for row, handle in enumerate(handles) if handle.pending == 0}
        self._count = len(handles)
        self._coming = Incoming(result.tokens)
        self._fresh = [h for h in self.rows if not h.checked]
        rows = [self.rows[h] for h in self._fresh]
        self._bad = Incoming(result.logits[rows].isnan().any(-1)) if rows else None

    def read(self) -> list[int]:
        """Return the tokens of all rows, waiting for this step."""
        return self._coming.read()

    def damaged(self) -> set[Handle]:
        """Return the requests whose first logits hold NaN."""
        if self._bad is None:
            return set()
        return {h for h, bad in zip(self._fresh, self._bad.read(), strict=True) if bad}

    def take(self, handles: Sequence[Handle]) -> Tensor:
        """Return int64 [handles], their tokens on the device; no copy where these are all rows in order."""
        rows = [self.rows[handle] for handle in handles]
        if rows == list(range(self._count)):
            return self.tokens
        index = torch.tensor(rows, pin_memory=self.tokens.is_cuda)
        return self.tokens[index.to(self.tokens.device, non_blocking=True)]


class Flights:
    """The steps under way, in order of launch."""

    def __init__(self) -> None:
        """None yet."""
        self._flights: list[Flight] = []

    def __len__(self) -> int:
        """Return how many steps the host has not read."""
        return len(self._flights)

    def add(self, flight: Flight) -> None:
        """Take note of a launched step."""
        self._flights.append(flight)
        for handle in flight.rows:
            handle.flight = flight

    def pop(self) -> Flight:
        """Return the oldest step, which is about to be read."""
        flight = self._flights.pop(0)
        for handle in flight.rows:
            if handle.flight is flight:
                handle.flight = None
        return flight

    def clear(self) -> None:
        """Forget every step under way."""
        for flight in self._flights:
            for handle in flight.rows:
                handle.flight = None
        self._flights.clear()

    def forget(self, handle: Handle) -> None:
        """Drop what is under way for a request that leaves its slot; no other row is touched."""
        for flight in self._flights:
            flight.rows.pop(handle, None)
        handle.flight = None

    def fed(self, handles: Sequence[Handle]) -> tuple[list[Handle], Tensor | None]:
        """Return those handles whose token is under way, in the order of their rows, and these tokens."""
        ordered: list[Handle] = []
        parts: list[Tensor] = []
        for flight in self._flights:
            mine = sorted((h for h in handles if h.flight is flight), key=flight.rows.__getitem__)
            if mine:
                ordered += mine
                parts.append(flight.take(mine))
        if not parts:
            return [], None
        return ordered, parts[0] if len(parts) == 1 else torch.cat(parts)
