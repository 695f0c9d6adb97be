"""From token ids to text pieces: incremental detokenization and stop strings.

Knows a tokenizer's `decode` and strings; refuses to know models and requests. A piece never ends inside a
character, nor inside what may still become a stop string.

One request to the engine: what it asks for, and the handle its caller reads from.

Knows token ids, text pieces and threads' conditions; refuses to know decoders and slots. The engine's leader
calls `Handle.push` and `Handle.finish`; the caller iterates, synchronously or asynchronously.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from llms.decoders.sampling import MOST_BIASES, Sampling

if TYPE_CHECKING:
    from llms.engine.engine import Engine
    from llms.engine.steps import Flight

_REPLACEMENT = "\ufffd"
_TAIL = 4
"""Prompt tokens decoded in front of the answer: a SentencePiece decoder drops the space of the first word."""


class Detokenizer:
    """Turns one token after another into text.

    Args:
        decode: Token ids -> text (special tokens left out).
        prompt: Ids before the first token; the end of it decides about a leading space.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(prompt[-_TAIL:])
        self._shown = decode(self._ids) if self._ids else ""
        self._pending = 0

    def push(self, token: int) -> str:
        """Return the text that this token completes; "" while a character is incomplete."""
        self._ids.append(token)
        self._pending += 1
        text = self._decode(self._ids)
        # A character has at most four bytes and a token at least one: after four the bytes are broken for
        # good.
        if text.endswith(_REPLACEMENT) and self._pending < 4:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """Return what is left at the end, an incomplete character as U+FFFD."""
        return self._advance(self._decode(self._ids)) if self._pending else ""

    def _advance(self, text: str) -> str:
        new, self._pending, self._shown = text[len(self._shown) :], 0, text
        if len(self._ids) > 4 * _TAIL:
            # A short window keeps a token O(1); it must start on a character, or its first bytes decode
            # otherwise once others follow.
            for size in range(_TAIL, 3 * _TAIL):
                shown = self._decode(self._ids[-size:])
                if _REPLACEMENT not in shown:
                    self._ids, self._shown = self._ids[-size:], shown
                    break
        return new


class StopScanner:
    """Cuts a stream of text before the first stop string.

    Args:
        stops: Stop strings; empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """Return the text that is safe to show; sets `hit` once a stop string is complete."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            # At one place the longer stop string wins: it is what the text holds.
            place, self.hit = min(found, key=lambda f: (f[0], -len(f[1])))
            self._held = ""
            return text[:place]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the text held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - size :]):
            return size
    return 0


FinishReason = Literal["stop", "length"]


