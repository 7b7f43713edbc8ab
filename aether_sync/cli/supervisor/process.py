"""``Process``: one of the processes that run a worker, with all that took its place so far.

The states, and what leads from one to the next::

    PAUSED ──start()──▶ STARTING ──Ready──▶ READY
      ▲                    │ stop()           │ stop()
      │                    ▼                  ▼
      └────────────────  ENDING  ◀────────────┘
      └──────────── an end from any of the three

In PAUSED there is no process. It is started when its pause is over, or, after what only a change of the program can
mend, when a file has changed.
"""

import enum
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import suppress
from math import inf
from typing import NamedTuple

import msgspec

from ...health import Health
from .messages import MARGIN, SIGNALS, Answer, Ask, Channel, Failed, FromProcess, Left, Program, Ready, Stop

__all__ = ["Process", "State"]

_MOST_QUESTIONS = 16  # without an answer, at a time: so many fit into the socket of a process that reads nothing
_HUNG = 60.0  # seconds without an answer after which a process hangs, as for the thread of a connection
_MOMENT = 0.1  # seconds that a question takes which may not wait
_SHARE = 0.8  # of the time for a question, that the worker gets: the rest is for the way to it and back

_STEADY = 10.0  # seconds after which a process that has ended is started again at once
_FIRST_PAUSE = 0.5  # seconds before it is started again, if it has ended earlier; doubled each time
_LONGEST_PAUSE = 30.0


class State(enum.Enum):
    """See above."""

    PAUSED = enum.auto()
    STARTING = enum.auto()
    READY = enum.auto()
    ENDING = enum.auto()


class _Question(NamedTuple):
    asked: float
    answer: "Future[Health | None]"


