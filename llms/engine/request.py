"""A request to the engine, and the record that the scheduler keeps of it.

`GenerationRequest` is what a caller asks for. A `Sequence` is its state while it runs, which only the
engine's thread changes. The caller reads `Piece`s from a `Stream` (`llms.engine.stream`). A piece of text
never ends inside a character, nor inside a possible stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
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

    def __init__(self, decode: Callable[[list[int]], str], prompt: tuple[int, ...] = ()) -> None:
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
        """Return the text that is left at the end, without a character that the end cuts in half."""
        return self._advance(self._decode(self._ids)).rstrip(_REPLACEMENT) if self._pending else ""

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

    def __init__(self, stops: Iterable[str] = ()) -> None:
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


class PieceReader(Protocol):
    """The caller's end of a sequence, as the engine's thread sees it: a `Stream`."""

    collects: bool
    closed: bool

    @property
    def unread(self) -> int:
        """The number of pieces that wait to be read."""
        ...

    def deliver(self, piece: Piece) -> None:
        """Hand over the next piece. The one with a finish reason is the last."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""
        ...


class Phase(Enum):
    """The state of a sequence: it runs if it has a slot, and it is paused if others have taken its slot."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"


class Sequence:
    """The scheduler's record of one request. Only the engine's thread changes it.

    Args:
        request: The request.
        reader: Returns the stream, or None once its caller has dropped it.

    Attributes:
        phase: Whether it waits, runs, is paused or has finished.
        generated: The tokens so far, including the end token.
        cached_tokens: Number of prompt tokens that the prefix cache provided.
        slot: The decoder's slot while it runs.
        pending: Number of tokens at the end of the sequence that the decoder has not seen.
        checked: Whether its first logits were checked for NaN.
        sampling: The sampling parameters that the decoder uses.
        pending_step: The newest step in flight that computes one of its tokens.
        turn: The step in which a chunk of its prompt ran last.
    """

    def __init__(self, request: GenerationRequest, reader: Callable[[], PieceReader | None]) -> None:
        self.request = request
        self.phase = Phase.WAITING
        self.generated: list[int] = []
        self.cached_tokens = 0
        self.slot: int | None = None
        self.pending = 0
        self.checked = False
        self.sampling = Sampling() if request.on_host else request.device_sampling
        self.pending_step: object | None = None
        self.turn = 0
        self._reader = reader
        self._text = Detokenizer(request.decode, request.prompt)
        self._stops = StopScanner(request.stops)

    @property
    def tokens(self) -> list[int]:
        """A copy of the whole sequence: the prompt, then the generated tokens."""
        return [*self.request.prompt, *self.generated]

    @property
    def finished(self) -> bool:
        """Whether nothing more will be computed for it."""
        return self.phase is Phase.FINISHED

    @property
    def abandoned(self) -> bool:
        """Whether its caller has closed or dropped the stream."""
        reader = self._reader()
        return reader is None or reader.closed

    @property
    def lagging(self) -> bool:
        """Whether the caller reads too slowly to compute more for it."""
        reader, limit = self._reader(), self.request.run_ahead
        if reader is None or reader.collects or limit == 0:
            return False
        return reader.unread + int(self.pending_step is not None) >= limit

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
            start -= len(prompt)
            return generated[start : start + limit]
        head = prompt[start : start + limit]
        return [*head, *generated[: limit - len(head)]]

    def push(self, token: int, info: TokenInfo | None, complete: bool) -> None:
        """Add one token and deliver its piece. The sequence is finished if the token was the last."""
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
        if reason is not None:
            self.phase = Phase.FINISHED
            if self._stops.hit is None:
                text += self._stops.push(self._text.flush())
                text += self._stops.flush() if self._stops.hit is None else ""
        if (reader := self._reader()) is not None:
            reader.deliver(Piece(text, (token,), (info,) if info else (), reason))

    def finish(self, error: BaseException | None = None) -> None:
        """End the sequence before its last token: with an error, or because nobody reads it any more."""
        self.phase = Phase.FINISHED
        if error is not None and (reader := self._reader()) is not None:
            reader.fail(error)
