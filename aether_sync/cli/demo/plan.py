"""What the nodes of the demonstration publish and read, and what they tell their parent: frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = [
    "PUBLISHERS",
    "READINGS",
    "Command",
    "Failure",
    "Kind",
    "Pace",
    "Reading",
    "ReadingReport",
    "Report",
    "Status",
]

#: All that decides who gets an event: namespace, event type, actor.
Kind = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One subscription of one node."""

    patterns: tuple[str, ...]
    event_types: frozenset[str] = frozenset()
    actor_pattern: str = ""
    group: str | None = None
    threads: int = 1
    slow: bool = False

    @property
    def label(self) -> str:
        """What it is called in the table."""
        words = [", ".join(self.patterns), *sorted(self.event_types), self.actor_pattern]
        if self.group is not None:
            words.append(f"(group {self.group})")
        if self.threads > 1:
            words.append(f"({self.threads} threads)")
        if self.slow:
            words.append("(slow)")
        return " ".join(filter(None, words))


_ALL = Reading(patterns=("shop.>",), threads=2)
_JOBS = Reading(patterns=("jobs",), group="workers")

#: What each node reads, node by node.
READINGS: tuple[tuple[Reading, ...], ...] = (
    (
        _ALL,
        Reading(patterns=("shop.*.orders",)),
        Reading(patterns=("shop.>",), event_types=frozenset({"Paid"}), actor_pattern="order-*"),
        _JOBS,
    ),
    (
        _ALL,
        Reading(patterns=("shop.us.*", "shop.*.orders")),  # an event that both match comes once
        Reading(patterns=("shop.eu-*.orders",)),
        _JOBS,
    ),
    (_ALL, Reading(patterns=("shop.us.refunds",)), Reading(patterns=(">",), slow=True), _JOBS),
)

PUBLISHERS = 2  #: publishing threads of each node


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long and how much a node publishes, and how patient it is."""

    seconds: float
    rate: float  #: events a second, each thread
    timeout: float  #: seconds to wait for the server


class Command(Enum):
    """What the parent tells a node."""

    PUBLISH = "publish"
    TELL = "tell"  #: answered by a Status
    HURRY = "hurry"  #: all have published: no reading is slow any more
    FINISH = "finish"  #: answered by a Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a node has done until now; readings are pairs of received and dropped, in the order of the plan."""

    publishing: bool
    published: Mapping[Kind, int]
    readings: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingReport:
    """What became of one subscription."""

    received: int  #: events that its threads took
    dropped: int  #: as the library counts them
    kinds: Mapping[Kind, int]  #: what was received
    duplicates: int = 0  #: events received again
    disordered: int = 0  #: events received after a later one of the same publishing thread
    ids: frozenset[tuple[str, int]] = frozenset()  #: which events: publishing thread, and its number there. Of a group


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a node did, at the end."""

    published: Mapping[Kind, int]  #: as its threads counted
    accepted: int  #: as the library counted
    readings: tuple[ReadingReport, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A node has failed."""

    why: str = field(default="")
