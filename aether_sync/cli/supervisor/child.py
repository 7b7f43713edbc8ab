"""The process that runs a worker: ``python -m aether_sync.cli.supervisor.child FILE PROGRAM``.

``FILE`` is the number of the inherited socket by which the supervisor speaks to it, ``PROGRAM`` a ``Program`` as JSON.

The main thread imports the module, starts the worker, waits, and lets the worker come to its end. Another thread reads
what the supervisor says, and interrupts the main thread by a SIGTERM when that says *stop*, or is gone. So there is one
way to the end, and a SIGTERM of somebody else takes it, too: of ``kill``, or of systemd, which sends one to every
process of a service. Further ones are ignored, as they may be the same one; only the supervisor says *at once*.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import msgspec

from ..._runtime.deadline import Deadline
from ..._runtime.reporter import flush_logs
from ..._runtime.signals import OwnHandlers
from ..._runtime.threads import make_thread, start
from ..._values.shown import explained
from ...errors import AetherError, InvalidOptionError, RetryableError
from ...health import Health
from ...metrics import CloseReport
from ...worker.worker import Worker
from .messages import FAILED, LEFT, MARGIN, SIGNALS, Answer, Ask, Channel, Failed, Left, Program, Ready
from .program import UnusableProgramError, trace_of, worker_at

__all__ = ["main"]

_AGAIN = 0.5  # seconds after which an interrupt that had no effect is repeated: a finalizer may have swallowed it
_LAST = 1.5  # seconds for the bus and the store, behind the grace, of the margin
_AT_ONCE = 1.0  # seconds for what is given back when nothing may be waited for


class _Stopped(BaseException):
    """Interrupts the import of the module, the start of the worker, or the wait."""


class _Child:
    """What the process does.

    Args:
        channel: Leads to the supervisor.
        program: What is run.
    """

    def __init__(self, channel: Channel, program: Program) -> None:
        self._channel = channel
        self._program = program
        self._worker: Worker | None = None
        self._handlers = OwnHandlers(self._interrupt)
        self._interrupted = 0.0  # when the main thread was interrupted last; 0 if it never was
        self._is_ending = False  # whether the main thread is not to be interrupted any more

    # -- the main thread

    def run(self) -> int:
        """Do everything; return the exit status."""
        failure = None
        try:
            self._take_signals()
            failure = self._work()
            self._is_ending = True
        except _Stopped:
            self._is_ending = True
        self._see_to_the_end()
        if failure is not None:
            self._channel.send(failure)
        is_well = self._worker is None or self._drain(self._worker)
        return FAILED if failure is not None else 0 if is_well else LEFT

    def _take_signals(self) -> None:
        self._handle_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the supervisor has blocked them until now
        start(make_thread(self._listen, name="aether-supervisor"))

    def _handle_signals(self) -> None:
        for number in SIGNALS:
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP under nohup
                self._handlers.set(number)

    def _work(self) -> Failed:
        """Work until the process is to end, which interrupts this; return why the work has ended by itself."""
        where = self._program.where
        try:
            worker = worker_at(where)
            self._handle_signals()  # the module may have handlers of its own
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")  # unless it did
            self._worker = worker
            worker.start(threads=self._program.threads or None)
            if self._program.shows_metrics:
                _show_metrics(worker)
        except UnusableProgramError as error:
            return Failed(str(error), error.trace, is_usage=True)
        except AetherError as error:
            may_pass = isinstance(error, RetryableError)
            return Failed(f"{where!r} cannot start: {error}", trace_of(error), is_usage=not may_pass)
        except Exception as error:  # of the user's code: it may be the environment's fault, and pass
            return _failed(where, error)
        self._channel.send(Ready())
        try:
            worker.wait()
        except Exception as error:
            return _failed(where, error)
        return Failed(f"{where!r} has ended by itself")

    def _drain(self, worker: Worker) -> bool:
        """Let the worker come to its end; return whether nothing is left undone."""
        grace = self._program.grace
        deadline = Deadline(grace + _LAST)
        drained = worker.drain(grace)
        others = worker.store, worker.bus  # the store first, which may publish on the bus
        closed = [one.close(deadline.timeout_left()) for one in others if one is not None]
        if drained and all(closed):
            return True
        self._channel.send(Left(_in_words(drained, closed)))
        return False

    def _see_to_the_end(self) -> None:
        """End the process when its time is over, whatever still runs then."""

        def end() -> None:
            time.sleep(self._program.grace + MARGIN)
            _exit(LEFT)

        start(make_thread(end, name="aether-end"))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._is_ending and now - self._interrupted > _AGAIN / 2:
            self._interrupted = now
            raise _Stopped

    # -- the thread that listens

    def _listen(self) -> None:
        for message in self._channel.received_by_process():
            if isinstance(message, Ask):
                with suppress(Exception):  # no thread to be had: then the supervisor says that nothing was answered
                    start(make_thread(self._answer, message, name="aether-health"))
            elif message.at_once:
                self._end_at_once()
            else:
                self._stop()
        self._stop()

    def _answer(self, question: Ask) -> None:
        assert self._worker is not None  # nobody asks before it has started
        try:
            health = self._worker.health(timeout=question.timeout)
        except Exception as error:  # of a worker of the user's own class
            health = Health.of("the worker", [f"its health() has failed: {explained(error)}"])
        self._channel.send(Answer(question.number, health))

    def _stop(self) -> None:
        start(make_thread(self._interrupt_main_thread, name="aether-stop"))

    def _interrupt_main_thread(self) -> None:
        main_thread = threading.main_thread().ident
        while not self._is_ending and main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGTERM)
            time.sleep(_AGAIN)

    def _end_at_once(self) -> NoReturn:
        """Give back what can be given back without a wait, and end."""
        if self._worker is not None:
            closing = make_thread(self._worker.close, 0, name="aether-close")
            start(closing)
            closing.join(_AT_ONCE)
        _exit(LEFT)


def _show_metrics(worker: Worker) -> None:
    from ...contrib.prometheus import register  # with an extra

    things: tuple[Any, ...] = (worker, worker.bus, worker.store)
    for one in things:
        if one is not None:
            with suppress(InvalidOptionError):  # the program has registered it itself, under another name
                register(one)


def _failed(where: str, error: Exception) -> Failed:
    return Failed(f"{where!r} has failed: {explained(error)}", trace_of(error))


def _in_words(drained: CloseReport, closed: list[CloseReport]) -> str:
    counts = {"handlers left": drained.handlers_left}  # which the store reports once more
    for name in "unsent", "uncertain", "rejected":
        counts[name] = sum(getattr(one, name) for one in closed)
    return ", ".join(f"{name}: {count}" for name, count in counts.items() if count) or "its time was over"


def _exit(status: int) -> NoReturn:
    """End the process, though threads run; what is logged and printed is not lost."""
    flush_logs(_AT_ONCE)
    for stream in sys.stdout, sys.stderr:
        with suppress(Exception):
            stream.flush()
    os._exit(status)


def main(file: str, program: str) -> int:
    """Run a worker until it is to end; return the exit status."""
    sock = socket.socket(fileno=int(file))
    sock.set_inheritable(False)  # a program that a handler starts does not get it
    return _Child(Channel(sock), msgspec.json.decode(program, type=Program)).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
