"""``Writer``: stores events with an expected sequence, and finds out what became of an attempt without an answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..._codec.encoding import encode_and_copy
from ..._runtime.deadline import Deadline
from ...errors import (
    AetherError,
    AtomicAppendUnsupportedError,
    DeadlineExceededError,
    DuplicateIdError,
    EventTooLargeError,
    StoreUnavailableError,
    UnknownOutcomeError,
    VersionConflictError,
)
from ...events import Event
from .._checks import is_same
from .._measuring import StoreCounts
from .._wanted import Wanted
from ..base import StoredEvent
from .answers import BusyError, IncompleteError, NoRoomError, NotSentError, RefusedError, UnknownError
from .api import JetStream
from .cache import Known, VersionCache
from .capacity import Capacity
from .draft import Draft, message_of
from .group_commit import GroupCommit, Landed, Outbound
from .kept import memory_of
from .loader import Loader
from .messages import Outgoing
from .names import Names
from .reader import Reader
from .saves import Place, Verdict
from .tries import Pause

__all__ = ["Writer"]


@dataclass(slots=True)
class _Part:
    """The events of one actor in a save."""

    actor_id: str
    subject: str
    events: list[Event]
    exactly: int | None  # the version that the actor must have; None for any that is less than the first event's

    def fits(self, version: int) -> bool:
        """Whether the events may be stored after a version."""
        return version < self.events[0].version if self.exactly is None else version == self.exactly


class _Tries:
    """What is known of the attempts to store one save."""

    __slots__ = ("_begun", "batches", "doubt", "is_alone", "is_asked", "refusals", "why")

    def __init__(self, config: dict[str, Any], is_asked: bool) -> None:
        self.is_asked = is_asked  # whether the versions that are known are from the leader's answer to this call
        #: Whether the stream has one replica: its server stages each batch in files, and stores it record by record.
        self.is_alone = config.get("num_replicas", 1) == 1
        self.doubt: dict[str, Known] = {}  # by actor: its end when something was sent that got no answer
        self.why = "no answer came"
        self.batches: set[bytes] = set()  # the ids of the batches that were sent
        self.refusals = 0  # those without a visible reason
        self._begun = 0

    def note_try(self) -> int:
        """Note an attempt that is about to be sent; return the number of attempts before it."""
        self._begun += 1
        return self._begun - 1


class Writer:
    """Stores events in one stream. Any thread may call it."""

    def __init__(
        self,
        jetstream: JetStream,
        names: Names,
        cache: VersionCache,
        reader: Reader,
        loader: Loader,
        counts: StoreCounts,
    ) -> None:
        self._jetstream = jetstream
        self._names = names
        self._cache = cache
        self._reader = reader
        self._loader = loader
        self._kept = loader.kept
        self._saves = reader.saves
        self._counts = counts
        self._room = Capacity(jetstream)
        self._group = GroupCommit(jetstream, names.stream)

    def commit(
        self,
        events: Sequence[Event],
        exactly: int | None,
        config: dict[str, Any],
        deadline: Deadline,
        *,
        is_asked: bool = False,
    ) -> list[StoredEvent]:
        """Store events with versions, all or none. Try until they are stored, or cannot be, or the time is over.

        Args:
            events: The events in order; the versions of each actor increase.
            exactly: The version that their actor must have; None if each actor's version only has to be less than that
                of its first event.
            config: The settings of the stream.
            deadline: For all attempts.
            is_asked: Whether the leader was asked for the version just now, which is counted.
        """
        encoded = [encode_and_copy(event, "", self._reader.kind) for event in events]
        parts = self._parts(encoded, exactly)
        if len(events) > 1 and not config.get("allow_atomic"):
            raise AtomicAppendUnsupportedError(
                f"stream {self._names.stream!r} has no allow_atomic, which {len(events)} events at once need: set it "
                "(nats-server 2.12.1), or save one event at a time"
            )
        tries = _Tries(config, is_asked)
        try:
            return self._try(encoded, parts, tries, deadline)
        except (VersionConflictError, DuplicateIdError):
            raise
        except AetherError as error:
            if not tries.doubt:
                raise
            raise UnknownOutcomeError(
                f"{_counted(events)} may be stored, or not: {tries.why}, and then: {error}. "
                "save_events(error.events) is safe",
                tuple(copy for _, copy in encoded),
            ) from error

    def _try(
        self, encoded: Sequence[tuple[bytes, Event]], parts: Sequence[_Part], tries: _Tries, deadline: Deadline
    ) -> list[StoredEvent]:
        pause = Pause(deadline)
        refused: dict[str, Known] = {}
        while True:
            self._check_time(deadline)
            tails = self._tails(parts, tries, deadline)
            try:
                if self._call_off(parts, tails, tries, deadline):
                    continue
                if not all(part.fits(tails[part.actor_id].version) for part in parts):
                    _refuse_older(tails, tries.doubt)
                    return self._found([copy for _, copy in encoded], parts, tails, deadline)
                return self._publish(encoded, parts, tails, tries, deadline)
            except RefusedError:
                self._reader.refresh_all([part.actor_id for part in parts], deadline)
                if tails == refused:  # by an event that is just being stored, or by the ids of a torn save
                    tries.refusals += 1
                    pause.take()
                refused = tails
            except UnknownError:
                tries.doubt |= tails
                self._refuse_if_torn(parts, tries, deadline)
            except NoRoomError as error:
                before = tries.doubt
                tries.doubt = before | tails
                self._refuse_if_torn(parts, tries, deadline)
                tries.doubt = before
                raise StoreUnavailableError(f"the server has no room for it: {error}") from error
            except BusyError as error:
                if isinstance(error, IncompleteError):
                    self._room.doubt()
                if not pause.take():
                    kind = DeadlineExceededError if isinstance(error, NotSentError) else StoreUnavailableError
                    raise kind(f"nothing was stored within {deadline}: {error}") from error
            self._counts.retries()

    def _check_time(self, deadline: Deadline) -> None:
        if not deadline.remaining():
            raise self._jetstream.too_late(deadline, "nothing was stored")

    def _call_off(self, parts: Sequence[_Part], tails: dict[str, Known], tries: _Tries, deadline: Deadline) -> bool:
        """Have the server give up open saves after which the events are to be stored.

        Returns:
            Whether there were any: the server may have stored the rest before.
        """
        opened = {}
        for part in parts:
            torn = tails[part.actor_id].torn
            if torn is not None and torn.is_open:
                opened[torn.save] = part, torn.end
        for save, (part, end) in opened.items():
            try:
                self._saves.call_off(save, part.subject, deadline)
            except StoreUnavailableError:
                if self._is_of(part, end, deadline):
                    tries.doubt |= tails
                    tries.why = "the server has stored a part, and stores the rest if it starts again with more room"
                raise
        if opened:
            self._reader.refresh_all([part.actor_id for part in parts], deadline)
        return bool(opened)

    def _is_of(self, part: _Part, sequence: int, deadline: Deadline) -> bool:
        """Whether the record at a sequence is one of the events of a part."""
        record = self._jetstream.next(self._names.stream, part.subject, sequence, deadline)
        there = None if record is None else self._reader.found(record)
        return isinstance(there, StoredEvent) and there.event.id in {event.id for event in part.events}

    def _refuse_if_torn(self, parts: Sequence[_Part], tries: _Tries, deadline: Deadline) -> None:
        """Raise an error if the server has stored a part of an attempt.

        Raises:
            StoreUnavailableError: It has.
        """
        actors = [part.actor_id for part in parts]
        tails = dict(zip(actors, self._reader.refresh_all(actors, deadline), strict=True))
        if self._call_off(parts, tails, tries, deadline):
            tails = dict(zip(actors, self._reader.refresh_all(actors, deadline), strict=True))
        if any(one.torn is not None and one.torn.save.batch in tries.batches for one in tails.values()):
            tries.doubt.clear()
            self._room.doubt()
            raise StoreUnavailableError(
                "the server has no room for all of it: a part is stored, which does not count. Make room, and save it "
                "again"
            )

    def _parts(self, encoded: Sequence[tuple[bytes, Event]], exactly: int | None) -> list[_Part]:
        parts: dict[str, _Part] = {}
        for _, event in encoded:
            actor_id = event.actor_id
            if actor_id in parts:
                parts[actor_id].events.append(event)
            else:
                parts[actor_id] = _Part(actor_id, self._names.subject(actor_id), [event], exactly)
        return list(parts.values())

    def _tails(self, parts: Sequence[_Part], tries: _Tries, deadline: Deadline) -> dict[str, Known]:
        """Return what is known of the actors; the leader is asked where that would forbid to store the events."""
        tails: dict[str, Known] = {}
        doubtful = []
        for part in parts:
            known = self._cache.get(part.actor_id)
            if known is None and part.events[0].version == 1:
                tails[part.actor_id] = Known()  # most likely; if not, the server refuses
                self._counts.version_hits()
            elif known is None or known.is_doubtful or not part.fits(known.version):
                self._counts.version_misses()
                doubtful.append(part.actor_id)
            else:
                tails[part.actor_id] = known
                if not tries.is_asked:
                    self._counts.version_hits()
        if doubtful:
            tails.update(zip(doubtful, self._reader.refresh_all(doubtful, deadline), strict=True))
        return tails

    def _publish(
        self,
        encoded: Sequence[tuple[bytes, Event]],
        parts: Sequence[_Part],
        tails: dict[str, Known],
        tries: _Tries,
        deadline: Deadline,
    ) -> list[StoredEvent]:
        if len(encoded) == 1:
            return [self._publish_one(encoded[0], parts[0].subject, tails[parts[0].actor_id], tries, deadline)]
        draft = Draft(encoded, {part.actor_id: part.subject for part in parts}, tails, tries.refusals)
        try:
            landed = self._publish_batch(draft.messages, tries, deadline)
        except EventTooLargeError:
            if not draft.drop_hints():  # which make no event too large
                raise
            landed = self._publish_batch(draft.messages, tries, deadline)
        first = landed.first
        self._saves.note(Place(landed.batch, landed.start), Verdict.WHOLE)
        for actor_id, version, sequence, earlier in draft.ends(first):
            self._cache.learn(actor_id, version, sequence, earlier)
        stored = draft.stored(first)
        if self._kept.most:
            for actor_id, events, written in draft.rows(stored):
                self._kept.add(actor_id, tails[actor_id].sequence, events, memory_of(written))
        return stored

    def _publish_one(
        self, encoded: tuple[bytes, Event], subject: str, known: Known, tries: _Tries, deadline: Deadline
    ) -> StoredEvent:
        data, event = encoded
        message, earlier = message_of(data, event, subject, known, tries.refusals)
        stream = self._names.stream
        try:
            ack = self._jetstream.publish(stream, (message,), deadline, tries.note_try())
        except EventTooLargeError:
            if not message.earlier:  # a hint makes no event too large
                raise
            ack = self._jetstream.publish(stream, (message._replace(earlier=b""),), deadline, tries.note_try())
        if ack.duplicate:
            return self._duplicate(event, ack.seq, deadline)
        self._cache.learn(event.actor_id, event.version, ack.seq, earlier)
        stored = StoredEvent(event, ack.seq)
        if self._kept.most:
            self._kept.add(event.actor_id, known.sequence, (stored,), memory_of((data,)))
        return stored

    def _publish_batch(self, messages: Sequence[Outgoing], tries: _Tries, deadline: Deadline) -> Landed:
        """Store several messages, all or none: with the saves of other threads that wait, where that is of use."""
        save = Outbound(messages, tries.batches, tries.note_try())
        if tries.is_alone and self._room.is_tight:
            self._room.check(messages, deadline)
        elif tries.is_alone:
            landed = self._group.publish(save, deadline)
            if landed is not None:
                return landed
            self._check_time(deadline)
        return self._group.publish_alone(save, deadline)

    def _known_already(self, events: Sequence[Event], sequences: Sequence[int]) -> list[StoredEvent]:
        """Return events as an earlier attempt has stored them, and note their versions."""
        for event, sequence in zip(events, sequences, strict=True):
            self._cache.learn(event.actor_id, event.version, sequence)
        return [
            StoredEvent(event, sequence, True, place == len(events))
            for place, (event, sequence) in enumerate(zip(events, sequences, strict=True), 1)
        ]

    def _duplicate(self, event: Event, sequence: int, deadline: Deadline) -> StoredEvent:
        """Return the event that the server has stored under the same message id.

        Raises:
            RefusedError: That record is of a save that is not whole.
            DuplicateIdError: It is another event.
        """
        record = self._jetstream.next(self._names.stream, self._names.subject(event.actor_id), sequence, deadline)
        if record is not None and self._saves.verdict(record, deadline) is not Verdict.WHOLE:
            raise RefusedError(f"record {record.sequence} has the message id, and is of a save that is not whole")
        there = None if record is None or record.sequence != sequence else self._reader.decoded(record)
        if there is None or not is_same(there, event):
            raise DuplicateIdError(
                f"event {event.id!r:.80} is to be stored, and something else is under its id: {there!r}"
            )
        return self._known_already([there], [sequence])[0]

    def _found(
        self,
        events: Sequence[Event],
        parts: Sequence[_Part],
        tails: dict[str, Known],
        deadline: Deadline,
    ) -> list[StoredEvent]:
        """Return the events as an earlier attempt has stored them.

        Raises:
            VersionConflictError: No earlier attempt has stored all of them.
            DuplicateIdError: Other events are stored under their ids.
        """
        places: dict[str, tuple[Event, int]] = {}
        for part in self._that_may_be_there(parts, tails, deadline):
            wanted = {event.version: event for event in part.events}
            first, last = part.events[0].version, part.events[-1].version
            for one in self._loader.load(part.actor_id, Wanted(first, last), deadline):
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
        return self._known_already([event for event, _ in there], [at for _, at in there])

    def _that_may_be_there(
        self, parts: Sequence[_Part], tails: dict[str, Known], deadline: Deadline
    ) -> Iterable[_Part]:
        """Return the parts of which events may be stored already, and note the ends of their actors.

        The leader has just been asked for the ends of actors whose events do not fit.
        """
        fitting = [part for part in parts if part.fits(tails[part.actor_id].version)]
        if fitting:
            actors = [part.actor_id for part in fitting]
            tails.update(zip(actors, self._reader.refresh_all(actors, deadline), strict=True))
        return [part for part in parts if tails[part.actor_id].version >= part.events[0].version]


def _refuse_older(tails: dict[str, Known], doubt: dict[str, Known]) -> None:
    """Raise BusyError while a new leader does not know yet what an earlier one had stored."""
    for actor_id, sent in doubt.items():
        if tails[actor_id].end < sent.end:
            raise BusyError(f"the leader does not know of event {sent.end} of actor {actor_id!r:.80}")


def _counted(events: Sequence[Event]) -> str:
    return "the event" if len(events) == 1 else f"the {len(events)} events"
