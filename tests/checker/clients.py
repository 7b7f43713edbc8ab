"""Clients: each makes one call after the other, and records what it asked for and what it was told."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import Any

from aether_sync import (
    ANY_VERSION,
    Event,
    LoadedActor,
    Snapshot,
    StoredEvent,
    UnknownOutcomeError,
    VersionConflictError,
)

from ..programs.checked import AWAY
from .history import Kept, Outcome, Read, Save, Seen, Snapshotted
from .run import Node, Run, record_of

EPOCH = 5.0  # seconds after which other actors are written: a history is read as a whole, and so must not be long
PLAIN, GAPPY = 3, 1  # actors of an epoch; the versions of the latter have gaps
TIMEOUTS = (0.5, 3.0, 10.0)  # seconds, of the clients' calls


class Client:
    """Makes one call after the other, by chance, and records each."""

    def __init__(self, run: Run, node: Node, name: str) -> None:
        self._run = run
        self._store = node.store
        self._who = {"client": name, "node": node.name}
        self._name = name
        self._random = run.random(name)
        self._made = 0
        self._known: dict[str, int] = {}  # by actor, for where to read from
        self._last: list[Event] = []  # what was stored last

    def work(self) -> None:
        steps: dict[Callable[[], object], int] = {
            self.append: 6, self.append_any: 3, self.save_together: 4, self.save_with_a_gap: 2, self.save_again: 1,
            self.read: 4, self.read_version: 2, self.read_together: 2, self.load_any: 2, self.save_snapshot: 1,
        }  # fmt: skip
        while not self._run.is_over():
            (step,) = self._random.choices(list(steps), list(steps.values()))
            with suppress(*AWAY):
                step()
            sleep(self._random.uniform(0, 0.02))

    def actor(self, kind: str = "plain") -> str:
        epoch = int((monotonic() - self._run.begun) / EPOCH)
        number = self._random.randrange(PLAIN if kind == "plain" else GAPPY)
        return f"{kind}-{max(0, epoch - (self._random.random() < 0.2))}-{number}"

    def actors(self) -> list[str]:
        return sorted({self.actor() for _ in range(3)})

    def event(self, actor: str, version: int = 0, event_type: str = "Saved") -> Event:
        self._made += 1
        return Event(event_type=event_type, actor_id=actor, version=version, id=f"{self._name}-{self._made}", data={})

    def timeout(self) -> float:
        return self._random.choice(TIMEOUTS)

    # -- saving

    def append(self) -> None:
        actor = self.actor()
        expected = self.load(actor).version
        events = [self.event(actor) for _ in range(self._random.choice((1, 1, 1, 3)))]
        self.save("append", events, lambda: self._append(actor, events, expected))

    def append_any(self) -> None:
        actor = self.actor()
        events = [self.event(actor) for _ in range(self._random.choice((1, 1, 2)))]
        self.save("append ANY", events, lambda: self._append(actor, events, ANY_VERSION))

    def _append(self, actor: str, events: list[Event], expected: Any) -> list[StoredEvent]:
        return self._store.append(actor, *events, expected_version=expected, timeout=self.timeout())

    def save_together(self) -> None:
        events = []
        for actor in self.actors():
            version = self.read_version(actor)
            events += [self.event(actor, version + n, "Moved") for n in range(1, self._random.choice((2, 2, 3)))]
        self._random.shuffle(events)
        events.sort(key=lambda one: one.version)  # of each actor in order, those of several mixed
        self.save("save_events", events, lambda: self._store.save_events(events, timeout=self.timeout()))

    def save_with_a_gap(self) -> None:
        actor = self.actor("gappy")
        event = self.event(actor, self.read_version(actor) + self._random.randint(1, 3))
        call = partial(self._store.save_event, event)
        self.save("save_event", [event], lambda: [call(timeout=self.timeout())], has_gaps=True)

    def save_again(self) -> None:
        """Save what is stored already."""
        if self._last:
            events = self._last
            has_gaps = events[0].actor_id.startswith("gappy")
            call = partial(self._store.save_events, events)
            self.save("save_events again", events, lambda: call(timeout=self.timeout()), has_gaps=has_gaps)

    def save(
        self, kind: str, events: Sequence[Event], call: Callable[[], list[StoredEvent]], *, has_gaps: bool = False
    ) -> None:
        """Save, and in most cases again as long as nobody knows whether it is stored."""
        left = self._save(kind, events, call, has_gaps)
        while left and self._random.random() < 0.8:
            again = partial(self._store.save_events, left)
            left = self._save(f"{kind}, then again", left, lambda: again(timeout=self.timeout()), has_gaps)  # noqa: B023

    def _save(
        self, kind: str, events: Sequence[Event], call: Callable[[], list[StoredEvent]], has_gaps: bool
    ) -> tuple[Event, ...]:
        """Save once; returns the events if it is not known whether they are stored."""
        outcome: Outcome = "unknown"
        stored: list[StoredEvent] = []
        conflict = None
        begin = monotonic()
        try:
            stored = call()
            outcome = "stored"
            self._last = [one.event for one in stored]
        except VersionConflictError as error:
            outcome = "conflict"
            conflict = error.actor_id, error.attempted_version, error.current_version
        except UnknownOutcomeError as error:
            return error.events
        except AWAY:
            outcome = "refused"
        finally:
            save = Save(
                **self._who, begin=begin, end=monotonic(), kind=kind, ids=tuple(one.id for one in events),
                outcome=outcome, stored=tuple(map(record_of, stored)), conflict=conflict, has_gaps=has_gaps,
            )  # fmt: skip
            self._run.history.saves.append(save)
        return ()

    # -- reading

    def read(self) -> None:
        actor = self.actor(self._random.choice(("plain", "plain", "gappy")))
        first = max(0, self._known.get(actor, 0) - self._random.randint(0, 5)) if self._random.random() < 0.7 else 0
        how = self._random.choice(("get_events", "iter_events", "get_events_with_errors"))
        begin = monotonic()
        if how == "get_events_with_errors":
            reading = self._store.get_events_with_errors(actor, first, timeout=self.timeout())
            events = [one.event for one in reading.events]
            assert not reading.malformed
        else:
            events = list(getattr(self._store, how)(actor, first, timeout=self.timeout()))
        self.saw(how, begin, {actor: seen(events, first)})

    def read_version(self, actor: str | None = None) -> int:
        actor = actor or self.actor()
        begin = monotonic()
        version = self._store.get_latest_version(actor, timeout=self.timeout())
        self.saw("get_latest_version", begin, {actor: Seen(version)})
        return version

    def read_together(self) -> None:
        begin = monotonic()
        found = self._store.read_together(*self.actors(), timeout=self.timeout())
        self.saw("read_together", begin, {actor: seen(events) for actor, events in found.items()})

    def load_any(self) -> None:
        self.load(self.actor())

    def load(self, actor: str) -> LoadedActor:
        begin = monotonic()
        loaded = self._store.load(actor, timeout=self.timeout())
        self.saw("load", begin, {actor: seen_by_loading(loaded)})
        return loaded

    def saw(self, kind: str, begin: float, seen: dict[str, Seen]) -> None:
        self._run.history.reads.append(Read(**self._who, begin=begin, end=monotonic(), kind=kind, seen=seen))
        self._known |= {actor: one.version for actor, one in seen.items() if one.version}

    def save_snapshot(self) -> None:
        actor = self.actor()
        loaded = self.load(actor)
        if loaded.events:
            count = len(loaded.events) + (loaded.snapshot.state["count"] if loaded.snapshot else 0)
            state = {"count": count, "last": loaded.events[-1].id}
            begin = monotonic()
            snapshot = Snapshot(actor_id=actor, version=loaded.version, state=state)
            if self._store.save_snapshot(snapshot, timeout=self.timeout()):
                saved = Snapshotted(**self._who, begin=begin, end=monotonic(), actor=actor, version=snapshot.version)
                self._run.history.snapshotted.append(saved)


def seen(events: Sequence[Event], first: int = 0) -> Seen:
    return Seen(events[-1].version if events else 0, tuple(sys.intern(one.id) for one in events), first)


def seen_by_loading(loaded: LoadedActor) -> Seen:
    if loaded.snapshot is None:
        return seen(loaded.events)
    kept = kept_of(loaded.snapshot)
    after = seen(loaded.events, kept.version + 1)
    return Seen(loaded.version, after.ids, after.first, kept)


def kept_of(snapshot: Snapshot) -> Kept:
    return Kept(snapshot.version, snapshot.sequence, snapshot.state["count"], snapshot.state["last"])
