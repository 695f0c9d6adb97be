"""A request to the engine, and the stream that its caller reads.

The leader of the engine pushes tokens into a `Stream`. The caller iterates over it, synchronously or
asynchronously. A piece of text never ends inside a character, nor inside a possible stop string.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from torch import Tensor

from llms.decoders.sampling import MOST_BIASES, Sampling

_REPLACEMENT = "\ufffd"
_TAIL = 4
"""Number of prompt tokens that are decoded in front of the answer. A SentencePiece decoder drops the space
before the first word of what it decodes."""


class Detokenizer:
    """Turns tokens into text one at a time.

    Args:
        decode: Turns token ids into text, without special tokens.
        prompt: The prompt's ids. Its last ones decide whether the text begins with a space.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(prompt[-_TAIL:])
        self._shown = decode(self._ids) if self._ids else ""
        self._pending = 0

    def push(self, token: int) -> str:
        """Return the text that this token completes. It is "" while a character is incomplete."""
        self._ids.append(token)
        self._pending += 1
        text = self._decode(self._ids)
        # A character has at most four bytes and a token has at least one. After four tokens the bytes are
        # invalid.
        if text.endswith(_REPLACEMENT) and self._pending < 4:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """Return the text that is left at the end. An incomplete character becomes U+FFFD."""
        return self._advance(self._decode(self._ids)) if self._pending else ""

    def _advance(self, text: str) -> str:
        new, self._pending, self._shown = text[len(self._shown) :], 0, text
        if len(self._ids) > 4 * _TAIL:
            # A short window keeps the cost of a token constant. It has to start at a character; otherwise its
            # first bytes would decode differently when others follow.
            for size in range(_TAIL, 3 * _TAIL):
                shown = self._decode(self._ids[-size:])
                if _REPLACEMENT not in shown:
                    self._ids, self._shown = self._ids[-size:], shown
                    break
        return new


class StopScanner:
    """Cuts a text that arrives in pieces before the first stop string.

    Args:
        stops: Stop strings. Empty ones are ignored.

    Attributes:
        hit: The stop string that was found, or None.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """Return the text that is safe to show. Sets `hit` when a stop string is complete."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            # If two stop strings begin at the same place, the longer one wins.
            place, self.hit = min(found, key=lambda f: (f[0], -len(f[1])))
            self._held = ""
            return text[:place]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the text that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - size :]):
            return size
    return 0


FinishReason = Literal["stop", "length"]


