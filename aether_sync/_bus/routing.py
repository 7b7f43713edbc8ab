"""Who gets an event: targets, queue groups, and the routes of a namespace.

A *target* is a subscription as the bus sees it. The bus holds targets, never subscriptions, so that a subscription can
be collected when its user drops it. A *route* is everything that is known about one namespace. Routes are computed
once, and kept until a target that is on them is added or removed. Reading a route takes no lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, compress, count

from .._arguments import check_choice, check_count, is_of
from .._codec.envelope import EnvelopeWriter
from .._runtime.locks import signal_safe_lock, tries
from .._runtime.reporter import Burst, Kind, Reporter
from .._values.counting import Count
from ..errors import InvalidOptionError
from ..events import Event
from ..metrics import QueueStats, SubscriptionStats
from ..patterns import Pattern, SubscriptionFilter, check_namespace, check_queue_group
from .bounded import Overflow
from .index import Index
from .queue import EventQueue

__all__ = [
    "Deliveries",
    "Frame",
    "Group",
    "Route",
    "Target",
    "Targets",
    "failed",
    "log_drops",
    "make_frame",
    "make_target",
]

_ROUTES_KEPT = 4_096  # namespaces; beyond that all routes are forgotten, and computed again when they are needed
# When a target is added or removed, up to so many routes are checked for whether it is on them, which costs a tenth of
# computing them. If there are more, all are forgotten.
_ROUTES_CHECKED = 256


@dataclass(eq=False, slots=True)
class Target:
    """A subscription as the bus sees it."""

    queue: EventQueue
    patterns: tuple[Pattern, ...]
    filter: SubscriptionFilter | None
    group: str | None
    left: bool = False  # whether the bus has removed it
    drops: Burst = field(default_factory=Burst, repr=False)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.queue.name

    @property
    def subject_patterns(self) -> list[str]:
        """The distinct patterns by which the server has to know it."""
        return list(dict.fromkeys(pattern.subject_pattern for pattern in self.patterns))

    def first_match(self, namespace: str) -> Pattern | None:
        """The first of its patterns that a namespace matches; events reach it through this one alone, and so once."""
        for pattern in self.patterns:
            if pattern.matches(namespace):
                return pattern
        return None

    def choose(self, events: Sequence[Event], sizes: Sequence[int]) -> tuple[Sequence[Event], Sequence[int]]:
        """Return the events that the filter lets pass, and their sizes."""
        if self.filter is None:
            return events, sizes
        passes = list(map(self.filter.matches, events))
        return list(compress(events, passes)), list(compress(sizes, passes))

    def stats(self, stats: QueueStats | None = None) -> SubscriptionStats:
        """Its statistics, from counts that were made before, or from counts made now."""
        stats = stats or self.queue.stats()
        return SubscriptionStats(
            patterns=tuple(pattern.text for pattern in self.patterns),
            queue_group=self.group,
            offered=stats.offered,
            delivered=stats.delivered,
            dropped=sum(stats.dropped.values()),
            dropped_by_reason=stats.dropped,
            pending=stats.pending,
            pending_bytes=stats.pending_bytes,
            high_water=stats.high_water,
        )


#: How encoded events of one namespace are sent to the server, in their envelope: a template of the command
#: ``PUB <subject> <#bytes>`` with its payload, to be filled with the payload's size, the event's position and the
#: encoded event; the number of bytes of the payload that are not the event; a function that gives the next position, to
#: any thread; and the length of the command's line, which servers limit.
Frame = tuple[bytes, int, Callable[[], int], int]


def make_frame(subject: str, namespace: str, writer: EnvelopeWriter, line: int) -> Frame:
    """Make the frame for a subject.

    Args:
        subject: Where the events are published.
        namespace: Their namespace.
        writer: Writes the envelopes of this node.
        line: The length of the command's line, in bytes.
    """
    template = b"PUB %b %%d\r\n%b\r\n" % (subject.encode().replace(b"%", b"%%"), writer.template(namespace))
    return template, writer.around(namespace), writer.positions.__next__, line


class Group:
    """The members of a queue group on this node. Each event goes to one of them, in turn."""

    __slots__ = ("_turns", "members", "name")

    def __init__(self, name: str, members: tuple[Target, ...], turns: Iterator[int]) -> None:
        self.name = name
        self.members = members
        self._turns = turns  # shared by all namespaces of the group; a count's next() is atomic, so any thread calls it

    def offer(self, event: Event, size: int) -> list[Target] | None:
        """Put an event into the queue of the member whose turn it is, or of the next one that has room for it.

        Returns:
            The members that dropped an event; None if all members are closed, so that none has the event.
        """
        turn, members = next(self._turns), self.members
        for step in range(len(members)):
            if members[(turn + step) % len(members)].queue.offer_if_room(event, size):
                return []
        for step in range(len(members)):
            member = members[(turn + step) % len(members)]
            if not member.queue.closed:
                return [member] if member.queue.offer((event,), (size,)) else []
        return None


@dataclass(eq=False, slots=True)
class Route:
    """What is known about one namespace.

    A publisher may use a route while subscriptions are added and removed. A subscription that replaces another is added
    before the other is closed. So if a queue turns out to be closed, the route is looked up again, and subscriptions
    that were added meanwhile get the events too. Each event thus reaches the old subscription or the new one.

    Attributes:
        namespace: What it is the route of.
        targets: The subscriptions outside queue groups that get its events.
        groups: The queue groups that get its events.
        is_wanted: Whether anyone in this process gets what is published under the namespace.
        frame: How what is published under it is sent to the server, where it leaves the process.
        tally: Counts what is published under it; None until something is.
    """

    namespace: str
    targets: tuple[Target, ...] = ()
    groups: tuple[Group, ...] = ()
    is_wanted: bool = False
    frame: Frame | None = None
    tally: Count | None = None

    def deliver(self, events: Sequence[Event], sizes: Sequence[int], routes: "Targets") -> list[Target]:
        """Put events into the queues.

        Args:
            events: In order.
            sizes: Their encoded sizes, in bytes.
            routes: Where the route can be looked up again.

        Returns:
            The targets that dropped events.
        """
        dropping: list[Target] = []
        is_one_shut = False
        for target in self.targets:
            queue = target.queue
            if target.filter is None:
                dropped = queue.offer(events, sizes)
            else:
                dropped = queue.offer(*target.choose(events, sizes))
            if dropped:
                dropping.append(target)
            if queue.closed:
                is_one_shut = True
        if is_one_shut:
            dropping += self._deliver_to_successors(events, sizes, routes)
        if self.groups:
            find = partial(routes.route, self.namespace)
            for group in self.groups:
                dropping += _share(group, events, sizes, find)
        return dropping

    def _deliver_to_successors(self, events: Sequence[Event], sizes: Sequence[int], routes: "Targets") -> list[Target]:
        """Put events into the queues of the targets that were added since this route was looked up."""
        dropping: list[Target] = []
        served = list(self.targets)
        while came := [target for target in routes.route(self.namespace).targets if target not in served]:
            served += came
            dropping += [target for target in came if target.queue.offer(*target.choose(events, sizes))]
        return dropping


def _share(group: Group, events: Sequence[Event], sizes: Sequence[int], find: Callable[[], Route]) -> list[Target]:
    """Put each event into the queue of one member of a group; returns the members that dropped an event."""
    dropping: list[Target] = []
    for event, size in zip(events, sizes, strict=True):
        while (dropped := group.offer(event, size)) is None:
            came = [one for one in find().groups if one.name == group.name and one.members != group.members]
            if not came:  # the event was chosen for a member that has left since
                group.members[0].queue.count_missed()
                dropped = []
                break
            (group,) = came
        dropping += dropped
    return dropping


class Deliveries:
    """Events gathered by their queues, so that each queue is locked once for all of its events."""

    __slots__ = ("_dropping", "_runs")

    def __init__(self) -> None:
        self._runs: list[tuple[Route, Callable[[], Route], Sequence[Event], Sequence[int]]] = []
        self._dropping: list[Target] = []

    def add(self, route: Route, find: Callable[[], Route], events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Gather events for the targets on their route; ``find()`` looks the route up again."""
        self._runs.append((route, find, events, sizes))
        for group in route.groups:
            self._dropping += _share(group, events, sizes, find)

    def hand_over(self) -> list[Target]:
        """Put what was gathered into the queues; returns the targets that dropped events."""
        done: set[tuple[Target, int]] = set()
        if len(self._runs) == 1 and self._offer_run(done):
            return self._dropping
        gathered = self._gather(done)
        while (left := self._offer(gathered)) is not None:
            for target, (_, _, numbers) in gathered.items():
                done.update((target, number) for number in numbers)
                if target is left:
                    break
            gathered = self._gather(done)
        return self._dropping

    def _offer_run(self, done: set[tuple[Target, int]]) -> bool:
        """Put the events of the only run into the queues, as most often, without a copy.

        Returns:
            Whether that is done; else a queue was closed, and ``done`` has the targets that have their events.
        """
        ((route, _, events, sizes),) = self._runs
        for target in route.targets:
            if target.queue.offer(*target.choose(events, sizes)):
                self._dropping.append(target)
            done.add((target, 0))
            if target.queue.closed:  # perhaps before it took them: then they are for its successor
                return False
        return True

    def _offer(self, gathered: "_Gathered") -> Target | None:
        """Put events into the queues; stop at the first one that is closed, and return its target."""
        for target, (events, sizes, _) in gathered.items():
            if target.queue.offer(events, sizes):
                self._dropping.append(target)
            if target.queue.closed:
                return target
        return None

    def _gather(self, done: set[tuple[Target, int]]) -> "_Gathered":
        """Return the events for each target, in order, without the runs in ``done``, which the target already has."""
        gathered: _Gathered = {}
        for number, (route, find, events, sizes) in enumerate(self._runs):
            targets = route.targets
            for target in targets:
                if target.queue.closed:
                    targets = (*targets, *(one for one in find().targets if one not in targets))
                    break
            for target in targets:
                if done and (target, number) in done:
                    continue
                mine = gathered.get(target)
                if mine is None:
                    mine = gathered[target] = [], [], []
                chosen, chosen_sizes = target.choose(events, sizes)
                mine[0].extend(chosen)
                mine[1].extend(chosen_sizes)
                mine[2].append(number)
        return gathered


