"""Who runs the engine's steps: whoever needs a token leads, the others sleep until they can read or lead.

Knows waiters, their conditions and one step to run; refuses to know requests and decoders. A helper thread
exists only while a caller that must not block (asyncio) waits for something.

The engine: admits requests into slots, runs what is ready as one batch, samples, stops, cancels.

Knows requests, slots and steps; refuses to know messages, templates and model files. There is no background
thread to start or stop (`lead`), and a full memory ends no request that would fit alone
(`queue`). Closing a request stops its work before the next step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from llms.decoders.base import Decoder
from llms.engine.prefix import SlotTable
from llms.engine.request import Handle, Request, TokenInfo
from llms.engine.scheduler import Queue, not_enough, out_of_memory
from llms.engine.score import CHUNK_TOKENS, ScoreItem, ScoreJob, packed
from llms.engine.steps import PREFILL_TOKENS, Runner
from llms.errors import BadRequest, ContextOverflow

__all__ = ["Engine", "Handle", "Request", "TokenInfo"]


class Waiter(Protocol):
    """What can lead: a `Handle` or a `ScoreJob`."""

    ready: threading.Condition

    @property
    def satisfied(self) -> bool:
        """Whether it has what it waits for."""
        ...

    def wake(self) -> None:
        """Tell its caller where it is satisfied; the lock is held."""
        ...


class Lead:
    """Hands the lead from waiter to waiter.

    Args:
        lock: The engine's lock; every waiter's condition is one of this lock.
        step: Runs one step for everybody; called by the leader only, without the lock.
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
        """Return once the waiter has something to read, running steps where nobody else does."""
        try:
            if self._leads(waiter):
                while not waiter.satisfied:
                    self._step()
        finally:
            self._leave(waiter)

    def alone(self, waiter: Waiter, work: Callable[[], None]) -> None:
        """Do some of the leader's work where nobody leads; whoever leads does it within a step."""
        with self._lock:
            if self.leader is not None:
                return
            self.leader = waiter
        try:
            work()
        finally:
            self._leave(waiter)

    def _leave(self, waiter: Waiter) -> None:
        """Give up the lead, if it is this waiter's."""
        with self._lock:
            if self.leader is waiter:
                self.leader = None
                self._hand_over()

    def _leads(self, waiter: Waiter) -> bool:
        """Sleep until the waiter is satisfied (False), or nobody leads and it takes the lead (True).

        Who was woken to lead and does not, because it was satisfied or interrupted meanwhile, wakes the next:
        else everybody would sleep.
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
        """Wake one sleeper that has work left where nobody leads; the lock is held."""
        if self.leader is None:
            heir = next((sleeper for sleeper in self.sleepers if not sleeper.satisfied), None)
            if heir is not None:
                heir.ready.notify_all()

    def pump(self, waiter: Waiter) -> None:
        """Have the helper thread drive for a caller that must not block."""
        with self._lock:
            self._pumped.append(waiter)
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._pump_loop, name="llm-engine", daemon=True)
                self._thread.start()

    def _pump_loop(self) -> None:
        """Drive every pumped waiter; end after a quiet moment."""
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
        decoder: The engine becomes its only user.
        max_batch: Most requests that run at once; the default leaves a quarter of the slots to the prefix
        cache. cache_bytes: Bound on the KV kept for reuse, in bytes.
    """

    def __init__(
        self, decoder: Decoder, *, max_batch: int | None = None, cache_bytes: int = 512 * 2**20
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
        self.queue = Queue(self.table, max_batch=self.max_batch, lock=self._lock)
        self.run = Runner(decoder, self.table, self.queue, self._lock)
        self.lead = Lead(self._lock, lambda: self._step())

    def submit(self, request: Request) -> Handle:
        """Queue a request; nothing runs until its handle (or another one) is read.

        Raises:
            ContextOverflow: The prompt leaves no room in the window; both lengths are in the message.
            BadRequest: The prompt is empty, or a biased token is not in the vocabulary.
        """
        length, window = len(request.prompt), self.decoder.window
        if length == 0:
            raise BadRequest("Expected a prompt of at least one token, found an empty one. Give some text.")
        if length >= window:
            raise ContextOverflow(
                f"Expected a prompt shorter than the window of {window} tokens, found {length} tokens. "
                f"Shorten it, split it, or take a model with a longer window.",
                prompt_tokens=length,
                window=window,
            )
        if strange := [t for t in request.logit_bias if not 0 <= t < self.decoder.vocab_size]:
            raise BadRequest(
                f"Expected logit_bias of tokens from 0 to {self.decoder.vocab_size - 1}, found "
                f"{strange[0]!r}. Give token ids of this model's own tokenizer."
            )
        if length + request.max_tokens > window + 1:  # the last token needs no place
            request = replace(request, max_tokens=window + 1 - length)
        handle = Handle(self, request, self._lock)
        self.queue.add(handle)
        return handle

    def score(self, items: Sequence[ScoreItem], *, keep: bool = False) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation of each item, in order.

        Args:
            items: Pairs (prompt ids, list of continuation ids), none of them empty.
            keep: Whether each prompt stays in the prefix cache, because more is asked after it.

        Raises:
            ContextOverflow: A prompt and a continuation do not fit the window.
        """
        for prompt, continuations in items:
            length = len(prompt) + max((len(c) for c in continuations), default=0)
            if length > self.decoder.window:
                raise ContextOverflow(
                    f"Expected prompt and continuation within the window of {self.decoder.window} tokens, "
                    f"found {length} tokens. Shorten the prompt.",
                    prompt_tokens=length,
                    window=self.decoder.window,
                )
        job = ScoreJob(items, self._lock, keep=keep)
        with self._lock:
            self._jobs.append(job)
        try:
            while not job.satisfied:
                self.lead.drive(job)
        finally:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
        if job.error is not None:
            raise job.error
        return job.results

    def clear_cache(self) -> None:
        """Forget every cached prefix before the next step (finished requests' included)."""
        self._clear = True

    def cancel(self, handle: Handle) -> None:
        """Stop a request; its slot is taken back at once, or after the step that runs."""
        if os.getpid() != self._process:
            return  # a forked child drops its copy of the parent's stream: the lock may be held for ever
        with self._lock:
            self.queue.drop(handle)
            handle.done = True
            handle.wake()
        if handle.slot is not None:
            self.lead.alone(handle, self.queue.reap)

    def drive(self, waiter: Waiter) -> None:
        """Return once the waiter has something to read; see `Lead`.

        Raises:
            BadRequest: It was begun in another process, before a fork.
        """
        if os.getpid() != self._process:
            raise BadRequest(
                f"Expected a request of this process ({os.getpid()}), found one that process {self._process} "
                "began before it forked. Ask again here."
            )
        self.lead.drive(waiter)

    def pump(self, waiter: Waiter) -> None:
        """Have a helper thread drive for a caller that must not block; see `Lead`."""
        self.lead.pump(waiter)

    # One step; only the leader is here.

    def _step(self) -> None:
        """Run one step for everybody; whatever happens in it, nobody is left to wait for ever."""
        self.steps += 1
        try:
            self._advance()
        except Exception as error:
            self._start_over(error)
        except BaseException:  # Ctrl-C reached the thread that leads, in the middle of anything
            self._start_over(None)
            raise

    def _start_over(self, error: Exception | None) -> None:
        """Trust nothing in the cache: who is under way is computed again from its tokens.

        Args:
            error: What ends all of them instead, where it is not the caller that was interrupted.
        """
        broken = self.run.drop()
        self.queue.restart(error, broken)
        with self._lock:
            for job in self._jobs if error is not None else ():
                job.error = error
                job.wake()
        self.table.reset()

    def _advance(self) -> None:
        """Reap, admit, prefill a chunk, score a chunk, launch a token for everybody who wants one.

        What was launched before is read last, while the latest launch runs.
        """
        self.run.settle()
        self.queue.reap()
        if self._clear:
            self._clear = False
            self.table.clear()
        self.queue.admit(self.run.begin)
        under_way = len(self.run.flights)
        if late := self._next_prompts():
            self.run.launch(late)
        with self._lock:
            job = self._jobs.pop(0) if self._jobs else None
            if job is not None:
                self._jobs.append(job)  # jobs take turns
        if job is not None:
            self._run_job(job)
        if ready := self.queue.decoding():
            self.run.decode(ready)
        self.run.land(max(under_way, len(self.run.flights) - 1))
        self.queue.reap()

    def _next_prompts(self) -> list[Handle]:
        """Return the prompts of which this step prefills a chunk: those that have waited longest for a turn.

        The longest first would be as fast, but while long ones keep coming a short one would never be next.
        """
        late = self.queue.prefilling()
        for handle in late:
            handle.turn = handle.turn or self.steps
        batches = packed(late, lambda h: min(h.pending, PREFILL_TOKENS), PREFILL_TOKENS)
        chosen = min(batches, key=lambda batch: min(h.turn for h in batch), default=[])
        for handle in chosen:
            handle.turn = self.steps + 1
        return chosen

    def _run_job(self, job: ScoreJob) -> None:
        """Run one chunk of a scoring job; without memory for it, make room and try again.

        Running requests wait no longer for it than for a chunk of a prompt, or for one longer prompt.
        """
        try:
            job.run_chunk(self.decoder, self.table, PREFILL_TOKENS if self.queue.active else CHUNK_TOKENS)
        except Exception as error:
            if out_of_memory(error) and (self.table.evict() or job.shrink() or self.queue.make_room()):
                return
            job.error = not_enough(error) if out_of_memory(error) else error
        if job.satisfied:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
                job.wake()
