"""Recorders: what the package ``eventsourcing`` asks of a database, on the public interface of a store.

Events of aggregates are numbered in the order in which they were stored: a notification's id is a sequence of the
store. A process recorder stores events together with how far it has processed another application, all or none.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)

from aether_sync import Event, InvalidEventError, VersionConflictError
from aether_sync import StoredEvent as Stored

from ._datastore import Datastore
from ._errors import translated
from ._records import (
    AGGREGATES,
    aggregate_actor,
    event_of,
    notification_of,
    stored_event_of,
    tracking_actor,
    tracking_event,
)

__all__ = [
    "AetherAggregateRecorder",
    "AetherApplicationRecorder",
    "AetherProcessRecorder",
    "AetherSnapshotRecorder",
    "AetherSubscription",
    "AetherTrackingRecorder",
]

_SECTION = 50_000  # sequences looked through in one call where topics are wanted: a server does not choose by these


class _Recorder:
    """What every recorder has: a store.

    Args:
        datastore: The stores of the factory.
        purpose: Which of them: ``"events"``, or another purpose such as ``"snapshots"``.

    Attributes:
        datastore: The stores of the factory, which are closed when nothing refers to them.
        store: The store that it records in.
    """

    def __init__(self, datastore: Datastore, purpose: str = "events") -> None:
        self.datastore = datastore
        self.store = datastore.store(purpose)

    def _save(self, events: Sequence[Event]) -> list[Stored]:
        try:
            return self.store.save_events(events, timeout=self.datastore.timeout)
        except InvalidEventError as error:  # each event is valid: it is their order that is not
            raise IntegrityError(str(error)) from error


class AetherAggregateRecorder(_Recorder, AggregateRecorder):
    """Records the events of aggregates, and does not tell where they are."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Record up to 1,000 events, all or none.

        Args:
            stored_events: The events. The versions of each aggregate increase, and are greater than those it has.
            **kwargs: Not used, as in other modules.

        Returns:
            None.

        Raises:
            IntegrityError: An aggregate has such a version already, or a greater one; nothing is recorded.
            DataError: An event is too large, there are more than 1,000, or a version is negative.
            OperationalError: The server is away or cannot store. If the error's cause is an ``UnknownOutcomeError``,
                the events may be recorded, or not.
        """
        self._insert_events(stored_events, **kwargs)
        return None

    def _insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        with translated():
            return [one.sequence for one in self._save([event_of(one) for one in stored_events])]

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the events of an aggregate.

        Args:
            originator_id: The aggregate.
            gt: Only those of greater versions.
            lte: Only those up to this version.
            desc: Whether the last comes first.
            limit: At most this many.
        """
        first = 0 if gt is None else max(0, gt + 2)
        last = None if lte is None else lte + 1
        if limit == 0 or (last is not None and last < first):
            return []
        with translated():
            events = self.store.get_events(
                aggregate_actor(originator_id),
                first,
                last,
                limit=limit,
                reverse=desc,
                timeout=self.datastore.timeout,
            )
        return [stored_event_of(originator_id, one) for one in events]


class AetherSnapshotRecorder(AetherAggregateRecorder):
    """Records snapshots of aggregates, in a stream of their own."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Record snapshots.

        A snapshot of an earlier version than one that is there is not recorded, and that is no error: one program took
        its snapshot while another took a later one.

        Args:
            stored_events: The snapshots.
            **kwargs: Not used, as in other modules.

        Returns:
            None.

        Raises:
            IntegrityError: There is a snapshot of this version already.
        """
        try:
            return super().insert_events(stored_events, **kwargs)
        except IntegrityError as error:
            conflict = error.__cause__
            if not isinstance(conflict, VersionConflictError) or len(stored_events) > 1:
                raise
            if conflict.attempted_version == conflict.current_version:
                raise
            return None


