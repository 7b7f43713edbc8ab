"""Checkpoints that are announced on the bus of a store, so that who waits in another process need not ask its database.

The active instance publishes ``ProjectionAdvanced`` after a commit. It is a hint: who hears nothing asks the database.
A name does not tell which database an announcement is about, as each node may have one of its own, with a projection of
the same name. The owner does: whoever listens believes only the owner that he has found in the row of his own database.
"""

import weakref
from contextlib import suppress
from math import inf
from threading import current_thread
from typing import NamedTuple

from ..._runtime.deadline import Deadline
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.locks import outside_locks
from ..._runtime.registry import WeakRegistry
from ..._runtime.threads import NoThreadError, make_thread, start
from ..._values.clock import monotonic
from ...bus import EventBus
from ...errors import AetherError
from ...events import PROJECTION_ADVANCED, Event, ProjectionAdvanced
from ...instrumentation import unobserved
from ...patterns import SubscriptionFilter
from ...subscription import Subscription
from .progress import Progress

__all__ = ["Announcements", "Announcer", "Broadcaster"]

_PAUSE = 0.002  # seconds from one announcement of a projection to the next, where many follow one another
_BURST = 0.02  # seconds of such pauses that it may be ahead
_QUEUED = 1_000  # announcements that wait for the listener
_SUBSCRIBE = 5.0  # seconds for the server's confirmation
_LOOK = 5.0  # seconds after which the listener sees that nobody needs it any more
_AGAIN = 5.0  # seconds after which it is tried again if it could not listen


class Broadcaster(NamedTuple):
    """Where a store tells other nodes of what has happened to it."""

    bus: EventBus
    namespace: str


class Announcements(ForkAware):
    """Publishes how far the projections of a store are, and hears it from other processes. Any thread.

    It listens when somebody waits for the first time, on a thread of its own, and then until the store is closed.
    """

    def __init__(self) -> None:
        self._broadcaster: Broadcaster | None = None  # replaced whole
        self._begin_anew()
        fork_aware.add(self)

    def _begin_anew(self) -> None:
        self._used: Broadcaster | None = None  # that something was published to
        self._listener: _Listener | None = None
        self._may_listen = [True]  # taken out by the one thread that begins to listen
        self._waiting: WeakRegistry[Progress] = WeakRegistry()

    def _after_fork(self) -> None:
        self._begin_anew()

    def use(self, broadcaster: Broadcaster | None) -> None:
        """Publish and listen there from now on; None for nowhere."""
        self._broadcaster = broadcaster
        if self._listener is not None:
            self._listener.end()

    def end(self, deadline: Deadline) -> None:
        """Listen no more, and wait for the thread that did."""
        self.use(None)
        listener = self._listener
        if listener is not None and listener.thread.ident is not None and listener.thread is not current_thread():
            with outside_locks():
                listener.thread.join(deadline.for_lock())

    def publish(self, projection: str, stream: str, sequence: int, owner: str) -> None:
        """Publish how far a projection is, if there is a bus, and it is connected.

        While it is not, its outbox is left to what cannot be asked for. The first call begins the connection.
        """
        broadcaster = self._broadcaster
        if broadcaster is None or broadcaster.bus.closed:
            return
        if broadcaster is self._used and not broadcaster.bus.is_connected:
            return
        self._used = broadcaster
        data = {"projection": projection, "stream": stream, "sequence": sequence, "owner": owner}
        event = Event(event_type=PROJECTION_ADVANCED, actor_id=projection, data=data)
        with unobserved():
            broadcaster.bus.try_publish(broadcaster.namespace, event)

    def listen(self, progress: Progress) -> None:
        """Tell a projection's progress what is heard of it from now on. It waits for nothing."""
        broadcaster, listener = self._broadcaster, self._listener
        if broadcaster is None:
            return
        self._waiting.add(progress)
        if listener is not None and not listener.is_over(broadcaster):
            return
        try:
            self._may_listen.pop()
        except IndexError:  # another thread begins just now
            return
        try:
            self._listener = _Listener(broadcaster, self)
            self._listener.start()
        finally:
            self._may_listen.append(True)

    def hears(self, progress: Progress) -> bool:
        """Whether the owner of a projection announces what it does, and is heard now."""
        listener = self._listener
        return progress.is_announced and listener is not None and listener.is_listening

    def hear(self, event: Event) -> None:
        """Take what another process has published."""
        with suppress(AetherError):  # somebody else's event of this name
            told = event.data_as(ProjectionAdvanced)
            for progress in self._waiting:
                if (progress.projection, progress.stream) == (told.projection, told.stream):
                    progress.hear(told.owner, told.sequence)


