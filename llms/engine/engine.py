"""The engine: it admits requests into slots, runs them as one batch, and delivers their tokens.

The engine works on token ids. It does not know messages, templates or model files.

There is no background thread. The thread that waits for a token becomes the leader: it runs the step for all
requests, and when it has its token it wakes another waiting thread to lead. A helper thread runs only while
an asyncio task waits. When memory runs out, requests are paused rather than failed, unless one is too large
on its own. Closing a stream stops its work before the next step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from llms.decoders.base import Decoder
from llms.engine.prefix import SlotTable
from llms.engine.request import GenerationRequest, Stream, TokenInfo
from llms.engine.scheduler import Scheduler, not_enough, out_of_memory
from llms.engine.score import CHUNK_TOKENS, ScoreItem, ScoreJob, packed
from llms.engine.steps import PREFILL_TOKENS, PendingSteps, StepRunner
from llms.errors import BadRequest, ContextOverflow
from llms.models.memory import IDLE_CACHE_BYTES

__all__ = ["Engine", "GenerationRequest", "Stream", "TokenInfo"]


class Waiter(Protocol):
    """Work that a thread can wait for, and lead the engine for: a `Stream` or a `ScoreJob`."""

    ready: threading.Condition

    @property
    def satisfied(self) -> bool:
        """Whether the waiting thread can go on."""
        ...

    def wake(self) -> None:
        """Notify the waiting thread if it can go on. The caller holds the lock."""
        ...


class Leadership:
    """Chooses the thread that runs the engine's steps (the leader/followers pattern).

    Args:
        lock: The engine's lock. The condition of every waiter belongs to it.
        step: Runs one step for all requests. Only the leader calls it, and without the lock.
    """

    def __init__(self, lock: threading.Lock, step: Callable[[], None]) -> None:
        self._lock = lock
        self._step = step
        self.leader: Waiter | None = None
        self.sleepers: list[Waiter] = []
        self._pumped: list[Waiter] = []
        self._news = threading.Condition(lock)
        self._thread: threading.Thread | None = None

    def drive(self, waiter: Waiter) -> None:
        """Return when the waiter is satisfied. Runs steps if no other thread leads."""
        try:
            if self._leads(waiter):
                while not waiter.satisfied:
                    self._step()
        finally:
            self._leave(waiter)

    def alone(self, waiter: Waiter, work: Callable[[], None]) -> None:
        """Do a part of the leader's work if no thread leads. Otherwise the leader does it within a step."""
        with self._lock:
            if self.leader is not None:
                return
            self.leader = waiter
        try:
            work()
        finally:
            self._leave(waiter)

    def _leave(self, waiter: Waiter) -> None:
        """Stop leading, if this waiter leads."""
        with self._lock:
            if self.leader is waiter:
                self.leader = None
                self._hand_over()

    def _leads(self, waiter: Waiter) -> bool:
        """Wait. Returns False when the waiter is satisfied, and True if it has become the leader.

        A thread may be woken to lead and then not lead, because it was satisfied or interrupted in the
        meantime. It then wakes the next one; otherwise all of them would sleep.
        """
        with self._lock:
            try:
                while not waiter.satisfied and self.leader is not None:
                    self.sleepers.append(waiter)
                    try:
                        waiter.ready.wait()
                    finally:
                        self.sleepers.remove(waiter)
                if waiter.satisfied:
                    return False
                self.leader = waiter
                return True
            finally:
                self._hand_over()

    def _hand_over(self) -> None:
        """Wake one sleeping thread that still waits, if no thread leads. The caller holds the lock."""
        if self.leader is None:
            heir = next((sleeper for sleeper in self.sleepers if not sleeper.satisfied), None)
            if heir is not None:
                heir.ready.notify_all()

    def pump(self, waiter: Waiter) -> None:
        """Let the helper thread drive for a caller that must not block."""
        with self._lock:
            self._pumped.append(waiter)
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump_loop, name="llm-engine", daemon=True)
                self._thread.start()

    def _pump_loop(self) -> None:
        """Drive every waiter that was given to `pump`. The thread ends after 0.2 s without work."""
        while True:
            with self._lock:
                for waiter in self._pumped:
                    waiter.wake()
                self._pumped = [waiter for waiter in self._pumped if not waiter.satisfied]
                if not self._pumped and not self._news.wait_for(lambda: bool(self._pumped), timeout=0.2):
                    self._thread = None
                    return
                waiter = self._pumped[0]
            self.drive(waiter)


