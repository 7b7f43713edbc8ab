"""Recorders for the package ``eventsourcing`` on the public interface of a store, put to that package's own tests.

A recorder keeps the events of aggregates and numbers them all in one sequence, which others read page by page or
follow. It may record, in one step with events, how far it has come in the sequence of another application.
"""

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from urllib.parse import quote, unquote
from uuid import UUID

import pytest
from eventsourcing.persistence import (
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)

with pytest.MonkeyPatch.context() as patch:  # its tests of ciphers, which are in the same module, want a package more
    patch.setitem(sys.modules, "eventsourcing.cipher", cast(ModuleType, SimpleNamespace(AESCipher=None)))
    from eventsourcing.tests.persistence import (
        AggregateRecorderTestCase,
        ApplicationRecorderTestCase,
        NonInterleavingNotificationIDsBaseCase,
        ProcessRecorderTestCase,
        TrackingRecorderTestCase,
    )

import aether_sync
from aether_sync import (
    DuplicateIdError,
    Event,
    EventStore,
    InMemoryEventStore,
    InvalidEventError,
    JetStreamEventStore,
    VersionConflictError,
)

from ..support.common import PATIENCE

AGGREGATES = "aggregate-*"


def actor_of(originator_id: UUID | str) -> str:
    if isinstance(originator_id, UUID):
        return f"aggregate-uuid-{originator_id.hex}"
    return f"aggregate-str-{quote(originator_id, safe='').replace('.', '%2E')}"  # a pattern's * stands for no dot


def originator_of(actor_id: str) -> UUID | str:
    _, kind, text = actor_id.split("-", 2)
    return UUID(text) if kind == "uuid" else unquote(text)


def recorded(stored: StoredEvent) -> Event:
    """Return what is stored; the first version is 0 there, and 1 here."""
    return Event(
        event_type=stored.topic,
        actor_id=actor_of(stored.originator_id),
        version=stored.originator_version + 1,
        data={"state": stored.state.decode("latin-1")},
    )


def state_of(event: Event) -> bytes:
    assert event.data is not None
    return str(event.data["state"]).encode("latin-1")


class Recorder(ProcessRecorder):
    """A recorder of a store: of aggregates, of an application, or of a process."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def insert_events(
        self, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None, **_: Any
    ) -> Sequence[int] | None:
        events = [*map(recorded, stored_events), *([] if tracking is None else [tracked(tracking)])]
        try:
            saved = self._store.save_events(events, timeout=PATIENCE)
        except (VersionConflictError, DuplicateIdError, InvalidEventError) as error:
            raise IntegrityError(str(error)) from error
        return [one.sequence for one in saved[: len(stored_events)]]

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        first = 0 if gt is None else gt + 2
        last = None if lte is None else lte + 1
        events = self._store.get_events(actor_of(originator_id), first, last, limit=limit, reverse=desc)
        return [StoredEvent(originator_id, one.version - 1, one.event_type, state_of(one)) for one in events]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = max(0, (start or 0) - (start is not None and inclusive_of_start))
        page = self._store.read_all(after, limit=limit, until=stop, actors=AGGREGATES, event_types=topics)
        return list(map(notification_of, page))

    def max_notification_id(self) -> int | None:
        return self._store.last_sequence(actors=AGGREGATES) or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "Subscribed":
        return Subscribed(self, self._store, gt, topics)

    def insert_tracking(self, tracking: Tracking) -> None:
        self.insert_events([], tracking)

    def max_tracking_id(self, application_name: str) -> int | None:
        return self._store.get_latest_version(tracking_actor_of(application_name)) or None


class Subscribed(Subscription[Recorder]):
    """The notifications after a number, as they come."""

    def __init__(self, recorder: Recorder, store: EventStore, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._follower = store.follow(after=gt or 0, actors=AGGREGATES, event_types=topics, allow_ahead=True)

    def __next__(self) -> Notification:
        return notification_of(next(self._follower))

    def stop(self) -> None:
        super().stop()
        self._follower.close()


class AggregatesRecorder(Recorder):
    """One that does not number what it records."""

    def insert_events(self, stored_events: Sequence[StoredEvent], *args: Any, **kwargs: Any) -> None:
        super().insert_events(stored_events, *args, **kwargs)


def notification_of(stored: aether_sync.StoredEvent) -> Notification:
    event = stored.event
    return Notification(
        originator_id=originator_of(event.actor_id),
        originator_version=event.version - 1,
        topic=event.event_type,
        state=state_of(event),
        id=stored.sequence,
    )


def tracking_actor_of(application_name: str) -> str:
    return f"tracking-{application_name}"


def tracked(tracking: Tracking) -> Event:
    """Return what records how far an application was read: a version is stored once, and only behind lower ones."""
    actor_id = tracking_actor_of(tracking.application_name)
    return Event(event_type="Tracked", actor_id=actor_id, version=tracking.notification_id)


# -- the tests of that package, on both stores


class InMemory:
    recorder_of = Recorder

    def create_recorder(self) -> Recorder:
        return self.recorder_of(InMemoryEventStore())


class OnAServer:
    recorder_of = Recorder

    @pytest.fixture(autouse=True)
    def _server(self, store: JetStreamEventStore) -> None:
        self._store = store

    def create_recorder(self) -> Recorder:
        return self.recorder_of(self._store)


class TestAggregatesInMemory(InMemory, AggregateRecorderTestCase):
    recorder_of = AggregatesRecorder


class TestAggregatesOnAServer(OnAServer, AggregateRecorderTestCase):
    recorder_of = AggregatesRecorder


class TestApplicationInMemory(InMemory, ApplicationRecorderTestCase[Recorder]):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationOnAServer(OnAServer, ApplicationRecorderTestCase[Recorder]):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestTrackingInMemory(InMemory, TrackingRecorderTestCase): ...


class TestTrackingOnAServer(OnAServer, TrackingRecorderTestCase): ...


class TestProcessInMemory(InMemory, ProcessRecorderTestCase): ...


class TestProcessOnAServer(OnAServer, ProcessRecorderTestCase): ...


class TestNotificationsInMemory(InMemory, NonInterleavingNotificationIDsBaseCase): ...


class TestNotificationsOnAServer(OnAServer, NonInterleavingNotificationIDsBaseCase): ...


def test_what_is_tracked_is_no_notification(store: JetStreamEventStore) -> None:
    recorder = Recorder(store)
    stored = [StoredEvent(f"a.b {n}", 0, "topic", bytes(range(256))) for n in range(3)]
    for number, one in enumerate(stored, 1):
        assert recorder.insert_events([one], tracking=Tracking("upstream.app", 10 * number)) == [2 * number - 1]
    assert recorder.max_notification_id() == 5
    assert recorder.max_tracking_id("upstream.app") == 30
    read = recorder.select_notifications(None, 10)
    assert [(one.id, one.originator_id, one.state) for one in read] == [
        (2 * number - 1, one.originator_id, one.state) for number, one in enumerate(stored, 1)
    ]
    assert recorder.select_notifications(read[0].id, 1, inclusive_of_start=False) == [read[1]]
    assert recorder.select_events("a.b 1") == [stored[1]]