class Process:
    """One of the processes. One thread uses it; any may ask for its health.

    Args:
        number: Tells it from the others, from 1 on.
        program: What it runs.

    Attributes:
        about: It, and its process now, for messages.
        pause: Seconds between its last end and ``due``.
        due: When it is to be started, if there is no process; infinite for not before a change.
        kill_at: When it is killed, if it is ending; else infinite.
        failed: What it said of its end, if it failed.
    """

    def __init__(self, number: int, program: Program) -> None:
        self._number = number
        self._program = program
        self._lock = threading.Lock()  # guards the questions, and the state where health() needs it
        self._state = State.PAUSED
        self._why_paused = "it has not been started"
        self._questions: dict[int, _Question] = {}  # those without an answer, by their numbers, in their order
        self._last_number = 0
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._short_lives = 0  # processes in sequence that ended early
        self.about = f"process {number}"
        self.pause = self.due = 0.0
        self.kill_at = inf
        self.failed: Failed | None = None
        self._left = ""

    # -- the thread of the supervisor

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The id of the process; None if there is none."""
        return None if self._process is None else self._process.pid

    @property
    def channel(self) -> Channel:
        """Where its messages come in. There is a process."""
        assert self._channel is not None
        return self._channel

    @property
    def is_silent(self) -> bool:
        """Whether it says nothing any more, although it may live."""
        return self._channel is not None and self._channel.has_ended

    @property
    def is_unusable(self) -> bool:
        """Whether only a change of the program can mend what its last process has said."""
        return self.failed is not None and self.failed.is_usage

    def start(self) -> None:
        """Start a process.

        Raises:
            OSError: The system does not allow another process, or more open files.
        """
        ours, its = socket.socketpair()
        arguments = [str(its.fileno()), msgspec.json.encode(self._program).decode()]
        # Blocked signals are inherited, and a process unblocks them when it can handle them. Those that come earlier
        # wait, where they would end Python in the middle of its start.
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", *arguments], pass_fds=[its.fileno()]
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            its.close()
        self._started = time.monotonic()
        self.failed, self._left = None, ""
        with self._lock:
            self.about = f"process {self._number} (pid {self._process.pid})"
            self._channel = Channel(ours)
            self._state = State.STARTING

    def take_messages(self) -> list[FromProcess]:
        """Take what the process has said; return it, except for answers."""
        found = [] if self._channel is None else self._channel.received_by_supervisor()
        for message in found:
            if isinstance(message, Answer):
                self._give(message)
            elif isinstance(message, Failed):
                self.failed = message
            elif isinstance(message, Left):
                self._left = message.text
            elif isinstance(message, Ready) and self._state is State.STARTING:
                self._set(State.READY)
        return found

    def renew(self) -> None:
        """Have another process in its place, as soon as this one has ended, if there is one."""
        self._short_lives = 0
        self.due = 0.0
        self.stop()

    def stop(self) -> None:
        """Have the process end within its grace; do nothing if it ends already, or if there is none."""
        if self._process is not None and self._state is not State.ENDING:
            self._set(State.ENDING)
            self.kill_at = time.monotonic() + self._program.grace + 2 * MARGIN
            self.channel.send(Stop())

    def stop_at_once(self) -> None:
        """Have the process end without its grace."""
        if self._process is not None:
            self._set(State.ENDING)
            self.kill_at = min(self.kill_at, time.monotonic() + MARGIN)
            self.channel.send(Stop(at_once=True))

    def kill(self) -> None:
        """End the process by force."""
        self.kill_at = inf
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)

    def _set(self, state: State) -> None:
        with self._lock:
            self._state = state

    def end(self, status: int) -> str:
        """Note that the process has ended, and decide when it is started again; return why it ended."""
        assert self._process is not None
        self.take_messages()
        self._process.returncode = status  # it is reaped by the supervisor, with all others
        lived = time.monotonic() - self._started
        was_told = self._state is State.ENDING
        why = self.failed.reason if self.failed else self._left or _how_it_ended(status)
        self.pause = 0.0
        if not was_told:
            self._short_lives = 0 if self._state is State.READY and lived >= _STEADY else self._short_lives + 1
            if self._short_lives:
                self.pause = min(_FIRST_PAUSE * 2 ** min(self._short_lives - 1, 16), _LONGEST_PAUSE)
        channel = self.channel
        with self._lock:
            self._channel = self._process = None
            self._state, self._why_paused = State.PAUSED, why
            questions, self._questions = self._questions, {}
        channel.close()
        for question in questions.values():
            question.answer.set_result(None)
        self.kill_at, self.due = inf, time.monotonic() + self.pause
        return why

    # -- any thread

    def health(self, timeout: float) -> Health:
        """Ask the process for the health of its worker.

        Args:
            timeout: Seconds to wait for the answer. 0 waits for a moment, and only if no other question waits; so one
                process that hangs does not keep a probe from its answer.
        """
        with self._lock:
            about, state, why, channel = self.about, self._state, self._why_paused, self._channel
            oldest = next(iter(self._questions.values()), None)
            question = None
            if state is State.READY and len(self._questions) < _MOST_QUESTIONS:
                self._last_number += 1
                number = self._last_number
                question = self._questions[number] = _Question(time.monotonic(), Future())
        if state is State.PAUSED:
            return Health.of(about, [f"{about} is not there: {why}"])
        if state is not State.READY or channel is None:
            return Health.of(about, [f"{about} is {state.name.lower()}"])
        if question is not None:
            channel.send(Ask(number, timeout * _SHARE))
            with suppress(NoAnswerError):
                found = question.answer.result(timeout or (_MOMENT if oldest is None else 0.0))
                return Health.of(about, [f"{about} has ended"]) if found is None else Health.of(about, parts=[found])
        is_alive = oldest is None or time.monotonic() - oldest.asked < _HUNG
        return Health.of(about, [f"{about} does not answer"], alive=is_alive)

    def _give(self, answer: Answer) -> None:
        with self._lock:
            question = self._questions.pop(answer.number, None)
        if question is not None:
            question.answer.set_result(answer.health)


def _how_it_ended(status: int) -> str:
    """Return in words what an exit status says; it is negative for a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-status}"
