"""``Supervisor``: keeps the processes of a worker running, until it is told to stop.

All of it runs on the main thread. Other threads ask the processes for their health, watch files, and answer scrapes.
"""

import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf

from .messages import LEFT, Program, Ready
from .process import Process, State
from .wakeup import Wakeup

__all__ = ["Supervisor"]

_UNUSABLE = 2  # an exit status, as for any wrong usage
_OF_A_SIGNAL = 128  # an exit status is this and the signal's number, as in a shell
_SAME = 0.5  # seconds in which another signal counts as the same: Ctrl-C reaches this process and who passes it on
_TRY_AGAIN = 1.0  # seconds, when the system has no room for another process


class Supervisor:
    """Starts the processes, and starts again those that end.

    Args:
        program: What each runs.
        count: How many there are.
        report: Takes what is to be said to the user.
        gone: Is called with the id of each process that has ended.
        waits_for_changes: Whether processes that only a change of the program can mend wait for one, which
            :meth:`changed` tells, where they would end the whole otherwise.
    """

    def __init__(
        self,
        program: Program,
        count: int,
        *,
        report: Callable[[str], None],
        gone: Callable[[int], object],
        waits_for_changes: bool,
    ) -> None:
        self.processes = [Process(number, program) for number in range(1, count + 1)]
        self._program = program
        self._report = report
        self._gone = gone
        self._waits_for_changes = waits_for_changes
        self._wakeup = Wakeup()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._changes: deque[str] = deque()  # another thread appends to it
        self._said: set[str] = set()  # what was said since the program was fit for use last
        self._was_ready = False  # whether it ever was
        self._status: int | None = None  # of the exit; None as long as there is to be none
        self._told = 0.0  # when a signal came
        self._ends_at_once = False

    def changed(self, what: str) -> None:
        """Start all processes anew, as a file has changed. Any thread may call this."""
        self._changes.append(what)
        self._wakeup.wake()

    def run(self) -> int:
        """Keep the processes running until a signal ends them; return the exit status.

        It is 0 if all came to their ends within their grace, 3 if not, 2 if there is nothing that can be run, and 128
        and more after a second signal.
        """
        try:
            while True:
                for number in self._wakeup.take():
                    self._take_signal(number)
                self._take_messages()
                self._reap()
                self._take_changes()
                self._kill_overdue()
                if self._status is None:
                    self._start_due()
                elif not any(one.pid for one in self.processes):
                    return self._status
                self._selector.select(self._seconds_to_wait())
        finally:
            for one in self.processes:  # if something has failed in here: none stays behind
                one.kill()

    def _start_due(self) -> None:
        now = time.monotonic()
        for one in self.processes:
            if one.state is State.PAUSED and one.due <= now:
                try:
                    one.start()
                except OSError as error:
                    one.due = now + _TRY_AGAIN
                    self._report(f"{one.about} cannot be started now: {error}")
                else:
                    self._selector.register(one.channel, selectors.EVENT_READ)

    def _seconds_to_wait(self) -> float | None:
        starts = [one.due for one in self.processes if one.state is State.PAUSED and self._status is None]
        end = min([*starts, *(one.kill_at for one in self.processes)])
        return None if end == inf else max(end - time.monotonic(), 0.0)

    # -- what comes

    def _take_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._status is None:
            self._told = time.monotonic()
            self._report(f"{name}: ending; what runs has {self._program.grace:g} s, another signal ends it at once")
            self._stop(0)
        elif not self._ends_at_once and time.monotonic() - self._told > _SAME:
            self._report(f"{name}: ending at once")
            self._ends_at_once = True
            self._status = _OF_A_SIGNAL + number
            for one in self.processes:
                one.stop_at_once()

    def _stop(self, status: int) -> None:
        self._status = status
        for one in self.processes:
            one.stop()

    def _take_messages(self) -> None:
        for one in self.processes:
            if any(isinstance(message, Ready) for message in one.take_messages()) and one.state is State.READY:
                self._was_ready = True
                self._said.clear()
                self._report(f"{one.about} runs {self._program.where}")
            if one.is_silent:
                self._forget(one)

    def _forget(self, one: Process) -> None:
        with suppress(KeyError):  # it has fallen silent before
            self._selector.unregister(one.channel)

    def _reap(self) -> None:
        """Note all ends; the first process of a container has those of others to note, too, or they stay for ever."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                for one in self.processes:
                    if one.pid == found[0]:
                        self._has_ended(one, os.waitstatus_to_exitcode(found[1]))
                        self._gone(found[0])

    def _has_ended(self, one: Process, status: int) -> None:
        was_told = one.state is State.ENDING
        self._forget(one)
        why = one.end(status)
        if was_told:
            if status and self._status in (None, 0, LEFT):
                about = "has ended" if one.failed else "did not come to its end"  # it had failed before it was told
                self._report(f"{one.about} {about}: {why}")
            if status and self._status == 0:
                self._status = LEFT
        elif one.is_unusable and self._waits_for_changes:
            one.due = inf
            self._say(one, f"{why}; waiting for a change")
        elif one.is_unusable and not self._was_ready:
            self._say(one, why)
            self._stop(_UNUSABLE)
        elif self._status is None:
            then = f"in {one.pause:g} s" if one.pause else "now"
            self._say(one, f"{one.about} has ended: {why}; starting it again {then}")

    def _say(self, one: Process, text: str) -> None:
        """Say why a process has ended, but nothing twice that all of them say."""
        trace = one.failed.trace if one.failed else ""
        new = [part for part in (trace.strip(), text) if part and part not in self._said]
        self._said.update(new)
        if new:
            self._report("\n".join(new))

    def _take_changes(self) -> None:
        if not self._changes or self._status is not None:
            return
        self._report(f"{self._changes[-1]}: starting anew")
        self._changes.clear()
        self._said.clear()
        for one in self.processes:
            one.renew()

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for one in self.processes:
            if one.kill_at <= now:
                one.kill()
