"""``Published``: the events that a bus publishes during a test, and what a test expects of them."""

from collections.abc import Iterator, Mapping
from typing import Any, Never

from .._arguments import check_int, check_known, is_mapping, is_of
from .._runtime.closing import Startable
from .._runtime.deadline import Deadline
from .._values.shown import short
from ..bus import EventBus
from ..errors import InvalidOptionError, SubscriptionClosedError, SubscriptionOverflowError
from ..event_types import EventTypes
from ..events import Event
from ..patterns import Pattern, SubscriptionFilter
from ..subscription import Subscription

__all__ = ["Published"]

_ASKED = ("event_type", "namespace", "actor_id", "version", "data", "metadata", "within")
_SHOWN = 10  # events that a message shows with their differences, the nearest ones
_AT_ONCE = 1_000  # events that are taken from the subscription at a time


class Published(Startable):
    """Records what is published on a bus, from :meth:`start`, or the start of a ``with`` block, to the end of it.

    Each event that :meth:`expect` returns is expected by that, and :meth:`nothing` looks at the others. It has no
    thread: the methods take the events from a subscription. They are for one thread at a time.

    Args:
        bus: The bus. Of a ``NATSEventBus`` all events with its prefix are recorded, whichever node publishes them.
        *patterns: Which namespaces to record, as ``subscribe()`` takes them; all if none is given.

    Raises:
        InvalidOptionError: ``bus`` is not a bus.
        InvalidNamespaceError: A pattern is not valid.
    """

    def __init__(self, bus: EventBus, *patterns: str) -> None:
        if not is_of(bus, EventBus):
            raise InvalidOptionError(f"bus must be an EventBus or a NATSEventBus, not {short(bus)}")
        self._bus = bus
        self._patterns = [Pattern.parse(one).text for one in patterns] or [">"]
        self._subscription: Subscription | None = None
        self._events: list[Event] = []
        self._unexpected: list[Event] = []

    def start(self) -> None:
        """Begin to record: what is published after the return is recorded. A second call does nothing."""
        if self._subscription is None:
            self._subscription = self._bus.subscribe(*self._patterns, overflow="fail")

    def close(self) -> None:
        """Record nothing more."""
        if self._subscription is not None:
            self._subscription.close()

    # -- what a test asks

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far, in the order in which they came."""
        self._collect(0.0)
        return tuple(self._events)

    @property
    def unexpected(self) -> tuple[Event, ...]:
        """Those events that :meth:`expect` has not returned, in the order in which they came."""
        self._collect(0.0)
        return tuple(self._unexpected)

    def clear(self) -> None:
        """Forget all events so far, as after the preparations of a test."""
        self._collect(0.0)
        self._events.clear()
        self._unexpected.clear()

    def expect(
        self,
        event_type: str | type | None = None,
        *,
        namespace: str | None = None,
        actor_id: str | None = None,
        version: int | None = None,
        data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        within: float | None = 5.0,
        **unknown: Never,
    ) -> Event:
        """Wait for an event, unless it has been published already, and return it. No event is returned twice.

        Of several that fit it returns the first. The order of several calls does not matter.

        Args:
            event_type: Its type: a name, or a class that the ``types`` of the bus know. None for any.
            namespace: A pattern of its namespace, as ``subscribe()`` takes it. None for any.
            actor_id: Its actor, or a pattern such as ``"order-*"``. None for any.
            version: Its version. None for any.
            data: Keys that its data has, with their values; it may have others. A dict within is compared likewise.
                None for any.
            metadata: Likewise of its metadata. None for any.
            within: Seconds to wait; 0 does not wait, None waits for ever.
            **unknown: There is nothing else to ask for: the error says what a misspelt name may mean.

        Returns:
            The event.

        Raises:
            AssertionError: It was not published in time. The message shows the events that were, and in what the
                nearest ones differ.
            InvalidOptionError: An argument is of the wrong type or out of its range.
            InvalidNamespaceError: A pattern is not valid.
            SubscriptionOverflowError: More events were published than a subscription queues.
        """
        __tracebackhide__ = True
        check_known("an event cannot be asked for by", unknown, _ASKED)
        wanted = _Wanted(self._bus.types, event_type, namespace, actor_id, version, data, metadata)
        deadline = Deadline(within)
        found = self._await(wanted, deadline)
        if found is None:
            raise AssertionError(self._not_published(wanted, deadline))
        self._unexpected = [one for one in self._unexpected if one is not found]
        return found

    def nothing(
        self,
        event_type: str | type | None = None,
        *,
        namespace: str | None = None,
        actor_id: str | None = None,
        version: int | None = None,
        data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        within: float | None = 0.1,
        **unknown: Never,
    ) -> None:
        """Check that no event was published that :meth:`expect` has not returned, and that none comes.

        Args:
            event_type: As for :meth:`expect`; events that do not fit may come.
            namespace: Likewise.
            actor_id: Likewise.
            version: Likewise.
            data: Likewise.
            metadata: Likewise.
            within: Seconds to wait for what should not come. What this process has published is there already, so the
                default is for the threads of the program, and for other nodes.
            **unknown: As for :meth:`expect`.

        Raises:
            AssertionError: There was one.
            InvalidOptionError: As for :meth:`expect`.
            InvalidNamespaceError: As for :meth:`expect`.
            SubscriptionOverflowError: As for :meth:`expect`.
        """
        __tracebackhide__ = True
        check_known("an event cannot be asked for by", unknown, _ASKED)
        wanted = _Wanted(self._bus.types, event_type, namespace, actor_id, version, data, metadata)
        if self._await(wanted, Deadline(within)) is not None:
            which = [one for one in self._unexpected if not wanted.differences(one)]
            lines = [f"  {_line(one)}, data={short(one.data)}" for one in which[:_SHOWN]]
            more = [f"  ... and {len(which) - _SHOWN} more"] if len(which) > _SHOWN else []
            raise AssertionError("\n".join([f"published on {self._bus!r}, and not expected:", *lines, *more]))

    # -- how

    def _collect(self, timeout: float | None) -> bool:
        """Take what has come, waiting for the first event; return whether there was one."""
        if self._subscription is None:
            raise InvalidOptionError(f"{self!r} does not record yet: call start(), or use it in a `with` statement")
        has_come = False
        try:
            while batch := self._subscription.get_batch(_AT_ONCE, timeout):
                self._events += batch
                self._unexpected += batch
                has_come, timeout = True, 0.0
        except SubscriptionOverflowError:
            raise
        except SubscriptionClosedError:  # with the bus, perhaps: no more will come, and what came stays
            pass
        return has_come

    def _await(self, wanted: "_Wanted", deadline: Deadline) -> Event | None:
        """Return the first event that fits and is not expected yet; None if none comes in time."""
        looked_at = 0
        self._collect(0.0)
        while True:
            for one in self._unexpected[looked_at:]:
                if not wanted.differences(one):
                    return one
            looked_at = len(self._unexpected)
            if not self._collect(deadline.timeout_left()):
                return None

    def _not_published(self, wanted: "_Wanted", deadline: Deadline) -> str:
        lines = [f"no event was published on {self._bus!r} within {deadline} with {wanted}"]
        if self._bus.closed:
            lines.append(f"{self._bus!r} is closed, and publishes no more")
        if not self._events:
            return "\n".join([*lines, "nothing was published at all"])
        if expected := len(self._events) - len(self._unexpected):
            lines.append(f"besides what earlier calls have expected ({expected}), these were published:")
        else:
            lines.append("these were published:")
        nearest = sorted(self._unexpected, key=lambda one: len(wanted.differences(one)))  # it keeps their order
        if not nearest:
            lines.append("  none")
        for one in nearest[:_SHOWN]:
            lines.append(f"  {_line(one)}")
            lines += [f"    {difference}" for difference in wanted.differences(one)]
        if len(nearest) > _SHOWN:
            lines.append(f"  ... and {len(nearest) - _SHOWN} that differ more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Published of {self._bus!r} with {len(self._events)} events>"


def _line(event: Event) -> str:
    version = f" version {event.version}" if event.version else ""
    return f"{short(event.event_type)} of {short(event.actor_id)}{version} in {short(event.namespace)}"


class _Wanted:
    """Which event is asked for."""

    def __init__(
        self,
        types: EventTypes | None,
        event_type: object,
        namespace: object,
        actor_id: object,
        version: object,
        data: object,
        metadata: object,
    ) -> None:
        named = [] if event_type is None else [event_type]
        self._filter = SubscriptionFilter(
            event_types=named,  # type: ignore[arg-type]  # it checks these
            actor_pattern=actor_id,  # type: ignore[arg-type]
            types=types,
        )
        self._namespace = None if namespace is None else Pattern.parse(namespace)  # type: ignore[arg-type]
        self._version = None if version is None else check_int("version", version, 0)
        self._mappings = {
            name: _checked(name, value) for name, value in (("data", data), ("metadata", metadata)) if value is not None
        }

    def differences(self, event: Event) -> list[str]:
        """Return a line for everything in which an event is not what is asked for."""
        return list(self._differ(event))

    def _differ(self, event: Event) -> Iterator[str]:
        if self._filter.event_types and event.event_type not in self._filter.event_types:
            yield f"event_type is {short(event.event_type)}, not {self._type}"
        if self._namespace is not None and not self._namespace.matches(event.namespace):
            yield f"namespace is {short(event.namespace)}, not {short(self._namespace.text)}"
        if not self._filter.matches_actor(event.actor_id):
            yield f"actor_id is {short(event.actor_id)}, not {short(self._filter.actor_pattern)}"
        if self._version is not None and event.version != self._version:
            yield f"version is {event.version}, not {self._version}"
        for name, wanted in self._mappings.items():
            yield from _differences(name, getattr(event, name) or {}, wanted)

    @property
    def _type(self) -> str:
        return " or ".join(map(short, sorted(self._filter.event_types)))

    def __str__(self) -> str:
        named = [
            ("event_type", self._type),
            ("namespace", "" if self._namespace is None else short(self._namespace.text)),
            ("actor_id", short(self._filter.actor_pattern) if self._filter.actor_pattern else ""),
            ("version", "" if self._version is None else str(self._version)),
            *((name, short(value)) for name, value in self._mappings.items()),
        ]
        return ", ".join(f"{name}={value}" for name, value in named if value) or "anything"


def _checked(name: str, value: object) -> dict[Any, Any]:
    if not is_mapping(value):
        raise InvalidOptionError(f"{name} must be a dict of the keys and values to look for, not {short(value)}")
    return dict(value)


def _differences(path: str, found: Any, wanted: Mapping[Any, Any]) -> Iterator[str]:
    """Yield a line for each key that is not there or has another value; a mapping within is compared likewise."""
    for key, value in wanted.items():
        at = f"{path}[{short(key)}]"
        if key not in found:
            yield f"{path} has no {short(key)}"
        elif isinstance(value, Mapping) and isinstance(found[key], Mapping):
            yield from _differences(at, found[key], value)
        elif found[key] != value:
            yield f"{at} is {short(found[key])}, not {short(value)}"