class AetherApplicationRecorder(AetherAggregateRecorder, ApplicationRecorder):
    """Records the events of aggregates, and tells others of them, in the order in which they were stored."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Record up to 1,000 events, all or none.

        Args:
            stored_events: The events, as for :meth:`AetherAggregateRecorder.insert_events`, which also names the
                errors.
            **kwargs: Not used, as in other modules.

        Returns:
            The ids of their notifications.
        """
        return self._insert_events(stored_events, **kwargs)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return a page of notifications, in the order of their ids.

        Nothing is missed: events that are recorded later have greater ids.

        Args:
            start: The id to begin with; None for the first.
            limit: At most this many. Pages of up to 1,000 are quickest for each notification.
            stop: The last id wanted; None for no limit.
            topics: Only events with one of these topics. A server does not choose by topic, so all events travel here.
            inclusive_of_start: Whether the notification of that id is wanted, too.
        """
        after = 0 if start is None else max(0, start - inclusive_of_start)
        if limit < 1 or (stop is not None and stop <= after):
            return []
        with translated():
            timeout = self.datastore.timeout
            if not topics:
                page = self.store.read_all(after, limit=limit, until=stop, actors=AGGREGATES, timeout=timeout)
                return [notification_of(one) for one in page]
            page = []
            end = self.store.last_sequence(timeout=timeout)
            end = end if stop is None else min(end, stop)
            while after < end and len(page) < limit:
                until = min(after + _SECTION, end)
                page += self.store.read_all(
                    after,
                    limit=limit - len(page),
                    until=until,
                    actors=AGGREGATES,
                    event_types=topics,
                    timeout=timeout,
                )
                after = until
            return [notification_of(one) for one in page]

    def max_notification_id(self) -> int | None:
        """Return the id of the last notification; None if there is none."""
        with translated():
            return self.store.last_sequence(actors=AGGREGATES, timeout=self.datastore.timeout) or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "Subscription[ApplicationRecorder]":
        """Return an iterator over the notifications: first those that are there, then each as it is recorded.

        Args:
            gt: The id after which it begins; None for the beginning.
            topics: Only events with one of these topics; none means all.

        Raises:
            OperationalError: The store ends before ``gt``: it has lost events, or it is another store.
        """
        return AetherSubscription(self, gt, topics)


class AetherSubscription(Subscription[AetherApplicationRecorder]):
    """The notifications after an id, as they come. Any thread may stop it; it has no thread of its own.

    Args:
        recorder: The recorder.
        gt: The id after which it begins; None for the beginning.
        topics: Only events with one of these topics; none means all.

    Raises:
        OperationalError: The store ends before ``gt``: it has lost events, or it is another store.
    """

    def __init__(self, recorder: AetherApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder, gt, topics)
        with translated():
            self._follower = recorder.store.follow(
                after=gt or 0, actors=AGGREGATES, event_types=topics, timeout=recorder.datastore.timeout
            )

    def __next__(self) -> Notification:
        """Return the next notification; wait for it if there is none. It ends when the subscription is stopped."""
        with translated():
            return notification_of(next(self._follower))

    def stop(self) -> None:
        """End the iteration, and release every thread that waits in it."""
        super().stop()
        self._follower.close()


class AetherTrackingRecorder(_Recorder, TrackingRecorder):
    """Records how far applications have been processed.

    A view that keeps what it shows in the same store derives from it, and calls :meth:`save_with_tracking`.

    Args:
        datastore: The stores of the factory.
    """

    def __init__(self, datastore: Datastore) -> None:
        super().__init__(datastore)

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record how far an application has been processed.

        Raises:
            IntegrityError: It has been processed as far already.
        """
        self.save_with_tracking([], tracking)

    def save_with_tracking(self, events: Sequence[Event], tracking: Tracking) -> list[Stored]:
        """Store up to 999 events, and record how far an application has been processed: all or none.

        Args:
            events: Events with versions, as ``save_events()`` of a store takes them. They are no notifications,
                unless their actors' ids begin with ``aggregate-``.
            tracking: The notification that was processed.

        Returns:
            The events, as they are stored.

        Raises:
            IntegrityError: The notification has been processed already, or an actor has such a version.
        """
        with translated():
            return self._save([*events, tracking_event(tracking)])[:-1]

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the id of the last notification of an application that was processed; None if none was."""
        with translated():
            actor_id = tracking_actor(application_name)
            return self.store.get_latest_version(actor_id, timeout=self.datastore.timeout) or None


class AetherProcessRecorder(AetherTrackingRecorder, AetherApplicationRecorder, ProcessRecorder):
    """Records events together with the notification of which they are the result: each has its effect once."""

    def _insert_events(
        self, stored_events: Sequence[StoredEvent], *, tracking: Tracking | None = None, **kwargs: Any
    ) -> Sequence[int]:
        if tracking is None:
            return super()._insert_events(stored_events, **kwargs)
        with translated():
            events = [event_of(one) for one in stored_events]
        return [one.sequence for one in self.save_with_tracking(events, tracking)]
