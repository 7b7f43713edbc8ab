"""``Exporter``: the registered objects, and the sums of what they say.

Objects are known by weak references: being registered keeps nothing alive. What a closed or collected object has
counted stays in the sums, so that no counter goes down while the program lives. Python collects an object whenever it
likes, also between its last event and the exit handlers; so its counters are kept for as long as it is registered, and
are read once more when it is collected. A connection has no such counters: of one that is collected, the sums have what
it said when it was looked at last.
"""

import weakref
from collections.abc import Callable, Hashable
from itertools import repeat
from operator import add, sub
from typing import Any

from ..._runtime.locks import signal_safe_lock
from ..._runtime.reporter import Kind, Reporter
from ..._values.shown import explained, short
from ...errors import InvalidOptionError
from ...metrics import OTHER_NAMESPACES
from ...stores.consumers.base import ConsumerState
from . import _families as families
from ._families import Series
from ._reading import Numbers, Reading, named

__all__ = ["Answer", "Exporter", "Source"]

_SERIES_KEPT = 2_000  # of objects that are gone: twice what a bus counts by namespace


class Answer:
    """What the server said last of a durable consumer; None if it could not say.

    Args:
        consumer: The name of the consumer.
    """

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.state: ConsumerState | None = None  # written by the thread that asks


class Source:
    """One registered object. What it has in ``above`` is the key of its connection, if it has one.

    Args:
        key: Tells it from all others that live.
        thing: The object; of a durable consumer, its store.
        kind: A word for the label of errors.
        name: What it is registered as.
        read: Returns what it says.
        last: Returns what it has counted, also when it is collected; None if it has no such counters.
        answer: Where the server's answers are kept, if the object is asked for by a thread of its own.
        survives_fork: Whether a forked child may use it.
    """

    __slots__ = (
        "above", "answer", "base", "borrowed", "counts", "gauges", "key", "kind", "last", "name", "read", "ref",
        "survives_fork", "users",
    )  # fmt: skip

    def __init__(
        self,
        key: Hashable,
        thing: Any,
        kind: str,
        name: str,
        read: Callable[[Any, str], Reading],
        last: Callable[[str], Reading] | None = None,
        answer: "Answer | None" = None,
        survives_fork: bool = True,
    ) -> None:
        self.key = key
        self.kind = kind
        self.name = name
        self.read = read
        self.last = last
        self.above: Hashable = None
        self.answer = answer
        self.survives_fork = survives_fork
        self.users = 0  # registrations
        self.base: dict[Series, Numbers] = {}  # what is shown under the names that it was registered as before
        self.counts: dict[Series, Numbers] = {}  # with that
        self.gauges: dict[Series, float] = {}
        self.borrowed: dict[Series, float] = {}  # gauges of a connection that its buses know
        self.ref = weakref.ref(thing)

    def forget(self) -> None:
        """Know nothing, as in a forked child, where the object has done nothing yet."""
        self.base, self.counts, self.gauges, self.borrowed = {}, {}, {}, {}
        if self.answer is not None:
            self.answer.state = None


