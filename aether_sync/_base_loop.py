"""What every event loop here has, whoever made it: it keeps no process from ending, and a fork can let go of it."""

import asyncio
import socket
import threading
from contextlib import suppress
from itertools import count
from typing import Any

__all__ = ["BaseLoop"]

_numbers = count(1)


class BaseLoop(asyncio.AbstractEventLoop):
    """An event loop that keeps no process from ending: not even over a name server that never answers.

    Loops look names up in a pool of threads, which the process waits for at its end. Here a daemon thread does it, one
    for each question: who asks the same again meanwhile, as every new attempt to connect does, waits for that answer.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.set_debug(False)  # also under -X dev: it would log on this thread, and is for who writes coroutines
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}

    def files(self) -> list[int]:
        """The files by which a forked child could disturb its parent, or hold its connections."""
        raise NotImplementedError

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
        answer = self._asked.get(question)
        if answer is None:
            self._asked[question] = answer = self.create_future()
            name = f"aether-lookup-{next(_numbers)}"
            try:
                threading.Thread(target=self._look_up, args=question, name=name, daemon=True).start()
            except RuntimeError:  # the interpreter ends, and waits for this thread no longer than for that one
                self._look_up(*question)
        await asyncio.wait((answer,))  # not cancelled with who waits
        return answer.result()

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
