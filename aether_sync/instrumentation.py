"""``instrument()``: how a program sees what is done with events, and adds to what it sends: for traces and metrics.

The core calls an observer around each operation, on the thread that does it, and holds no lock meanwhile. While there
is no observer, an operation only looks at :data:`observers`, which is empty then.

An observer has locks of its own: those of the OpenTelemetry SDK are plain ones. So a thread that is within an observer
calls none: what a signal handler, a finalizer, a log handler or the observer itself does there goes on unobserved. And
what an observer raises is logged, and changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from threading import get_ident
from typing import Literal

from ._arguments import check_callback
from ._runtime.fork import ForkAware, fork_aware
from ._runtime.reporter import Failures, Kind, Reporter
from ._values.clock import monotonic
from .events import Event

__all__ = ["Observer", "Operation", "Stamp", "instrument", "observed", "observers", "received", "sending", "unobserved"]


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
    was given first outermost. An exception that an observer raises is logged, and the operation goes on. What is done
    while this thread is within an observer is not seen: by the observer itself, or by a signal handler, a finalizer or
    a log handler in the middle of it.

    A child that was forked while another thread was within an observer takes all observers off, as locks of theirs may
    be held for ever; it logs that. Give them again there.

    Args:
        observer: Called on the thread that does the operation. What it does takes that thread's time.

    Returns:
        A function that takes the observer off again. To call it once more does nothing.

    Raises:
        InvalidOptionError: The observer cannot be called with one argument, or is an ``async def`` or a generator
            function, for want of a ``@contextmanager``.
    """
    check_callback("an observer", observer, "an Operation")
    own: Observer = _Registered(observer)  # so that each call of instrument() can be taken back alone
    with suppress(ValueError):
        observers.remove(_left_behind)
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

_inside: set[int] = set()  #: the threads that are within an observer; changed by single steps
_reporter = Reporter()
_failures = Failures()


@contextmanager
def observed(operation: Operation) -> Iterator[Sequence[Stamp]]:
    """Do an operation in the contexts of all observers, and give their stamps."""
    contexts: list[AbstractContextManager[Stamp | None]] = []
    losses = _left_behind.losses
    raised: BaseException | None = None
    try:
        yield _enter(operation, contexts)
    except BaseException as error:
        raised = error
        raise
    finally:
        if losses == _left_behind.losses:  # else a lock of theirs may be held
            _leave(contexts, raised)


# Signal handlers raise in the middle of a call, or when it returns. Each ``try`` below begins before its thread is
# noted, and its ``finally`` calls nothing before the thread is let go, so none stays noted.


@contextmanager
def unobserved() -> Iterator[None]:
    """Do what the library does for itself, on this thread, which no observer is to see."""
    me = get_ident()
    if me in _inside:
        yield
        return
    try:
        _inside.add(me)
        yield
    finally:
        _inside.discard(me)


def _enter(operation: Operation, contexts: list[AbstractContextManager[Stamp | None]]) -> list[Stamp]:
    """Enter the contexts of all observers, and return their stamps."""
    stamps: list[Stamp] = []
    me = get_ident()
    if me in _inside:
        return stamps
    try:
        _inside.add(me)
        for observer in tuple(observers):
            try:
                context = observer(operation)
                stamp = context.__enter__()
                contexts.append(context)
                if stamp is not None:
                    stamps.append(stamp)
            except Exception as error:
                _note(error)
    except BaseException as error:
        _inside.discard(me)
        _leave(contexts, error)
        raise
    finally:
        _inside.discard(me)
    return stamps


def _leave(contexts: list[AbstractContextManager[Stamp | None]], raised: BaseException | None) -> None:
    """Leave the contexts, the innermost first, with what the operation has raised.

    A finalizer may leave its block while this thread is within an observer. Then they are dropped as they are.
    """
    me = get_ident()
    if not contexts or me in _inside:
        return
    error = (None, None, None) if raised is None else (type(raised), raised, raised.__traceback__)
    try:
        _inside.add(me)
        while contexts:
            context = contexts.pop()
            try:
                context.__exit__(*error)
            except Exception as wrong:
                if wrong is not raised:
                    _note(wrong)
    finally:
        _inside.discard(me)
        if contexts:  # a signal handler has raised
            _leave(contexts, raised)


def _note(error: Exception) -> None:
    """Log what an observer has raised, unless that was done a moment ago."""
    if _failures.opens():
        _reporter.error(Kind.OBSERVER_FAILED, "an observer has raised, and the operation goes on", error=error)
        _reporter.end()  # so that no thread stays for what is so rare


class _LeftBehind(ForkAware):
    """Takes the observers off in a forked child, where locks of theirs may be held by threads of the parent.

    It is then called in their place, and says that to the log: while the child is being made nothing can be logged.
    """

    def __init__(self) -> None:
        self.losses = 0  # how often this process and those before it have lost their observers

    def _after_fork(self) -> None:
        if observers and _inside - {get_ident()}:
            observers[:] = [self]
            self.losses += 1
        _inside.intersection_update({get_ident()})

    def __call__(self, operation: Operation) -> AbstractContextManager[None]:
        with suppress(ValueError):
            observers.remove(self)
            _reporter.warning(
                Kind.OBSERVER_FAILED,
                "the observers are taken off in this forked child: a thread of the parent was within one",
            )
            _reporter.end()
        return nullcontext()


_left_behind = _LeftBehind()
fork_aware.add(_left_behind)


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
    """Return an event with what the stamps change. One that raises, or gives what is no text, changes nothing."""
    me, stamped = get_ident(), event
    for stamp in stamps:
        try:
            _inside.add(me)
            stamped = _changed(stamped, stamp(event))
        except Exception as error:
            _note(error)
        finally:
            _inside.discard(me)
    return stamped


def _changed(event: Event, changes: Mapping[str, str | None]) -> Event:
    if not changes:
        return event
    metadata: dict[str, str | None] = {**event.metadata, **changes}
    return event.replace(metadata={key: text for key, text in metadata.items() if text is not None})
