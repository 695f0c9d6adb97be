"""The engine: admits requests into slots, runs what is ready as one batch, samples, stops, cancels.

Knows requests, slots and steps; refuses to know messages, templates and model files. There is no background
thread to start or stop (`engine_lead`), and a full memory ends no request that would fit alone
(`engine_queue`). Closing a request stops its work before the next step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch

from llms.decoder import Decoder
from llms.engine_guess import Guesser
from llms.engine_lead import Lead, Waiter
from llms.engine_logits import choose
from llms.engine_queue import Queue
from llms.engine_request import Handle, Request, TokenInfo
from llms.engine_score import ScoreItem, ScoreJob, packed
from llms.errors import BadRequest, ContextOverflow, DamagedCheckpoint, NotEnoughMemory, RequestTooLarge
from llms.prefix import SlotTable

PREFILL_TOKENS = 1024
"""Prompt tokens (padding included) that one step prefills: running requests wait no longer than that."""


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
        self._jobs: list[ScoreJob] = []
        self.guesser = Guesser(decoder, self.table)
        self.queue = Queue(self.table, max_batch=self.max_batch, lock=self._lock)
        self.lead = Lead(self._lock, lambda: self._step())

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
        """Stop a request; its slot is taken back before the next step."""
        with self._lock:
            self.queue.drop(handle)
            handle.done = True
            handle.wake()

    def drive(self, waiter: Waiter) -> None:
        """Return once the waiter has something to read; see `Lead`."""
        self.lead.drive(waiter)

    def pump(self, waiter: Waiter) -> None:
        """Have a helper thread drive for a caller that must not block; see `Lead`."""
        self.lead.pump(waiter)

    # One step; only the leader is here.

    def _step(self) -> None:
        """Reap, admit, prefill a chunk, score a chunk, decode one token for everybody who wants one."""
        self.steps += 1
        self.queue.reap()
        if self._clear:
            self._clear = False
            self.table.clear()
        self.queue.admit(self._begin)
        late = self.queue.prefilling()
        for batch in packed(late, lambda h: min(h.pending, PREFILL_TOKENS), PREFILL_TOKENS)[:1]:
            self._run(batch)
        with self._lock:
            job = self._jobs[0] if self._jobs else None
        if job is not None:
            self._run_job(job)
        if ready := self.queue.decoding():
            began = time.perf_counter()
            guesses = self.guesser.guess(ready, len(self.queue.active))
            if not guesses or not self._verify(ready[0], guesses):
                self._run(ready)
            self.guesser.took(ready[0], bool(guesses), time.perf_counter() - began)

    def _run(self, batch: list[Handle]) -> None:
        """Run the pending tokens of a batch (a chunk of them, for a long prompt) and take the next ones."""
        slots = [handle.slot for handle in batch if handle.slot is not None]
        lists = [handle.due(PREFILL_TOKENS) for handle in batch]
        try:
            result = self.decoder.step(slots, lists, [h.request.sampling for h in batch])
        except Exception as error:
            if not _out_of_memory(error):
                self._fail(batch, error)
            elif not self.queue.make_room():
                self._fail(batch, _too_large(batch[0], error))
            return
        assert result.tokens is not None
        logits, tokens = result.logits, result.tokens.tolist()
        for index, handle in enumerate(batch):
            self.table.extend(slots[index], lists[index])
            handle.pending -= len(lists[index])
            if handle.pending == 0 and not handle.done:
                self._take(handle, logits[index], tokens[index])

    def _verify(self, handle: Handle, guesses: list[int]) -> bool:
        """Decide 1 + guesses tokens in one step; False where memory has no room for it."""
        try:
            new = self.guesser.run(handle, guesses)
        except Exception as error:
            if _out_of_memory(error):
                return False
            self._fail([handle], error)
            return True
        handle.pending = 1 - len(new)  # all of them but the last are in the cache
        self._deliver(handle, [(token, False) for token in new])
        return True

    def _begin(self, handle: Handle) -> None:
        """Write what a request's grammar forces before its first token is asked for."""
        try:
            forced = self._forced(handle)
        except Exception as error:
            self._fail([handle], error)
            return
        self._deliver(handle, forced)

    def _take(self, handle: Handle, logits: torch.Tensor, token: int) -> None:
        """Deliver one request's next token, and those that its grammar forces after it."""
        request = handle.request
        info: TokenInfo | None = None
        complete = False
        try:
            if not handle.checked and bool(logits.isnan().any()):
                raise DamagedCheckpoint(
                    "Expected finite logits, found NaN at the first token. The weights are damaged, or "
                    "overflow in this dtype: load with dtype='float32', or fetch the checkpoint anew."
                )
            handle.checked = True
            if request.on_host:
                token, info = choose(logits, handle)
            if request.constraint is not None:
                complete = request.constraint.accept(token)
            forced = [] if complete else self._forced(handle, spent=1)
        except Exception as error:
            self._fail([handle], error)
            return
        self._deliver(handle, [(token, complete), *forced], info)

    def _forced(self, handle: Handle, spent: int = 0) -> list[tuple[int, bool]]:
        """Return the tokens that a grammar forces now, each with whether it completes the text.

        They need no logits, so all of them run in the pass that gives the next free token's. Where
        log-probabilities are reported each token is asked for.
        """
        request = handle.request
        if request.constraint is None or request.top_logprobs is not None:
            return []
        left = request.max_tokens - len(handle.generated) - spent
        found: list[tuple[int, bool]] = []
        for token in request.constraint.forced()[: max(0, left)]:
            found.append((token, request.constraint.accept(token)))
        return found

    def _deliver(
        self, handle: Handle, tokens: Sequence[tuple[int, bool]], info: TokenInfo | None = None
    ) -> None:
        """Hand tokens to their reader; they are pending for the decoder."""
        with self._lock:
            for token, complete in tokens:
                if not handle.done:
                    handle.push(token, info, complete)
                    handle.pending += 1

    def _run_job(self, job: ScoreJob) -> None:
        """Run one chunk of a scoring job; without memory for it, make room and try again."""
        try:
            job.run_chunk(self.decoder, self.table)
        except Exception as error:
            if _out_of_memory(error) and self.queue.make_room():
                return
            job.error = _not_enough(error) if _out_of_memory(error) else error
        if job.satisfied:
            with self._lock:
                if job in self._jobs:
                    self._jobs.remove(job)
                job.wake()

    def _fail(self, batch: Sequence[Handle], error: BaseException) -> None:
        """End requests with an error."""
        with self._lock:
            for handle in batch:
                self.queue.drop(handle)
                handle.fail(error)
        self.queue.discard(batch)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error).lower()
    )


def _too_large(handle: Handle, error: Exception) -> Exception:
    """Name a request that does not fit in memory by itself."""
    length = len(handle.request.prompt) + len(handle.generated)
    failure = RequestTooLarge(
        f"Expected room for the KV cache of one sequence of {length} tokens, found none, with no other "
        f"request running ({error}). Shorten the prompt, or load the model with a smaller window."
    )
    failure.__cause__ = error
    return failure


def _not_enough(error: Exception) -> Exception:
    """Name an out-of-memory error in this package's terms."""
    failure = NotEnoughMemory(
        f"Expected room for the KV cache of this scoring batch, found none ({error}). Use shorter prompts."
    )
    failure.__cause__ = error
    return failure


__all__ = ["Engine", "Handle", "Request", "TokenInfo"]
