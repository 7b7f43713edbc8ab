"""Compares what was published with what was received. Who should get what is decided here, not by the library."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .plan import PUBLISHERS, Kind, Reading, ReadingReport, Report

__all__ = ["Audit", "Row", "audit", "expected_of", "naive_match"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table; None is a blank. ``faults`` lists what does not add up."""

    node: str
    name: str
    published: int | None = None
    expected: int | None = None
    received: int | None = None
    dropped: int | None = None
    count: int = 0  #: what the rate is of
    faults: tuple[str, ...] | None = None  #: None where there is nothing to check


@dataclass(frozen=True, slots=True)
class Audit:
    """The rows of the final table."""

    rows: tuple[Row, ...]

    @property
    def faults(self) -> list[str]:
        """Return what does not add up, with the row it is in."""
        return [f"{row.node} {row.name}: {fault}" for row in self.rows for fault in row.faults or ()]


def audit(plan: Sequence[Sequence[Reading]], reports: Sequence[Report]) -> Audit:
    """Check every subscription of every node, and each queue group as a whole.

    Args:
        plan: The readings of each node.
        reports: What each node reports, in the same order.
    """
    published = Counter[Kind]()
    for report in reports:
        published.update(report.published)
    rows: list[Row] = []
    for number, (readings, report) in enumerate(zip(plan, reports, strict=True), 1):
        node = f"node-{number}"
        rows.append(_publishing_row(node, report))
        for reading, found in zip(readings, report.readings, strict=True):
            rows.append(_row(node, reading, found, published))
    return Audit((*rows, *_group_rows(plan, reports, published)))


def _publishing_row(node: str, report: Report) -> Row:
    count = sum(report.published.values())
    faults = []
    if count == 0:
        faults.append("published nothing")
    if report.accepted != count:
        faults.append(f"published {count:,}, but the bus counts {report.accepted:,}")
    name = f"publishes ({PUBLISHERS} threads)"
    return Row(node=node, name=name, published=count, count=count, faults=tuple(faults))


def _row(node: str, reading: Reading, found: ReadingReport, published: Counter[Kind]) -> Row:
    expected = None if reading.group else expected_of(reading, published)
    return Row(
        node=node,
        name=reading.label,
        expected=expected,
        received=found.received,
        dropped=found.dropped,
        count=found.received,
        faults=tuple(_faults(reading, found, expected, published)),
    )


def _faults(reading: Reading, found: ReadingReport, expected: int | None, published: Counter[Kind]) -> Iterator[str]:
    if expected is not None:
        yield from _difference(expected, found.received, found.dropped)
    if found.duplicates:
        yield f"{found.duplicates:,} received twice"
    if found.disordered:
        yield f"{found.disordered:,} received out of order"
    if reading.slow and not found.dropped:
        yield "should have dropped some, and dropped none"
    for kind, count in found.kinds.items():
        if not _wants(reading, kind):
            yield f"received {count:,} of {kind}, which it did not ask for"
        elif count > published[kind]:
            yield f"received {count:,} of {kind}, of which {published[kind]:,} were published"


def _difference(expected: int, received: int, dropped: int) -> Iterator[str]:
    accounted = received + dropped
    if accounted != expected:
        what = f"{expected - accounted:,} missing" if accounted < expected else f"{accounted - expected:,} too many"
        yield f"expected {expected:,}, but received {received:,} + dropped {dropped:,}: {what}"


def _group_rows(
    plan: Sequence[Sequence[Reading]], reports: Sequence[Report], published: Counter[Kind]
) -> Iterator[Row]:
    members: dict[tuple[str, Reading], list[ReadingReport]] = {}
    for readings, report in zip(plan, reports, strict=True):
        for reading, found in zip(readings, report.readings, strict=True):
            if reading.group:
                members.setdefault((reading.group, reading), []).append(found)
    for (group, reading), found_by in members.items():
        expected = expected_of(reading, published)
        received = sum(found.received for found in found_by)
        dropped = sum(found.dropped for found in found_by)
        distinct = len(frozenset[tuple[str, int]]().union(*(found.ids for found in found_by)))
        faults = list(_difference(expected, received, dropped))
        if distinct + dropped != expected:
            faults.append(f"{expected:,} were published, but {distinct:,} different ones received")
        name = f"group {group}: {', '.join(reading.patterns)}"
        yield Row(
            node="all",
            name=name,
            expected=expected,
            received=received,
            dropped=dropped,
            count=received,
            faults=tuple(faults),
        )


def expected_of(reading: Reading, published: Counter[Kind]) -> int:
    """Return how many of the published events a reading, or its group, should get."""
    return sum(count for kind, count in published.items() if _wants(reading, kind))


def _wants(reading: Reading, kind: Kind) -> bool:
    namespace, event_type, actor_id = kind
    return (
        any(naive_match(pattern, namespace) for pattern in reading.patterns)
        and (not reading.event_types or event_type in reading.event_types)
        and (not reading.actor_pattern or naive_match(reading.actor_pattern, actor_id))
    )


def naive_match(pattern: str, name: str) -> bool:
    """Match token by token; deliberately not with the library's code."""
    wanted, given = pattern.split("."), name.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(map(fnmatchcase, given, wanted))
