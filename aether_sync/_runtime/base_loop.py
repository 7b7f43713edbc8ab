"""What every event loop here has, whoever made it.

It keeps no process from ending, a fork can let go of it, and no address that swallows everything keeps it from a host.
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
from .threads import NoThreadError, make_thread, start

__all__ = ["BaseLoop"]

_HEAD_START = 0.25  # seconds of one address before the next (RFC 8305, section 8)

_numbers = count(1)


class BaseLoop(asyncio.AbstractEventLoop):
    """An event loop that keeps no process from ending: not even over a name server that never answers.

    Loops look names up in a pool of threads, which the process waits for at its end. Here a daemon thread does it, one
    for each question: who asks the same again meanwhile, as every new attempt to connect does, waits for that answer.
    """

    _made_in: int | None = None  # the process in which it was made whole

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.set_debug(False)  # also under -X dev: it would log on this thread, and is for who writes coroutines
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}
        self._sockets = OwnSockets()
        self._addresses: dict[
            tuple[str | None, int], tuple[int, int]
        ] = {}  # by host and port: how many, and whose turn
        self._nobodys = Context()  # what a caller has in its own would live as long as the task that it begins
        self._made_in = os.getpid()

    def __del__(self) -> None:
        """Close what was made, and never run. In a forked child it is the parent's.

        Accepted race: an interrupt in the very first moment of this leaves the loop's files open.
        """
        try:
            self._close_unused()
        except BaseException:  # an interrupt
            self._close_unused()
            raise

    def _close_unused(self) -> None:
        if self._made_in == os.getpid() and not self.is_closed() and not self.is_running():
            self.close()

    def is_in_use(self) -> bool:
        """Whether it is this process's, and not closed yet."""
        return self._made_in == os.getpid() and not self.is_closed()

    def files(self) -> list[OwnFile]:
        """The files by which a forked child could disturb its parent, or hold its connections."""
        raise NotImplementedError

    def forget_files(self) -> None:
        """In a forked child, before they are let go of: know their numbers no more, as far as that is possible."""
        self._sockets.forget()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(callback, *args, context=context or self._nobodys)

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
        await asyncio.wait((answer,))  # not cancelled with who waits
        return answer.result()

    def _ask(self, question: tuple[Any, ...]) -> "asyncio.Future[Any]":
        """Have a question answered by a thread of its own.

        Raises:
            OSError: There is none for the moment; to ask on this one would hold up everybody.
        """
        thread = make_thread(self._look_up, *question, name=f"aether-lookup-{next(_numbers)}")
        self._asked[question] = answer = self.create_future()
        try:
            start(thread)
        except NoThreadError as error:
            if error.is_passing:
                del self._asked[question]
                raise OSError(str(error)) from error
            self._look_up(*question)  # the interpreter ends, and waits for this thread no longer than for that one
        return answer

    def _look_up(self, *question: Any) -> None:
        found: Any = None
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(*question)
        except Exception as caught:
            error = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.call_soon_threadsafe(self._answer, question, found, error)

    def _answer(self, question: tuple[Any, ...], found: Any, error: Exception | None) -> None:
        answer = self._asked.pop(question)
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)
            answer.exception()  # seen, if nobody waits for it any more

    # -- hosts of several addresses

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> Any:
        """Connect to a host, at whichever of its addresses takes a connection first.

        Each time it begins with the next one: that one takes a connection does not mean that anything comes of it.
        """
        addresses = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        _, turn = self._addresses.get((host, port), (1, 0))
        self._addresses[host, port] = len(addresses), turn + 1
        turn %= len(addresses) or 1
        sock = await self._first_of([*addresses[turn:], *addresses[:turn]])
        return await super().create_connection(protocol_factory, sock=sock, **options)

    def count_addresses(self, host: str | None, port: int) -> int:
        """How many addresses a host had when it was last connected to; 1 if it never was."""
        return self._addresses.get((host, port), (1, 0))[0]

    async def _first_of(self, addresses: Iterable[Any]) -> socket.socket:
        """Try addresses in their order, each while those before it are tried still, but a bit later."""
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
