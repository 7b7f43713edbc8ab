"""The base of both event loops.

It adds three things: the loop never keeps a process from ending; a forked child can release its files; and it reaches a
host of several addresses even if one of them answers nothing.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from itertools import count
from typing import Any

from .fork import OwnFile, OwnSockets
from .standard_files import fill_standard_files
from .threads import NoThreadError, make_thread, start

__all__ = ["BaseLoop"]

_HEAD_START = 0.25  # seconds for one address before the next is tried as well (RFC 8305, section 8)

_numbers = count(1)


class BaseLoop(asyncio.AbstractEventLoop):
    """An event loop that never keeps a process from ending, not even if a name server never answers.

    Other loops look up names in a pool of threads, for which the process waits at its end. Here a daemon thread does
    it, one for each question. If the same is asked again meanwhile, as by every new attempt to connect, the answer is
    shared.
    """

    _made_in: int | None = None  # the process in which it was made; None as long as it is not complete

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.set_debug(False)  # also with -X dev: debug mode logs on this thread, and is for users who write coroutines
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}
        self._sockets = OwnSockets()
        # By host and port: how many addresses there are, and which one is tried first the next time.
        self._addresses: dict[tuple[str | None, int], tuple[int, int]] = {}
        self._empty_context = Context()  # objects in a caller's own would live as long as the task that it begins
        self._made_in = os.getpid()

    def __del__(self) -> None:
        """Close a loop that was made and never run; in a forked child it belongs to the parent.

        Accepted race: an exception of a signal handler in the very first moment leaves the files of the loop open,
        which costs their numbers and nothing else.
        """
        try:
            self._close_unused()
        except BaseException:  # of a signal handler
            self._close_unused()
            raise

    def _close_unused(self) -> None:
        if self._made_in == os.getpid() and not self.is_closed() and not self.is_running():
            self.close()

    def is_in_use(self) -> bool:
        """Whether it belongs to this process and is not closed."""
        return self._made_in == os.getpid() and not self.is_closed()

    def files(self) -> list[OwnFile]:
        """Return the files by which a forked child could disturb its parent, or keep its connections open."""
        raise NotImplementedError

    def forget_files(self) -> None:
        """In a forked child, before the files are released: forget their numbers, as far as that is possible."""
        self._sockets.forget()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(callback, *args, context=context or self._empty_context)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        question = (host, port, family, type, proto, flags)
        if _is_address(host):
            return socket.getaddrinfo(*question)
        answer = self._asked.get(question)
        if answer is None:
            answer = self._ask(question)
        await asyncio.wait((answer,))  # which does not cancel the answer if this task is cancelled
        return answer.result()

    def _ask(self, question: tuple[Any, ...]) -> "asyncio.Future[Any]":
        """Have a question answered by a thread of its own.

        Raises:
            OSError: No thread can be started at the moment. To ask on this thread would block the loop.
        """
        thread = make_thread(self._look_up, *question, name=f"aether-lookup-{next(_numbers)}")
        self._asked[question] = answer = self.create_future()
        try:
            start(thread)
        except NoThreadError as error:
            if error.is_passing:
                del self._asked[question]
                raise OSError(str(error)) from error
            self._look_up(*question)  # the interpreter ends, and does not wait for this thread either
        return answer

    def _look_up(self, *question: Any) -> None:
        found: Any = None
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(*question)
        except ValueError as caught:  # it can be no name: a server has told it
            error = socket.gaierror(socket.EAI_NONAME, str(caught))
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self.call_soon_threadsafe(self._answer, question, found, error)

    def _answer(self, question: tuple[Any, ...], found: Any, error: Exception | None) -> None:
        answer = self._asked.pop(question)
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)
            answer.exception()  # retrieved, or asyncio logs it if nobody waits any more

    # -- hosts of several addresses

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> Any:
        """Connect to whichever address of a host accepts a connection first.

        Each call begins with the next address, because one that accepts connections may still never answer.
        """
        addresses = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        _, turn = self._addresses.get((host, port), (1, 0))
        self._addresses[host, port] = len(addresses), turn + 1
        turn %= len(addresses) or 1
        sock = await self._first_of([*addresses[turn:], *addresses[:turn]])
        return await super().create_connection(protocol_factory, sock=sock, **options)

    def count_addresses(self, host: str | None, port: int) -> int:
        """Return how many addresses a host had when it was last connected to; 1 if it never was."""
        return self._addresses.get((host, port), (1, 0))[0]

    async def _first_of(self, addresses: Iterable[Any]) -> socket.socket:
        """Try addresses in order. Each is begun a bit after the one before, which is still tried meanwhile."""
        left, attempts, errors = deque(addresses), set[asyncio.Task[socket.socket]](), list[OSError]()
        try:
            while left or attempts:
                if left:
                    family, kind, proto, _, address = left.popleft()
                    attempts.add(self.create_task(self._connected(family, kind, proto, address)))
                await asyncio.wait(attempts, timeout=_HEAD_START if left else None, return_when=asyncio.FIRST_COMPLETED)
                for attempt in [one for one in attempts if one.done()]:
                    attempts.remove(attempt)
                    try:
                        return attempt.result()
                    except OSError as error:
                        errors.append(error)
        finally:
            for attempt in attempts:
                attempt.cancel()
                attempt.add_done_callback(_close_unused)
        if len({type(error) for error in errors}) == 1:
            raise errors[0]
        raise OSError("; ".join(map(str, errors)) or "the host has no address")

    async def _connected(self, family: int, kind: int, proto: int, address: Any) -> socket.socket:
        sock = self._make_socket(family, kind, proto)
        try:
            sock.setblocking(False)
            await self.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _make_socket(self, family: int, kind: int, proto: int) -> socket.socket:
        fill_standard_files()
        sock = socket.socket(family, kind, proto)
        self._sockets.add(sock)
        return sock


def _close_unused(attempt: "asyncio.Task[socket.socket]") -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _is_address(host: Any) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, TypeError):
            return bool(socket.inet_pton(family, host))
    return False
