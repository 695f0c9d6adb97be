"""The engine: admits requests into slots, runs what is ready as one batch, samples, stops, cancels.

Knows requests, slots and threads; refuses to know messages, templates and model files. There is no background
thread to start or stop: whoever needs a token leads and runs steps for everybody, the others sleep until they
have something to read. Closing a request stops its work before the next step.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import torch

from llms.decoder import Decoder
from llms.engine_logits import choose
from llms.engine_request import Handle, Request, TokenInfo
from llms.engine_score import ScoreItem, ScoreJob, packed
from llms.errors import BadRequest, ContextOverflow, DamagedCheckpoint, NotEnoughMemory
from llms.prefix import MIN_SHARED, SlotTable, common_prefix

PREFILL_TOKENS = 1024
"""Prompt tokens (padding included) that one step prefills: running requests wait no longer than that."""


class _Waiter(Protocol):
    """What can lead the engine: a `Handle` or a `ScoreJob`."""

    ready: threading.Condition

    @property
    def satisfied(self) -> bool: ...


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
        self._lock = threading.Lock()
        self._waiting: list[Handle] = []
        self._active: list[Handle] = []
        self._jobs: list[ScoreJob] = []
        self._leader: _Waiter | None = None
        self._sleepers: list[_Waiter] = []
        self._pumped: list[_Waiter] = []
        self._pump_news = threading.Condition(self._lock)
        self._pump_thread: threading.Thread | None = None

    def submit(self, request: Request) -> Handle:
        """Queue a request; nothing runs until its handle (or another one) is read.

        Raises:
            ContextOverflow: The prompt leaves no room in the window; both lengths are in the message.
            BadRequest: The prompt is empty.
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
        handle = Handle(self, request, self._lock)
        with self._lock:
            self._waiting.append(handle)
        return handle

    def score(self, items: Sequence[ScoreItem]) -> list[list[float]]:
        """Return the log-probability (nats) of each continuation of each item, in order.

        Args:
            items: Pairs (prompt ids, list of continuation ids), none of them empty.

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
        job = ScoreJob(items, self._lock)
        with self._lock:
            self._jobs.append(job)
        try:
            while not job.satisfied:
                self.drive(job)
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
        """Stop a request; its slot is taken back before the next step."""
        with self._lock:
            handle.cancelled = True
            if handle in self._waiting:
                self._waiting.remove(handle)
            handle.done = True
            handle.wake()

    def drive(self, waiter: _Waiter) -> None:
        """Return once the waiter has something to read, running steps where nobody else does."""
        if not self._leads(waiter):
            return
        try:
            while not waiter.satisfied:
                self._step()
        finally:
            with self._lock:
                self._leader = None
                self._hand_over()

    def _leads(self, waiter: _Waiter) -> bool:
        """Sleep until the waiter is satisfied (False), or nobody leads and it takes the lead (True).

        Who was woken to lead and does not, because it was satisfied or interrupted meanwhile, wakes the next:
        else everybody would sleep.
        """
        with self._lock:
            try:
                while not waiter.satisfied and self._leader is not None:
                    self._sleepers.append(waiter)
                    try:
                        waiter.ready.wait()
                    finally:
                        self._sleepers.remove(waiter)
                if waiter.satisfied:
                    return False
                self._leader = waiter
                return True
            finally:
                self._hand_over()

    def _hand_over(self) -> None:
        """Wake one sleeper that has work left where nobody leads; the lock is held."""
        if self._leader is None:
            heir = next((sleeper for sleeper in self._sleepers if not sleeper.satisfied), None)
            if heir is not None:
                heir.ready.notify_all()

    def pump(self, waiter: _Waiter) -> None:
        """Have a helper thread drive for a caller that must not block (asyncio)."""
        with self._lock:
            self._pumped.append(waiter)
            self._pump_news.notify()
            if self._pump_thread is None:
                self._pump_thread = threading.Thread(target=self._pump_loop, name="llm-engine", daemon=True)
                self._pump_thread.start()

    def _pump_loop(self) -> None:
        """Drive every pumped waiter; end after a quiet moment."""
        while True:
            with self._lock:
                for waiter in self._pumped:
                    if isinstance(waiter, Handle):
                        waiter.wake()
                self._pumped = [waiter for waiter in self._pumped if not waiter.satisfied]
                if not self._pumped and not self._pump_news.wait_for(lambda: bool(self._pumped), timeout=0.2):
                    self._pump_thread = None
                    return
                waiter = self._pumped[0]
            self.drive(waiter)

    # One step; only the leader is here.

    def _step(self) -> None:
        """Reap, admit, prefill a chunk, score a chunk, decode one token for everybody who wants one."""
        self.steps += 1
        self._reap()
        if self._clear:
            self._clear = False
            self.table.clear()
        self._admit()
        with self._lock:
            late = [h for h in self._active if h.pending > 1]
        for batch in packed(late, lambda h: min(h.pending, PREFILL_TOKENS), PREFILL_TOKENS)[:1]:
            self._run(batch)
        with self._lock:
            job = self._jobs[0] if self._jobs else None
        if job is not None:
            self._run_job(job)
        with self._lock:
            ready = [h for h in self._active if h.pending == 1 and not h.ahead and not h.done]
        if ready:
            self._run(ready)

    def _reap(self) -> None:
        """Take back the slots of requests that are over."""
        with self._lock:
            over = [h for h in self._active if h.done]
            self._active = [h for h in self._active if not h.done]
        for handle in over:
            assert handle.slot is not None
            self.table.release(handle.slot)

    def _admit(self) -> None:
        """Give slots to waiting requests, first come first served.

        A request whose prompt shares more with one that is being prefilled right now than with anything
        cached waits for it: eight prompts with one system prompt prefill that once.
        """
        with self._lock:
            waiting = [h for h in self._waiting if not h.ahead]
        for handle in waiting:
            if len(self._active) >= self.max_batch and not self._preempt():
                return
            if self.table.available == 0 or self._shares_soon(handle):
                continue
            sequence = [*handle.request.prompt, *handle.generated]
            slot, cached = self.table.acquire(sequence)
            with self._lock:
                if handle not in self._waiting:  # cancelled meanwhile
                    self.table.release(slot)
                    continue
                self._waiting.remove(handle)
                self._active.append(handle)
            handle.slot, handle.pending = slot, len(sequence) - cached
            if not handle.generated:
                handle.cached_tokens = cached

    def _shares_soon(self, handle: Handle) -> bool:
        """Tell whether waiting for a running prefill spares more than the cache does now."""
        prompt = handle.request.prompt
        running = [h for h in self._active if h.pending > 1]
        soon = max((common_prefix(h.request.prompt, prompt) for h in running), default=0)
        return soon >= self.table.best(prompt)[1] + 2 * MIN_SHARED

    def _preempt(self) -> bool:
        """Move a request whose reader lags out of its slot; its KV stays cached."""
        with self._lock:
            paused = next((h for h in self._active if h.ahead and not h.done), None)
            if paused is None:
                return False
            self._active.remove(paused)
            self._waiting.append(paused)
        assert paused.slot is not None
        self.table.release(paused.slot)
        paused.slot = None
        return True

    def _run(self, batch: list[Handle]) -> None:
        """Run the pending tokens of a batch (a chunk of them, for a long prompt) and take the next ones."""
        slots, lists = [], []
        for handle in batch:
            assert handle.slot is not None
            sequence = [*handle.request.prompt, *handle.generated] if handle.pending > 1 else handle.generated
            if handle.pending == 1 and not handle.generated:
                sequence = list(handle.request.prompt)
            start = len(sequence) - handle.pending
            slots.append(handle.slot)
            lists.append(sequence[start : start + PREFILL_TOKENS])
        try:
            result = self.decoder.step(slots, lists, [h.request.sampling for h in batch])
        except Exception as error:
            self._fail(batch, _translated(error))
            return
        assert result.tokens is not None
        logits, tokens = result.logits, result.tokens.tolist()
        for index, handle in enumerate(batch):
            self.table.extend(slots[index], lists[index])
            handle.pending -= len(lists[index])
            if handle.pending == 0 and not handle.done:
                self._take(handle, logits[index], tokens[index])

    def _take(self, handle: Handle, logits: torch.Tensor, token: int) -> None:
        """Deliver one request's next token."""
        request, info, complete = handle.request, None, False
        try:
            if not handle.generated and bool(logits.isnan().any()):
                raise DamagedCheckpoint(
                    "Expected finite logits, found NaN at the first token. The weights are damaged, or "
                    "overflow in this dtype: load with dtype='float32', or fetch the checkpoint anew."
                )
            if request.on_host:
                token, info = choose(logits, handle)
                if request.constraint is not None:
                    complete = request.constraint.accept(token)
        except Exception as error:
            self._fail([handle], error)
            return
        with self._lock:
            if not handle.done:
                handle.push(token, info, complete)
                handle.pending = 1

    def _run_job(self, job: ScoreJob) -> None:
        """Run one chunk of a scoring job."""
        try:
            job.run_chunk(self.decoder, self.table)
        except Exception as error:
            job.error = _translated(error)
        if job.satisfied:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
                job.ready.notify_all()

    def _fail(self, batch: Sequence[Handle], error: BaseException) -> None:
        """End requests with an error and drop their KV, which may be half-written or NaN."""
        with self._lock:
            for handle in batch:
                handle.fail(error)
                if handle in self._active:
                    self._active.remove(handle)
        for handle in batch:
            if handle.slot is not None:
                self.table.release(handle.slot, keep=False)
                handle.slot = None


def _translated(error: Exception) -> Exception:
    """Name an out-of-memory error in this package's terms."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        failure = NotEnoughMemory(
            f"Expected room for the KV cache of this batch, found none ({error}). Use shorter prompts, fewer "
            f"requests at once, or a smaller window."
        )
        failure.__cause__ = error
        return failure
    return error


__all__ = ["Engine", "Handle", "Request", "TokenInfo"]
