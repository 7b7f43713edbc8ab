"""``Repository``: loads an actor, lets a function decide on its state, and stores what was decided.

A decision is an ordinary function of a state that returns events. It is called again, with the new state, if another
writer was first. The version that was loaded is what the store checks, so there is no lock, in no process, and the
user's functions run on the caller's thread.
"""

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, TypeVarTuple, overload

from .._arguments import as_iterator, check_count, is_mapping, is_of
from .._runtime.closing import Closeable
from .._runtime.deadline import Deadline
from .._runtime.reporter import Kind, Reporter, last_words
from .._values.shown import short
from ..errors import AetherError, DuplicateIdError, InvalidOptionError, UnknownOutcomeError, VersionConflictError
from ..events import Event
from ..metrics import CloseReport
from ..stores._checks import check_actor_id, check_version
from ..stores._store_base import note_written
from ..stores.base import Snapshot, StoredEvent
from ..stores.event_store import EventStore
from ..stores.retrying import ConflictPauses
from ._commands import Command, find_command
from ._decisions import as_events, as_read, by_actor, check_command_id, check_decision, refuse_change, values_of
from ._evolution import Evolution, name_of, picture
from ._saver import SnapshotSaver
from ._states import StateSnapshots, UnkeptStateError
from .scenario import Given

__all__ = ["ActorState", "Decided", "DecidedTogether", "Repository"]

State = TypeVar("State")
Ts = TypeVarTuple("Ts")


class ActorState(NamedTuple, Generic[State]):
    """What :meth:`Repository.get` returns.

    Attributes:
        actor_id: The actor.
        state: Its state.
        version: Its version, which ``append()`` takes as ``expected_version``; 0 if it has no events.
    """

    actor_id: str
    state: State
    version: int


@dataclass(frozen=True, slots=True)
class Decided(Generic[State]):
    """What :meth:`Repository.decide` returns.

    Attributes:
        actor_id: The actor.
        state: Its state after what was decided. Of a repetition it is the state of now.
        version: Its version then.
        stored: The events that were decided, as they are stored; none if nothing was.
        is_repetition: Whether the same command had been decided before, and these are the events of that time.
    """

    actor_id: str
    state: State
    version: int
    stored: tuple[StoredEvent, ...]
    is_repetition: bool

    @property
    def sequence(self) -> int:
        """The sequence of the last of these events, which a reader waits for; 0 if there is none."""
        return _last_of(self.stored)


@dataclass(frozen=True, slots=True)
class DecidedTogether(Generic[State]):
    """What :meth:`Repository.decide_together` returns.

    Attributes:
        actors: The states and versions of all actors that the decision was given, after it, by actor id. Of a
            repetition they are those of now.
        stored: The events that were decided, as they are stored; none if nothing was.
        is_repetition: Whether the same command had been decided before, and these are the events of that time.
    """

    actors: Mapping[str, ActorState[State]]
    stored: tuple[StoredEvent, ...]
    is_repetition: bool

    @property
    def sequence(self) -> int:
        """The sequence of the last of these events, which a reader waits for; 0 if there is none."""
        return _last_of(self.stored)


def _last_of(stored: Iterable[StoredEvent]) -> int:
    return max((one.sequence for one in stored), default=0)


class _Loaded(NamedTuple, Generic[State]):
    """An actor as it was read.

    Attributes:
        now: Its state.
        commands: The commands that its snapshot knows.
        events: The events after that.
    """

    now: ActorState[State]
    commands: Sequence[Command]
    events: list[Event]


