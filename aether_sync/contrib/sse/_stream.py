"""``EventStream``: the body of a response, as a web server iterates it; what all kinds of streams have in common."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import Self

from ..._runtime.closing import Closeable
from ..._runtime.deadline import Deadline
from ..._runtime.exit import is_ending
from ..._values.clock import monotonic
from ...events import Event
from ._connection import PATIENCE, current_socket, hang_up, limit
from ._counts import counts, open_streams

__all__ = ["AsyncEventStream", "Encode", "EventStream", "Step"]

Encode = Callable[[Event], str | bytes | None]
"""A function that returns what a page gets of an event: a text, or None if it does not get the event."""

_RETRY = 1_000, 3_000  # milliseconds: pages that lost one process do not all come back at the same moment
_PAUSE = 1.0  # seconds until what failed is tried again
_STUCK = 0.5  # seconds: a server that has not come back for the next chunk waits for its client


class Step(Enum):
    """What a stream can do now, if it has nothing to send."""

    WAIT = "wait until there is something"
    PAUSE = "wait a moment, and try again"
    WORK = "read, which may block"
    END = "end"


class EventStream(Closeable, ABC):
    """Server-sent events: what a web server sends as the body of a response, with :data:`HEADERS`.

    It is an iterable of bytes, as WSGI wants it: each chunk is one or several whole messages, or a heartbeat. An ASGI
    application iterates it by ``async for``; give ``aiter(stream)`` to a framework that would take a plain iterable
    first, as Django does. One thread or one coroutine reads it.

    It ends when it is closed, when its source is closed, when its client is too slow, and when the process is about to
    end; see :func:`end_iterations`. The browser then connects again by itself.
    """

    def __init__(self, encode: Encode | None, heartbeat: float) -> None:
        self._encode = encode
        self._heartbeat = heartbeat
        self._is_begun = False
        self._is_closed = False
        self._is_stopped = is_ending()
        self._given_at: float | None = None  # when the server took a chunk for which it has not come back
        self._connection = current_socket.get()

    # -- what kinds of streams differ in

    @abstractmethod
    def _begin(self) -> bytes:
        """Begin, and return what is sent first."""

    @abstractmethod
    def _step(self) -> bytes | Step:
        """Return what can be sent now, or what to do; without blocking."""

    @abstractmethod
    def _work(self) -> None:
        """Do what may block, for a second at most."""

    @abstractmethod
    def _wait(self, deadline: Deadline) -> None:
        """Wait on this thread until there may be something to send."""

    @abstractmethod
    async def _wait_in_coroutine(self) -> None:
        """Wait in a coroutine until there may be something to send, or it is cancelled."""

    @abstractmethod
    def _wake(self) -> None:
        """End the wait."""

    @abstractmethod
    def _beat(self) -> bytes:
        """Return a heartbeat."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the source."""

    # -- reading

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        chunk = self._first()
        deadline = Deadline(self._heartbeat)
        while chunk is None:
            step = self._next_step(deadline)
            if isinstance(step, bytes):
                chunk = step
            elif step is Step.WORK:
                self._work()
            elif step is Step.END:
                self._end()
                raise StopIteration
            else:
                self._wait(self._until(step, deadline))
        return self._given(chunk)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return AsyncEventStream(self)

    def _first(self) -> bytes | None:
        """Note that the server has come back; return what is sent first, the first time."""
        self._given_at = None
        if self._is_begun or self._is_stopped or self._is_closed:
            return None
        self._is_begun = True
        counts.opened.one()
        open_streams.add(self)
        limit(self._connection)
        return self._begin()

    def _next_step(self, deadline: Deadline) -> bytes | Step:
        if self._is_stopped or self._is_closed:
            return Step.END
        step = self._step()
        if isinstance(step, Step) and step is not Step.END and not deadline.remaining():
            return self._beat()
        return step

    def _until(self, step: Step, deadline: Deadline) -> Deadline:
        return Deadline(min(_PAUSE, deadline.remaining())) if step is Step.PAUSE else deadline

    def _given(self, chunk: bytes) -> bytes:
        """Note that the server gets a chunk."""
        self._given_at = monotonic()
        return chunk

    def _retry(self) -> int:
        """Return after how many milliseconds the browser connects again."""
        return random.randint(*_RETRY)

    # -- ending

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._is_closed

    def close(self) -> None:
        """End it, and let go of its source. Idempotent; any thread. Web servers call it when the response is over."""
        self._end()
        if self._is_stopped:  # a connection that is kept alive would keep the process
            hang_up(self._connection)

    def _end(self) -> None:
        """Let go of the source; the web server still has to end the response."""
        if self._is_closed:
            return
        self._is_closed = True
        open_streams.discard(self)
        if not self._is_stopped and self._is_stuck_for(PATIENCE):
            counts.dropped.one()
        self._release()
        self._wake()

    def _drop(self) -> None:
        """End it, as its client is too slow."""
        counts.dropped.one()
        self._is_stopped = True

    def _stop(self) -> None:
        """End it, as the process is about to end. A server that waits for its client waits no more."""
        self._is_stopped = True
        if self._is_stuck_for(_STUCK):
            hang_up(self._connection)
        self._wake()

    def _is_stuck_for(self, seconds: float) -> bool:
        """Whether the server has not come back from its client for so long."""
        given = self._given_at
        return given is not None and monotonic() - given >= seconds

    def __repr__(self) -> str:
        return f"<EventStream{' closed' if self._is_closed else ''}>"


class AsyncEventStream:
    """A stream as a coroutine reads it. It has no other iterator, for frameworks that would take a plain one first.

    If its reader is cancelled, as frameworks do when the client has left, the stream is closed.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except BaseException:
            self._stream.close()
            raise

    async def _next(self) -> bytes:
        stream = self._stream
        chunk = stream._first()
        deadline = Deadline(stream._heartbeat)
        while chunk is None:
            step = stream._next_step(deadline)
            if isinstance(step, bytes):
                chunk = step
            elif step is Step.WORK:
                await asyncio.to_thread(stream._work)
            elif step is Step.END:
                stream._end()
                raise StopAsyncIteration
            else:
                try:
                    async with asyncio.timeout(stream._until(step, deadline).remaining()):
                        await stream._wait_in_coroutine()
                except TimeoutError:
                    pass
        return stream._given(chunk)

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self._stream.closed

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close the stream."""
        self._stream.close()

    def __repr__(self) -> str:
        return f"<async {self._stream!r}>"
