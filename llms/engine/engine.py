"""The engine: it admits requests into slots, runs them as one batch, and delivers their tokens.

The engine works on token ids. It does not know messages, templates or model files.

One daemon thread for each engine owns the decoder, the scheduler and the slots, so none of them has a lock.
Callers send requests to it through an `Inbox` and read their own `Stream`. Closing a stream sets a flag that
the thread reads before the next step. When memory runs out, requests are paused rather than failed, unless
one is too large on its own. The thread starts with the first request, holds no reference to the engine while
it waits, and ends when the engine is closed, when it is no longer used, or when the interpreter exits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from weakref import finalize, ref

from llms.decoders.base import Decoder
from llms.engine.prefix import SlotTable
from llms.engine.request import GenerationRequest, Sequence, TokenInfo
from llms.engine.scheduler import Scheduler
from llms.engine.score import ScoreItem, ScoreJob, ScoreQueue
from llms.engine.steps import PendingSteps, StepRunner
from llms.engine.stream import Inbox, Stream
from llms.errors import BadRequest, ContextOverflow, LLMError
from llms.models.memory import IDLE_CACHE_BYTES

__all__ = ["Engine", "GenerationRequest", "Stream", "TokenInfo"]

EXIT_S = 10.0
"""How long the exit of the interpreter waits for a step that is running, in seconds."""

MOST_EMPTY_STEPS = 100
"""Number of steps in a row without a token, while requests could go on, that ends them with an error."""

EngineMail = list[Sequence] | ScoreJob
"""What callers send to the engine's thread."""


class EngineThread:
    """The thread of one engine: its inbox, and how it is started and stopped. It does not keep the engine."""

    def __init__(self) -> None:
        self.inbox: Inbox[EngineMail] = Inbox()
        self.closed = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self, engine: Callable[[], Engine | None]) -> None:
        """Start the thread if that has not been done."""
        if self._thread is None:
            with self._starting:
                if self._thread is None and not self.closed:
                    self._thread = threading.Thread(
                        target=_serve, args=(self.inbox, engine), name="llm-engine", daemon=True
                    )
                    self._thread.start()

    def stop(self, wait_s: float | None = EXIT_S) -> None:
        """End the thread and wait for the step that is running; at most `wait_s` seconds if that is given."""
        self.closed = True
        self.inbox.wake()
        thread = self._thread
        if self.inbox.usable and thread is not None and thread is not threading.current_thread():
            thread.join(wait_s)


def _serve(inbox: Inbox[EngineMail], engine: Callable[[], Engine | None]) -> None:
    """Run the steps of an engine until it is closed or no longer used."""
    while True:
        mail = inbox.wait()
        owner = engine()
        if owner is None or not owner.serve(mail):
            return
        del owner, mail


