"""What a case is: what it is given, what it measures, and what it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, process_time

__all__ = [
    "CASES",
    "FIGURES",
    "QUESTIONS",
    "WAIT",
    "CannotMeasureError",
    "Case",
    "Figure",
    "Goal",
    "Job",
    "Question",
    "Sample",
    "Servers",
    "Stopwatch",
    "Stores",
    "case",
    "register",
]

WAIT = 60  # seconds after which a process of ours is given up

Sample = dict[str, float]  #: what one run measured: seconds, bytes or events per second, by the key of a figure


class CannotMeasureError(Exception):
    """A case cannot run here, or what it measured would not be true; the text says why."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the cases of the store find what they need; what no case needs is not there."""

    streams: dict[str, dict[str, str]] = field(default_factory=dict)  # by place: the URL of each server, by its name
    postgres: str = ""  # its port
    folder: str = ""  # for files


@dataclass(frozen=True, slots=True)
class Servers:
    """The addresses of what the cases share."""

    url: str
    redis: str = ""
    stores: Stores = field(default_factory=Stores)


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a case: which servers to use, under which subjects, for how many events."""

    url: str
    redis: str
    prefix: str
    events: int
    namespace: str = "orders.eu"
    crowd: int = 10_000  # subscriptions of others, where they are what is measured
    peer: str = ""  # whose other half a partner plays
    stock: int = 200_000  # events in a store, where they are read
    stores: Stores = field(default_factory=Stores)

    @property
    def subject(self) -> str:
        return f"{self.prefix}.events.{self.namespace}"

    @property
    def warmup(self) -> int:
        """Events that go first, over the same path, untimed."""
        return max(20, self.events // 10)

    @property
    def total(self) -> int:
        return self.warmup + self.events

    @property
    def patience(self) -> int:
        """Seconds after which a process that does it is given up: the first may have to fill a stock."""
        return WAIT * max(1, self.stock // 100_000)


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is measured, and how it is written."""

    key: str
    label: str
    is_rate: bool = False  # more is better
    scale: float = 1.0
    form: str = ",.0f"

    def write(self, value: float) -> str:
        return format(value * self.scale, self.form)


_RATE = Figure("rate", "events/s", is_rate=True)
_LOADS = Figure("loads", "loads/s", is_rate=True)
_CPU = Figure("cpu", "CPU µs/event", scale=1e6, form=",.1f")

FIGURES = {
    figure.key: figure
    for figure in (
        _RATE,
        _LOADS,
        _CPU,
        Figure("p50", "p50 µs", scale=1e6),
        Figure("p99", "p99 µs", scale=1e6),
        Figure("time", "µs/publish", scale=1e6, form=",.2f"),
        Figure("rss", "RSS bytes"),
        Figure("traced", "traced bytes"),
    )
}


@dataclass(frozen=True, slots=True)
class Question:
    """A table: cases that answer the same question, compared by the first of its figures."""

    name: str
    title: str  # ``{stock}`` stands for how many events a store holds
    keys: tuple[str, ...]
    group: str = "bus"  # those of one share servers, and the rounds

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(FIGURES[key] for key in self.keys)


QUESTIONS = {
    question.name: question
    for question in (
        Question("receive", "Receive: server to thread", ("rate", "cpu")),
        Question("publish", "Publish: thread to server, flushed", ("rate", "cpu")),
        Question("nodes", "Process to process through a server", ("rate", "cpu")),
        Question("roundtrip", "Round trip between two processes, one event at a time", ("p50", "p99")),
        Question("local", "One process: thread to thread", ("rate", "cpu")),
        Question("growth", "Growth: a publish, by number of subscriptions", ("time",)),
        Question("burn", "Receive beside a thread that burns CPU", ("rate", "cpu")),
        Question("handle", "Handle a consumer's events: a worker, and a bare run()", ("cpu", "rate")),
        Question("memory", "Memory: idle subscription, queued event", ("traced", "rss")),
        Question("append", "Append: one after the other, from one thread", ("p50", "p99", "rate"), "store"),
        Question("threads", "Append: from 16 threads, each to actors of its own", ("rate", "cpu"), "store"),
        Question("batch", "Append: 100 events at a time, all or none", ("rate", "cpu"), "store"),
        Question("load", "Load an actor's events, out of {stock}", ("loads", "p50"), "store"),
        Question("latest", "Load the latest events, or what was read before, out of {stock}", ("p50",), "store"),
        Question("decide", "Decide on an actor of 1,000 events", ("p50",), "store"),
        Question("follow", "Follow: 200,000 events from the first on", ("rate", "cpu"), "store"),
        Question("size", "Growth: a store of {stock} events, and one of 200,000", ("p50",), "store"),
    )
}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio of a case should be: at least so much for a rate, at most for anything else, or only shown."""

    bound: float | None
    to: tuple[str, ...] = ()  # cases, of which the best counts; none: what the case is compared with anyway
    key: str = ""  # of the figure; none: the first of the question
    called: str = ""  # in the table


@dataclass(frozen=True, slots=True)
class Case:
    """One row."""

    name: str
    title: str
    says: str
    run: Callable[[Job], Sample]
    base: str  # the case that it is compared with; itself, if it is one of those
    share: float  # of the events asked for; less where an event takes long
    needs: tuple[str, ...]  # what must be installed
    place: str  # where the store is, if it is about one
    goals: tuple[Goal, ...]

    @property
    def question(self) -> Question:
        return QUESTIONS[self.name.partition("-")[0]]

    @property
    def is_ours(self) -> bool:
        return "aether" in self.name

    @property
    def references(self) -> set[str]:
        """The cases that must run in the same rounds."""
        return {self.name, self.base}.union(*(goal.to for goal in self.goals))


CASES: dict[str, Case] = {}


def register(
    name: str,
    title: str,
    run: Callable[[Job], Sample],
    *,
    says: str = "",
    base: str | None = None,
    share: float = 1.0,
    needs: tuple[str, ...] = (),
    place: str = "",
    goals: tuple[Goal, ...] = (),
) -> None:
    """Add a case. What it is compared with is, unless said, the first one of its question."""
    question = name.partition("-")[0]
    first = next((other for other in CASES if other.partition("-")[0] == question), name)
    text = " ".join((says or run.__doc__ or "").split()).replace("``", "`")
    CASES[name] = Case(name, title, text, run, base or first, share, needs, place, goals)


def case(name: str, title: str, **options: object) -> Callable[[Callable[[Job], Sample]], Callable[[Job], Sample]]:
    """Register a function as a case; its docstring says what is measured."""

    def decorate(function: Callable[[Job], Sample]) -> Callable[[Job], Sample]:
        register(name, title, function, **options)  # type: ignore[arg-type]
        return function

    return decorate


class Stopwatch:
    """Runs from its making: by the clock, and by the CPU time of this process, which a busy machine sways less."""

    def __init__(self) -> None:
        self._wall, self._cpu = perf_counter(), process_time()

    def read(self, events: int) -> Sample:
        wall, cpu = perf_counter() - self._wall, process_time() - self._cpu
        return {"rate": events / wall, "cpu": cpu / events}
