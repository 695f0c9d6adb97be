"""The caller's end of a request: a stream that is read synchronously or asynchronously.

The engine's thread delivers pieces and never waits for a reader. A reader waits for its own stream only. An
asyncio task is woken through its own event loop, so no executor and no helper thread takes part.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import ref

from llms.engine.request import GenerationRequest, Piece, Sequence
from llms.errors import BadRequest

Mail = TypeVar("Mail")


class Inbox(Generic[Mail]):
    """What other threads send to the engine's thread. `put` may be called from destructors as well.

    It holds no engine, so a stream that is kept does not keep the model.
    """

    def __init__(self) -> None:
        self._mail: SimpleQueue[Mail | None] = SimpleQueue()
        self._process = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether this is the process of the engine's thread, and not one that was forked from it."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Raise `BadRequest` in a process that was forked after the engine was made."""
        if not self.usable:
            raise BadRequest(
                f"expected a request of this process ({os.getpid()}), found one that process {self._process} "
                "began before it forked; ask again here"
            )

    def put(self, mail: Mail) -> None:
        """Send something to the engine's thread."""
        self._mail.put(mail)

    def wake(self) -> None:
        """Let the engine's thread look at its streams again."""
        self._mail.put(None)

    def wait(self) -> Mail | None:
        """Wait for mail and return it. None only asks the thread to look around."""
        return self._mail.get()

    def collect(self) -> list[Mail]:
        """Return all mail that is there."""
        found: list[Mail] = []
        with suppress(Empty):
            while True:
                if (mail := self._mail.get_nowait()) is not None:
                    found.append(mail)
        return found


class Stream:
    """The answer to one request, piece by piece. Iterate over it, or close it to stop the work.

        >>> with contextlib.closing(engine.submit(request)) as stream:  # doctest: +SKIP
        ...     for piece in stream:
        ...         print(piece.text, end="")

    A stream that is dropped without being closed stops its work as well.

    Args:
        inbox: Wakes the engine's thread.
        request: The request.
        engine: The engine, which is kept alive until the stream has ended.

    Attributes:
        sequence: The scheduler's record.
        collects: Whether the caller reads nothing before the end.
        closed: Whether the caller wants no more. The engine's thread reads it before each step.
        done: Whether the last piece, or an error, has been delivered.
    """

    def __init__(self, inbox: Inbox[Any], request: GenerationRequest, engine: object) -> None:
        self.sequence = Sequence(request, ref(self, lambda _: inbox.wake()))
        self.collects = self.closed = self.done = False
        self._inbox, self._engine = inbox, engine
        self._pieces: deque[Piece] = deque()
        self._error: BaseException | None = None
        self._ready = threading.Condition(threading.Lock())
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def request(self) -> GenerationRequest:
        """The request."""
        return self.sequence.request

    @property
    def generated(self) -> list[int]:
        """The tokens so far, including the end token. Some of them may not have been read yet."""
        return self.sequence.generated

    @property
    def cached_tokens(self) -> int:
        """The number of prompt tokens that the prefix cache provided, once the first piece is there."""
        return self.sequence.cached_tokens

    # The engine's side.
    @property
    def unread(self) -> int:
        """The number of pieces that wait to be read."""
        return len(self._pieces)

    def deliver(self, piece: Piece) -> None:
        """Hand over the next piece. The one with a finish reason is the last."""
        with self._ready:
            self._pieces.append(piece)
            self.done = self.done or piece.finish_reason is not None
            self._notify()

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""
        with self._ready:
            if not self.done:
                self._error, self.done = error, True
                self._notify()

    def _notify(self) -> None:
        """Wake the readers if there is something to read. The caller holds the lock."""
        if self.done:
            self._engine = None  # A stream that is kept must not keep the model.
        if self._readable():
            self._ready.notify_all()
            for loop, future in self._listeners:
                _call_soon(loop, future)
            self._listeners.clear()

    # The caller's side.
    def _readable(self) -> bool:
        return self.done or self.closed or (bool(self._pieces) and not self.collects)

    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces as they come. Leaving the loop early stops the work."""
        try:
            while (piece := self.next_piece()) is not None:
                yield piece
        finally:
            self.close()

    def next_piece(self) -> Piece | None:
        """Return the next piece, or None after the last one.

        Raises:
            BadRequest: The request was submitted in another process, before a fork.
        """
        self._wait()
        return self._take()

    def result(self) -> list[Piece]:
        """Return all pieces at once."""
        try:
            self._collect()
            while not (self.done or self.closed):
                self._wait()
        finally:
            self.close()
        return self._rest()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield pieces without blocking the event loop. Cancelling the task stops the work."""
        try:
            while True:
                await self._news()
                if (piece := self._take()) is None:
                    return
                yield piece
        finally:
            self.close()

    async def aresult(self) -> list[Piece]:
        """Return all pieces at once, without blocking the event loop."""
        try:
            self._collect()
            while not (self.done or self.closed):
                await self._news()
        finally:
            self.close()
        return self._rest()

    def close(self) -> None:
        """Stop the work before the next step. Does nothing if the request has ended."""
        if self.closed:
            return
        self.closed = True
        if not self.done and self._inbox.usable:  # A forked child may have copied the lock while it was held.
            self._inbox.wake()
            with self._ready:
                self._notify()

    def _collect(self) -> None:
        """Read nothing before the end, so that the engine neither waits for the reader nor wakes it."""
        if not self.collects and not self.done:
            self.collects = True
            self._inbox.wake()

    def _wait(self) -> None:
        """Wait until there is something to read."""
        if self._readable():
            return
        self._inbox.check_process()
        with self._ready:
            while not self._readable():
                self._ready.wait()

    async def _news(self) -> None:
        """Wait until there is something to read, in an event loop."""
        if self._readable():
            return
        self._inbox.check_process()
        loop = asyncio.get_running_loop()
        listener = loop, loop.create_future()
        with self._ready:
            if self._readable():
                return
            self._listeners.append(listener)
        try:
            await listener[1]
        finally:
            with self._ready:
                if listener in self._listeners:
                    self._listeners.remove(listener)

    def _take(self) -> Piece | None:
        with self._ready:
            piece = self._pieces.popleft() if self._pieces else None
        if piece is None and self._error is not None:
            raise self._error
        if piece is not None and not self.done and self.unread + 1 == self.request.run_ahead:
            self._inbox.wake()  # The engine stopped because this reader was that far behind.
        return piece

    def _rest(self) -> list[Piece]:
        if self._error is not None:
            raise self._error
        return list(self._pieces)


def gather(streams: Iterable[Stream]) -> list[list[Piece]]:
    """Return all pieces of several requests, which run as one batch. An error stops all of them."""
    streams = list(streams)
    for stream in streams:
        stream.collects = True
    try:
        return [stream.result() for stream in streams]
    finally:
        for stream in streams:
            stream.close()


def _call_soon(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Resolve a future on its event loop, unless the loop has been closed."""

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    with suppress(RuntimeError):
        loop.call_soon_threadsafe(resolve)
