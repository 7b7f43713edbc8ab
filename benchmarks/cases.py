"""What a case is, and what it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time

__all__ = ["CASES", "WAIT", "Case", "Job", "Sample", "Stopwatch", "case"]

WAIT = 120  # seconds after which a process of ours is given up

#: "rate" in events/s and "cpu" in seconds per event, or "p50" and "p99" in seconds. Ratios are made of the first.
Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Job:
    """One repetition: which server to use, under which subjects, and for how many events."""

    url: str
    prefix: str
    events: int
    namespace: str = "orders.eu"

    @property
    def subject(self) -> str:
        return f"{self.prefix}.events.{self.namespace}"


@dataclass(frozen=True, slots=True)
class Case:
    """One row. The first case of a direction is what the others are compared with."""

    name: str
    title: str
    says: str
    run: Callable[[Job], Sample] | None  # None: there is nothing to measure yet
    share: float  # of the events asked for; less where an event takes long

    @property
    def direction(self) -> str:
        return self.name.partition("-")[0]


CASES: dict[str, Case] = {}


def case(name: str, title: str, *, share: float = 1.0) -> Callable[[Callable[[Job], Sample]], Callable[[Job], Sample]]:
    """Register a function as a case; its docstring says what is measured."""

    def register(function: Callable[[Job], Sample]) -> Callable[[Job], Sample]:
        CASES[name] = Case(name, title, " ".join((function.__doc__ or "").split()), function, share)
        return function

    return register


class Stopwatch:
    """Runs from its making: by the clock, and by the CPU time of this process, which a busy machine sways less."""

    def __init__(self) -> None:
        self._wall, self._cpu = perf_counter(), process_time()

    def read(self, events: int) -> Sample:
        wall, cpu = perf_counter() - self._wall, process_time() - self._cpu
        return {"rate": events / wall, "cpu": cpu / events}
