"""Who gets an event: targets, queue groups, and the routes of a namespace.

A *target* is a subscription as the bus sees it. The bus holds targets, never subscriptions, so a subscription that its
user drops can be collected. A *route* is everything known about one namespace; routes are computed once and kept until
a target comes or goes that is on them. Reading a route takes no lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, compress, count

from .._arguments import check_choice, check_count, is_of
from .._codec.envelope import EnvelopeWriter
from .._runtime.locks import signal_safe_lock, tries
from .._runtime.reporter import Burst, Kind, Reporter
from ..errors import InvalidOptionError
from ..events import Event
from ..metrics import QueueStats, SubscriptionStats
from ..patterns import Pattern, SubscriptionFilter, check_namespace, check_queue_group
from .counting import NamespaceCount
from .index import Index
from .queue import EventQueue, Overflow

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

_ROUTES_KEPT = 4_096  # namespaces; then all are forgotten and computed again when needed
_ROUTES_ASKED = 256  # whether a change concerns them, which costs a tenth of computing them; of more, all are forgotten


@dataclass(eq=False, slots=True)
class Target:
    """A subscription as the bus sees it."""

    queue: EventQueue
    patterns: tuple[Pattern, ...]
    filter: SubscriptionFilter | None
    group: str | None
    left: bool = False  # the bus has let go of it
    drops: Burst = field(default_factory=Burst, repr=False)

    @property
    def name(self) -> str:
        """What it is called in a message."""
        return self.queue.name

    @property
    def subject_patterns(self) -> list[str]:
        """The distinct patterns that it needs on the server."""
        return list(dict.fromkeys(pattern.subject_pattern for pattern in self.patterns))

    def first_match(self, namespace: str) -> Pattern | None:
        """The first of its patterns that a namespace matches: the one through which an event reaches it, once."""
        for pattern in self.patterns:
            if pattern.matches(namespace):
                return pattern
        return None

    def choose(self, events: Sequence[Event], sizes: Sequence[int]) -> tuple[Sequence[Event], Sequence[int]]:
        """Return those events, and their sizes, that the filter lets pass."""
        if self.filter is None:
            return events, sizes
        passes = list(map(self.filter.matches, events))
        return list(compress(events, passes)), list(compress(sizes, passes))

    def stats(self, stats: QueueStats | None = None) -> SubscriptionStats:
        """What went through it, of its queue now or as counted before."""
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


#: How encoded events go to the server, in their envelope: the command ``PUB <subject> <#bytes>`` and the payload, as a
#: template for the payload's bytes, the event's position and the encoded event; how many bytes of the payload are not
#: the event; what gives each event its position, to any thread; and the length of the command's line, as servers limit
#: it.
Frame = tuple[bytes, int, Callable[[], int], int]


def make_frame(subject: str, namespace: str, writer: EnvelopeWriter, line: int) -> Frame:
    """Make the one for a subject, of what a node's writer says of a namespace."""
    template = b"PUB %b %%d\r\n%b\r\n" % (subject.encode().replace(b"%", b"%%"), writer.template(namespace))
    return template, writer.around(namespace), writer.positions.__next__, line


class Group:
    """Members of a queue group: each event goes to one of them, in turn."""

    __slots__ = ("_turns", "members", "name")

    def __init__(self, name: str, members: tuple[Target, ...], turns: Iterator[int]) -> None:
        self.name = name
        self.members = members
        self._turns = turns  # shared by all namespaces of the group; next() of a count is atomic: any thread takes one

    def offer(self, event: Event, size: int) -> list[Target] | None:
        """Give an event to the member whose turn it is, or to a neighbour with room.

        Returns:
            Who dropped one; None if all members are closed, so that nobody has it.
        """
        turn = next(self._turns)
        members = [self.members[(turn + step) % len(self.members)] for step in range(len(self.members))]
        for member in members:
            if member.queue.offer_if_room(event, size):
                return []
        for member in members:
            if not member.queue.is_shut:
                return [member] if member.queue.offer((event,), (size,)) else []
        return None