#: For each target its events, their sizes, and the numbers of the runs that they come from.
_Gathered = dict[Target, tuple[list[Event], list[int], list[int]]]


def log_drops(dropping: Sequence[Target], reporter: Reporter) -> None:
    """Log the first drop of each burst."""
    for target in dropping:
        if target.drops.opens():
            dropped = target.stats().dropped_by_reason
            text = "subscription %s drops events: its threads are too slow for its queue (%s; %d dropped so far)"
            about = target.name, _full(target, dropped), sum(dropped.values())
            reporter.warning(Kind.DROPS, text, *about, subscription=target.name, counts=dict(dropped))


def failed(dropping: Sequence[Target]) -> list[Target]:
    """Those targets that ended by their overflow policy."""
    return [target for target in dropping if target.queue.failure is not None]


class Targets:
    """The targets of a bus, found by namespace. Any thread changes them, holding one lock."""

    def __init__(self, frame_of: Callable[[str], Frame | None]) -> None:
        self._frame_of = frame_of
        self.lock = signal_safe_lock()  # guards the fields below
        self._tries = tries(self.lock)
        self._index: Index[Target] = Index()
        self.routes: dict[str, Route] = {}  #: those that are known, for any thread to look up without the lock
        self._groups: dict[str, set[Target]] = {}  # by name
        self._turns: dict[str, Iterator[int]] = {}  # whose turn it is, by the name of a queue group

    def add(self, target: Target) -> None:
        """Add a target: it gets the events that are published from now on."""
        with self.lock:
            self._index.add(target, target.subject_patterns)
            if target.group is not None:
                self._groups.setdefault(target.group, set()).add(target)
            self._forget_routes(target)

    def remove(self, target: Target) -> None:
        """Remove a target: it gets no more events. Idempotent."""
        with self.lock:
            self._index.remove(target, target.subject_patterns)
            if target.group is not None:
                members = self._groups.get(target.group, set())
                members.discard(target)
                if not members:
                    self._groups.pop(target.group, None)
                    self._turns.pop(target.group, None)
            self._forget_routes(target)

    def route(self, namespace: str) -> Route:
        """Find the route of a namespace.

        Raises:
            InvalidNamespaceError: What was given is not a namespace.
        """
        if type(namespace) is str:
            route = self.routes.get(namespace)
            if route is not None:
                return route
        namespace = check_namespace(namespace)
        mine = False
        try:
            for mine in self._tries:  # no publisher waits for a lock: ``locks`` says why
                break
            if not mine:  # a target is being added or removed; then the slow way is taken, and the route is not kept
                return self._compute(namespace, self._index.everyone())
            state = self._index.state
            route = self._compute(namespace, self._index.find(namespace))
            if len(self.routes) >= _ROUTES_KEPT:
                self.routes = {}
            if self._index.state is state:  # else it is outdated: a handler's close() released the lock meanwhile
                self.routes[namespace] = route
            return route
        finally:
            if mine:
                self.lock.release()

    def _compute(self, namespace: str, candidates: Sequence[Target]) -> Route:
        frame = self._frame_of(namespace)
        if not candidates:
            return Route(namespace, frame=frame)
        targets: list[Target] = []
        by_name: dict[str, list[Target]] = {}  # the members of a group, by its name; their patterns may differ
        for target in candidates:
            if target.first_match(namespace) is not None:
                (targets if target.group is None else by_name.setdefault(target.group, [])).append(target)
        groups = [Group(name, tuple(them), self._turns.setdefault(name, count())) for name, them in by_name.items()]
        return Route(
            namespace,
            targets=tuple(targets),
            groups=tuple(groups),
            is_wanted=bool(targets or groups),
            frame=frame,
        )

    def _forget_routes(self, target: Target) -> None:
        if all(pattern.is_literal for pattern in target.patterns):
            old = [pattern.text for pattern in target.patterns]
        elif len(self.routes) <= _ROUTES_CHECKED:
            old = [namespace for namespace in list(self.routes) if target.first_match(namespace) is not None]
        else:
            self.routes = {}
            return
        for namespace in old:
            self.routes.pop(namespace, None)


