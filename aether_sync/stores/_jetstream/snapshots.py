"""Snapshots of a JetStream store: the latest of each actor, in a stream of their own."""

import os
from dataclasses import replace
from typing import Any

from ..._codec.decoding import decode_stored
from ..._codec.encoding import encode_event
from ..._runtime.deadline import Deadline
from ..._runtime.reporter import Kind, Reporter
from ..._values.shown import short
from ...errors import (
    DecodingError,
    InvalidOptionError,
    MalformedRecordError,
    StoreUnavailableError,
)
from ...events import Event
from .._checks import copied_snapshot, refuse_ahead, replaces
from .._wanted import Wanted
from ..base import Snapshot
from .answers import BusyError, RefusedError, UnknownError
from .api import JetStream, Pause
from .cache import Known
from .loader import Loader
from .messages import Outgoing, Record
from .names import Names
from .reader import Reader
from .stream import Stream, snapshot_settings

__all__ = ["Snapshots"]


class Snapshots:
    """Saves and reads the snapshots of one store. Any thread may call it."""

    def __init__(
        self, jetstream: JetStream, names: Names, reader: Reader, loader: Loader, main: Stream, reporter: Reporter
    ) -> None:
        self._jetstream = jetstream
        self._reporter = reporter
        self._names = names
        self._reader = reader
        self._loader = loader
        self._main = main
        self._stream = Stream(jetstream, snapshot_settings(names), main)

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

    def latest(self, actor_id: str, deadline: Deadline) -> Snapshot | None:
        """Return the latest snapshot of an actor; None if there is none, or if the event of its version is missing."""
        if self._main.find(deadline) is None or self._stream.find(deadline) is None:
            return None
        last = self._last(actor_id, deadline)
        snapshot = None if last is None else self._read(last)
        if snapshot is None or self._is_true(snapshot, deadline):
            return snapshot
        self._reporter.warning(
            Kind.SNAPSHOT_DISCARDED,
            "the snapshot of actor %r at version %d is discarded: the store does not have its event; it was restored, "
            "or has lost events",
            actor_id,
            snapshot.version,
        )
        return None

    def _is_true(self, snapshot: Snapshot, deadline: Deadline) -> bool:
        """Whether the event of the snapshot's version is at the snapshot's sequence."""
        place = snapshot.version, snapshot.sequence
        subject = self._names.subject(snapshot.actor_id)
        record = self._jetstream.next(self._names.stream, subject, snapshot.sequence, deadline)
        try:
            return record is not None and (self._reader.decoded(record).version, record.sequence) == place
        except MalformedRecordError:
            return False

    def _last(self, actor_id: str, deadline: Deadline) -> Record | None:
        return self._jetstream.last(self._names.snapshots, self._names.snapshot_subject(actor_id), deadline)

    def _read(self, record: Record) -> Snapshot | None:
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
            reason: object = error
        else:
            if self._names.snapshot_subject(event.actor_id) == record.subject:
                return snapshot
            reason = "it is of another actor than its subject"
        place = record.sequence, record.subject
        text = "record %d of %r is no snapshot, and is discarded: %s"
        self._reporter.warning(Kind.MALFORMED_RECORD, text, *place, reason)
        return None


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
