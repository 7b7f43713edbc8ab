"""``instrument()``: how a program sees what is done with events, and adds to what it sends: for traces and metrics.

The core calls an observer around each operation, on the thread that does it, and holds no lock meanwhile. While there
is no observer, an operation only looks at :data:`observers`, which is empty then.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from ._arguments import check_callback
from ._values.clock import monotonic
from .events import Event

__all__ = ["Observer", "Operation", "Stamp", "instrument", "observed", "observers", "received", "sending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that is done with events, as an observer sees it.

    Attributes:
        name: What the program calls it: ``"publish"``, ``"save"``, ``"append"``, ``"receive"``, ``"process"``,
            ``"ack"``, ``"nak"`` or ``"reject"``.
        kind: ``"send"``, ``"receive"``, ``"process"`` or ``"settle"``.
        events: The events. Those of a ``"send"`` are the program's own, before anything is added to them.
        destination: The namespace of the events, or the name of the store's stream; "" if the events have several
            namespaces, and of an ``InMemoryEventStore`` without a namespace.
        pattern: What was subscribed to, of a ``"receive"`` from a bus: the patterns, with ", " between them.
        consumer: The durable consumer or the queue group that got the events; "" if there is none, or if it is not
            known, as of an event of a bus that is processed.
        sequence: The place in the store of the only event of a ``"process"`` or ``"settle"``; 0 if it has none.
        is_batch: Whether the call is one for several events, however many there are this time.
        is_pushed: Whether a runner calls a handler, of a ``"process"``. Such events are not seen as a ``"receive"``.
        seconds: How long a ``"receive"`` took, with the time that was waited for the first event. It is over when the
            observer is called; other operations have 0.0, and are done within the observer's context.
    """

    name: str
    kind: Literal["send", "receive", "process", "settle"]
    events: tuple[Event, ...]
    destination: str = ""
    pattern: str = ""
    consumer: str = ""
    sequence: int = 0
    is_batch: bool = False
    is_pushed: bool = False
    seconds: float = 0.0


Stamp = Callable[[Event], Mapping[str, str | None]]
"""Returns what is changed in the metadata of an event that is sent: new texts by their keys; None removes a key."""

Observer = Callable[[Operation], AbstractContextManager[Stamp | None]]
"""Called with each operation; the operation is done in the context that it returns.

The context gives a :data:`Stamp` if it has something to add to events that are sent, else None. It is left with the
error that the operation has raised, and cannot suppress that.
"""

#: Those that are called. Any thread reads it, without a lock; it is changed by single steps.
observers: list[Observer] = []


def instrument(observer: Observer) -> Callable[[], None]:
    """Have every operation on events in this process seen by an observer.

    Operations that have begun already are not seen. Several observers are called one inside the other, the one that
    was given first outermost. What an observer raises is raised by the operation: before it is done, if the context was
    being entered; a subscription's event that was just received is lost then. So an observer must not raise.

    Args:
        observer: Called on the thread that does the operation, and also in the middle of a ``publish()`` of a signal
            handler or a finalizer. What it does takes that thread's time.

    Returns:
        A function that takes the observer off again. To call it once more does nothing.

    Raises:
        InvalidOptionError: The observer cannot be called with one argument, or is an ``async def`` or a generator
            function, for want of a ``@contextmanager``.
    """
    check_callback("an observer", observer, "an Operation")
    own: Observer = _Registered(observer)  # so that each call of instrument() can be taken back alone
    observers.append(own)

    def take_off() -> None:
        try:
            observers.remove(own)
        except ValueError:  # it was taken off before
            pass

    return take_off


class _Registered:
    """An observer that equals no other."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, operation: Operation) -> AbstractContextManager[Stamp | None]:
        return self._observer(operation)


# -- what the core calls


@contextmanager
def observed(operation: Operation) -> Iterator[Sequence[Stamp]]:
    """Do an operation in the contexts of all observers, and give their stamps."""
    raised: BaseException | None = None
    with ExitStack() as stack:
        stamps = [stack.enter_context(one(operation)) for one in tuple(observers)]
        try:
            yield [one for one in stamps if one is not None]
        except BaseException as error:
            raised = error
            raise
    if raised is not None:  # an observer has suppressed it; then the caller would believe that all went well
        raise raised


@contextmanager
def sending(operation: Operation) -> Iterator[tuple[Event, ...]]:
    """Do an operation that sends events, and give the events to send: with what the observers add."""
    with observed(operation) as stamps:
        yield tuple(_stamped(event, stamps) for event in operation.events) if stamps else operation.events


def received(
    began: float,
    events: Sequence[Event],
    *,
    destination: str = "",
    pattern: str = "",
    consumer: str = "",
    is_batch: bool = False,
) -> None:
    """Let all observers see that a call has received events.

    Args:
        began: The moment when the call began, on the monotonic clock.
        events: The events, perhaps none.
        destination: As in :class:`Operation`; by default the namespace that all events have.
        pattern: As in :class:`Operation`.
        consumer: As in :class:`Operation`.
        is_batch: As in :class:`Operation`.
    """
    namespaces = {event.namespace for event in events}
    operation = Operation(
        name="receive",
        kind="receive",
        events=tuple(events),
        destination=destination or (namespaces.pop() if len(namespaces) == 1 else ""),
        pattern=pattern,
        consumer=consumer,
        is_batch=is_batch,
        seconds=monotonic() - began,
    )
    with observed(operation):
        pass


def _stamped(event: Event, stamps: Sequence[Stamp]) -> Event:
    metadata = dict(event.metadata)
    for stamp in stamps:
        for key, text in stamp(event).items():
            if text is None:
                metadata.pop(key, None)
            else:
                metadata[key] = text
    return event.replace(metadata=metadata)
