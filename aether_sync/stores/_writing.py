"""Writing to the stream: expected sequences, tries, and finding out what became of a try without an answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

from .._deadline import Deadline
from .._wire import encode_and_copy
from ..errors import (
    AetherError,
    AtomicAppendUnsupportedError,
    DeadlineExceededError,
    DuplicateIdError,
    StoreUnavailableError,
    UnknownOutcomeError,
    VersionConflictError,
)
from ..events import Event
from ._cache import Known, VersionCache
from ._jetstream import BusyError, JetStream, NotSentError, Outgoing, Pause, RefusedError, UnknownError
from ._names import Names
from ._reading import Reader
from .base import StoredEvent
from .common import is_same

__all__ = ["Writer"]


@dataclass(slots=True)
class _Part:
    """What one actor has in a save."""

    actor_id: str
    subject: str
    events: list[Event]
    exactly: int | None  # the version that the actor must have; None for any that is less than the first event's

    def fits(self, version: int) -> bool:
        """Whether it may be stored behind a version."""
        return version < self.events[0].version if self.exactly is None else version == self.exactly


class Writer:
    """Stores events in one stream. Any thread."""

    def __init__(self, jetstream: JetStream, names: Names, cache: VersionCache, reader: Reader) -> None:
        self._jetstream = jetstream
        self._names = names
        self._cache = cache
        self._reader = reader

    def commit(
        self, events: Sequence[Event], exactly: int | None, atomic: bool, deadline: Deadline
    ) -> list[StoredEvent]:
        """Store events with versions, all or none; try until they are, or cannot be, or the time is over.

        Args:
            events: In order; those of each actor in increasing versions.
            exactly: The version that their actor must have; None for any that is less than the first of each.
            atomic: Whether the stream takes several at once.
            deadline: For all tries.
        """
        encoded = [encode_and_copy(event, "") for event in events]
        copies = [copy for _, copy in encoded]
        parts = self._parts(copies, exactly)
        if len(events) > 1 and not atomic:
            raise AtomicAppendUnsupportedError(
                f"stream {self._names.stream!r} has no allow_atomic, which {len(events)} events at once need: set it "
                "(nats-server 2.12), or save one event at a time"
            )
        doubt: dict[str, Known] = {}  # behind what something was sent to which no answer came
        try:
            return self._try(encoded, parts, doubt, deadline)
        except (VersionConflictError, DuplicateIdError):
            raise
        except AetherError as error:
            if not doubt:
                raise
            raise UnknownOutcomeError(
                f"{_counted(events)} may be stored, or not: no answer came, and then: {error}. "
                "save_events(error.events) is safe",
                tuple(copies),
            ) from error

    def _try(
        self,
        encoded: Sequence[tuple[bytes, Event]],
        parts: Sequence[_Part],
        doubt: dict[str, Known],
        deadline: Deadline,
    ) -> list[StoredEvent]:
        pause = Pause(deadline)
        actors = [part.actor_id for part in parts]
        refused: dict[str, Known] = {}
        for number in count():
            _check_time(deadline)
            tails = self._tails(parts, deadline)
            try:
                if not all(part.fits(tails[part.actor_id].version) for part in parts):
                    _refuse_older(tails, doubt)
                    return self._found([copy for _, copy in encoded], parts, tails, deadline)
                return self._publish(encoded, parts, tails, deadline, number)
            except RefusedError:
                self._reader.look_at(actors, deadline)
                if tails == refused:  # for something that is just being stored
                    pause.take()
                refused = tails
            except UnknownError:
                doubt |= tails
                self._reader.look_at(actors, deadline)
            except BusyError as error:
                if not pause.take():
                    kind = DeadlineExceededError if isinstance(error, NotSentError) else StoreUnavailableError
                    raise kind(f"nothing was stored within {deadline}: {error}") from error
        raise AssertionError

    def _parts(self, events: Sequence[Event], exactly: int | None) -> list[_Part]:
        parts: dict[str, _Part] = {}
        for event in events:
            part = parts.get(event.actor_id)
            if part is None:
                subject = self._names.subject(event.actor_id)
                parts[event.actor_id] = _Part(event.actor_id, subject, [event], exactly)
            else:
                part.events.append(event)
        return list(parts.values())

    def _tails(self, parts: Sequence[_Part], deadline: Deadline) -> dict[str, Known]:
        """Return what is known of actors; from the leader, where what is known here would forbid to store."""
        tails: dict[str, Known] = {}
        doubtful = []
        for part in parts:
            known = self._cache.get(part.actor_id)
            if known is None and part.events[0].version == 1:
                tails[part.actor_id] = Known()  # most likely; if not, the server refuses
            elif known is None or known.is_doubtful or not part.fits(known.version):
                doubtful.append(part.actor_id)
            else:
                tails[part.actor_id] = known
        if doubtful:
            tails.update(zip(doubtful, self._reader.look_at(doubtful, deadline), strict=True))
        return tails

    def _publish(
        self,
        encoded: Sequence[tuple[bytes, Event]],
        parts: Sequence[_Part],
        tails: dict[str, Known],
        deadline: Deadline,
        number: int,
    ) -> list[StoredEvent]:
        subjects = {part.actor_id: part.subject for part in parts}
        expected: dict[str, int | None] = {actor_id: known.sequence for actor_id, known in tails.items()}
        messages = []
        for data, event in encoded:
            subject = subjects[event.actor_id]
            messages.append(Outgoing(subject, _message_id(subject, event), expected[event.actor_id], data))
            expected[event.actor_id] = None  # only the first of each actor in a batch may have one
        ack = self._jetstream.publish(self._names.stream, messages, deadline, number)
        copies = [copy for _, copy in encoded]
        if ack.duplicate:
            return self._duplicates(copies[0], ack.seq, deadline)
        first = ack.seq - len(copies) + 1
        return self._stored(copies, range(first, ack.seq + 1), duplicate=False)

    def _stored(self, events: Sequence[Event], sequences: Iterable[int], *, duplicate: bool) -> list[StoredEvent]:
        places = list(sequences)
        batch = places[0] if len(places) > 1 and not duplicate else 0
        stored = [
            StoredEvent(event, sequence, duplicate, place == len(events), batch)
            for place, (event, sequence) in enumerate(zip(events, places, strict=True), 1)
        ]
        for one in stored:
            self._cache.learn(one.event.actor_id, one.event.version, one.sequence)
        return stored

    def _duplicates(self, event: Event, sequence: int, deadline: Deadline) -> list[StoredEvent]:
        """The server knows the message id: see what it has stored under it."""
        record = self._jetstream.next(self._names.stream, self._names.subject(event.actor_id), sequence, deadline)
        there = None if record is None or record.sequence != sequence else self._reader.decoded(record)
        if there is None or not is_same(there, event):
            raise DuplicateIdError(
                f"event {event.id!r:.80} is to be stored, and something else is under its id: {there!r}"
            )
        return self._stored([there], [sequence], duplicate=True)

    def _found(
        self,
        events: Sequence[Event],
        parts: Sequence[_Part],
        tails: dict[str, Known],
        deadline: Deadline,
    ) -> list[StoredEvent]:
        """Return events that an earlier try has stored.

        Raises:
            VersionConflictError: It has not.
            DuplicateIdError: Under their ids something else is stored.
        """
        places: dict[str, tuple[Event, int]] = {}
        for part in parts:
            wanted = {event.version: event for event in part.events}
            first, last = part.events[0].version, part.events[-1].version
            for one in self._reader.read(part.actor_id, first, last, lambda: deadline):
                if not isinstance(one, StoredEvent):
                    continue
                same = wanted.get(one.event.version)
                if same is not None and same.id == one.event.id:
                    if not is_same(same, one.event):
                        raise DuplicateIdError(
                            f"event {same.id!r:.80} is stored already, with other content: {one.event!r}"
                        )
                    places[same.id] = one.event, one.sequence
        if len(places) < len(events):
            part = next(part for part in parts if not part.fits(tails[part.actor_id].version))
            raise VersionConflictError(part.actor_id, part.events[0].version, tails[part.actor_id].version)
        there = [places[event.id] for event in events]
        return self._stored([event for event, _ in there], [at for _, at in there], duplicate=True)


def _refuse_older(tails: dict[str, Known], doubt: dict[str, Known]) -> None:
    """Refuse to judge by a leader that is new and does not know yet what another had stored."""
    for actor_id, sent in doubt.items():
        if tails[actor_id].sequence < sent.sequence:
            raise BusyError(f"the leader does not know of event {sent.sequence} of actor {actor_id!r:.80}")


def _check_time(deadline: Deadline) -> None:
    if not deadline.remaining():
        raise DeadlineExceededError(f"nothing was stored within {deadline}")


def _message_id(subject: str, event: Event) -> str:
    """By which the server knows a second try: message ids are per stream, so it is of the actor and version, too."""
    return blake2b(f"{subject}\n{event.version}\n{event.id}".encode(), digest_size=16).hexdigest()


def _counted(events: Sequence[Event]) -> str:
    return "the event" if len(events) == 1 else f"the {len(events)} events"