class Engine:
    """Runs many requests on one decoder.

        >>> engine = Engine(decoder)  # doctest: +SKIP
        >>> request = GenerationRequest(prompt=(1, 2, 3), max_tokens=20, decode=decode)  # doctest: +SKIP
        >>> stream = engine.submit(request)  # doctest: +SKIP
        >>> text = "".join(piece.text for piece in stream)  # doctest: +SKIP

    Args:
        decoder: The decoder. The engine must be its only user.
        max_batch: Maximum number of requests that run at once. The default leaves a quarter of the slots to
            the prefix cache and to scoring.
        cache_bytes: Maximum size of the KV that is kept for reuse, in bytes.

    Attributes:
        steps: Number of steps so far.
    """

    def __init__(
        self, decoder: Decoder, *, max_batch: int | None = None, cache_bytes: int = IDLE_CACHE_BYTES
    ) -> None:
        self.decoder = decoder
        self.max_batch = max(1, min(max_batch or decoder.max_slots * 3 // 4, decoder.max_slots))
        spare = max(1, decoder.max_slots - self.max_batch // 2)
        self.table = SlotTable(decoder, max_bytes=cache_bytes, max_idle=spare)
        self.steps = 0
        pending = PendingSteps()
        self.scores = ScoreQueue(decoder, self.table)
        self.scheduler = Scheduler(
            decoder, self.table, self.scores, max_batch=self.max_batch, on_release=pending.forget
        )
        self.runner = StepRunner(decoder, self.table, self.scheduler, self.scores, pending)
        self._clear = False
        self._cache_bytes = cache_bytes
        self._empty_steps = 0
        self._thread = EngineThread()
        self._inbox = self._thread.inbox
        # It runs when the engine is no longer used, and before the interpreter is taken down.
        finalize(self, self._thread.stop)

    # ---- Callers -------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request and return its stream.

        Raises:
            ContextOverflow: The prompt leaves no room in the window; both lengths are in the message.
            BadRequest: The prompt is empty, or a biased token is not in the vocabulary.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Iterable[GenerationRequest]) -> list[Stream]:
        """Queue several requests at once and return their streams. None is queued if one is refused.

        Raises:
            ContextOverflow: A prompt leaves no room in the window; both lengths are in the message.
            BadRequest: A prompt is empty, or a biased token is not in the vocabulary.
        """
        checked = [self._checked(request) for request in requests]
        streams = [Stream(self._inbox, request, self) for request in checked]
        self._send([stream.sequence for stream in streams])
        return streams

    def _checked(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request that fits the window."""
        length, window = len(request.prompt), self.decoder.window
        if length == 0:
            raise BadRequest("expected a prompt of at least one token, found an empty one; give some text")
        if length >= window:
            raise ContextOverflow(
                f"expected a prompt shorter than the window of {window} tokens, found {length} tokens; "
                f"shorten it, split it, or take a model with a longer window",
                prompt_tokens=length,
                window=window,
            )
        if strange := [t for t in request.logit_bias if not 0 <= t < self.decoder.vocab_size]:
            raise BadRequest(
                f"expected logit_bias of tokens from 0 to {self.decoder.vocab_size - 1}, found "
                f"{strange[0]!r}; give token ids of this model's own tokenizer"
            )
        if length + request.max_tokens > window + 1:  # The last token is never fed back.
            return replace(request, max_tokens=window + 1 - length)
        return request

    def score(self, items: Iterable[ScoreItem], *, keep: bool = False) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation of each item, in order.

        Args:
            items: Pairs of prompt ids and a list of continuations. None of them may be empty.
            keep: Whether each prompt stays in the prefix cache because more requests will begin with it.

        Raises:
            ContextOverflow: A prompt and a continuation do not fit the window.
            NotEnoughMemory: Memory does not suffice for one of the prompts.
        """
        items = list(items)
        for prompt, continuations in items:
            length = len(prompt) + max((len(c) for c in continuations), default=0)
            if length > self.decoder.window:
                raise ContextOverflow(
                    f"expected prompt and continuation within the window of {self.decoder.window} tokens, "
                    f"found {length} tokens; shorten the prompt",
                    prompt_tokens=length,
                    window=self.decoder.window,
                )
        job = ScoreJob(items, keep=keep)
        if not job.done.is_set():
            self._send(job)
        try:
            job.done.wait()
        finally:
            if not job.done.is_set():  # Ctrl-C
                job.cancelled = True
                self._inbox.wake()
        if job.error is not None:
            raise job.error
        return job.results

    def clear_cache(self) -> None:
        """Drop all cached prefixes before the next step, those of finished requests included."""
        self._clear = True
        self._inbox.wake()

    def limit_cache(self, most: int) -> None:
        """Set the maximum size of the KV that is kept for reuse, in bytes, from the next step on."""
        self._cache_bytes = most
        self._inbox.wake()

    def close(self) -> None:
        """End the thread after the step that is running. Requests that have not finished end with an error.

        A closed engine takes no more requests. Closing it again does nothing.
        """
        self._thread.stop(None)
        if self._inbox.usable:
            self._leave()

    @property
    def closed(self) -> bool:
        """Whether the engine has been closed."""
        return self._thread.closed

    def _send(self, mail: EngineMail) -> None:
        """Hand over work to the thread, which is started with the first."""
        self._inbox.check_process()
        self._thread.start(ref(self))
        self._inbox.put(mail)
        if self.closed:  # The thread may have ended before this arrived.
            self._leave()

    # ---- The engine's thread -------------------------------------------------------------------

    def serve(self, mail: EngineMail | None) -> bool:
        """Take mail and run steps until there is nothing to do. Return False once the engine is closed."""
        if mail is not None:
            self._take(mail)
        while not self.closed:
            try:
                if not self._step():
                    return True
            except BaseException as error:
                self._recover(error)
                return True
        self._leave()
        return False

    def _leave(self) -> None:
        """End everything that is queued or running in a closed engine."""
        for mail in self._inbox.collect():
            self._take(mail)
        self._end_all(LLMError("expected a loaded model, found that it was unloaded meanwhile; ask again"))

    def _take(self, mail: EngineMail) -> None:
        if isinstance(mail, ScoreJob):
            self.scores.add(mail)
        else:
            self.scheduler.add(mail)

    def _step(self) -> bool:
        """Run one step for all requests. Return False if there was nothing to do.

        The steps that were launched before are read last, while the newest one runs.
        """
        for mail in self._inbox.collect():
            self._take(mail)
        self.scores.drop_cancelled()
        self.runner.settle()
        self.scheduler.retire()
        if self._clear:
            self._clear = False
            self.table.clear()
        self.table.limit(self._cache_bytes)
        self.scheduler.admit(self.runner.begin)
        flying = len(self.runner.pending_steps)
        plan = self.scheduler.plan()
        if plan.decode or plan.prompts or plan.scores or flying:
            self.steps += 1
            self._empty_steps = 0
            self.runner.run(plan)
            self.runner.read_back(max(flying, len(self.runner.pending_steps) - 1))
        else:
            self._empty_steps += 1
        self.scores.finish_rows()
        self.scheduler.retire()
        busy = self.scores.active or self.scheduler.busy or len(self.runner.pending_steps) > 0
        if busy and self._empty_steps > MOST_EMPTY_STEPS:
            raise LLMError("expected a token of some request, found that none can go on; ask again")
        return busy

    def _recover(self, error: BaseException) -> None:
        """End all requests after an error outside of a pass, and empty all slots."""
        with suppress(BaseException):
            self.runner.pending_steps.clear()
        self._end_all(error)
        with suppress(BaseException):
            self.table.reset()

    def _end_all(self, error: BaseException) -> None:
        """End all requests and scoring jobs that were taken in. None may be left waiting for ever."""
        for sequence in [*self.scheduler.active, *self.scheduler.waiting]:
            sequence.slot, sequence.pending, sequence.pending_step = None, 0, None
            with suppress(BaseException):
                if not sequence.finished:
                    sequence.finish(error)
        self.scheduler.active, self.scheduler.waiting = [], []
        with suppress(BaseException):
            self.scores.fail_all(error)