class Constraint(Protocol):
    """What a request's next tokens may be (a grammar)."""

    def mask(self, remaining: int) -> Tensor:
        """Return bool [V] on the CPU: allowed next tokens, with `remaining` tokens left in the budget."""
        ...

    def settle(self, token: int, remaining: int) -> int:
        """Return the sampled token, or another where it would leave too few tokens to finish."""
        ...

    def accept(self, token: int) -> bool:
        """Take the chosen token; return True where the text is complete."""
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next whatever the model prefers; often none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to generate.

    Attributes:
        prompt: Token ids, at least one.
        max_tokens: Most tokens to generate, the end token included.
        sampling: How to pick tokens.
        end_ids: Tokens that end the text (and are no part of it).
        stops: Stop strings.
        repetition_penalty: Divides positive and multiplies negative logits of tokens seen before (Keskar et
            al. 2019); 1 is off.
        logit_bias: Added to the logits of single tokens.
        top_logprobs: None for no log-probabilities; else how many alternatives to report (0: the token
        alone). constraint: Grammar, or None.
        run_ahead: Most undelivered pieces while other requests drive the batch; 0 for no bound.
        decode: Token ids -> text.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    decode: Callable[[list[int]], str]
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    constraint: Constraint | None = None
    run_ahead: int = 8

    @property
    def on_host(self) -> bool:
        """Whether the host must see the logits before a token can be picked."""
        return self.constraint is not None or len(self.logit_bias) > MOST_BIASES

    @property
    def steering(self) -> Sampling:
        """How to pick tokens, penalty and biases included."""
        bias = tuple(sorted(self.logit_bias.items()))
        return replace(self.sampling, repetition_penalty=self.repetition_penalty, logit_bias=bias)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """Log-probabilities (nats) of one generated token and its most probable alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer.

    Attributes:
        text: New text, possibly "".
        tokens: Tokens it took.
        logprobs: One entry a token, where they were asked for.
        finish_reason: Set on the last piece only.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenInfo, ...] = ()
    finish_reason: FinishReason | None = None


class Handle:
    """The caller's end of a running request; iterate it, close it to stop the work.

    Attributes:
        request: What was asked.
        generated: Tokens so far, the end token included.
        cached_tokens: Prompt tokens that the prefix cache spared.
        slot: The decoder's slot, while it has one.
        pending: Tokens at the end of the sequence that the decoder has not seen yet.
        started: Whether it has ever had a slot. checked: Whether logits were looked at for NaN.
        sampling: How a decoder picks its tokens. flight: The latest step under way that gives one of them.
        turn: The step since which its prompt waits for a chunk, 0 before the first.
    """

    def __init__(self, engine: Engine, request: Request, lock: threading.Lock) -> None:
        self.request = request
        self.generated: list[int] = []
        self.cached_tokens = 0
        self.slot: int | None = None
        self.pending = 0
        self.started = False
        self.checked = False
        self.turn = 0
        self.done = False
        self.sampling = Sampling() if request.on_host else request.steering
        self.flight: Flight | None = None
        self.ready = threading.Condition(lock)
        self.collect = False
        self._engine = engine
        self._pieces: deque[Piece] = deque()
        self._error: BaseException | None = None
        self._text = Detokenizer(request.decode, request.prompt)
        self._stops = StopScanner(request.stops)
        self._listener: Callable[[], None] | None = None

    # The engine's side; every call holds the engine's lock.
    @property
    def satisfied(self) -> bool:
        """Whether the caller has something to read (all of it, where it collects)."""
        return self.done or (bool(self._pieces) and not self.collect)

    @property
    def ahead(self) -> bool:
        """Whether the caller lags too far behind for more work on its behalf."""
        limit, coming = self.request.run_ahead, int(self.flight is not None)
        return not self.collect and limit > 0 and len(self._pieces) + coming >= limit

    @property
    def wants(self) -> int:
        """How many tokens a step could take now; none that is under way where the host picks, or the last."""
        if self.flight is None:
            return self.pending
        return int(not self.request.on_host and len(self.generated) + 1 < self.request.max_tokens)

    def due(self, limit: int) -> list[int]:
        """Return the next pending tokens, at most `limit`."""
        prompt, generated = self.request.prompt, self.generated
        start = len(prompt) + len(generated) - self.pending
        if start >= len(prompt):
            return generated[start - len(prompt) :][:limit]
        return [*prompt[start : start + limit], *generated][:limit]

    def push(self, token: int, info: TokenInfo | None, complete: bool) -> FinishReason | None:
        """Take one token; return the reason where it was the last."""
        self.generated.append(token)
        reason: FinishReason | None = None
        text = ""
        if token in self.request.end_ids:
            reason = "stop"
        else:
            text = self._stops.push(self._text.push(token))
            if self._stops.hit is not None or complete:
                reason = "stop"
            elif len(self.generated) >= self.request.max_tokens:
                reason = "length"
        if reason is not None and self._stops.hit is None:
            text += self._stops.push(self._text.flush())
            text += self._stops.flush() if self._stops.hit is None else ""
        self._pieces.append(Piece(text, (token,), (info,) if info else (), reason))
        self.done = reason is not None
        self.wake()
        return reason

    def fail(self, error: BaseException) -> None:
        """End the request with an error."""
        self._error, self.done = error, True
        self.wake()

    def wake(self) -> None:
        """Tell the caller that it may be satisfied."""
        if self.satisfied:
            self.ready.notify_all()
            if self._listener is not None:
                self._listener()

    # The caller's side.
    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces as they come; leaving the loop early stops the work."""
        try:
            while (piece := self.next_piece()) is not None:
                yield piece
        finally:
            self.close()

    def next_piece(self) -> Piece | None:
        """Return the next piece, decoding where nobody else does; None after the last one."""
        if not self._pieces and not self.done:
            self._engine.drive(self)
        return self._take()

    def result(self) -> list[Piece]:
        """Return all pieces at once."""
        self.collect = True
        try:
            while not self.done:
                self._engine.drive(self)
        finally:
            self.close()
        if self._error is not None:
            raise self._error
        return list(self._pieces)

    async def stream(self) -> AsyncIterator[Piece]:
        """Yield pieces without blocking the event loop; cancelling the task stops the work."""
        try:
            while not (self.done and not self._pieces):
                await self._news()
                while (piece := self._take()) is not None:
                    yield piece
            self._take()  # raises what ended the request
        finally:
            self.close()

    async def aresult(self) -> list[Piece]:
        """Return all pieces at once, without blocking the event loop."""
        self.collect = True
        try:
            while not self.done:
                await self._news()
        finally:
            self.close()
        if self._error is not None:
            raise self._error
        return list(self._pieces)

    async def _news(self) -> None:
        """Wait until the caller has something to read."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._listener = lambda: _call_soon(loop, news.set)
        try:
            if not self.satisfied:
                self._engine.pump(self)
                await news.wait()
        finally:
            self._listener = None

    def close(self) -> None:
        """Stop the work; harmless after the end."""
        self._engine.cancel(self)

    def _take(self) -> Piece | None:
        if self._pieces:
            return self._pieces.popleft()
        if self._error is not None:
            raise self._error
        return None


def gather(handles: Sequence[Handle]) -> list[list[Piece]]:
    """Return all pieces of several requests, which run as one batch; an error stops all of them."""
    for handle in handles:
        handle.collect = True
    try:
        return [handle.result() for handle in handles]
    finally:
        for handle in handles:
            handle.close()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Run a callback on a loop that may have been closed meanwhile, or is just being closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
