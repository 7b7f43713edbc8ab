"""``guarded()``: fails a test that leaves something behind, or in which something fails on another thread."""

import concurrent.futures.thread
import gc
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import LogRecord
from types import FrameType

from .._bus.routing import Target
from .._runtime.deadline import Deadline
from .._runtime.fork import ForkAware, fork_aware
from ..bus import EventBus
from ..connection import Connection
from ._logs import LogRecorder

__all__ = ["guarded", "running_threads"]

_GRACE = 2.0  # seconds for what is just ending
_PAUSE = 0.005  # seconds between two looks
_OURS = "aether-"
#: Threads that a bus or connection starts and ends by itself: whoever is to close that is told of it, not of them.
_OF_OTHERS = tuple(f"{_OURS}{name}-" for name in ("loop", "log", "lookup", "health", "metrics", "snapshots"))
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_ADVICE = "Close what a test makes: by a `with` statement, or in the fixture that makes it."


@contextmanager
def guarded(logs: LogRecorder, has_failed: Callable[[], bool]) -> Iterator[None]:
    """Raise at the end of a test if a handler has failed in it, or if it leaves something behind.

    What was there before is nobody's fault, also if it is used for the first time now.

    Args:
        logs: Records during the test. An error that it was asked to expect is none here.
        has_failed: Whether the test has failed otherwise. Then nothing is raised: what it leaves is a consequence.

    Raises:
        AssertionError: With everything, by name.
    """
    before = _There()
    yield
    if has_failed():
        return
    said = [_failure(record) for record in logs.unexpected_errors()]
    if left := before.left_behind():
        said.append("\n".join(["left behind by this test:", *(f"  - {one}" for one in left), _ADVICE]))
    if said:
        raise AssertionError("\n\n".join(said))


def _failure(record: LogRecord) -> str:
    """Return what was logged as an error, with the traceback of the function that raised."""
    raised = record.exc_info[1] if record.exc_info else None
    trace = "" if raised is None else "\n" + "".join(traceback.format_exception(raised)).rstrip()
    kind = getattr(record, "kind", "")
    hint = f"If that is what the test is about, call aether_logs.expect({kind!r}) in it."
    return f"while this test ran: {record.getMessage()}{trace}\n{hint}"


class _There:
    """What there is at one moment."""

    def __init__(self) -> None:
        self._objects: dict[int, weakref.ref[ForkAware]] = {id(one): weakref.ref(one) for one in fork_aware}
        self._targets = {target for _, target in _subscriptions()}
        self._threads = set(threading.enumerate())

    def left_behind(self) -> list[str]:
        """Return what there is besides, after a moment for what is just ending."""
        deadline = Deadline(_GRACE)
        if self._new():
            gc.collect()  # what is dropped and in a cycle closes itself, with a warning
        while (left := self._new()) and deadline.remaining():
            time.sleep(_PAUSE)
        return left

    def _new(self) -> list[str]:
        connections = [one for one in _open_connections() if not self._had(one)]
        subscriptions = [
            (bus, target)
            for bus, target in _subscriptions()
            if target not in self._targets and not any(_connection_of(bus) is one for one in connections)
        ]
        return [
            *(f"{_users_of(one)} is not closed" for one in connections),
            *(f"a subscription to {target.name} is not closed, of {bus!r}" for bus, target in subscriptions),
            *running_threads(self._threads),
        ]

    def _had(self, one: ForkAware) -> bool:
        ref = self._objects.get(id(one))
        return ref is not None and ref() is one


def _open_connections() -> list[Connection]:
    return [one for one in fork_aware if isinstance(one, Connection) and one.started and not one.closed]


def _subscriptions() -> list[tuple[EventBus, Target]]:
    """Return the open subscriptions. Of those that were dropped without ``close()`` a ResourceWarning tells."""
    return [
        (bus, target)
        for bus in fork_aware
        if isinstance(bus, EventBus)
        for target in list(bus._members)
        if not (target.left or target.queue.closed or target in bus._abandoned)
    ]


def _connection_of(one: ForkAware) -> object:
    return getattr(one, "_connection", None)


def _users_of(connection: Connection) -> str:
    """Return the buses and stores that have a connection, which may be all that the user has made; or itself."""
    users = [repr(one) for one in fork_aware if _connection_of(one) is connection]
    return " with ".join(users) or repr(connection)


def running_threads(before: set[threading.Thread]) -> list[str]:
    """Return the threads that run besides these, and that a test has to end, each with the place where it is.

    Those are threads of this library that the user ends, such as a runner's; threads of the user's within a call of
    this library; and others that are no daemons, for which Python would wait at its end. Threads of a pool wait for
    work as long as the pool is there, and are left out.
    """
    frames = sys._current_frames()
    pooled = concurrent.futures.thread._threads_queues
    return [
        f"thread {thread.name!r} still runs{place}"
        for thread in threading.enumerate()
        if thread not in before and thread not in pooled and not thread.name.startswith(_OF_OTHERS)
        for place, is_within in [_place(frames.get(thread.ident or 0))]
        if is_within or not thread.daemon or thread.name.startswith(_OURS)
    ]


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """Return where a thread is in the user's code, as text, and whether it is within a call of this library."""
    is_within = False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            is_within = True
        elif not _is_of_python(name):
            return f", in {frame.f_code.co_name}() at {name}:{frame.f_lineno}", is_within
        frame = frame.f_back
    return "", is_within


def _is_of_python(name: str) -> bool:
    return name.startswith(("<frozen", os.path.dirname(threading.__file__) + os.sep)) and "site-packages" not in name