def _full(target: Target, dropped: Mapping[str, int]) -> str:
    """Return the limits of a queue that were reached, as text."""
    limits = {"maxsize": target.queue.maxsize, "max_bytes": target.queue.max_bytes}
    return ", ".join(f"{name}={limit}" for name, limit in limits.items() if name in dropped)


def make_target(
    patterns: tuple[str, ...],
    filter: SubscriptionFilter | None,  # noqa: A002
    maxsize: int,
    max_bytes: int,
    overflow: str,
    queue_group: str | None,
    ended: Callable[[QueueStats], None],
) -> Target:
    """Check the arguments of ``subscribe()``, and make a target."""
    if not patterns:
        raise InvalidOptionError("subscribe() wants at least one pattern; '>' is every namespace")
    parsed = tuple(dict.fromkeys(map(Pattern.parse, patterns)))
    if filter is not None and type(filter) is not SubscriptionFilter:
        kind = type(filter).__name__
        if is_of(filter, SubscriptionFilter):
            kind = f"its subclass {kind}, whose code would run while events are delivered: test them in your own loop"
        raise InvalidOptionError(f"filter must be a SubscriptionFilter, not {kind}")
    maxsize = check_count("maxsize", maxsize)
    max_bytes = check_count("max_bytes", max_bytes)
    policy = check_choice("overflow", overflow, {one.value: one for one in Overflow})
    if queue_group is not None:
        queue_group = _check_group(queue_group, parsed, filter)
    if filter is not None and filter.is_empty:
        filter = None  # noqa: A001
    name = ", ".join(repr(pattern.text) for pattern in parsed)
    return Target(EventQueue(maxsize, max_bytes, policy, name, ended), parsed, filter, queue_group)


def _check_group(queue_group: str, patterns: Sequence[Pattern], filter: SubscriptionFilter | None) -> str:  # noqa: A002
    queue_group = check_queue_group(queue_group)
    if filter is not None and not filter.is_empty:
        raise InvalidOptionError("a queue group takes no filter: the server chooses the member before filters see it")
    for pattern in patterns:
        if pattern.has_glob:
            raise InvalidOptionError(
                f"a queue group takes no glob ({pattern.text!r}): the server chooses the member before globs see it"
            )
    for one, other in combinations(patterns, 2):
        if one.overlaps(other):
            raise InvalidOptionError(
                f"patterns of a queue group may not overlap: {one.text!r} and {other.text!r} would each get an event"
            )
    return queue_group