class Engine:
    """Runs many requests on one decoder.

    Args:
        decoder: The decoder. The engine must be its only user.
        max_batch: Maximum number of requests that run at once. The default leaves a quarter of the slots to
            the prefix cache.
        cache_bytes: Maximum size of the KV that is kept for reuse, in bytes.

    Example:
        engine = Engine(decoder)
        stream = engine.submit(GenerationRequest(prompt=(1, 2, 3), max_tokens=20, decode=tokenizer.decode))
        text = "".join(piece.text for piece in stream)
    """

    def __init__(
        self, decoder: Decoder, *, max_batch: int | None = None, cache_bytes: int = IDLE_CACHE_BYTES
    ) -> None:
        self.decoder = decoder
        self.max_batch = max(1, min(max_batch or decoder.max_slots * 3 // 4, decoder.max_slots))
        spare = max(1, decoder.max_slots - self.max_batch // 2)
        self.table = SlotTable(decoder, max_bytes=cache_bytes, max_idle=spare)
        self.steps = 0
        self._clear = False
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._jobs: list[ScoreJob] = []
        pending = PendingSteps()
        self.scheduler = Scheduler(
            self.table, max_batch=self.max_batch, lock=self._lock, on_release=pending.forget
        )
        self.runner = StepRunner(decoder, self.table, self.scheduler, pending, self._lock)
        self.leadership = Leadership(self._lock, lambda: self._step())

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request and return its stream. Nothing runs before this stream, or another one, is read.

        Raises:
            ContextOverflow: The prompt leaves no room in the window; both lengths are in the message.
            BadRequest: The prompt is empty, or a biased token is not in the vocabulary.
        """
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
            request = replace(request, max_tokens=window + 1 - length)
        stream = Stream(self, request, self._lock)
        self.scheduler.add(stream)
        return stream

    def score(self, items: Sequence[ScoreItem], *, keep: bool = False) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation of each item, in order.

        Args:
            items: Pairs of prompt ids and a list of continuations. None of them may be empty.
            keep: Whether each prompt stays in the prefix cache because more requests will begin with it.

        Raises:
            ContextOverflow: A prompt and a continuation do not fit the window.
        """
        for prompt, continuations in items:
            length = len(prompt) + max((len(c) for c in continuations), default=0)
            if length > self.decoder.window:
                raise ContextOverflow(
                    f"expected prompt and continuation within the window of {self.decoder.window} tokens, "
                    f"found {length} tokens; shorten the prompt",
                    prompt_tokens=length,
                    window=self.decoder.window,
                )
        job = ScoreJob(items, self._lock, keep=keep)
        with self._lock:
            self._jobs.append(job)
        try:
            while not job.satisfied:
                self.leadership.drive(job)
        finally:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
        if job.error is not None:
            raise job.error
        return job.results

    def clear_cache(self) -> None:
        """Drop all cached prefixes before the next step, those of finished requests included."""
        self._clear = True

    def cancel(self, stream: Stream) -> None:
        """Stop a request. Its slot is released at once, or after the step that is running."""
        if os.getpid() != self._process:
            return  # A forked child drops its copy of the stream. The lock may be held for ever there.
        with self._lock:
            self.scheduler.drop(stream)
            stream.done = True
            stream.wake()
        if stream.slot is not None:
            self.leadership.alone(stream, self.scheduler.release_finished)

    def drive(self, waiter: Waiter) -> None:
        """Return when the waiter is satisfied; see `Leadership.drive`.

        Raises:
            BadRequest: The request was submitted in another process, before a fork.
        """
        if os.getpid() != self._process:
            raise BadRequest(
                f"expected a request of this process ({os.getpid()}), found one that process {self._process} "
                "began before it forked; ask again here"
            )
        self.leadership.drive(waiter)

    def pump(self, waiter: Waiter) -> None:
        """Let a helper thread drive for a caller that must not block; see `Leadership.pump`."""
        self.leadership.pump(waiter)

    # The methods below run one step. Only the leader calls them.

    def _step(self) -> None:
        """Run one step for all requests. If it fails, no thread is left waiting for ever."""
        self.steps += 1
        try:
            self._advance()
        except Exception as error:
            self._start_over(error)
        except BaseException:  # Ctrl-C may reach the leader at any point.
            self._start_over(None)
            raise

    def _start_over(self, error: Exception | None) -> None:
        """Discard the KV of all running requests, which are then computed again from their tokens.

        Args:
            error: The error that ends all requests instead. None if the calling thread was interrupted.
        """
        broken = self.runner.drop()
        self.scheduler.restart(error, broken)
        with self._lock:
            for job in self._jobs if error is not None else ():
                job.error = error
                job.wake()
        self.table.reset()

    def _advance(self) -> None:
        """Release finished requests, admit new ones, prefill and score a chunk each, launch a decode step.

        The steps that were launched before are read last, while the newest one runs.
        """
        self.runner.settle()
        self.scheduler.release_finished()
        if self._clear:
            self._clear = False
            self.table.clear()
        self.scheduler.admit(self.runner.begin)
        launched_before = len(self.runner.pending_steps)
        if late := self._next_prompts():
            self.runner.launch(late)
        with self._lock:
            job = self._jobs.pop(0) if self._jobs else None
            if job is not None:
                self._jobs.append(job)  # Scoring jobs take turns.
        if job is not None:
            self._run_job(job)
        if ready := self.scheduler.decoding():
            self.runner.decode(ready)
        self.runner.read_back(max(launched_before, len(self.runner.pending_steps) - 1))
        self.scheduler.release_finished()

    def _next_prompts(self) -> list[Stream]:
        """Return the prompts of which this step prefills a chunk: those that have waited longest.

        Taking the longest prompts first would be as fast, but a short one would never have its turn while
        long ones keep coming.
        """
        late = self.scheduler.prefilling()
        for stream in late:
            stream.turn = stream.turn or self.steps
        batches = packed(late, lambda h: min(h.pending, PREFILL_TOKENS), PREFILL_TOKENS)
        chosen = min(batches, key=lambda batch: min(h.turn for h in batch), default=[])
        for stream in chosen:
            stream.turn = self.steps + 1
        return chosen

    def _run_job(self, job: ScoreJob) -> None:
        """Run one chunk of a scoring job. If memory does not suffice, make room and try again later.

        The chunk is no larger than a chunk of a prompt while requests are running, so they wait no longer
        for it (a single longer prompt is the exception).
        """
        try:
            job.run_chunk(self.decoder, self.table, PREFILL_TOKENS if self.scheduler.active else CHUNK_TOKENS)
        except Exception as error:
            if out_of_memory(error) and (self.table.evict() or job.shrink() or self.scheduler.make_room()):
                return
            job.error = not_enough(error) if out_of_memory(error) else error
        if job.satisfied:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
                job.wake()
