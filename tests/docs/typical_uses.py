"""Typical uses, for the type checker: this file is checked in strict mode, never run."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, assert_type

import msgspec
import psycopg
from flask import Flask, Response

from aether_sync import (
    ANY_VERSION,
    DBAPI,
    NO_EVENTS,
    PROJECTION_ADVANCED,
    ActorState,
    AetherError,
    CloseReport,
    Connection,
    Consumer,
    ConsumerState,
    DeadLetter,
    Decided,
    DecidedTogether,
    Delivery,
    Event,
    EventBus,
    EventStore,
    EventStored,
    EventTypes,
    Failure,
    Follower,
    Handler,
    HandlerMetrics,
    HandlingContext,
    HandlingFilter,
    Health,
    InMemoryEventStore,
    JetStreamEventStore,
    LoadedActor,
    Metrics,
    NATSEventBus,
    NATSServer,
    Notice,
    Operation,
    Projection,
    ProjectionAdvanced,
    Reading,
    Repository,
    RetryPolicy,
    Runner,
    Scenarios,
    SetAside,
    Snapshot,
    SQLite,
    Stamp,
    StoredEvent,
    Subscription,
    SubscriptionFilter,
    SubscriptionRunner,
    SubscriptionStats,
    UnknownOutcomeError,
    VersionConflictError,
    Worker,
    current_handling,
    handling,
    health_app,
    instrument,
    interruptible,
    retry_on_conflict,
)
from aether_sync.contrib.flask import Aether
from aether_sync.testing import Survival, assert_survives


@dataclass
class Order:
    qty: int


class Refund(TypedDict):
    amount: int


class Shipment(msgspec.Struct):
    weight: float


types = EventTypes(unknown="pass")


@types.event("OrderPlaced", version=2, formerly={"OrderMade"})
@dataclass(frozen=True)
class OrderPlaced:
    qty: int
    currency: str


@types.event("Refunded")
class Refunded(TypedDict):
    amount: int


@types.event("Shipped")
class Shipped(msgspec.Struct):
    weight: float


@types.upcast("OrderPlaced", version=1)
def add_currency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "currency": "EUR"}


assert_type(OrderPlaced, type[OrderPlaced])
assert_type(Shipped(weight=1.5), Shipped)
assert_type(add_currency({}), dict[str, Any])


def typed_events(store: EventStore, bus: EventBus) -> None:
    assert_type(store.types, EventTypes | None)
    bus.publish("orders.eu", types.to_event(OrderPlaced(3, "EUR"), actor_id="order-1", command_id="c-1"))
    refund: Refunded = {"amount": 3}
    event = types.to_event(refund, kind=Refunded, actor_id="order-1")
    assert_type(event, Event)
    store.append("order-1", OrderPlaced(3, currency="EUR"), Shipped(1.5), event, expected_version=NO_EVENTS)
    OrderPlaced("three", "EUR")  # type: ignore[arg-type]
    for event in store.get_events("order-1"):
        match event.value:
            case OrderPlaced(qty=qty, currency=currency):
                assert_type(qty, int)
                assert_type(currency, str)
            case Shipped() as shipped:
                assert_type(shipped.weight, float)
            case Event() as other:
                assert_type(other.event_type, str)
    store.read_all(event_types={OrderPlaced, "Other"})
    with store.follow(event_types={OrderPlaced}), bus.subscribe("orders.*", filter=only_placed()):
        pass
    assert_type(types.names(OrderPlaced), frozenset[str])


def only_placed() -> SubscriptionFilter:
    return SubscriptionFilter(event_types=[OrderPlaced], types=types)


def handle(bus: EventBus) -> None:
    with bus.subscribe("orders.*", "refunds.>") as events:
        for event in events:
            assert_type(event, Event)
            assert_type(event.data_as(Order), Order)
            assert_type(event.data_as(Refund), Refund)
            assert_type(event.data_as(Shipment), Shipment)
            bus.publish("seen", event.following(event_type="Seen", actor_id=event.actor_id))
            print(event.namespace, event.correlation_id, event.data["qty"] if event.data else None)


def batches(subscription: Subscription) -> int:
    assert_type(subscription.get(timeout=1.0), Event)
    assert_type(subscription.get_batch(100, timeout=0.1), list[Event])
    assert_type(subscription.stats(), SubscriptionStats)
    return subscription.stats().dropped


async def in_a_coroutine(subscription: Subscription) -> list[Event]:
    assert_type(await anext(subscription), Event)
    return [event async for event in subscription]


def alarm(notice: Notice) -> None:
    print(notice.kind, notice.url, notice.seconds)


class Database:
    def health(self) -> Health:
        return Health(about="the database", reasons=("it is away",), numbers={"seconds_since_answer": 3.0})


def probes(bus: EventBus, store: EventStore, runner: Runner) -> Callable[..., Iterable[bytes]]:
    return health_app(bus, bus.health, store, runner, partial(runner.health, hung_after=60), Database(), timeout=0.3)


def main() -> None:
    with NATSServer() as server, Connection(server.url, connect_timeout=2.0) as connection:
        one = NATSEventBus(connection, prefix="aether", publish_timeout=1.0, on_disconnect="raise")
        two = NATSEventBus(server.url, user="me", password="secret", ping_interval=2.0)
        events: list[EventBus] = [EventBus(), one, two]
        for bus in events:
            bus.publish("orders.eu", Event(event_type="OrderPlaced", actor_id="order-1", data={"qty": 3}))
            bus.publish_many("orders.eu", (Event(event_type="X", actor_id=f"x-{n}") for n in range(3)))
            subscription = bus.subscribe(
                "orders.*",
                filter=SubscriptionFilter(event_types={"OrderPlaced"}, actor_pattern="order-*"),
                maxsize=100,
                overflow="drop_oldest",
                timeout=None,
            )
            stored = bus.subscribe_to_event_stored("tenant-*", maxsize=10)
            assert_type(stored.get().data_as(EventStored), EventStored)
            bus.unsubscribe(subscription)
            assert_type(bus.metrics(), Metrics)
            off = bus.on(disconnected=alarm, closed=lambda notice: print(notice.reason, notice.counts))
            off()
            assert_type(bus.health(), Health)
            try:
                bus.flush(timeout=5.0)
            except AetherError as error:
                print(error)
            assert_type(bus.close(timeout=5.0), CloseReport)


@retry_on_conflict
def withdraw(store: EventStore, account: str, amount: int) -> int:
    loaded = store.load(account)
    assert_type(loaded, LoadedActor)
    event = Event(event_type="Withdrawn", actor_id=account, data={"amount": amount})
    (stored,) = store.append(account, event, expected_version=loaded.version)
    assert_type(stored, StoredEvent)
    return stored.event.version


@retry_on_conflict(attempts=None, timeout=10.0)
def open_account(store: EventStore, account: str) -> None:
    store.append(account, Event(event_type="Opened", actor_id=account), expected_version=NO_EVENTS)


def write_balance(db: sqlite3.Cursor, stored: StoredEvent) -> None:
    db.execute("UPDATE accounts SET last_event = ? WHERE id = ?", (stored.sequence, stored.event.actor_id))


def projections(store: EventStore, connect: Callable[[], psycopg.Connection]) -> None:
    with store.project("balances", write_balance, into=SQLite("read.db"), actors="account-*") as balances:
        assert_type(balances, Projection)
        (stored,) = store.append("account-1", Event(event_type="X", actor_id="account-1"), expected_version=ANY_VERSION)
        balances.wait_for(stored.sequence, timeout=2.0)
        assert_type(balances.lag, int)
        assert_type(balances.health(), Health)
        assert_type(balances.set_aside(), list[SetAside])
        balances.rebuild(["accounts"], progress=print)
    store.project("elsewhere", write_balance, into=DBAPI(connect, driver=psycopg), on_error="set_aside", batch=100)


def watch_projections(bus: EventBus) -> None:
    with bus.subscribe("n", filter=SubscriptionFilter(event_types={PROJECTION_ADVANCED})) as advances:
        assert_type(advances.get(timeout=1.0).data_as(ProjectionAdvanced).sequence, int)


def stores(url: str) -> None:
    bus = NATSEventBus(url)
    both: list[EventStore] = [
        InMemoryEventStore(bus=bus, namespace="n", snapshots_kept=3),
        JetStreamEventStore(url, "events", namespace="n", bus=bus, replicas=3, snapshots_kept=3),
    ]
    for store in both:
        with store:
            open_account(store, "account-1")
            assert_type(withdraw(store, "account-1", 3), int)
            try:
                store.append("account-1", Event(event_type="X", actor_id="account-1"), expected_version=ANY_VERSION)
            except VersionConflictError as conflict:
                print(conflict.actor_id, conflict.attempted_version, conflict.current_version)
            except UnknownOutcomeError as unknown:
                store.save_events(unknown.events)
            assert_type(store.get_events("account-1", 1, 10), list[Event])
            assert_type(store.get_events("account-1", after=3, limit=10, reverse=True), list[Event])
            assert_type(store.get_latest_event("account-1"), Event | None)
            assert_type(store.get_events_with_errors("account-1"), Reading)
            assert_type(store.last_sequence(actors="account-*"), int)
            assert_type(pages(store), int)
            assert_type(store.read_together("account-1", "account-2"), dict[str, list[Event]])
            assert_type(store.actors("account-*"), list[str])
            assert_type(store.cached_version("account-1"), int | None)
            store.save_snapshot(Snapshot(actor_id="account-1", version=2, state={"balance": 3}))
            with store.follow(after=3, event_types={"Withdrawn"}, allow_ahead=True) as follower:
                assert_type(follower.get(timeout=1.0), StoredEvent)
                follow(follower)


def evolve(order: Order, event: Event) -> Order:
    return event.data_as(Order)


def place(order: Order, qty: int, note: str) -> Event | None:
    return None if order.qty else Event(event_type="Placed", actor_id="order-1", data={"qty": qty, "note": note})


def place_all(orders: Mapping[str, Order], qty: int) -> dict[str, list[Event]]:
    return {one: [Event(event_type="Placed", actor_id=one, data={"qty": qty})] for one in orders}


def decisions(store: EventStore) -> None:
    with Repository(store, initial=lambda: Order(0), evolve=evolve, snapshot_every=100, schema_version=2) as orders:
        assert_type(orders, Repository[Order])
        assert_type(orders.get("order-1"), ActorState[Order])
        assert_type(orders.get("order-1").state.qty, int)
        decided = orders.decide("order-1", place, 3, "new", command_id="c", timeout=1.0)
        assert_type(decided, Decided[Order])
        assert_type(decided.stored, tuple[StoredEvent, ...])
        both = orders.decide_together(("order-1", "order-2"), place_all, 3)
        assert_type(both, DecidedTogether[Order])
        assert_type(both.actors["order-1"].state, Order)
        of_kinds = orders.decide_together({"order-1": orders, "order-2": orders}, place_all, 3)
        assert_type(of_kinds, DecidedTogether[Any])
        orders.decide("order-1", place, "3", "new")  # type: ignore[arg-type]  # a str is no int
        orders.decide("order-1", place, 3)  # type: ignore[arg-type]  # an argument is missing
        orders.decide_together(("order-1",), place, 3, "new")  # type: ignore[arg-type, call-arg]  # one state, no dict
        assert_type(orders.given().when(place, 3, "new").then_nothing(), Order)
        orders.given().when(place, 3)  # type: ignore[arg-type]  # an argument is missing
        assert_type(orders.close(timeout=1.0), CloseReport)
    scenarios = Scenarios(initial=lambda: Order(0), evolve=evolve)
    assert_type(scenarios.given().when(place, 3, "new").then_raises(ValueError, match="x"), ValueError)


def pages(store: EventStore) -> int:
    after = 0
    while page := store.read_all(after, limit=1_000, until=store.last_sequence(), event_types={"Withdrawn"}):
        assert_type(page, list[StoredEvent])
        after = page[-1].sequence
    return after


def snapshots(store: JetStreamEventStore) -> None:
    assert_type(store.get_snapshots("account-1"), list[Snapshot])
    assert_type(store.get_latest_snapshot("account-1", to_version=7), Snapshot | None)


def follow(follower: Follower) -> None:
    while not follower.is_caught_up and follower.is_connected:
        assert_type(follower.get_batch(100, timeout=1.0, until_caught_up=True), list[StoredEvent])
    for stored in follower:
        assert_type(stored, StoredEvent)
        print(stored.sequence, stored.event.actor_id, stored.ends_batch, stored.batch, follower.is_caught_up)


def work(store: JetStreamEventStore) -> None:
    def handle(delivery: Delivery) -> None:
        print(delivery.event, delivery.sequence, delivery.attempt)

    consumer = store.consumer("projector", actors="order-*", max_deliver=3)
    with consumer.iterate() as deliveries:
        for delivery in deliveries:
            delivery.ack()
            delivery.nak(delay=1.0)
            delivery.reject("no")
    handler: Handler = handle
    with consumer.run(handler, threads=8) as runner:
        runner.wait()
    consumer.wait_for(7, timeout=1.0)
    assert_type(consumer.state(), ConsumerState | None)
    assert_type(consumer.dead_letters(), list[DeadLetter])
    assert_type(store.consumers(), list[ConsumerState])


def in_context(bus: EventBus, event: Event, delivery: Delivery, stored: StoredEvent) -> None:
    for one in (event, delivery, stored):
        with handling(one) as context:
            assert_type(context, HandlingContext)
    assert_type(current_handling(), HandlingContext | None)
    logging.StreamHandler().addFilter(HandlingFilter())
    assert_type(delivery.consumer, str)

    @contextmanager
    def observer(operation: Operation) -> Iterator[Stamp | None]:
        yield (lambda event: {"release": "1", "old": None}) if operation.kind == "send" else None

    stop = instrument(observer)
    stop()


def bus_with_store(connection: Connection, store: JetStreamEventStore) -> None:
    bus = NATSEventBus(connection, store=store, namespace="tenant-abc")
    store.set_broadcaster(bus, "tenant-abc")
    assert_type(bus.try_publish("n", Event(event_type="X", actor_id="x")), bool)


def any_store(store: EventStore) -> None:
    consumer = store.consumer("projector", event_types={"OrderPlaced"})
    assert_type(consumer, Consumer)
    assert_type(consumer.store, EventStore)
    assert_type(consumer.drain(lambda one: one.ack()), int)
    assert_type(store.consumers(), list[ConsumerState])


def in_memory(store: InMemoryEventStore) -> None:
    any_store(store)
    assert_type(store.consumer("projector").run(print), Runner)
    store.start()  # type: ignore[attr-defined]  # told before it is run: it has no server


def worker(bus: EventBus, store: EventStore, projection: Projection, into: SQLite) -> None:
    def report(failure: Failure) -> None:
        print(failure.handler, failure.error, failure.event, failure.delivery)

    worker = Worker(bus=bus, store=store, around=[nullcontext], thread_start=print, thread_exit=print, on_error=report)

    @worker.on("orders.*", event_types={"OrderPlaced"}, queue_group="cache", threads=2)
    def forget(event: Event) -> None: ...

    @worker.consume("mailer", retry_delay=RetryPolicy((1, 10), never=(ValueError,)), time_limit=30.0, idempotent=into)
    def mail(db: sqlite3.Cursor, event: Event, delivery: Delivery) -> int:
        with interruptible():
            return delivery.attempt

    @worker.every(60, once_per_cluster=True)
    def tidy() -> None: ...

    assert_type(worker.project(projection), Projection)
    tidy()
    worker.start(timeout=5.0)
    assert_type(worker.drain(timeout=20.0), CloseReport)
    assert_type(worker.metrics().handlers, tuple[HandlerMetrics, ...])
    assert_type(worker.health().ok, bool)
    worker.run(grace=20.0)
    with bus.run("orders.*", forget, threads=2) as runner:
        assert_type(runner, SubscriptionRunner)


def surviving(types: EventTypes, event: Event) -> None:
    rows: dict[str, int] = {}

    def handler(event: Event, delivery: Delivery) -> None: ...

    survival = assert_survives(handler, [event], state=lambda: rows, reset=rows.clear, kill=True, histories=1_000)
    assert_type(survival, Survival)
    assert_type(survival.complete, bool)
    assert_survives(print, [("order-1", object())], state=rows.copy, restart=rows.clear, types=types, keep_order=False)


def flask_extension(types: EventTypes, event: Event) -> None:
    aether = Aether(types=types)
    app = Flask(__name__)
    aether.init_app(app)
    app.register_blueprint(aether.health_blueprint(aether.health, timeout=0.2), url_prefix="/internal")

    @app.get("/live")
    def live() -> Response:
        return aether.sse(actors="order-*", event_types={"OrderPlaced"}, encode=lambda event: event.actor_id)

    with app.app_context():
        assert_type(aether.bus, EventBus)
        assert_type(aether.store, EventStore)
        assert_type(aether.health(timeout=0.1).ok, bool)
        Worker(bus=aether.bus, store=aether.store, around=[app.app_context])
    with app.test_request_context():
        aether.publish_after_response("orders.eu", event)
    assert_type(aether.close(app, timeout=1.0), CloseReport)
