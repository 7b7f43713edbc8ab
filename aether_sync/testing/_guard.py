"""``Guard``: what a test leaves behind, and what has failed in it on another thread."""

import concurrent.futures.thread
import gc
import os
import sys
import threading
import time
import weakref
from types import FrameType

from .._bus.routing import Target
from .._runtime.deadline import Deadline
from .._runtime.fork import fork_aware
from ..bus import EventBus
from ..connection import Connection
from ..stores._jetstream.follower import JetStreamFollower
from ..stores._memory_log import LogFollower
from ..stores._memory_log import _followers as memory_followers
from ..stores.consumers.consumption import Consumption
from ..stores.consumers.runner import Runner
from ..stores.projections.projection import Projection, is_begun
from ..subscription_runner import SubscriptionRunner
from ..worker.worker import Worker
from ._failures import failures_told
from ._logs import LogRecorder

__all__ = ["Guard"]

_GRACE = 2.0  # seconds for what is just ending
_PAUSE = 0.005  # seconds between two looks
_OURS = "aether-"
#: Threads that a bus or connection starts and ends by itself: whoever is to close that is told of it, not of them.
_OF_OTHERS = tuple(f"{_OURS}{name}-" for name in ("loop", "log", "lookup", "health", "metrics", "snapshots"))
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_WORKING = (Runner, SubscriptionRunner, Consumption, JetStreamFollower, LogFollower)
_ADVICE = "Close what a test makes: by a `with` statement, or in the fixture that makes it."


class Guard:
    """Tells at the end of a test what has failed in it on other threads, and what it leaves behind.

    What was there before is nobody's fault, also if it is used for the first time now.

    Args:
        logs: Records during the test. An error that it was asked to expect is none here.
    """

    def __init__(self, logs: LogRecorder) -> None:
        self._logs = logs
        self._before = _There()

    def note_running(self) -> None:
        """Keep in mind what runs when the test itself ends: it may be gone when its bus and its store are closed."""
        self._before.note_workers()

    def complaint(self) -> str:
        """Return everything, by name; "" if there is nothing. It waits a moment for what is just ending."""
        said = failures_told(self._logs.unexpected_errors(), self._logs.errors_beyond)
        if left := self._before.left_behind():
            said.append("\n".join(["left behind by this test:", *(f"  - {one}" for one in left), _ADVICE]))
        return "\n\n".join(said)


class _There:
    """What there is at one moment."""

    def __init__(self) -> None:
        self._objects: dict[int, weakref.ref[object]] = {id(one): weakref.ref(one) for one in _all()}
        self._started = {id(one) for one in _all() if _has_begun(one)}
        self._targets = {target for _, target in _subscriptions()}
        self._threads = set(threading.enumerate())
        self._workers: list[Worker] = []

    def note_workers(self) -> None:
        """Hold the workers that run now: who leaves one open may have no reference to it when its bus is closed."""
        self._workers = [one for one in fork_aware if isinstance(one, Worker) and _has_begun(one)]

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
        opened = [one for one in _all() if _has_begun(one) and not (self._had(one) and id(one) in self._started)]
        parts = [part for one in opened for part in _parts_of(one)]
        subscriptions = [
            (bus, target)
            for bus, target in _subscriptions()
            if target not in self._targets
            and not any(_connection_of(bus) is one for one in connections)
            and not any(part is target for part in parts)
        ]
        named = [
            *(f"{_users_of(one)} is not closed" for one in connections),
            *(f"{one!r} is not closed" for one in opened if not any(part is one for part in parts)),
            *(f"a subscription to {target.name} is not closed, of {bus!r}" for bus, target in subscriptions),
        ]
        return [*named, *_told(_running_threads(self._threads), bool(named))]

    def _had(self, one: object) -> bool:
        ref = self._objects.get(id(one))
        return ref is not None and ref() is one


def _all() -> list[object]:
    """Return all objects that a user may have to close; a follower in memory has nothing to do in a fork."""
    return [*fork_aware, *memory_followers]


def _has_begun(one: object) -> bool:
    """Whether an object works until somebody closes it; connections and subscriptions are looked at by themselves."""
    if isinstance(one, Worker):
        return bool(one._parts.begun) and not one.closed
    if isinstance(one, Projection):
        return is_begun(one) and not one.closed
    return isinstance(one, _WORKING) and not one.closed


def _parts_of(one: object) -> list[object]:
    """Return what ends with an object, so that nobody has to be told of it."""
    if isinstance(one, Worker):
        parts = [getattr(part, name, None) for part in one._parts.begun for name in ("_runner", "_projection")]
        return [*parts, *(inner for part in parts for inner in _parts_of(part))]
    if isinstance(one, Runner):
        return [one._scheduler.consumption]
    if isinstance(one, SubscriptionRunner):
        return [one._subscription._target]
    if isinstance(one, Projection):
        return [*(projector._follower for projector in one._only), *one._rebuilding]
    return []


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


def _connection_of(one: object) -> object:
    return getattr(one, "_connection", None)


def _users_of(connection: Connection) -> str:
    """Return the buses and stores that have a connection, which may be all that the user has made; or itself."""
    users = [repr(one) for one in fork_aware if _connection_of(one) is connection]
    return " with ".join(users) or repr(connection)


def _running_threads(before: set[threading.Thread]) -> list[tuple[threading.Thread, str]]:
    """Return the threads that run besides these, and that a test has to end, each with the place where it is.

    Those are threads of this library that the user ends, such as a runner's; threads of the user's within a call of
    this library; and others that are no daemons, for which Python would wait at its end. Threads of a pool wait for
    work as long as the pool is there, and are left out.
    """
    frames = sys._current_frames()
    pooled = concurrent.futures.thread._threads_queues
    return [
        (thread, place)
        for thread in threading.enumerate()
        if thread not in before and thread not in pooled and not thread.name.startswith(_OF_OTHERS)
        for place, is_within in [_place(frames.get(thread.ident or 0))]
        if is_within or not thread.daemon or thread.name.startswith(_OURS)
    ]


def _told(threads: list[tuple[threading.Thread, str]], is_explained: bool) -> list[str]:
    """Return a line for each thread; not for ours that wait for work, if what they belong to is named already."""
    return [
        f"thread {thread.name!r} still runs{place}"
        for thread, place in threads
        if place or not (is_explained and thread.name.startswith(_OURS))
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
