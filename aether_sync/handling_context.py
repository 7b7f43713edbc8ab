"""``handling()``: while an event is being handled, what is logged and traced says which event that is.

The context is a ``contextvars`` variable: it belongs to one thread or one task, and what that calls. A runner sets it
around each call of its handler; a program that iterates sets it itself.
"""

import logging
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from ._arguments import is_of
from ._values.shown import short
from .errors import InvalidOptionError
from .events import Event
from .instrumentation import Operation, observed, observers

__all__ = [
    "Handleable",
    "HandlingContext",
    "HandlingFilter",
    "add_handling",
    "context_of",
    "current_handling",
    "handle_pushed",
    "handling",
]


class Handleable(Protocol):
    """Something with an event that a store gives: a :class:`Delivery` or a :class:`StoredEvent`."""

    @property
    def event(self) -> Event:
        """The event."""

    @property
    def sequence(self) -> int:
        """Its place in the store."""


@dataclass(frozen=True, slots=True)
class HandlingContext:
    """Which event is being handled, and by whom. A text is "" where there is nothing to say.

    Attributes:
        event_id: The id of the event.
        event_type: What happened.
        actor: The actor that it happened to.
        namespace: The namespace that it was published under, or that its store has.
        correlation_id: The id that all events of one conversation share: the event's own id if it began the
            conversation, as ``following()`` hands it on.
        consumer: The durable consumer that it was delivered to.
        sequence: Its place in the store; 0 if it comes from a bus.
    """

    event_id: str
    event_type: str
    actor: str
    namespace: str
    correlation_id: str
    consumer: str = ""
    sequence: int = 0


_FIELDS = HandlingContext.__slots__
_NOTHING = HandlingContext("", "", "", "", "")

_current: ContextVar[HandlingContext | None] = ContextVar("aether_sync_handling", default=None)


def handling(given: Event | Handleable) -> AbstractContextManager[HandlingContext]:
    """Say, within a ``with`` statement, that an event is being handled.

    In the ``with`` block, :func:`current_handling` returns the context, log records have its fields by
    :class:`HandlingFilter` or :func:`add_handling`, and an instrumentation sees the block as ``process``. Other
    threads and other asyncio tasks do not see it, but for tasks that are made in the block. Afterwards the context is
    the one before, also after an exception. A runner does the same around each call of its handler, so a handler need
    not.

    The block may await in a coroutine. A generator should not yield within it: whoever iterates the generator would be
    in the block as well.

    Args:
        given: An event, or the :class:`Delivery` or :class:`StoredEvent` that it came in.

    Returns:
        A context manager, which gives the :class:`HandlingContext`. It can be used once.

    Raises:
        InvalidOptionError: It is none of these.
    """
    return _Handling(given, is_pushed=False)


def handle_pushed(given: Handleable) -> AbstractContextManager[HandlingContext]:
    """As :func:`handling`, where a runner calls a handler."""
    return _Handling(given, is_pushed=True)


def current_handling() -> HandlingContext | None:
    """Return what this thread or task is handling, the innermost if several events are; None if it handles none."""
    return _current.get()


def context_of(given: Event | Handleable) -> HandlingContext:
    """Return the context in which an event is handled.

    Raises:
        InvalidOptionError: It is no event, and has none.
    """
    return _context(*_parts_of(given)[:4])


def _context(event: Event, sequence: int, consumer: str, namespace: str) -> HandlingContext:
    return HandlingContext(
        event.id,
        event.event_type,
        event.actor_id,
        event.namespace or namespace,
        event.correlation_id or event.id,
        consumer,
        sequence,
    )


class _Handling:
    """Sets the context in a ``with`` statement.

    Accepted race: a signal handler that raises between two bytecodes of ``__enter__`` or ``__exit__`` may leave the
    context of this event set. The next ``with`` statement sets another one; until then records name this event.
    """

    __slots__ = ("_context", "_event", "_is_pushed", "_observing", "_stream", "_token")

    def __init__(self, given: Event | Handleable, is_pushed: bool) -> None:
        event, sequence, consumer, namespace, self._stream = _parts_of(given)
        self._event = event
        self._is_pushed = is_pushed
        self._context = _context(event, sequence, consumer, namespace)
        self._token: Token[HandlingContext | None] | None = None
        self._observing: ExitStack | None = None

    def __enter__(self) -> HandlingContext:
        if self._token is not None:
            raise InvalidOptionError("what handling() returns can be used once: call handling() again")
        self._token = _current.set(self._context)
        if observers:
            try:
                self._observing = ExitStack()
                self._observing.enter_context(observed(self._operation()))
            except BaseException:
                self._leave()
                raise
        return self._context

    def _operation(self) -> Operation:
        return Operation(
            name="process",
            kind="process",
            events=(self._event,),
            destination=self._stream or self._context.namespace,
            consumer=self._context.consumer,
            sequence=self._context.sequence,
            is_pushed=self._is_pushed,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._observing is not None:
                self._observing.__exit__(kind, error, trace)
        finally:
            self._leave()

    def _leave(self) -> None:
        assert self._token is not None
        try:
            _current.reset(self._token)
        except ValueError:  # a generator is finalized elsewhere, with the block in it: there it was never set
            pass


def _parts_of(given: Event | Handleable) -> tuple[Event, int, str, str, str]:
    """Return the event, its sequence, and the consumer, the namespace and the stream that it comes from."""
    if is_of(given, Event):
        assert isinstance(given, Event)
        return given, 0, "", "", ""
    try:
        event, sequence = getattr(given, "event", None), getattr(given, "sequence", None)
    except Exception:  # of an object that is something else
        event = sequence = None
    if not (is_of(event, Event) and is_of(sequence, int)):
        raise InvalidOptionError(f"handling() takes an Event, a Delivery or a StoredEvent, not {short(given)}")
    assert isinstance(event, Event)
    assert isinstance(sequence, int)
    return event, sequence, *(getattr(given, name, "") for name in ("consumer", "namespace", "stream"))  # type: ignore[return-value]


# -- for log records


class HandlingFilter(logging.Filter):
    """Gives every log record the fields of :class:`HandlingContext` as attributes, for a format string to use.

    Add it to a handler: ``handler.addFilter(HandlingFilter())``; then its format may have ``%(correlation_id)s``. All
    records pass. Where there is nothing to say, an attribute is "", and ``sequence`` is 0, so that each always has the
    same type. An attribute that a record has already, by its ``extra``, is kept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Give a record the attributes; return True."""
        context = _current.get() or _NOTHING
        has = record.__dict__
        for name in _FIELDS:
            if name not in has:
                has[name] = getattr(context, name)
        return True


def add_handling(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields of :class:`HandlingContext` to a structured log entry: a processor for structlog.

    Fields that are empty, or that the entry has already, are left as they are.

    Args:
        logger: The logger, which is not used.
        method_name: The name of its method, which is not used.
        event_dict: The entry.

    Returns:
        The entry.
    """
    context = _current.get()
    if context is not None:
        for name in _FIELDS:
            if value := getattr(context, name):
                event_dict.setdefault(name, value)
    return event_dict
