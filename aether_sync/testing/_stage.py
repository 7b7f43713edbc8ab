"""``Stage``: a server with the events of a test, where histories are played one after the other."""

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from types import TracebackType
from typing import NamedTuple, Self

from ..event_types import EventTypes
from ..events import Event
from ..server.server import NATSServer
from ..stores.event_store import Consumer
from ..stores.jetstream import JetStreamEventStore
from ._children import die, in_child
from ._playing import End, Hand, Player
from ._progress import Progress

__all__ = ["Stage", "Start"]

_ACK_WAIT = 3_600.0  # seconds: longer than any test, so that an event comes again when a history says so, and only then
_MAX_DELIVER = 1_000_000  # more than any history has
_PATIENCE = 60.0  # seconds for the server to answer, to start, and to be there again, on a busy machine

Start = Callable[[], object]
"""The user's function that is called when a process starts."""


class Stage:
    """A server of its own, and a store with the events. It begins and ends with a ``with`` statement.

    Args:
        events: The events, with their versions.
        types: The classes of the events, if the program has them.
        is_killed: Whether the handler runs in other processes, which really die.
    """

    def __init__(self, events: list[Event], types: EventTypes | None, is_killed: bool) -> None:
        self._events = events
        self._types = types
        self._is_killed = is_killed
        self._numbers: dict[int, int] = {}  # of the events, by their sequences
        self._run = f"history-{uuid.uuid4().hex[:12]}"  # in a database of the user's, notes of another run may be left
        self._names = count(1)
        self._server = NATSServer(start_timeout=_PATIENCE)
        self._end = ExitStack()
        self._store: JetStreamEventStore | None = None

    def __enter__(self) -> Self:
        with self._end:
            self._end.enter_context(self._server)
            with self._open() as store:
                saved = store.save_events(self._events, timeout=_PATIENCE)
            self._numbers = {one.sequence: number for number, one in enumerate(saved)}
            self._end = self._end.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()

    def play(self, progress: Progress, player: Player, start: Start) -> Progress:
        """Play a history to its end.

        Args:
            progress: Where it begins.
            player: Plays it.
            start: Called when a process starts.

        Returns:
            The progress at the end.
        """
        name = f"{self._run}-{next(self._names)}"
        if self._is_killed:
            return self._play_in_children(progress, player, start, name)
        return self._play_here(progress, player, start, name)

    # -- in this process, where a death is an exception

    def _play_here(self, progress: Progress, player: Player, start: Start, name: str) -> Progress:
        if self._store is None:
            self._store = self._end.enter_context(self._open())
        consumer = _consumer(self._store, name)
        start()
        with consumer.iterate(prefetch=self._prefetch, timeout=_PATIENCE) as consumption:
            hand = Hand(consumption, self._numbers, progress.wanted)
            while (end := player.play(progress, hand)) is not End.SETTLED:
                if end is End.DIED:
                    start()
                else:
                    self._server.restart(_PATIENCE)
                    self._store.connection.wait_connected(_PATIENCE)
                hand.give_back_all()
        consumer.delete(timeout=_PATIENCE)
        return progress

    # -- in other processes, where it is one

    def _play_in_children(self, progress: Progress, player: Player, start: Start, name: str) -> Progress:
        while True:
            told = in_child(partial(self._live, progress, player, start, name))
            assert isinstance(told, _Told)
            progress = told.progress
            if told.end is End.SETTLED:
                return progress

    def _live(
        self, progress: Progress, player: Player, start: Start, name: str, tell: Callable[[object], None]
    ) -> None:
        """Be a process that handles events until it dies, or all is done."""
        start()
        with (
            self._open() as store,
            _consumer(store, name).iterate(prefetch=self._prefetch, timeout=_PATIENCE) as consumption,
        ):
            hand = Hand(consumption, self._numbers, progress.wanted)

            def leave(end: End) -> None:
                consumption.close()  # or the server would send to a dead process what is given back now
                hand.give_back_all()
                store.connection.flush(_PATIENCE)
                tell(_Told(progress, end))

            def kill() -> None:
                leave(End.DIED)
                die()

            end = player._replace(kill=kill).play(progress, hand)
            leave(end)
            if end is not End.SETTLED:
                die()

    # -- the server

    @property
    def _prefetch(self) -> int:
        return 2 * len(self._events)

    def _open(self) -> JetStreamEventStore:
        return JetStreamEventStore(self._server.url, types=self._types, connect_timeout=_PATIENCE)


class _Told(NamedTuple):
    """What a process tells before it ends."""

    progress: Progress
    end: End


def _consumer(store: JetStreamEventStore, name: str) -> Consumer:
    return store.consumer(name, ack_wait=_ACK_WAIT, max_deliver=_MAX_DELIVER)
