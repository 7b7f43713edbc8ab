"""The handlers that a module ``events`` declares, and the worker that is made of them.

A decorator here notes what was declared, and no more. So a mistake does not keep ``manage.py`` from starting: it is
found when the worker is built, by ``manage.py check`` as well as by the worker. Only a decorator without parentheses
raises at once, as it has nothing to note.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections
from django.db.models import Model

from ..._arguments import as_iterator, check_known, is_of, refuse_bare
from ..._values.shown import name_of, short
from ...errors import AetherError, InvalidOptionError
from ...stores.event_store import EventStore
from ...stores.projections.projection import Projection
from ...worker.calls import Around
from ...worker.worker import Worker
from ._connections import get_bus, get_store
from ._database import Django
from ._settings import DEFAULT, settings_of
from .outbox import relay

__all__ = [
    "Declared",
    "build_worker",
    "every",
    "get_projection",
    "handler",
    "make_projection",
    "on",
    "projection",
    "registered",
]

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Declared:
    """What a decorator has noted.

    Attributes:
        kind: Which decorator it was.
        name: Of the consumer, the pattern, or the projection; of periodic work the seconds. Nothing is checked yet.
        function: The user's.
        alias: In the setting ``AETHER``.
        using: The database in whose transaction it is called; None for none.
        models: Those whose tables a projection writes, in a tuple, or what was given in place of several.
        options: What else was given.
    """

    kind: Literal["handler", "on", "every", "projection"]
    name: Any
    function: Callable[..., object]
    alias: str
    using: str | None = None
    models: object = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"@{self.kind}({short(self.name)}) of {name_of(self.function)}"

    def find_models(self) -> list[type[Model]]:
        """Return the models whose tables a projection writes.

        Raises:
            InvalidOptionError: They are something else.
        """
        if not is_of(self.models, tuple):
            one = self.models.__name__ if is_of(self.models, type) else short(self.models)
            raise InvalidOptionError(f"models is {short(self.models)}, and no list: write models=[{one}]")
        return [_model_of(one) for one in self.models]


def _model_of(given: Any) -> type[Model]:
    if is_of(given, str):
        try:
            return apps.get_model(given)
        except (LookupError, ValueError) as error:
            raise InvalidOptionError(f"models has {short(given)}, which is no model: {error}") from error
    if not (is_of(given, type) and issubclass(given, Model)):
        raise InvalidOptionError(f"models has {short(given)}, and takes models, as classes or as 'app.Model'")
    return given


_declared: list[Declared] = []


def registered() -> Sequence[Declared]:
    """Return all that was declared, in its order."""
    return tuple(_declared)


def handler(
    consumer: str, *, once: bool = False, using: str | None = None, alias: str = DEFAULT, **options: Any
) -> Callable[[F], F]:
    """Return a decorator for a handler of stored events: each is delivered at least once, to one of all workers.

    With ``once``, its effect in the database comes once: the handler is called in a transaction that also writes the
    event into the table of ``HandledEvent``, and an event that is there already is acknowledged without a call. What
    else the handler does, such as sending a mail, may happen again.

    Args:
        consumer: The consumer's name, by which all workers share its events.
        once: Whether it is called in such a transaction.
        using: The alias of the database of that, "default" for None. Without ``once`` it must be None.
        alias: That of the store, in the setting ``AETHER``.
        **options: Those of :meth:`Worker.consume`: ``event_types``, ``actors``, ``threads``, ``max_deliver``,
            ``retry_delay``, ``time_limit`` and so on.
    """
    refuse_bare(consumer, "@handler", "'mailer'")
    if once:
        return _declare("handler", consumer, alias, using=using or DEFAULT_DB_ALIAS, options=options)
    given = options if using is None else {**options, "using": using}
    return _declare("handler", consumer, alias, options=given)


def on(pattern: str, *, alias: str = DEFAULT, **options: Any) -> Callable[[F], F]:
    """Return a decorator for a handler of events of the bus: each at most once, as they are published.

    Args:
        pattern: A namespace, which may have wildcards.
        alias: That of the bus, in the setting ``AETHER``.
        **options: Those of :meth:`Worker.on`.
    """
    refuse_bare(pattern, "@on", "'orders'")
    return _declare("on", pattern, alias, options=options)


def every(seconds: float, *, alias: str = DEFAULT, **options: Any) -> Callable[[F], F]:
    """Return a decorator for periodic work: a function that is called every so many seconds, without an event.

    Args:
        seconds: From the begin of a turn to that of the next one.
        alias: That of the store which keeps whose turn it is, in the setting ``AETHER``.
        **options: Those of :meth:`Worker.every`: ``name``, ``once_per_cluster``, ``time_limit``.
    """
    refuse_bare(seconds, "@every", "60")
    return _declare("every", seconds, alias, options=options)


def projection(
    name: str,
    *,
    models: Iterable[str | type[Model]] = (),
    using: str = DEFAULT_DB_ALIAS,
    alias: str = DEFAULT,
    **options: Any,
) -> Callable[[F], F]:
    """Return a decorator for the ``apply(db, stored)`` of a projection, which runs with the worker.

    Args:
        name: Its name, by which its checkpoint is found again.
        models: The models that it writes, as classes or as ``"app.Model"``: what ``manage.py aether_rebuild`` fills
            anew. One that refers to another one comes after that.
        using: The alias of the database: ``db`` is this, and the thread's connection to it is in the transaction.
        alias: That of the store, in the setting ``AETHER``.
        **options: Those of :meth:`EventStore.project`: ``event_types``, ``actors``, ``batch``, ``on_error``.
    """
    refuse_bare(name, "@projection", "'balances'")
    found = None if is_of(models, str) else as_iterator(models)
    kept = models if found is None else tuple(found)
    return _declare("projection", name, alias, using=using, models=kept, options=options)


def _declare(kind: Any, name: object, alias: str, **more: Any) -> Callable[[F], F]:
    def declare(function: F) -> F:
        _declared.append(Declared(kind, name, function, alias, **more))
        return function

    return declare


_projections: dict[tuple[str, str], Projection] = {}  # of this process, by alias and name


def get_projection(name: str, alias: str = DEFAULT) -> Projection:
    """Return a projection that was declared, not started: to wait until it has an event, or to ask how far it is.

    It is the same one in all of a process, and is closed with its store.

    Raises:
        InvalidOptionError: None of this name was declared.
    """
    found = _projections.get((alias, name))
    if found is None or found.closed or found.store is not get_store(alias):  # a test has stores of its own
        found = _projections[alias, name] = make_projection(name, alias)
    return found


def make_projection(name: str, alias: str) -> Projection:
    """Return another object for a projection that was declared, which the caller starts or closes.

    Raises:
        InvalidOptionError: None of this name was declared.
    """
    declared = {one.name: one for one in _declared if one.kind == "projection" and one.alias == alias}
    if name not in declared:
        there = ", ".join(map(repr, declared)) or "none"
        raise InvalidOptionError(f"there is no @projection({name!r}) for AETHER[{alias!r}]: there are {there}")
    return _projection_of(declared[name])


def _projection_of(one: Declared) -> Projection:
    assert one.using is not None
    return get_store(one.alias).project(one.name, one.function, into=Django(one.using), **one.options)


# -- the worker


def _options_of(method: Callable[..., object], *own: str) -> Collection[str]:
    """Return the names of the options that a method takes, without those that a decorator gives it."""
    parameters = inspect.signature(method).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in own]


#: What each decorator hands on.
_OPTIONS = {
    "handler": _options_of(Worker.consume),
    "on": _options_of(Worker.on),
    "every": _options_of(Worker.every),
    "projection": _options_of(EventStore.project, "into"),
}


def build_worker(
    alias: str, mistaken: Callable[[AetherError], object] | None = None, *, around: Sequence[Around] | None = None
) -> Worker:
    """Return a worker with all that was declared for an alias; nothing has begun.

    Args:
        alias: In the setting ``AETHER``.
        mistaken: Is called with each mistake, and what has it is left out; None raises the first one.
        around: As for :class:`Worker`; None closes connections to databases that are too old.

    Raises:
        InvalidOptionError: Something that was declared is wrong.
    """
    worker = Worker(
        bus=get_bus(alias),
        store=get_store(alias),
        around=[_fresh_connections] if around is None else around,
        thread_exit=connections.close_all,
    )
    for one in _declared:
        if one.alias == alias:
            try:
                _add(worker, one)
            except (AetherError, TypeError) as error:
                is_named = name_of(one.function) in str(error)
                mistake = InvalidOptionError(str(error) if is_named else f"{one}: {error}")
                if mistaken is None:
                    raise mistake from error
                mistaken(mistake)
    for using in settings_of(alias).relay:
        worker.relay(relay(alias, using=using))
    return worker


def _add(worker: Worker, one: Declared) -> None:
    if one.kind == "handler" and "using" in one.options:
        raise InvalidOptionError("using is the database of once=True, and means nothing without that")
    check_known(f"{one} has no option", one.options, _OPTIONS[one.kind])
    if one.kind == "handler" and one.using is not None:
        function = _with_database(one.function)
        worker.consume(one.name, idempotent=Django(one.using), **one.options)(function)
    elif one.kind == "handler":
        worker.consume(one.name, **one.options)(one.function)
    elif one.kind == "on":
        worker.on(one.name, **one.options)(one.function)
    elif one.kind == "every":
        worker.every(one.name, **one.options)(one.function)
    else:
        one.find_models()
        _refuse_second(one)
        worker.project(_projection_of(one))


def _refuse_second(one: Declared) -> None:
    """Refuse a projection whose name an earlier one has; a worker, which is told of no function, names none."""
    first = next(
        other for other in _declared if (other.kind, other.alias, other.name) == (one.kind, one.alias, one.name)
    )
    if first is not one:
        raise InvalidOptionError(f"{one}: there is {first} already, so give one of them another name")


@contextmanager
def _fresh_connections() -> Iterator[None]:
    """Around a handler: close connections that are too old or broken, as Django does around a request."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


def _with_database(function: Callable[..., object]) -> Callable[..., object]:
    """Return a handler that takes the database first, which its models know by themselves."""
    if (
        not inspect.isroutine(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
    ):
        return function  # the worker says what is wrong with it
    try:
        own = inspect.signature(function, eval_str=True)
    except Exception:  # the same
        return function

    @functools.wraps(function)
    def handle(db: str, *given: object, **named: object) -> object:
        return function(*given, **named)

    first = inspect.Parameter("_db", inspect.Parameter.POSITIONAL_ONLY)
    handle.__signature__ = own.replace(parameters=[first, *own.parameters.values()])  # type: ignore[attr-defined]
    return handle