@dataclass(eq=False, slots=True)
class Route:
    """What is known about one namespace.

    Who hands events over by a route may hold it while others come and go. A subscription that replaces another one is
    there before that is closed. So where a queue is found closed, the route is looked up again, and who has come since
    then gets the events, too: each of them reaches the old one or the new one.
    """

    namespace: str
    targets: tuple[Target, ...] = ()
    groups: tuple[Group, ...] = ()
    is_wanted: bool = False  # whether anyone here has what is published under it
    frame: Frame | None = None  # of what is published under it, where that leaves the process
    tally: NamespaceCount | None = None  # of what is published under it, once something is

    def deliver(self, events: Sequence[Event], sizes: Sequence[int], routes: "Targets") -> list[Target]:
        """Put events into the queues.

        Args:
            events: In order.
            sizes: Theirs, encoded, in bytes.
            routes: Where the route is found as it is now.

        Returns:
            The targets that dropped some.
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
            if queue.is_shut:
                is_one_shut = True
        if is_one_shut:
            dropping += self._deliver_to_successors(events, sizes, routes)
        if self.groups:
            find = partial(routes.route, self.namespace)
            for group in self.groups:
                dropping += _share(group, events, sizes, find)
        return dropping

    def _deliver_to_successors(self, events: Sequence[Event], sizes: Sequence[int], routes: "Targets") -> list[Target]:
        """Put events into the queues of those who came since this route was looked up."""
        dropping: list[Target] = []
        served = list(self.targets)
        while came := [target for target in routes.route(self.namespace).targets if target not in served]:
            served += came
            dropping += [target for target in came if target.queue.offer(*target.choose(events, sizes))]
        return dropping


def _share(group: Group, events: Sequence[Event], sizes: Sequence[int], find: Callable[[], Route]) -> list[Target]:
    """Give each event to one member of a group; returns who dropped one."""
    dropping: list[Target] = []
    for event, size in zip(events, sizes, strict=True):
        while (dropped := group.offer(event, size)) is None:
            came = [one for one in find().groups if one.name == group.name and one.members != group.members]
            if not came:  # it was chosen for one who has left since
                group.members[0].queue.miss()
                dropped = []
                break
            (group,) = came
        dropping += dropped
    return dropping


class Deliveries:
    """Events gathered for their queues, so that each queue is locked once for all of them."""

    __slots__ = ("_dropping", "_runs")

    def __init__(self) -> None:
        self._runs: list[tuple[Route, Callable[[], Route], Sequence[Event], Sequence[int]]] = []
        self._dropping: list[Target] = []

    def add(self, route: Route, find: Callable[[], Route], events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Gather events for everyone on their route whose filter lets them pass; ``find()`` looks it up again."""
        self._runs.append((route, find, events, sizes))
        for group in route.groups:
            self._dropping += _share(group, events, sizes, find)

    def hand_over(self) -> list[Target]:
        """Put what was gathered into the queues; returns the targets that dropped some."""
        done: set[tuple[Target, int]] = set()
        gathered = self._gather(done)
        while (left := self._offer(gathered)) is not None:
            for target, (_, _, numbers) in gathered.items():
                done.update((target, number) for number in numbers)
                if target is left:
                    break
            gathered = self._gather(done)
        return self._dropping

    def _offer(self, gathered: "_Gathered") -> Target | None:
        """Put events into queues until one is found closed: that target is returned."""
        for target, (events, sizes, _) in gathered.items():
            if target.queue.offer(events, sizes):
                self._dropping.append(target)
            if target.queue.is_shut:
                return target
        return None

    def _gather(self, done: set[tuple[Target, int]]) -> "_Gathered":
        """Return what is for each target, in order, but for those runs that it has had."""
        gathered: _Gathered = {}
        for number, (route, find, events, sizes) in enumerate(self._runs):
            targets = route.targets
            for target in targets:
                if target.queue.is_shut:
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


#: Events for each target, their sizes, and the numbers of the runs that they are of.
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
    """Those that ended by their overflow policy."""
    return [target for target in dropping if target.queue.failure is not None]


class Targets:
    """The targets of a bus, found by namespace. Changes are made by any thread, under one lock."""

    def __init__(self, frame_of: Callable[[str], Frame | None]) -> None:
        self._frame_of = frame_of
        self.lock = signal_safe_lock()  # guards the fields below; routes are read without it
        self._index: Index[Target] = Index()
        self._routes: dict[str, Route] = {}
        self._groups: dict[str, set[Target]] = {}  # by name
        self._turns: dict[str, Iterator[int]] = {}  # by the name of a queue group

    def add(self, target: Target) -> None:
        """Let a target have the events published from now on."""
        with self.lock:
            self._index.add(target, target.subject_patterns)
            if target.group is not None:
                self._groups.setdefault(target.group, set()).add(target)
            self._forget_routes(target)

    def remove(self, target: Target) -> None:
        """Let a target have no more. Idempotent."""
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
            InvalidNamespaceError: It is none.
        """
        if type(namespace) is str:
            route = self._routes.get(namespace)
            if route is not None:
                return route
        namespace = check_namespace(namespace)
        mine = False
        try:
            for mine in tries(self.lock):  # without waiting: see locks.tries
                break
            if not mine:  # somebody comes or goes just now: then it is computed in the slow way, and not kept
                return self._compute(namespace, self._index.everyone())
            state = self._index.state
            route = self._compute(namespace, self._index.find(namespace))
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes = {}
            if self._index.state is state:  # else it is old: a handler's close() let others come
                self._routes[namespace] = route
            return route
        finally:
            if mine:
                self.lock.release()

    def _compute(self, namespace: str, candidates: Sequence[Target]) -> Route:
        targets: list[Target] = []
        by_name: dict[str, list[Target]] = {}  # members of groups, as for the server, whichever patterns they have
        for target in candidates:
            if target.first_match(namespace) is not None:
                (targets if target.group is None else by_name.setdefault(target.group, [])).append(target)
        groups = [Group(name, tuple(them), self._turns.setdefault(name, count())) for name, them in by_name.items()]
        return Route(
            namespace,
            targets=tuple(targets),
            groups=tuple(groups),
            is_wanted=bool(targets or groups),
            frame=self._frame_of(namespace),
        )

    def _forget_routes(self, target: Target) -> None:
        if all(pattern.is_literal for pattern in target.patterns):
            old = [pattern.text for pattern in target.patterns]
        elif len(self._routes) <= _ROUTES_ASKED:
            old = [namespace for namespace in list(self._routes) if target.first_match(namespace) is not None]
        else:
            self._routes = {}
            return
        for namespace in old:
            self._routes.pop(namespace, None)


def _full(target: Target, dropped: Mapping[str, int]) -> str:
    """Say which limits of a queue were reached."""
    limits = {"maxsize": target.queue.limit, "max_bytes": target.queue.max_bytes}
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
    """Check what subscribe() was given, and make a target of it."""
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
