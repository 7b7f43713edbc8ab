"""How a handler is called: in the context managers around it, and with what is told when it fails."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from .._arguments import as_iterator, is_of
from .._runtime.reporter import Kind, Reporter
from .._values.counting import Count
from .._values.shown import name_of, short
from ..errors import InvalidOptionError, WorkerError
from ..event_types import EventTypes
from ..events import Event
from ..handler_arguments import Source, as_called
from ..stores.consumers.delivery import Delivery

__all__ = ["Around", "ExtraCounts", "Failure", "OnError", "check_arounds", "reporting", "surrounded"]

#: A function that returns a context manager, such as what ``@contextmanager`` makes. It may ask for what handlers do.
Around = Callable[..., AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What ``on_error`` of a worker is called with.

    Attributes:
        handler: The function that has failed, with its module: ``"shop.mails.send"``.
        error: What it has raised.
        event: The event that it was called with; None of periodic work.
        delivery: The delivery that it was called with, if it is of a consumer; its ``attempt`` counts the attempts.
    """

    handler: str
    error: BaseException
    event: Event | None = None
    delivery: Delivery | None = None


class ExtraCounts:
    """What is counted of a handler besides its calls.

    Attributes:
        passed_by: Events and turns for which it was not called.
        overdue: Calls that took longer than their time limit.
    """

    def __init__(self) -> None:
        self.passed_by, self.overdue = Count(), Count()

    def fields(self) -> dict[str, Any]:
        """Return them as fields of the metrics."""
        return {"passed_by": self.passed_by.count, "overdue": self.overdue.count}


#: A user's function that is told of each failure.
OnError = Callable[[Failure], object]


def check_arounds(around: object) -> tuple[Around, ...]:
    """Return the functions that make the context managers, or raise if they are something else."""
    iterator: Iterator[Any] | None = None if is_of(around, str) else as_iterator(cast(Any, around))
    if iterator is None:
        raise InvalidOptionError(f"around takes a list of functions, such as [transaction], not {short(around)}")
    found = tuple(iterator)
    for one in found:
        if not callable(one) or hasattr(type(one), "__enter__"):
            raise InvalidOptionError(
                f"around takes functions that return a context manager, and {short(one)} is none: pass what makes it, "
                "as each call needs one of its own"
            )
        plain = _unwrapped(one)
        if inspect.isgeneratorfunction(one):
            raise InvalidOptionError(f"around takes context managers: decorate {name_of(one)} with @contextmanager")
        if inspect.isasyncgenfunction(plain) or inspect.iscoroutinefunction(plain):
            raise InvalidOptionError(f"around takes no `async def`, as {name_of(one)} is: handlers run on threads")
    return found


def _unwrapped(function: Any) -> Any:
    try:
        return inspect.unwrap(function)
    except Exception:  # of an object of the user's
        return function


def surrounded(
    call: Callable[[Any], object],
    arounds: Iterable[Around],
    about: str,
    source: Source,
    types: EventTypes | None,
    wanted: frozenset[str],
) -> Callable[[Any], object]:
    """Return a call within context managers, the first of which is the outermost.

    Raises:
        InvalidOptionError: One of them asks for what there is not.
    """
    for around in reversed(tuple(arounds)):
        what = f"{name_of(around)}, around {about}"
        make = as_called(around, what, source, types, wanted, may_ask_nothing=True)
        call = _within(make, what, call)
    return call


def _within(make: Callable[[Any], Any], what: str, call: Callable[[Any], object]) -> Callable[[Any], object]:
    def within(given: Any) -> object:
        manager = make(given)
        if not hasattr(type(manager), "__exit__"):
            raise WorkerError(f"{what}: it has returned {short(manager)}, which is no context manager")
        with manager:
            return call(given)
        return None  # it has suppressed an error

    return within


def reporting(
    call: Callable[[Any], object], handler: str, on_error: OnError | None, reporter: Reporter
) -> Callable[[Any], object]:
    """Return a call of whose errors the user's function is told, on the same thread, and in the same context."""
    if on_error is None:
        return call
    tell = on_error

    def told(given: Any) -> object:
        try:
            return call(given)
        except BaseException as error:
            delivery = given if is_of(given, Delivery) else None
            event = given if is_of(given, Event) else None if delivery is None else delivery.event
            try:
                tell(Failure(handler=handler, error=error, event=event, delivery=delivery))
            except Exception as wrong:
                reporter.error(Kind.CALLBACK_FAILED, "on_error has raised", error=wrong)
            raise

    return told