class _Listener:
    """A thread that hears announcements, until its subscription ends or the announcements are not there any more."""

    def __init__(self, broadcaster: Broadcaster, announcements: Announcements) -> None:
        self._broadcaster = broadcaster
        self._announcements = weakref.ref(announcements)
        self._subscription: Subscription | None = None
        self._is_ended = False
        self._again_at = inf  # monotonic: when another one may try, as this one has failed
        self.thread = make_thread(self._run, name="aether-announcements")

    def start(self) -> None:
        """Begin; if no thread can be had now, it is tried again later."""
        try:
            start(self.thread)
        except NoThreadError:
            self._again_at = monotonic() + _AGAIN

    def is_over(self, broadcaster: Broadcaster) -> bool:
        """Whether another one is needed, to listen there."""
        return self._broadcaster is not broadcaster or self._again_at <= monotonic()

    @property
    def is_listening(self) -> bool:
        """Whether announcements come now."""
        subscription = self._subscription
        return subscription is not None and not subscription.closed and self._broadcaster.bus.is_connected

    def end(self) -> None:
        """Let it end. Any thread; it does not wait."""
        self._is_ended = True
        if self._subscription is not None:
            self._subscription.close()

    def _run(self) -> None:
        try:
            wanted = SubscriptionFilter(event_types={PROJECTION_ADVANCED})
            with (
                unobserved(),
                self._broadcaster.bus.subscribe(
                    self._broadcaster.namespace,
                    filter=wanted,
                    maxsize=_QUEUED,
                    overflow="drop_oldest",
                    timeout=_SUBSCRIBE,
                ) as subscription,
            ):
                self._subscription = subscription  # before the look whether it is ended, as end() does the opposite
                while not self._is_ended:
                    events = subscription.get_batch(_QUEUED, _LOOK)
                    announcements = self._announcements()
                    if announcements is None:
                        break
                    for event in events:
                        announcements.hear(event)
                    del announcements  # or it would live as long as this thread waits
        except AetherError:  # there is no connection, or the bus is closed
            pass
        finally:
            self._again_at = monotonic() + _AGAIN


class Announcer:
    """Announces how far one instance of a projection is: not too often, and always the last. One thread."""

    def __init__(self, announcements: Announcements, projection: str, stream: str, owner: str) -> None:
        self._announcements = announcements
        self._projection, self._stream, self._owner = projection, stream, owner
        self._told = self._last = -1
        self._due = -inf  # monotonic: when it has made all the pauses that it has to make

    def tell(self, sequence: int) -> None:
        """Announce that the projection is so far, now or soon."""
        self._last = sequence
        self.announce()

    def announce(self, *, is_end: bool = False) -> float:
        """Announce what is due.

        Args:
            is_end: Whether nothing may be left for later.

        Returns:
            Seconds until the rest is due; ``inf`` if there is nothing more.
        """
        if self._last == self._told:
            return inf
        now = monotonic()
        left = self._due - _BURST - now
        if left > 0 and not is_end:
            return left
        self._told, self._due = self._last, max(self._due, now) + _PAUSE
        self._announcements.publish(self._projection, self._stream, self._told, self._owner)
        return inf
