"""Snapshots of a JetStream store: the latest ones of each actor, in a stream of their own."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..._codec.decoding import decode_stored
from ..._codec.encoding import encode_event
from ..._runtime.deadline import Deadline
from ..._runtime.reporter import Details, Kind, Reporter
from ..._values.shown import short
from ...errors import DecodingError, InvalidOptionError, MalformedRecordError, StoreUnavailableError
from ...events import Event
from .._checks import copied_snapshot, latest_of, refuse_ahead, replaces
from .._wanted import Wanted
from ..base import Snapshot
from .answers import BusyError, RefusedError, UnknownError
from .api import JetStream
from .cache import Known
from .loader import Loader
from .messages import Outgoing, Record
from .names import Names
from .reader import Reader
from .stream import Stream
from .tries import Pause

__all__ = ["Snapshots"]

_PAGE = 1_000  # records in one answer


class Snapshots:
    """Saves and reads the snapshots of one store. Any thread may call it.

    Args:
        jetstream: Puts requests to the server.
        names: The names of the store.
        reader: Reads its events.
        loader: Loads the events of an actor.
        main: The stream of the events.
        stream: That of the snapshots.
        reporter: Logs for the store.
    """

    def __init__(
        self,
        jetstream: JetStream,
        names: Names,
        reader: Reader,
        loader: Loader,
        main: Stream,
        stream: Stream,
        reporter: Reporter,
    ) -> None:
        self._jetstream = jetstream
        self._reporter = reporter
        self._names = names
        self._reader = reader
        self._loader = loader
        self._main = main
        self._stream = stream

    def check(self, deadline: Deadline) -> None:
        """Refuse a stream of snapshots that has other settings than wanted. It need not be there."""
        self._stream.find(deadline)

    def save(self, snapshot: Snapshot, deadline: Deadline) -> bool:
        """Save a snapshot, unless a newer one is there; returns whether it is the latest now."""
        snapshot = copied_snapshot(snapshot)
        current = Known() if self._main.find(deadline) is None else self._reader.refresh(snapshot.actor_id, deadline)
        refuse_ahead(snapshot, current.version)
        self._stream.open(deadline)
        written: Snapshot | None = None
        pause = Pause(deadline)
        while True:
            last = self._last(snapshot.actor_id, deadline)
            kept = None if last is None else self._read(last)
            if kept is not None and kept.version > current.version:  # its events may have been saved meanwhile
                current = self._reader.refresh(snapshot.actor_id, deadline)
            if kept is not None and kept.version > current.version:  # it is ahead of its events, and does not count
                kept = None
            if kept is not None and not replaces(snapshot, kept):
                return kept == written  # by an attempt without an answer
            if written is None:
                written = replace(snapshot, sequence=self._sequence_of(snapshot, current, deadline))
            try:
                self._publish(written, 0 if last is None else last.sequence, deadline)
            except (RefusedError, UnknownError):  # another one was quicker, or it may be there: read the last one
                continue
            except BusyError as error:
                if not pause.take():
                    raise StoreUnavailableError(f"no snapshot was saved within {deadline}: {error}") from error
            else:
                return True

    def _publish(self, snapshot: Snapshot, expected: int, deadline: Deadline) -> None:
        subject = self._names.snapshot_subject(snapshot.actor_id)
        message = Outgoing(subject, os.urandom(16).hex(), expected, _written(snapshot))
        self._jetstream.publish(self._names.snapshots, [message], deadline)

    def _sequence_of(self, snapshot: Snapshot, current: Known, deadline: Deadline) -> int:
        """Return the sequence of the event of the snapshot's version."""
        if snapshot.version == current.version:
            return current.sequence
        for one in self._loader.load(snapshot.actor_id, Wanted(snapshot.version, snapshot.version), deadline):
            return one.sequence
        raise InvalidOptionError(
            f"a snapshot of actor {short(snapshot.actor_id)} says version {snapshot.version}, which no event of it has"
        )

    # -- reading

    def last_record(self, actor_id: str, deadline: Deadline) -> Record | None:
        """Return the last record of an actor's snapshots, which :meth:`parsed` reads; None if there is none.

        Its event may be missing.
        """
        return None if self._stream.find(deadline) is None else self._last(actor_id, deadline)

    def latest(self, actor_id: str, to_version: int | None, deadline: Deadline) -> Snapshot | None:
        """Return the latest snapshot of an actor; None if there is none, or if the event of its version is missing.

        Args:
            actor_id: The actor.
            to_version: The last version wanted; None for no limit.
            deadline: For all requests.
        """
        last = None if self._main.find(deadline) is None else self.last_record(actor_id, deadline)
        if last is None:
            return None
        snapshot = self.parsed(last)
        found = latest_of([snapshot], to_version) if isinstance(snapshot, Snapshot) else None
        if found is not None and self._are_true([found], deadline)[0]:
            return found
        return latest_of(self.all(actor_id, deadline), to_version)

    def all(self, actor_id: str, deadline: Deadline) -> list[Snapshot]:
        """Return the snapshots of an actor, the oldest first; without those the event of whose version is missing."""
        config = None if self._main.find(deadline) is None else self._stream.find(deadline)
        if config is None:
            return []
        records = self._records(actor_id, max(0, config.get("max_msgs_per_subject", 0)), deadline)
        snapshots = [one for one in map(self._read, records) if one is not None]
        found = []
        for one, is_true in zip(snapshots, self._are_true(snapshots, deadline), strict=True):
            if is_true:
                found.append(one)
                continue
            text = (
                "the snapshot of actor %r at version %d is discarded: the store does not have its event; it was "
                "restored, or has lost events"
            )
            details: Details = {"stream": self._names.stream, "actor": actor_id}
            self._reporter.burst(Kind.SNAPSHOT_DISCARDED, text, actor_id, one.version, about=actor_id, **details)
        return sorted(found, key=lambda one: (one.version, one.schema_version))

    def _records(self, actor_id: str, kept: int, deadline: Deadline) -> list[Record]:
        """Return the records of an actor's snapshots, in the order in which they were stored.

        Args:
            actor_id: The actor.
            kept: How many the stream keeps; 0 for all. A single one comes from the leader, several from any server,
                and from the leader those that it lacks.
            deadline: For all requests.
        """
        stream, subject = self._names.snapshots, self._names.snapshot_subject(actor_id)
        page = None if kept == 1 else self._jetstream.ask_page(stream, subject, 1, _PAGE, deadline)
        last = self._last(actor_id, deadline)
        records: list[Record] = []
        at = 0
        while page is not None:
            there, pending = page(deadline)
            records += there
            at = there[-1].sequence if there else at
            page = self._jetstream.ask_page(stream, subject, at + 1, _PAGE, deadline) if there and pending else None
        while last is not None and at < last.sequence:
            record = last if kept == 1 else self._jetstream.next(stream, subject, at + 1, deadline)
            if record is None:
                break
            records.append(record)
            at = record.sequence
        return records[-kept:]

    def _are_true(self, snapshots: Sequence[Snapshot], deadline: Deadline) -> list[bool]:
        """Return of each snapshot whether the event of its version is at its sequence; all are asked for in one go."""
        stream = self._names.stream
        asked = [
            self._jetstream.ask_next(stream, self._names.subject(one.actor_id), one.sequence, deadline)
            for one in snapshots
        ]
        records = [answer(deadline) for answer in asked]
        return [self._is_event_of(record, one) for one, record in zip(snapshots, records, strict=True)]

    def _is_event_of(self, record: Record | None, snapshot: Snapshot) -> bool:
        """Whether a record is the event of a snapshot's version, at the snapshot's sequence."""
        if record is None or record.sequence != snapshot.sequence:
            return False
        try:
            return self._reader.decoded(record).version == snapshot.version
        except MalformedRecordError:
            return False

    def _last(self, actor_id: str, deadline: Deadline) -> Record | None:
        return self._jetstream.last(self._names.snapshots, self._names.snapshot_subject(actor_id), deadline)

    def _read(self, record: Record) -> Snapshot | None:
        """Return the snapshot that a record is; if it is none, log that."""
        found = self.parsed(record)
        if isinstance(found, Snapshot):
            return found
        text = "record %d of %r is no snapshot, and is discarded: %s"
        details: Details = {"stream": self._names.stream, "subject": record.subject}
        about = record.sequence, record.subject, found
        self._reporter.burst(Kind.MALFORMED_RECORD, text, *about, about=record.subject, **details)
        return None

    def parsed(self, record: Record) -> Snapshot | str:
        """Return the snapshot that a record is, or why it is none."""
        try:
            event = decode_stored(record.data)
            data: Any = event.data
            snapshot = Snapshot(
                actor_id=event.actor_id,
                version=event.version,
                state=dict(data["state"]),
                schema_version=int(data["schemaVersion"]),
                sequence=int(data["sequence"]),
                timestamp=event.timestamp,
            )
        except (DecodingError, KeyError, TypeError, ValueError) as error:
            return str(error)
        if self._names.snapshot_subject(event.actor_id) == record.subject:
            return snapshot
        return "it is of another actor than its subject"


def _written(snapshot: Snapshot) -> bytes:
    return encode_event(
        Event(
            event_type="Snapshot",
            actor_id=snapshot.actor_id,
            version=snapshot.version,
            data={"state": snapshot.state, "schemaVersion": snapshot.schema_version, "sequence": snapshot.sequence},
            timestamp=snapshot.timestamp,
        )
    )