class Constraint(Protocol):
    """A logits processor that allows some tokens only and can complete the text: a grammar."""

    def mask(self, remaining: int) -> Tensor:
        """Return the allowed next tokens, bool [V] on the CPU, with `remaining` tokens left in the budget."""
        ...

    def fit_budget(self, token: int, remaining: int) -> int:
        """Return the sampled token, or another one if it would leave too few tokens to complete the text."""
        ...

    def accept(self, token: int) -> bool:
        """Advance by the chosen token. Return whether the text is complete."""
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next whatever the model prefers. Often there are none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """The parameters of one generation.

    Attributes:
        prompt: Token ids, at least one.
        max_tokens: Maximum number of tokens to generate, including the end token.
        decode: Turns token ids into text.
        sampling: Temperature, top-k, top-p, min-p and seed.
        end_ids: Tokens that end the text. They are not part of it.
        stops: Stop strings.
        repetition_penalty: Divides positive logits of earlier tokens and multiplies negative ones (Keskar et
            al. 2019). 1 switches it off.
        logit_bias: Values added to the logits of single tokens.
        top_logprobs: Number of alternatives whose log-probabilities are reported; 0 reports the chosen token
            only. None reports nothing.
        constraint: A grammar, or None.
        run_ahead: Maximum number of pieces that may wait to be read before the request is paused. 0 means
            that there is no limit.
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
        """Whether the host must see the logits to choose a token."""
        return self.constraint is not None or len(self.logit_bias) > MOST_BIASES

    @property
    def device_sampling(self) -> Sampling:
        """The sampling parameters for the device, including penalty and biases."""
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
        text: The new text. It may be "".
        tokens: The tokens of this piece.
        logprobs: One entry per token, if the request asked for them.
        finish_reason: Set on the last piece only.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenInfo, ...] = ()
    finish_reason: FinishReason | None = None


class StreamDriver(Protocol):
    """What a stream needs of its engine."""

    def drive(self, waiter: Stream) -> None:
        """Return when the stream has something to read."""
        ...

    def pump(self, waiter: Stream) -> None:
        """Let a helper thread drive."""
        ...

    def cancel(self, stream: Stream) -> None:
        """Stop the work."""
        ...


class Stream:
    """A running request. Iterate over it to read its pieces; close it to stop the work.

    Attributes:
        request: The request.
        generated: The tokens so far, including the end token.
        cached_tokens: Number of prompt tokens that the prefix cache provided.
        slot: The decoder's slot, or None while the request waits.
        pending: Number of tokens at the end of the sequence that the decoder has not seen.
        started: Whether the request has ever had a slot.
        checked: Whether its first logits were checked for NaN.
        sampling: The sampling parameters that the decoder uses.
        pending_step: The newest step in flight that computes one of its tokens.
        turn: The step since which its prompt has waited for a chunk. 0 before the first.
        done: Whether it has ended.

    Example:
        with contextlib.closing(engine.submit(request)) as stream:
            for piece in stream:
                print(piece.text, end="")
    """

    def __init__(self, engine: StreamDriver, request: GenerationRequest, lock: threading.Lock) -> None:
        self.request = request
        self.generated: list[int] = []
        self.cached_tokens = 0
        self.slot: int | None = None
        self.pending = 0
        self.started = False
        self.checked = False
        self.turn = 0
        self.done = False
        self.sampling = Sampling() if request.on_host else request.device_sampling
        self.pending_step: object | None = None
        self.ready = threading.Condition(lock)
        self.collect = False
        self._engine = engine
        self._pieces: deque[Piece] = deque()
        self._error: BaseException | None = None
        self._text = Detokenizer(request.decode, request.prompt)
        self._stops = StopScanner(request.stops)
        self._listener: Callable[[], None] | None = None

    # The engine's side. Every call holds the engine's lock.
    @property
    def satisfied(self) -> bool:
        """Whether the caller has something to read (everything, if it collects)."""
        return self.done or (bool(self._pieces) and not self.collect)

    @property
    def ahead(self) -> bool:
        """Whether the caller reads too slowly to compute more for it."""
        limit, coming = self.request.run_ahead, int(self.pending_step is not None)
        return not self.collect and limit > 0 and len(self._pieces) + coming >= limit

    @property
    def schedulable(self) -> int:
        """The number of tokens that can be scheduled now.

        It is 0 while a step is in flight and the host must choose its token, or if that token is the last
        one.
        """
        if self.pending_step is None:
            return self.pending
        return int(not self.request.on_host and len(self.generated) + 1 < self.request.max_tokens)

    def next_tokens(self, limit: int) -> list[int]:
        """Return the next `limit` pending tokens, or fewer."""
        prompt, generated = self.request.prompt, self.generated
        start = len(prompt) + len(generated) - self.pending
        if start >= len(prompt):
            return generated[start - len(prompt) :][:limit]
        return [*prompt[start : start + limit], *generated][:limit]

    def push(self, token: int, info: TokenInfo | None, complete: bool) -> FinishReason | None:
        """Add one token. Return the finish reason if it was the last."""
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
        """Notify the caller if it has something to read."""
        if self.satisfied:
            self.ready.notify_all()
            if self._listener is not None:
                self._listener()

    # The caller's side.
    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces as they come. Leaving the loop early stops the work."""
        try:
            while (piece := self.next_piece()) is not None:
                yield piece
        finally:
            self.close()

    def next_piece(self) -> Piece | None:
        """Return the next piece, or None after the last one. Runs steps if no other thread does."""
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

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield pieces without blocking the event loop. Cancelling the task stops the work."""
        try:
            while not (self.done and not self._pieces):
                await self._news()
                while (piece := self._take()) is not None:
                    yield piece
            self._take()  # Raises the error that ended the request, if there is one.
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
        """Stop the work. Does nothing if the request has ended."""
        self._engine.cancel(self)

    def _take(self) -> Piece | None:
        if self._pieces:
            return self._pieces.popleft()
        if self._error is not None:
            raise self._error
        return None


def gather(streams: Sequence[Stream]) -> list[list[Piece]]:
    """Return all pieces of several requests, which run as one batch. An error stops all of them."""
    for stream in streams:
        stream.collect = True
    try:
        return [stream.result() for stream in streams]
    finally:
        for stream in streams:
            stream.close()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Run a callback on an event loop, unless the loop has been closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