class Exporter:
    """The registered objects. Any thread may use it.

    No object is read under the lock: it may be of a user's class.
    """

    def __init__(self) -> None:
        self.reporter = Reporter()
        weakref.finalize(self, self.reporter.end).atexit = False
        self._lock = signal_safe_lock()  # guards the fields below, and those of the sources
        self._sources: dict[Hashable, Source] = {}
        self._gone: dict[Series, Numbers] = {}  # what objects have counted that are not registered any more
        self._errors: dict[str, int] = {}  # by kind of object
        self.has_work = False  # in a forked child: whether any object has done something

    def begin_anew(self) -> None:
        """Begin with zeros in a forked child, whose objects do so as well."""
        sources = [one for one in list(self._sources.values()) if one.survives_fork and one.ref() is not None]
        for one in sources:
            one.forget()
        self._sources = {one.key: one for one in sources}
        self._gone, self._errors, self.has_work = {}, {}, False

    # -- what is registered

    def add(self, sources: list[Source]) -> list[Source]:
        """Register objects, all or none; those that are registered already count once more.

        Raises:
            InvalidOptionError: One is registered under another name.
        """
        with self._lock:
            self._bury()
            other = next(filter(None, map(self._under_another_name, sources)), None)
            added = [] if other is not None else [self._add(one) for one in sources]
        if other is not None:
            raise InvalidOptionError(
                f"{short(other.ref())} is registered as name={short(other.name)} already: unregister that first, or "
                "give the same name"
            )
        return added

    def _under_another_name(self, source: Source) -> Source | None:
        known = self._sources.get(source.key)
        is_other = known is not None and known.users and known.name != source.name and known.kind != "connection"
        return known if is_other else None

    def _add(self, source: Source) -> Source:
        known = self._sources.get(source.key)
        if known is not None and not known.users and known.name != source.name:
            source.base = named(known.counts, source.name)
            source.counts = source.base.copy()
            self._fold(known)
            known = None
        if known is None:
            known = self._sources[source.key] = source
        known.users += 1
        return known

    def remove(self, sources: list[Source]) -> None:
        """End a registration. What its objects have counted by now stays in the sums."""
        self._look_at([one for one in sources if one.users == 1])
        with self._lock:
            self._bury()
            for one in sources:
                one.users -= 1
                if not one.users:  # its counts are kept with it, in case that it is registered again
                    self._drop_gauges(one)

    @property
    def is_in_use(self) -> bool:
        """Whether an object that lives is registered."""
        return any(one.users and one.ref() is not None for one in list(self._sources.values()))

    def things(self, kind: str) -> list[Source]:
        """Return the registered objects of a kind."""
        return [one for one in list(self._sources.values()) if one.kind == kind and one.users]

    def _bury(self) -> None:
        """Let go of what was collected.

        Accepted race: a queue that is collected together with its bus says its counts a moment later, and they are lost
        if another thread comes here in between.
        """
        dead = [one for one in self._sources.values() if one.ref() is None]
        for one in dead:
            if one.last is not None:
                self._merge(one, one.last(one.name))
        for one in dead:
            self._fold(one)

    def _fold(self, source: Source) -> None:
        """Keep what an object has counted, and forget the object."""
        self._sources.pop(source.key, None)
        for series, numbers in _shown(source).items():
            kept = series
            if series not in self._gone and len(self._gone) >= _SERIES_KEPT:
                if series.family is not families.BUS_PUBLISHED:
                    continue  # the series ends
                kept = Series(series.family, (*series.labels[:-1], OTHER_NAMESPACES))
            self._gone[kept] = _sum(self._gone.get(kept), numbers)
        source.base, source.counts = {}, {}
        self._drop_gauges(source)

    def _drop_gauges(self, source: Source) -> None:
        source.gauges, source.borrowed = {}, {}
        above = self._sources.get(source.above)
        if above is not None:
            above.borrowed = {}  # another bus on the connection says it again

    # -- what they say

    def look(self) -> None:
        """Read all objects. One that cannot be read is counted and logged, and keeps its counts."""
        with self._lock:
            self._bury()
            sources = [one for one in self._sources.values() if one.users]
        self._look_at(sources)

    def _look_at(self, sources: list[Source]) -> None:
        for one in sources:
            thing = one.ref()
            if thing is None:
                continue
            try:
                reading = one.read(thing, one.name)
            except Exception as error:
                self.count_error(one, thing, error)
                continue
            with self._lock:
                self._merge(one, reading)

    def _merge(self, source: Source, reading: Reading) -> None:
        """Take a reading of an object that is still registered."""
        if self._sources.get(source.key) is not source or not source.users:
            return
        _merge_counts(source.counts, reading.counts)
        source.gauges = reading.gauges
        self.has_work = self.has_work or any(map(any, reading.counts.values())) or any(reading.gauges.values())
        above = self._sources.get(source.above)
        if reading.of_connection is not None and above is not None and above.users:
            below = reading.of_connection.as_(above.name)
            _merge_counts(above.counts, below.counts)
            above.borrowed = below.gauges

    def count_error(self, source: Source, thing: object, error: Exception) -> None:
        """Count and log that an object could not be read."""
        with self._lock:
            self._errors[source.kind] = self._errors.get(source.kind, 0) + 1
            source.gauges = {}
        text = "the metrics of %s cannot be read: %s"
        self.reporter.burst(Kind.EXPORT_FAILED, text, short(thing), explained(error), about=source.kind)

    # -- the sums

    def counts(self) -> dict[Series, Numbers]:
        """Return all counters and histograms, summed over the objects that have the same labels."""
        with self._lock:
            found = dict(self._gone)
            for one in self._sources.values():
                for series, numbers in _shown(one).items():
                    found[series] = _sum(found.get(series), numbers)
            for kind, errors in self._errors.items():
                found[Series(families.EXPORT_ERRORS, (kind,))] = (errors,)
        return found

    def gauges(self) -> dict[Series, float]:
        """Return all gauges, summed over these objects, or the greatest of theirs."""
        found: dict[Series, float] = {}
        with self._lock:
            for one in self._sources.values():
                for series, value in [*one.gauges.items(), *one.borrowed.items()]:
                    if series not in found:
                        found[series] = value
                    elif series.family.combine == "sum":
                        found[series] += value
                    else:
                        found[series] = max(found[series], value)
        return found


def _sum(some: Numbers | None, others: Numbers) -> Numbers:
    return others if some is None else tuple(map(add, some, others))


def _shown(source: Source) -> dict[Series, Numbers]:
    """Return what an object has counted that is not shown under another name."""
    if not source.base:
        return source.counts
    zeros = repeat(0.0)
    return {one: tuple(map(sub, numbers, source.base.get(one, zeros))) for one, numbers in source.counts.items()}


def _merge_counts(known: dict[Series, Numbers], read: dict[Series, Numbers]) -> None:
    for series, numbers in read.items():
        before = known.get(series)
        known[series] = numbers if before is None else tuple(map(max, before, numbers))
