"""``SnapshotSaver``: saves snapshots in the background, so that no decision waits for one or fails because of one.

A thread saves what is there, and ends; the next snapshot starts another. So nothing has to be closed, and no idle
thread is left. Of each actor only the newest snapshot waits. If too many wait, or after a failure, new ones are
dropped: a snapshot only saves time, and the next decision on its actor makes another.
"""

import threading
from contextlib import suppress
from itertools import count

from .._runtime.deadline import Deadline
from .._runtime.exit import mind_the_exit
from .._runtime.fork import ForkAware, fork_aware
from .._runtime.locks import outside_locks, signal_safe_lock
from .._runtime.reporter import Kind, Reporter
from .._runtime.threads import NoThreadError, make_thread, start
from .._values.clock import monotonic
from .._values.shown import explained
from ..errors import AetherError, StoreClosedError
from ..stores.base import Snapshot
from ..stores.event_store import EventStore

__all__ = ["SnapshotSaver"]

_numbers = count(1)

_WAITING_AT_MOST = 1_000  # actors
_TIMEOUT = 5.0  # seconds to save one
_PAUSE = 5.0  # seconds after a failure in which none is taken


class SnapshotSaver(ForkAware):
    """Saves the snapshots of one repository. Any thread may use it. In a forked child it begins anew, with none.

    Args:
        store: Where they are saved.
        reporter: Logs failures.
    """

    def __init__(self, store: EventStore, reporter: Reporter) -> None:
        self._store = store
        self._reporter = reporter
        self._lock = signal_safe_lock()  # guards the fields that _reset() sets
        self._closed = False
        self._reset()
        fork_aware.add(self)

    def _reset(self) -> None:
        self._waiting: dict[str, Snapshot] = {}  # by actor, the one that came first at the front
        self._thread: threading.Thread | None = None
        self._to_start = [True]  # taken by the thread that starts the one that saves, which gives it back at its end
        self._not_before = float("-inf")  # a moment; until then none is taken

    def _after_fork(self) -> None:
        self._reset()

    def offer(self, snapshot: Snapshot) -> None:
        """Save a snapshot soon, if there is room for it. It never waits, and never raises because of the saving."""
        with self._lock:
            there = self._waiting.get(snapshot.actor_id)
            if self._closed or monotonic() < self._not_before:
                return
            if there is None and len(self._waiting) >= _WAITING_AT_MOST:
                return
            if there is None or there.version < snapshot.version:
                self._waiting[snapshot.actor_id] = snapshot
        self._start()

    def _start(self) -> None:
        with suppress(IndexError):  # another thread saves, or is about to
            self._to_start.pop()
            is_started = False
            try:
                mind_the_exit()
                thread = make_thread(self._run, name=f"aether-snapshots-{next(_numbers)}")
                with suppress(NoThreadError):  # the next snapshot tries again
                    start(thread)
                    is_started = True
                    self._thread = thread
            finally:
                if not is_started:
                    self._to_start.append(True)

    def _run(self) -> None:
        to_start = self._to_start  # of this process
        while (snapshot := self._taken(to_start)) is not None:
            self._save(snapshot)

    def _taken(self, to_start: list[bool]) -> Snapshot | None:
        """Return the snapshot that came first; if there is none, let what is offered later start a thread."""
        with self._lock:
            actor_id = next(iter(self._waiting), None)
            if actor_id is None:
                to_start.append(True)
                return None
            return self._waiting.pop(actor_id)

    def _save(self, snapshot: Snapshot) -> None:
        try:
            self._store.save_snapshot(snapshot, timeout=_TIMEOUT)
        except StoreClosedError:
            self._drop()
        except AetherError as error:
            self.report(snapshot.actor_id, snapshot.version, explained(error))
            self._drop(_PAUSE)
        except Exception as error:  # of a store of the user's own
            self.report(snapshot.actor_id, snapshot.version, explained(error))

    def _drop(self, pause: float = 0.0) -> None:
        with self._lock:
            self._waiting.clear()
            self._not_before = monotonic() + pause

    def report(self, actor_id: str, version: int, reason: str) -> None:
        """Log that a snapshot was not saved, once in a while."""
        text = "the snapshot of actor %r at version %d was not saved, and the next one is tried later: %s"
        self._reporter.burst(Kind.SNAPSHOT_FAILED, text, actor_id, version, reason, actor=actor_id)

    def close(self, deadline: Deadline) -> bool:
        """Take no more, and wait until all are saved that wait; returns whether they are.

        Accepted race: a thread that is just being started is not waited for, and what it has not taken is dropped.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return not self._waiting
        with outside_locks():  # a signal handler may have interrupted a decision
            thread.join(deadline.for_lock())
        self._drop()
        return not thread.is_alive()