class Repository(Closeable, Generic[State]):
    """The actors of one kind, each as a state that is made of its events.

    Any thread may use it. It has no connection of its own and need not be closed: :meth:`close` only waits for
    snapshots that are being saved. After a fork, the child may use it as its store.

    Args:
        store: The event store. If it has ``types``, ``evolve`` is given the value of each event, else the ``Event``.
        initial: Returns the state of an actor without events; a class will do.
        evolve: Is called with a state and an event, and returns the state after it. It must not change the state that
            it is given, which is checked for the first event of each type. It must take every event that is stored:
            for one that means nothing to it, it returns the state as it is.
        snapshot_every: After how many events of an actor a snapshot of its state is saved. It is saved in the
            background, after a decision. States must be what msgspec can write as JSON and read again: dataclasses,
            ``msgspec.Struct``s, attrs classes, dicts. If the classes of states differ, they must be
            ``msgspec.Struct``s with ``tag=True``, and ``initial`` annotated to return their union. None neither saves
            snapshots nor reads them: all events of an actor are read.
        schema_version: The version of the states, which you count up when ``evolve`` makes another state of the same
            events. A snapshot of another version is ignored, and so is one of a class with other fields.

    Raises:
        InvalidOptionError: An argument is wrong, or ``snapshot_every`` is given and JSON cannot hold the first state.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        initial: Callable[[], State],
        evolve: Callable[[State, Any], State],
        snapshot_every: int | None = None,
        schema_version: int = 1,
    ) -> None:
        if not _is_store(store):
            raise InvalidOptionError(f"a repository has an event store, and {short(store)} is none")
        every = None if snapshot_every is None else check_count("snapshot_every", snapshot_every)
        schema_version = check_version("schema_version", schema_version)
        self._store = store
        self._evolution = Evolution(initial, evolve, store.types)
        self._snapshots = (
            None if every is None else StateSnapshots(initial, self._evolution.begin(), every, schema_version)
        )
        self._about = name_of(initial)
        self._reporter = Reporter()
        self._saver = SnapshotSaver(store, self._reporter)
        weakref.finalize(self, self._reporter.end).atexit = False

    # -- reading

    def get(self, actor_id: str, *, timeout: float | None = 5.0) -> ActorState[State]:
        """Return the state and version of an actor; of one without events the first state, at version 0.

        Args:
            actor_id: The actor.
            timeout: Seconds; None waits for ever.

        Raises:
            DeadlineExceededError: It was not read in time.
            MalformedRecordError: One of its records is not an event.
            EventTypeError: One of its events does not have the value that its type says.
            InvalidOptionError: ``evolve`` has changed the state that it was given, or returned None.
        """
        return self._load(check_actor_id(actor_id), Deadline(timeout)).now

    def _load(self, actor_id: str, deadline: Deadline) -> _Loaded[State]:
        if self._snapshots is None:
            events = self._store.get_events(actor_id, timeout=deadline.timeout_left())
            return self._folded(actor_id, self._evolution.begin(), 0, (), events)
        schema_version = self._snapshots.schema_version
        loaded = self._store.load(actor_id, schema_version=schema_version, timeout=deadline.timeout_left())
        if loaded.snapshot is None:
            return self._folded(actor_id, self._evolution.begin(), 0, (), loaded.events)
        read = self._snapshots.read(loaded.snapshot)
        if isinstance(read, str):
            self._report_ignored(loaded.snapshot, read)
            events = self._store.get_events(actor_id, timeout=deadline.timeout_left())
            return self._folded(actor_id, self._evolution.begin(), 0, (), events)
        return self._folded(actor_id, read.state, loaded.snapshot.version, read.commands, loaded.events)

    def _folded(
        self, actor_id: str, state: State, version: int, commands: Sequence[Command], events: list[Event]
    ) -> _Loaded[State]:
        now = ActorState(actor_id, self._evolution.fold(state, events), events[-1].version if events else version)
        return _Loaded(now, commands, events)

    def _report_ignored(self, snapshot: Snapshot, reason: str) -> None:
        text = "the snapshot of actor %r at version %d is ignored, and all events are read: %s"
        about = snapshot.actor_id, snapshot.version, reason
        self._reporter.burst(Kind.SNAPSHOT_IGNORED, text, *about, actor=snapshot.actor_id)

    # -- deciding

    def decide(
        self,
        actor_id: str,
        decision: Callable[[State, *Ts], object],
        *args: *Ts,
        command_id: str = "",
        timeout: float | None = 5.0,
    ) -> Decided[State]:
        """Decide on the state of an actor, and store what was decided, if nothing else was stored meanwhile.

        If another writer was first, the actor is loaded and the decision is called again, after a random pause, until
        the time is over. So the decision may be called several times, and should do nothing but decide.

        Args:
            actor_id: The actor.
            decision: Is called with the state and ``args``. It returns the new events of the actor: one, a list, a
                tuple or an iterator of them, or None. Events are values of the classes of the store's ``types``, or
                ``Event`` objects without a version. What it raises is raised here, and nothing is stored. It must not
                change the state.
            *args: Its arguments after the state.
            command_id: An id of what is to be done, such as that of a request, which is put into each event. If an
                event of this actor has it already, the decision is not called, and what was decided then is returned:
                so the same command takes effect once, in all processes. Another decision on this actor needs another
                id. Of the commands before a snapshot, the last 100 are known. A command that decided nothing leaves no
                trace. "" for none.
            timeout: Seconds for all of it; None for no limit. The decision itself is not interrupted.

        Returns:
            The state afterwards, and the events that were stored.

        Raises:
            VersionConflictError: Others were first until the time was over; nothing is stored.
            UnknownOutcomeError: The events may be stored, or not. ``store.save_events(error.events)`` is safe; and so
                is the same ``decide()`` if it has a ``command_id``. Without one it may take effect twice.
            DeadlineExceededError: The actor was not read in time, or the server did not answer; nothing is stored.
            DuplicateIdError: A command of this id was decided before, for other actors as well.
            InvalidEventError: The decision has returned something that cannot be events of this actor.
            InvalidOptionError: An argument is wrong; or ``evolve`` or the decision has changed the state that it was
                given, or ``evolve`` has returned None. Also other errors of :meth:`EventStore.load` and
                :meth:`EventStore.append`.
        """
        deadline = Deadline(timeout)
        actor_id, command_id = check_actor_id(actor_id), check_command_id(command_id)
        check_decision(decision)
        pauses = ConflictPauses(deadline)
        while True:
            loaded = self._load(actor_id, deadline)
            now = loaded.now
            repeated = self._stored_before([loaded], command_id, deadline)
            if repeated:
                note_written(self._store, _last_of(repeated))
                return Decided(actor_id, now.state, now.version, repeated, True)
            snapshot = self._due(loaded)
            before = picture(now.state)
            values = values_of(decision(now.state, *args), decision)
            refuse_change(now.state, before, decision)
            if not values:
                return Decided(actor_id, now.state, now.version, (), False)
            events = as_events(values, actor_id, command_id, self._store.types, decision)
            after = self._after(now, events)
            try:
                append = partial(self._store.append, actor_id, *events, expected_version=now.version)
                stored = self._settled(append, deadline)
            except VersionConflictError:
                if not pauses.take():
                    raise
                continue
            if snapshot is not None:
                self._saver.offer(snapshot)
            return Decided(actor_id, after.state, after.version, tuple(stored), False)

    @overload
    def decide_together(
        self,
        actor_ids: "Mapping[str, Repository[Any]]",
        decision: Callable[[dict[str, Any], *Ts], Mapping[str, object] | None],
        *args: *Ts,
        command_id: str = "",
        timeout: float | None = 5.0,
    ) -> DecidedTogether[Any]: ...

    @overload
    def decide_together(
        self,
        actor_ids: Iterable[str],
        decision: Callable[[dict[str, State], *Ts], Mapping[str, object] | None],
        *args: *Ts,
        command_id: str = "",
        timeout: float | None = 5.0,
    ) -> DecidedTogether[State]: ...

    def decide_together(
        self,
        actor_ids: Iterable[str],
        decision: Callable[[dict[str, State], *Ts], Mapping[str, object] | None],
        *args: *Ts,
        command_id: str = "",
        timeout: float | None = 5.0,
    ) -> DecidedTogether[State]:
        """Decide on the states of several actors, and store what was decided for all of them, or nothing.

        Only the actors that get events are checked: if another writer was first at one of them, all are loaded and the
        decision is called again. An actor whose state was only read may have changed meanwhile; if the decision depends
        on it, give it an event, too.

        Args:
            actor_ids: The actors. If they are of several kinds, a dict from the id of each to the repository of its
                kind, all of the same store.
            decision: Is called with a dict of the states by actor id, and ``args``. It returns a dict, from the id of
                each actor that gets events to these, each as for :meth:`decide`; or None.
            *args: Its arguments after the states.
            command_id: As for :meth:`decide`. It is known if one of the actors has an event with it. Give each decision
                an id of its own: an order of several lines, say, one for each line.
            timeout: Seconds for all of it; None for no limit.

        Returns:
            The states afterwards, and the events that were stored.

        Raises:
            AtomicAppendUnsupportedError: The server or the stream cannot store several events at once.
            DuplicateIdError: A command of this id was decided before, for an actor that is not named here as well.
            InvalidOptionError: An actor is named twice, or none is, or its repository is of another store. Also the
                errors of :meth:`decide`.
        """
        deadline = Deadline(timeout)
        ids, command_id = _checked_ids(actor_ids), check_command_id(command_id)
        repositories = self._of_each(ids, actor_ids)
        check_decision(decision)
        pauses = ConflictPauses(deadline)
        while True:
            loaded = {actor_id: one._load(actor_id, deadline) for actor_id, one in repositories.items()}
            actors = {actor_id: one.now for actor_id, one in loaded.items()}
            repeated = self._stored_before(loaded.values(), command_id, deadline)
            if repeated:
                note_written(self._store, _last_of(repeated))
                return DecidedTogether(actors, repeated, True)
            snapshots = {actor_id: repositories[actor_id]._due(one) for actor_id, one in loaded.items()}
            states = {actor_id: one.state for actor_id, one in actors.items()}
            shown = picture(list(states.values()))
            values = by_actor(decision(states, *args), decision, ids)
            refuse_change([one.state for one in actors.values()], shown, decision)
            if not values:
                return DecidedTogether(actors, (), False)
            events: list[Event] = []
            for actor_id, its in values.items():
                before = actors[actor_id]
                new = as_events(its, actor_id, command_id, self._store.types, decision)
                actors[actor_id] = repositories[actor_id]._after(before, new)
                events += [event.replace(version=before.version + place) for place, event in enumerate(new, 1)]
            try:
                stored = self._settled(partial(self._store.save_events, events), deadline)
            except VersionConflictError:
                if not pauses.take():
                    raise
                continue
            for actor_id in values:
                snapshot = snapshots[actor_id]
                if snapshot is not None:
                    repositories[actor_id]._saver.offer(snapshot)
            return DecidedTogether(actors, tuple(stored), False)

    def _of_each(self, ids: tuple[str, ...], given: object) -> "dict[str, Repository[Any]]":
        """Return the repository of each actor: this one, or what a dict says."""
        if not is_mapping(given):
            return dict.fromkeys(ids, self)
        repositories = {actor_id: given[actor_id] for actor_id in ids}
        for actor_id, one in repositories.items():
            if not is_of(one, Repository):
                raise InvalidOptionError(
                    f"decide_together() takes a dict from actor ids to their repositories, and that of "
                    f"{short(actor_id)} is {short(one)}"
                )
            if one._store is not self._store:
                raise InvalidOptionError(
                    f"the repository of actor {short(actor_id)} is of another store, {one._store!r}: what is decided "
                    "together is stored at once, so all are made with the same store"
                )
        return repositories

    def _stored_before(
        self, loaded: Collection[_Loaded[State]], command_id: str, deadline: Deadline
    ) -> tuple[StoredEvent, ...]:
        """Return the events of a command, if it was decided before.

        Raises:
            DuplicateIdError: It was decided for other actors as well.
        """
        found: list[StoredEvent] = []
        for one in loaded if command_id else ():
            command = find_command(command_id, one.commands, one.events)
            if command is not None:
                left = deadline.timeout_left()
                reading = self._store.get_events_with_errors(
                    one.now.actor_id, command.first, command.last, timeout=left
                )
                found += [stored for stored in reading.events if stored.event.command_id == command_id]
        actor_ids = {one.now.actor_id for one in loaded}
        for batch in {stored.batch for stored in found if stored.batch}:
            for stored in self._saved_together(batch, deadline):
                if stored.event.command_id == command_id and stored.event.actor_id not in actor_ids:
                    another = short(stored.event.actor_id)
                    raise DuplicateIdError(
                        f"the command {short(command_id)} was decided before, for actor {another} as well, which this "
                        "call does not name: give each decision a command_id of its own, such as the id of the request "
                        "and the number of the line"
                    )
        return tuple(sorted(found, key=lambda stored: stored.sequence))

    def _saved_together(self, batch: int, deadline: Deadline) -> Iterator[StoredEvent]:
        """Yield the events that were saved together, the first of which has a sequence."""
        after = batch - 1
        while page := self._store.read_all(after, timeout=deadline.timeout_left()):
            for stored in page:
                if stored.batch != batch:
                    return
                yield stored
                if stored.ends_batch:
                    return
            after = page[-1].sequence

    def _after(self, before: ActorState[State], events: list[Event]) -> ActorState[State]:
        """Return the state after new events, before they are stored: one that ``evolve`` cannot take is never stored.

        ``evolve`` sees them as it will see them from now on.
        """
        state = self._evolution.fold(before.state, as_read(events, before.version))
        return ActorState(before.actor_id, state, before.version + len(events))

    def _settled(self, save: Callable[..., list[StoredEvent]], deadline: Deadline) -> list[StoredEvent]:
        """Store events by a call that takes a ``timeout``.

        While it is not known whether they are stored, the same ones are stored again, and no others.

        That these are not stored is certain if another writer's event has one of their versions.
        """
        pauses = ConflictPauses(deadline)
        try:
            return save(timeout=deadline.timeout_left())
        except UnknownOutcomeError as error:
            unknown = error
        while pauses.take():
            try:
                return self._store.save_events(unknown.events, timeout=deadline.timeout_left())
            except UnknownOutcomeError as error:
                unknown = error
            except VersionConflictError:
                raise
            except AetherError as error:  # of this try: the first one may be stored all the same
                raise unknown from error
        raise unknown

    # -- snapshots

    def _due(self, loaded: _Loaded[State]) -> Snapshot | None:
        """Return a snapshot of what was loaded, if it is time for one.

        It is made before the decision sees the state, and of stored events alone: whatever the user's functions do with
        the state afterwards, also unseen, the snapshot is right.
        """
        if self._snapshots is None or len(loaded.events) < self._snapshots.every:
            return None
        now = loaded.now
        try:
            return self._snapshots.make(now.actor_id, now.version, now.state, loaded.commands, loaded.events)
        except UnkeptStateError as error:
            self._saver.report(now.actor_id, now.version, str(error))
            return None

    # -- testing

    def given(self, *values: object) -> Given[State]:
        """Begin a test of a decision, without the store: ``given(...).when(decision, ...).then(...)``.

        Args:
            *values: What has happened before, as for :meth:`Scenarios.given`.

        Raises:
            InvalidEventError: A value cannot be an event.
            InvalidOptionError: ``evolve`` has changed the state that it was given, or returned None.
        """
        __tracebackhide__ = True
        return Given(self._evolution, values)

    # -- its end

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Wait for the snapshots that are being saved, and save no more. The store stays open. Any thread may call it.

        Reading and deciding go on. Without this call, snapshots that are not saved when the program ends are lost,
        which loses nothing but time.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            A report with ``timed_out`` if not all were saved in time.
        """
        deadline = Deadline(timeout)
        is_done = self._saver.close(deadline)
        self._reporter.close(last_words(deadline))
        return CloseReport(timed_out=not is_done)

    def __repr__(self) -> str:
        return f"<Repository of {self._about} in {self._store!r}>"


def _is_store(store: object) -> bool:
    try:
        return isinstance(store, EventStore) and not isinstance(store, type)
    except Exception:  # its attributes raise
        return False


def _checked_ids(actor_ids: Iterable[str]) -> tuple[str, ...]:
    iterator = None if is_of(actor_ids, str) else as_iterator(actor_ids)
    if iterator is None:
        raise InvalidOptionError(f"decide_together() takes several actor ids, in a tuple, not {short(actor_ids)}")
    ids = tuple(map(check_actor_id, iterator))
    if not ids:
        raise InvalidOptionError("decide_together() wants one actor id or more")
    if len(set(ids)) < len(ids):
        raise InvalidOptionError(f"decide_together() was given an actor twice: {short(ids)}")
    return ids
