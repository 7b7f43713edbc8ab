"""What a handler asks for by its annotations, and what is refused before anything begins."""

import functools
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Optional

import pytest

from aether_sync import (
    ANY_VERSION,
    Delivery,
    Event,
    EventBus,
    InMemoryEventStore,
    InvalidNamespaceError,
    InvalidOptionError,
    Worker,
    WorkerError,
)

from ..support.common import PATIENCE
from ..support.typed import Cancelled, Placed, typed

Handler = Callable[..., Any]


@pytest.fixture
def fresh() -> Iterator[Worker]:
    types = typed()
    with EventBus(types=types) as bus, InMemoryEventStore(types=types) as store:
        yield Worker(bus=bus, store=store)


def given_to(worker: Worker, handler: Handler, **options: Any) -> tuple[Any, ...]:
    """Have a handler called with one event; returns what it got."""
    got: list[Any] = []

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> None:
        got.append((*args, *sorted(kwargs.items())))

    worker.consume("c", event_types={Placed}, **options)(call)
    assert worker.store is not None
    with worker:
        (stored,) = worker.store.append("a", Placed(3, "EUR"), expected_version=ANY_VERSION)
        worker.store.consumer("c", event_types={Placed}).wait_for(stored.sequence, timeout=PATIENCE)
    return tuple(got[0])


class Sender:
    def send(self, placed: Placed) -> None:
        raise AssertionError

    def __call__(self, placed: Placed) -> None:
        raise AssertionError


def bare(given): ...  # type: ignore[no-untyped-def]
def anything(given: Any) -> None: ...
def event(given: Event) -> None: ...
def delivery(given: Delivery) -> None: ...
def perhaps(given: Event | None) -> None: ...
def perhaps_spelt_out(given: Optional[Event] = None) -> None: ...  # noqa: UP045
def annotated(given: Annotated[Event, "what happened"]) -> None: ...
def either(given: Placed | Cancelled) -> None: ...
def text_annotation(given: "Placed") -> None: ...
def with_default(given: Event, number: int = 3) -> None: ...
def any_number(given: Event, *rest: int, **more: int) -> None: ...


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (bare, Delivery),
        (anything, Delivery),
        (event, Event),
        (delivery, Delivery),
        (perhaps, Event),
        (perhaps_spelt_out, Event),
        (annotated, Event),
        (either, Placed),
        (text_annotation, Placed),
        (with_default, Event),
        (any_number, Event),
    ],
)
def test_one_thing(fresh: Worker, handler: Handler, kind: type) -> None:
    (got,) = given_to(fresh, handler)
    assert isinstance(got, kind)


def test_several_in_any_order_and_by_name(fresh: Worker) -> None:
    def handle(placed: Placed, one: Delivery, n: int = 1, *, event: Event) -> None: ...

    placed, one, event = given_to(fresh, handle)
    assert placed == Placed(3, "EUR")
    assert isinstance(one, Delivery)
    assert event == ("event", one.event)


def test_what_comes_behind_a_default_is_given_by_its_name(fresh: Worker) -> None:
    def handle(placed: Placed, n: int = 1, one: Delivery | None = None) -> None: ...

    placed, (name, one) = given_to(fresh, handle)
    assert placed == Placed(3, "EUR")
    assert name == "one"
    assert isinstance(one, Delivery)


@pytest.mark.parametrize("make", [lambda: Sender().send, Sender, lambda: functools.partial(Sender.send, Sender())])
def test_methods_and_objects_and_partials(fresh: Worker, make: Callable[[], Handler]) -> None:
    with pytest.raises(InvalidOptionError, match=r"Sender.*say event_types=\{Placed\}"):
        fresh.consume("c")(make())
    fresh.consume("c", event_types={Placed})(make())


def test_a_handler_of_the_bus_gets_the_event(fresh: Worker, local_bus: EventBus) -> None:
    got: list[object] = []
    assert fresh.bus is not None
    assert fresh.bus.types is not None

    @fresh.on("n", event_types={Placed})
    def handle(placed: Placed, event: Event) -> None:
        got.extend((placed, event.event_type))

    @fresh.on("n")
    def see(event) -> None:  # type: ignore[no-untyped-def]
        got.append(event.actor_id)

    with fresh:
        fresh.bus.publish("n", fresh.bus.types.to_event(Placed(1, "EUR"), actor_id="a"))
        fresh.drain(PATIENCE)
    assert sorted(map(str, got)) == ["Placed", "Placed(qty=1, currency='EUR')", "a"]


