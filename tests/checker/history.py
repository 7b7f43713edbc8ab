"""A history of what clients did with a store and saw of it.

Times are those of ``time.monotonic()``, which all processes of a machine share. Each event that is tried has an id of
its own, so whatever anybody sees is known by its id.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

__all__ = [
    "Complaint",
    "Delivered",
    "Fault",
    "History",
    "Kept",
    "Life",
    "Outcome",
    "Part",
    "Read",
    "Record",
    "Save",
    "Seen",
    "Snapshotted",
    "report",
]

_SHOWN = 3  # complaints of one rule

Outcome = Literal["stored", "conflict", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Record:
    """An event and its place, as the stream has it, as a save was told, or as a follower got it."""

    sequence: int
    id: str
    actor: str
    version: int
    event_type: str
    ends_batch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """A call that saves one event or several, all or none.

    Attributes:
        client: Who called, one call after the other.
        node: Whose store object it was.
        begin: When it was called.
        end: When it returned or raised; infinity if it did neither.
        kind: What was called, for who reads it.
        ids: Of the events, in order.
        outcome: ``"stored"``; ``"conflict"`` and ``"refused"``, which both mean that nothing is; or ``"unknown"``.
        stored: What it returned.
        conflict: The actor, the first version that was to be stored, and the one that it is said to have.
        has_gaps: Whether it left out versions, as ``save_event()`` may.
    """

    client: str
    node: str
    begin: float
    end: float
    kind: str
    ids: tuple[str, ...]
    outcome: Outcome
    stored: tuple[Record, ...] = ()
    conflict: tuple[str, int, int] | None = None
    has_gaps: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot; its state is how many events it is made of, and the id of the last."""

    version: int
    sequence: int
    count: int
    last: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a read saw of an actor.

    Attributes:
        version: The actor's version; 0 if none was seen.
        ids: Of the events that were read; None where only the version was asked for.
        first: The version from which on it was read.
        snapshot: What was loaded with them.
    """

    version: int
    ids: tuple[str, ...] | None = None
    first: int = 0
    snapshot: Kept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A call that read one actor, or several as they were at one moment."""

    client: str
    node: str
    begin: float
    end: float
    kind: str
    seen: dict[str, Seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshotted:
    """A snapshot that was saved."""

    client: str
    node: str
    begin: float
    end: float
    actor: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one follower object saw, between its beginning and its end.

    Attributes:
        follower: One who begins each life behind the checkpoint of the one before; the first at 0.
        node: Whose store object it was.
        begin: When it was made.
        end: When it was left.
        after: Where it began.
        checkpoint: What it said when it was left.
        actors: The beginning of the ids of those it asked for.
        event_type: The type that it asked for; "" for all.
        seen: What it took, in order.
        caught_up: Its checkpoint when it first said that it was caught up.
        is_last: Whether it was read to the end of the stream.
    """

    follower: str
    node: str
    begin: float
    end: float
    after: int
    checkpoint: int
    actors: str = ""
    event_type: str = ""
    seen: tuple[Record, ...] = ()
    caught_up: int | None = None
    is_last: bool = False

    def wants(self, record: Record) -> bool:
        return record.actor.startswith(self.actors) and self.event_type in ("", record.event_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An event that a consumer handled to the end, or was acknowledging when its process died.

    Attributes:
        consumer: Whom it was delivered to.
        process: In which process; "" for the only one there ever was.
        at: When it was handled.
        sequence: As the delivery said.
        id: Of the event.
    """

    consumer: str
    process: str
    at: float
    sequence: int
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done to servers, links and processes; for who reads a complaint."""

    begin: float
    end: float
    kind: str
    what: str


@dataclass(slots=True)
class History:
    """All that was recorded, and what the stream held in the end.

    Attributes:
        is_current: Whether no reader anywhere may miss what was saved before: there is one server, so no other leader.
        followers: Those who were to read to the end of the stream.
        consumers: By name, the types of the events that each asked for; none for all.
        content: What the stream holds in the end.
        snapshots: The latest of each actor in the end.
        logged: What the library logged and no fault explains.
    """

    is_current: bool = False
    followers: tuple[str, ...] = ()
    consumers: dict[str, str] = field(default_factory=dict)
    saves: list[Save] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    snapshotted: list[Snapshotted] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    content: list[Record] = field(default_factory=list)
    snapshots: dict[str, Kept] = field(default_factory=dict)
    logged: list[str] = field(default_factory=list)

    def counts(self) -> str:
        """Return how much there is of each, for people."""
        calls: list[Save | Read] = [*self.saves, *self.reads]
        slowest = max((one.end - one.begin for one in calls), default=0.0)
        return (
            f"{len(self.content)} events; saves: {_counted(save.outcome for save in self.saves)}; "
            f"{len(self.reads)} reads, {len(self.snapshotted)} snapshots, {len(self.lives)} lives of followers, "
            f"{len(self.delivered)} deliveries; faults: {_counted(fault.kind for fault in self.faults)}; "
            f"the slowest call took {slowest:.1f} s"
        )


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(Counter(words).items())) or "none"


Part = Save | Read | Snapshotted | Life | Delivered | Record


@dataclass(frozen=True, slots=True)
class Complaint:
    """A rule that does not hold, and what breaks it."""

    rule: str
    what: str
    parts: tuple[Part, ...] = ()

    def show(self, history: History) -> str:
        """Return it for people: the parts in order, the faults meanwhile, and times in seconds from the first call."""
        calls: list[Save | Read | Life] = [*history.saves, *history.reads, *history.lives]
        start = min((one.begin for one in calls), default=0.0)
        spans = [span for one in self.parts for span in _span(one)]
        meanwhile = [one for one in history.faults if spans and one.begin <= max(spans) and one.end >= min(spans)]
        shown = [(min(_span(one), default=inf), _shown(one, start)) for one in (*self.parts, *meanwhile)]
        return "\n  ".join([f"{self.rule}: {self.what}", *(text for _, text in sorted(shown))])


def _span(part: Part | Fault) -> list[float]:
    """When it was; nothing for what is there in the end."""
    if isinstance(part, Record):
        return []
    return [part.at] if isinstance(part, Delivered) else [part.begin, part.end]


def _shown(part: Part | Fault, start: float) -> str:
    times = {name: round(getattr(part, name) - start, 6) for name in ("at", "begin", "end") if hasattr(part, name)}
    text = repr(replace(part, **times))
    return text if len(text) < 1_500 else f"{text[:1_000]} ... {text[-400:]}"


def report(history: History, complaints: Sequence[Complaint]) -> str:
    """Return what a run showed, for people: of each rule that does not hold the first few complaints."""
    by_rule: dict[str, list[Complaint]] = {}
    for one in complaints:
        by_rule.setdefault(one.rule, []).append(one)
    shown = [one.show(history) for found in by_rule.values() for one in found[:_SHOWN]]
    counted = ", ".join(f"{rule}: {len(found)}" for rule, found in by_rule.items())
    return "\n\n".join([*shown, f"{history.counts()}\nwhat is wrong: {counted or 'nothing'}"])
