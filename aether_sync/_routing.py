"""Who gets an event: targets, queue groups, and the routes of a namespace.

A *target* is a subscription as the bus sees it. The bus holds targets, never subscriptions, so a subscription that its
user drops can be collected. A *route* is everything known about one namespace; routes are computed once and kept until
a target comes or goes that is on them. Reading a route takes no lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, compress, count

from ._checks import check_choice, check_count, is_of
from ._index import Index
from ._queues import EventQueue, Overflow
from ._reporter import Burst, Kind, Reporter
from ._waiting import NOW, guard
from .errors import InvalidOptionError
from .events import Event
from .metrics import QueueStats, SubscriptionStats, Tally
from .patterns import Pattern, SubscriptionFilter, check_namespace, check_queue_group

__all__ = ["Deliveries", "Frame", "Group", "Route", "Target", "Targets", "failed", "log_drops", "make_target"]

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


class Frame:
    r"""How encoded events go to the server, in their envelope: ``PUB <subject> <#bytes>\r\n<payload>\r\n``.

    Args:
        subject: Where to.
        envelope: What stands before the event in the payload; behind it stands ``}``.
        line: How long its command's line is, as servers limit it.

    Attributes:
        template: The command, for the bytes of the payload and the encoded event.
        around: Bytes of a payload that are not the event.
        line: As given.
    """

    __slots__ = ("around", "line", "template")

    def __init__(self, subject: str, envelope: bytes, line: int) -> None:
        fixed = [part.replace(b"%", b"%%") for part in (subject.encode(), envelope)]
        self.template = b"PUB %b %%d\r\n%b%%b}\r\n" % tuple(fixed)
        self.around = len(envelope) + 1
        self.line = line


class Group:
    """Members of a queue group: each event goes to one of them, in turn."""

    __slots__ = ("_turns", "members")

    def __init__(self, members: tuple[Target, ...], turns: Iterator[int]) -> None:
        self.members = members
        self._turns = turns  # shared by all namespaces of the group; next() of a count is atomic: any thread takes one

    def offer(self, event: Event, size: int) -> list[Target]:
        """Give an event to the member whose turn it is, or to a neighbour with room; who dropped one is returned."""
        turn = next(self._turns)
        for step in range(len(self.members)):
            if self.members[(turn + step) % len(self.members)].queue.offer_if_room(event, size):
                return []
        turn %= len(self.members)
        return self._drop(event, size, self.members[turn:] + self.members[:turn])

    def _drop(self, event: Event, size: int, in_turn: Sequence[Target]) -> list[Target]:
        """Let the first that is open drop one; if none is, the event was chosen for them before they had left."""
        for target in in_turn:
            if not target.queue.is_shut:
                return [target] if target.queue.offer((event,), (size,)) else []
        in_turn[0].queue.miss()
        return []


@dataclass(eq=False, slots=True)
class Route:
    """What is known about one namespace."""

    namespace: str
    targets: tuple[Target, ...] = ()
    groups: tuple[Group, ...] = ()
    is_wanted: bool = False  # whether anyone here has what is published under it
    frame: Frame | None = None  # of what is published under it, where that leaves the process
    tally: Tally | None = None  # of what is published under it, once something is

    def deliver(self, events: Sequence[Event], sizes: Sequence[int]) -> list[Target]:
        """Put events into the queues; returns the targets that dropped some."""
        dropping = []
        for target in self.targets:
            if target.filter is None:
                dropped = target.queue.offer(events, sizes)
            else:
                dropped = target.queue.offer(*target.choose(events, sizes))
            if dropped:
                dropping.append(target)
        for group in self.groups:
            for event, size in zip(events, sizes, strict=True):
                dropping += group.offer(event, size)
        return dropping


class Deliveries:
    """Events gathered for their queues, so that each queue is locked once for all of them."""

    __slots__ = ("_by_target", "_dropping")

    def __init__(self) -> None:
        self._by_target: dict[Target, tuple[list[Event], list[int]]] = {}
        self._dropping: list[Target] = []

    def add(self, route: Route, events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Gather events for everyone on their route whose filter lets them pass."""
        for target in route.targets:
            gathered = self._by_target.get(target)
            if gathered is None:
                gathered = self._by_target[target] = [], []
            chosen, chosen_sizes = target.choose(events, sizes)
            gathered[0].extend(chosen)
            gathered[1].extend(chosen_sizes)
        for group in route.groups:
            for event, size in zip(events, sizes, strict=True):
                self._dropping += group.offer(event, size)

    def hand_over(self) -> list[Target]:
        """Put what was gathered into the queues; returns the targets that dropped some."""
        for target, (events, sizes) in self._by_target.items():
            if target.queue.offer(events, sizes):
                self._dropping.append(target)
        return self._dropping


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
        self._lock = guard()  # guards the fields below; routes are read without it
        self._index: Index[Target] = Index()
        self._routes: dict[str, Route] = {}
        self._groups: dict[str, set[Target]] = {}  # by name
        self._turns: dict[str, Iterator[int]] = {}  # by the name of a queue group

    def add(self, target: Target) -> None:
        """Let a target have the events published from now on."""
        with self._lock:
            self._index.add(target, target.subject_patterns)
            if target.group is not None:
                self._groups.setdefault(target.group, set()).add(target)
            self._forget_routes(target)

    def remove(self, target: Target) -> None:
        """Let a target have no more. Idempotent."""
        with self._lock:
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
            (mine,) = map(self._lock.acquire, NOW)  # nobody waits who publishes: see _waiting
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
                self._lock.release()

    def _compute(self, namespace: str, candidates: Sequence[Target]) -> Route:
        targets: list[Target] = []
        by_name: dict[str, list[Target]] = {}  # members of groups, as for the server, whichever patterns they have
        for target in candidates:
            if target.first_match(namespace) is not None:
                (targets if target.group is None else by_name.setdefault(target.group, [])).append(target)
        groups = [Group(tuple(them), self._turns.setdefault(name, count())) for name, them in by_name.items()]
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
    if filter is not None and not is_of(filter, SubscriptionFilter):
        raise InvalidOptionError(f"filter must be a SubscriptionFilter, not {type(filter).__name__}")
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