def nothing() -> None: ...
def two(one, other): ...  # type: ignore[no-untyped-def]
def number(n: int) -> None: ...
def value_and_bare(placed: Placed, rest): ...  # type: ignore[no-untyped-def]
def unknown_name(given: "Plaecd") -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def coroutine(given: Event) -> None: ...
def generator(given: Event) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (nothing, "must take a Delivery or an Event or a registered class"),
        (two, "its parameter 'one' has no annotation: give it a Delivery or an Event or a registered class"),
        (number, "its parameter 'n' is annotated with int: it may be a Delivery or an Event or a registered class"),
        (value_and_bare, "its parameter 'rest' has no annotation"),
        (unknown_name, "an annotation cannot be read, as name 'Plaecd' is not defined: import that name"),
        (coroutine, "must not be an `async def`"),
        (generator, "must not be a generator function"),
        (3, "must be a function that is called with a Delivery, not 3"),
        (None, "must be a function"),
    ],
)
def test_what_cannot_be_called_is_refused_by_its_name(fresh: Worker, handler: Any, says: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        fresh.consume("mailer", event_types={Placed})(handler)
    assert says in str(caught.value)
    assert "of consumer 'mailer'" in str(caught.value)
    assert getattr(handler, "__name__", "") in str(caught.value)
    with pytest.raises(WorkerError, match="nothing to do"):
        fresh.start()


def test_a_bus_has_no_delivery(fresh: Worker) -> None:
    with pytest.raises(InvalidOptionError, match=r"'given' is annotated with Delivery: it may be an Event"):
        fresh.on("orders.*")(delivery)


def test_a_class_where_other_types_come_too(fresh: Worker) -> None:
    def handle(placed: Placed) -> None: ...

    with pytest.raises(InvalidOptionError, match=r"say event_types=\{Placed\}"):
        fresh.on("n")(handle)
    with pytest.raises(InvalidOptionError, match="events of type 'Aborted' come, too"):
        fresh.on("n", event_types={Placed, Cancelled})(handle)


def test_a_class_without_types() -> None:
    def handle(placed: Placed) -> None: ...

    with (
        InMemoryEventStore() as store,
        pytest.raises(InvalidOptionError, match=r"annotated with Placed.*types=EventTypes\(\)"),
    ):
        Worker(store=store).consume("c", event_types={"Placed"})(handle)


def test_what_the_worker_has_not() -> None:
    with pytest.raises(InvalidOptionError, match=r"Worker\(bus=...\)"):
        Worker().on("n")
    with pytest.raises(InvalidOptionError, match=r"Worker\(store=...\)"):
        Worker().consume("c")


def test_two_handlers_of_one_consumer_and_two_projections_of_one_name(fresh: Worker, tmp_path: Any) -> None:
    from aether_sync import SQLite

    fresh.consume("mailer")(event)
    with pytest.raises(InvalidOptionError, match=r"test_parameters.event of consumer 'mailer' already.*delivery of"):
        fresh.consume("mailer", threads=2)(delivery)
    assert isinstance(fresh.store, InMemoryEventStore)
    for last in (False, True):
        projection = fresh.store.project("p", lambda db, stored: None, into=SQLite(tmp_path / "read.db"))
        if last:
            with pytest.raises(InvalidOptionError, match="has projection 'p' already"):
                fresh.project(projection)
        else:
            assert fresh.project(projection) is projection


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads must be"),
        ({"maxsize": 0}, "maxsize must be"),
        ({"max_bytes": "x"}, "max_bytes must be"),
        ({"overflow": "drop"}, "overflow must be one of"),
        ({"event_types": "Placed"}, "pass a set"),
        ({"actors": 3}, "actors must be a pattern"),
        ({"queue_group": "a b"}, "queue_group"),
        ({"around": contextmanager}, "around takes a list"),
        ({"around": [3]}, "3 is none"),
    ],
)
def test_options_of_on_are_checked_at_once(fresh: Worker, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        fresh.on("n", **options)


def test_a_pattern_is_checked_at_once(fresh: Worker) -> None:
    with pytest.raises(InvalidNamespaceError, match="a b"):
        fresh.on("a b")
    with pytest.raises(InvalidOptionError, match="no glob"):
        fresh.on("a-*", queue_group="g")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads must be"),
        ({"prefetch": 0}, "prefetch must be"),
        ({"retry_delay": 0}, "retry_delay must be seconds, more than 0, not 0; or a RetryPolicy"),
        ({"max_deliver": 0}, "max_deliver must be"),
        ({"start": "now"}, "start must be"),
        ({"around": "x"}, "around takes a list"),
    ],
)
def test_options_of_consume_are_checked_at_once(fresh: Worker, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        fresh.consume("c", **options)


def undecorated(event: Event) -> Iterator[None]:
    yield


@asynccontextmanager
async def asynchronous(event: Event):  # type: ignore[no-untyped-def]
    yield


@contextmanager
def of_an_int(n: int) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("around", "says"),
    [
        (undecorated, "decorate tests.worker.test_parameters.undecorated with @contextmanager"),
        (asynchronous, "no `async def`"),
        (of_an_int, "of_an_int, around the handler .*: its parameter 'n' is annotated with int"),
        (contextmanager(undecorated)(None), "is none: pass what makes it"),
    ],
)
def test_what_cannot_be_around_is_refused(fresh: Worker, around: Any, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        fresh.consume("c", around=[around])(event)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bus": 3}, "bus must be an EventBus"),
        ({"store": 3}, "store must be a JetStreamEventStore"),
        ({"around": 3}, "around takes a list"),
        ({"thread_start": 3}, "thread_start must be a function"),
        ({"thread_exit": event}, "thread_exit is called without arguments"),
        ({"on_error": nothing}, "on_error is called with one argument, a Failure"),
    ],
)
def test_what_a_worker_is_not_made_with(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        Worker(**options)
