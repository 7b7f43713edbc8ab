"""Prometheus in one process: what a scrape shows, and what it never does."""

import gc
import time
import urllib.request
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aether_sync import (
    Connection,
    Delivery,
    Event,
    EventBus,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    Metrics,
    NATSEventBus,
    NATSServer,
    Worker,
    flush_logs,
)
from aether_sync.contrib.prometheus import register, start_http_server
from aether_sync.contrib.prometheus._families import FAMILIES
from aether_sync.metrics import BOUNDS

from ..support.common import PATIENCE, eventually, make_event, run_threads
from .outbox.places import Step, sqlite_place

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]


class Scrape:
    """What a scrape of a registry says now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.text = generate_latest(registry).decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        assert len(self.families) == self.text.count("# HELP "), "each family comes once"
        self.samples = [one for family in self.families.values() for one in family.samples]
        keys = [(one.name, *sorted(one.labels.items())) for one in self.samples]
        assert len(keys) == len(set(keys)), "each series comes once"

    def value(self, name: str, /, **labels: str) -> float | None:
        """The sum of the series that have these labels; None if there is none."""
        found = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        return sum(found) if found else None


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


def publish(bus: EventBus, count: int = 1, namespace: str = "orders.eu") -> None:
    bus.publish_many(namespace, [make_event(n) for n in range(count)])


# -- what is shown


def test_a_bus(local_bus: EventBus, registry: CollectorRegistry) -> None:
    with local_bus.subscribe("orders.*", maxsize=2) as events, register(local_bus, registry=registry):
        publish(local_bus, 5)
        events.get(timeout=0)
        scrape = Scrape(registry)
        assert scrape.value("aether_sync_bus_published_total", namespace="orders.eu") == 5
        assert scrape.value("aether_sync_bus_dropped_total", reason="maxsize") == 3
        assert scrape.value("aether_sync_bus_delivered_total") == 1
        assert scrape.value("aether_sync_bus_pending_events") == 1
        assert scrape.value("aether_sync_bus_pending_bytes") == events.stats().pending_bytes > 0
        assert scrape.value("aether_sync_bus_subscriptions") == 1
        assert "aether_sync_connection" not in scrape.text
        assert all("name" not in one.labels for one in scrape.samples), "an empty label is left out"


def test_a_store_with_real_histograms(registry: CollectorRegistry) -> None:
    with InMemoryEventStore() as store, register(store, name="eu", registry=registry):
        for version in range(1, 4):
            store.save_event(make_event(version=version, actor_id="order-1"))
        store.load("order-1")
        seconds = store.metrics().calls["save_event"].seconds
        scrape = Scrape(registry)
        name, labels = "aether_sync_store_call_seconds", {"method": "save_event", "name": "eu"}
        assert scrape.families[name].type == "histogram"
        assert scrape.value(f"{name}_count", **labels) == 3
        assert scrape.value(f"{name}_sum", **labels) == pytest.approx(seconds.sum)
        for at, bound in enumerate(BOUNDS):
            assert scrape.value(f"{name}_bucket", le=str(bound), **labels) == sum(seconds.counts[: at + 1])
        assert scrape.value(f"{name}_bucket", le="+Inf", **labels) == 3
        assert scrape.value("aether_sync_store_events_written_total") == 3
        assert scrape.value("aether_sync_store_events_read_total") == 3


def test_all_of_them_by_one_call(
    make_bus: MakeBus, make_store: MakeStore, prefix: str, registry: CollectorRegistry
) -> None:
    bus, store = make_bus(prefix=f"{prefix}-bus"), make_store()
    consumer = store.consumer("mailer")
    bus.flush()
    with consumer.run(lambda delivery: None) as runner:
        registration = register(bus, store, runner, consumer, registry=registry)
        store.save_event(make_event(version=1))
        consumer.wait_for(1, timeout=PATIENCE)
        publish(bus)
        bus.flush()
        eventually(lambda: Scrape(registry).value("aether_sync_consumer_waiting_events", consumer="mailer") == 0)
        scrape = Scrape(registry)
        assert scrape.value("aether_sync_connection_confirmed_total") == 1
        assert scrape.value("aether_sync_connection_connected") == 2
        assert scrape.value("aether_sync_bus_published_total", prefix=bus.prefix) == 1
        assert scrape.value("aether_sync_store_events_written_total", stream=store.stream) == 1
        assert (
            scrape.value("aether_sync_runner_handled_total", stream=store.stream, consumer="mailer", source="events")
            == 1
        )
        assert scrape.value("aether_sync_runner_handler_seconds_count", consumer="mailer") == 1
        assert scrape.value("aether_sync_runner_threads") == 4
        assert scrape.value("aether_sync_consumer_unacknowledged_events", stream=store.stream) is not None
    assert Scrape(registry).value("aether_sync_runner_threads") is None, "it is closed"
    assert Scrape(registry).value("aether_sync_runner_handled_total") == 1
    store.close()
    bus.close()
    assert Scrape(registry).value("aether_sync_connection_connected") is None
    assert Scrape(registry).value("aether_sync_store_events_written_total") == 1
    registration.unregister()
    assert Scrape(registry).text == ""


def test_a_relay_by_itself_and_of_a_worker(
    tmp_path: Path, memory_store: InMemoryEventStore, registry: CollectorRegistry
) -> None:
    place = sqlite_place(tmp_path)
    place.write([Step("append", actor, make_event(actor_id=actor)) for actor in "ab"], "me")
    relay, worker = place.relay(memory_store, None), Worker(store=memory_store)
    worker.relay(relay)
    with register(worker, registry=registry):
        assert Scrape(registry).value("aether_sync_relay_waiting_rows") is None, "it is not started"
        with worker:
            eventually(lambda: relay.metrics().stored == 2)
            scrape = Scrape(registry)
            assert scrape.value("aether_sync_relay_stored_total") == 2
            assert scrape.value("aether_sync_relay_seconds_count") == 2
            assert scrape.value("aether_sync_relay_set_aside_rows") == 0
            eventually(lambda: Scrape(registry).value("aether_sync_relay_oldest_seconds") == 0)  # it looks each second
            assert "aether_outbox" in scrape.text
    with register(relay, registry=registry):
        assert Scrape(registry).value("aether_sync_relay_stored_total") == 2
        assert Scrape(registry).value("aether_sync_relay_waiting_rows") is None, "it is closed"
    place.engine.dispose()


def test_a_worker(local_bus: EventBus, memory_store: InMemoryEventStore, registry: CollectorRegistry) -> None:
    worker = Worker(bus=local_bus, store=memory_store)

    @worker.on("orders.*")
    def forget(event: Event) -> None:
        raise ValueError(event.actor_id)

    @worker.consume("mailer")
    def send(delivery: Delivery) -> None: ...

    with register(worker, registry=registry):
        assert "aether_sync_runner" not in Scrape(registry).text, "it has not begun"
        with worker:
            publish(local_bus, 3)
            memory_store.save_event(make_event(version=1))
            eventually(lambda: sum(one.handled + one.failed for one in worker.metrics().handlers) == 4)
            scrape = Scrape(registry)
            on = {"kind": "on", "of": "orders.*"}
            assert scrape.value("aether_sync_worker_failed_total", **on) == 3
            assert scrape.value("aether_sync_worker_handled_total", **on) == 0
            assert scrape.value("aether_sync_worker_handler_seconds_count", **on) == 3
            assert scrape.value("aether_sync_worker_handled_total", kind="consume", of="mailer") == 1
            assert scrape.value("aether_sync_worker_threads", kind="consume") == 4
            assert scrape.value("aether_sync_runner_handled_total", consumer="mailer", source="events") == 1
            assert {one.labels["handler"] for one in scrape.samples if "kind" in one.labels} == {
                metrics.name for metrics in worker.metrics().handlers
            }
        scrape = Scrape(registry)
        assert scrape.value("aether_sync_worker_threads") is None, "it is closed"
        assert scrape.value("aether_sync_worker_failed_total") == 3


def test_consumers_of_two_streams_may_have_the_same_name(
    make_store: MakeStore, prefix: str, registry: CollectorRegistry
) -> None:
    stores = [make_store(stream=f"{prefix}-{name}") for name in ("orders", "invoices")]
    runners = [store.consumer("mailer").run(lambda delivery: None) for store in stores]
    with register(*runners, registry=registry):
        for store, number in zip(stores, (1, 2), strict=True):
            for version in range(1, number + 1):
                store.save_event(make_event(version=version))
            store.consumer("mailer").wait_for(number, timeout=PATIENCE)
        for store, number in zip(stores, (1, 2), strict=True):
            handled = partial(Scrape(registry).value, "aether_sync_runner_handled_total")
            assert handled(stream=store.stream, consumer="mailer") == number


def test_names_units_and_help_texts() -> None:
    for family in FAMILIES:
        assert family.name.startswith("aether_sync_")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert family.text[0].isupper()
        assert family.text.endswith(".")
        assert not set(family.labels) & {"actor", "actor_id", "node", "node_id", "pid", "id", "le"}
    assert len({one.name for one in FAMILIES}) == len(FAMILIES)


def test_labels_are_few_whatever_is_published(local_bus: EventBus, registry: CollectorRegistry) -> None:
    with register(local_bus, registry=registry):
        for n in range(1_200):
            local_bus.publish(f"tenant-{n}.orders", make_event(n))
        scrape = Scrape(registry)
        published = [one for one in scrape.samples if one.name == "aether_sync_bus_published_total"]
        assert len(published) == 1_001
        assert scrape.value("aether_sync_bus_published_total") == 1_200
        assert scrape.value("aether_sync_bus_published_total", namespace="*") == 200
        assert "thing-" not in scrape.text, "no actor is a label"


# -- several objects


def test_buses_with_the_same_labels_are_added_up(registry: CollectorRegistry) -> None:
    with EventBus() as one, EventBus() as other, register(one, registry=registry), register(other, registry=registry):
        publish(one, 3)
        publish(other, 4)
        assert Scrape(registry).value("aether_sync_bus_published_total") == 7


def test_names_tell_buses_apart(registry: CollectorRegistry) -> None:
    with EventBus() as one, EventBus() as other:
        register(one, name="eu", registry=registry)
        register(other, name="us", registry=registry)
        publish(one, 3)
        publish(other, 4)
        assert Scrape(registry).value("aether_sync_bus_published_total", name="eu") == 3
        assert Scrape(registry).value("aether_sync_bus_published_total", name="us") == 4


def test_a_shared_connection_counts_once(server: NATSServer, prefix: str, registry: CollectorRegistry) -> None:
    with Connection(server.url) as connection:
        buses = [NATSEventBus(connection, prefix=f"{prefix}{n}") for n in range(2)]
        store = JetStreamEventStore(connection, prefix)
        register(*buses, store, registry=registry)
        for bus in buses:
            publish(bus, 5)
            bus.flush()
        scrape = Scrape(registry)
        assert scrape.value("aether_sync_bus_published_total") == 10
        assert scrape.value("aether_sync_connection_confirmed_total") == 10
        assert scrape.value("aether_sync_connection_connected") == 1
        assert scrape.value("aether_sync_connection_outbox_events") == 0


@pytest.mark.fault
def test_a_connection_that_is_cut_off_differs_from_one_that_is_not_used(
    own_server: NATSServer, prefix: str, registry: CollectorRegistry
) -> None:
    def counts() -> tuple[float | None, float | None]:
        scrape = Scrape(registry)
        names = "aether_sync_connection_started", "aether_sync_connection_connected"
        return scrape.value(names[0]), scrape.value(names[1])

    bus, other = [NATSEventBus(own_server.url, prefix=prefix) for _ in range(2)]
    register(bus, other, registry=registry)
    assert counts() == (0, 0), "nothing is used yet"
    bus.start()
    assert counts() == (1, 1)
    other.start()
    other.close()
    assert counts() == (1, 1), "one is closed"
    own_server.stop()
    eventually(lambda: counts() == (1, 0), "the loss")
    own_server.start()
    eventually(lambda: counts() == (1, 1), "the return")
    bus.close()
    assert counts() == (None, None)


def test_a_shared_connection_has_the_name_of_the_first(
    server: NATSServer, prefix: str, registry: CollectorRegistry
) -> None:
    with Connection(server.url) as connection:
        orders, mails = (NATSEventBus(connection, prefix=f"{prefix}{n}") for n in range(2))
        with register(orders, name="orders", registry=registry), register(mails, name="mails", registry=registry):
            publish(orders, 7)
            orders.flush()
            scrape = Scrape(registry)
            of_connection = [one for one in scrape.samples if one.name.startswith("aether_sync_connection")]
            assert len(of_connection) == len({one.name for one in of_connection}) == 8
            assert all(one.labels == {"name": "orders"} for one in of_connection)
            assert scrape.value("aether_sync_connection_confirmed_total") == 7
            assert scrape.value("aether_sync_bus_published_total", name="mails") is None
            assert scrape.value("aether_sync_bus_received_total", name="mails") == 0


def test_registering_again_counts_once(local_bus: EventBus, registry: CollectorRegistry) -> None:
    first, second = register(local_bus, registry=registry), register(local_bus, registry=registry)
    publish(local_bus, 2)
    first.unregister()
    first.unregister()
    assert Scrape(registry).value("aether_sync_bus_published_total") == 2
    assert Scrape(registry).value("aether_sync_bus_subscriptions") == 0
    second.unregister()
    assert Scrape(registry).text == ""
    with register(local_bus, registry=registry):
        assert Scrape(registry).value("aether_sync_bus_published_total") == 2


def test_a_counter_does_not_go_down_when_an_object_leaves(registry: CollectorRegistry) -> None:
    with EventBus() as stays, EventBus() as leaves, register(stays, registry=registry):
        registration = register(leaves, registry=registry)
        publish(stays, 1)
        publish(leaves, 2)
        registration.unregister()
        assert Scrape(registry).value("aether_sync_bus_published_total") == 3
        publish(leaves, 3)
        assert Scrape(registry).value("aether_sync_bus_published_total") == 3, "it is not shown any more"
        with register(leaves, registry=registry):
            assert Scrape(registry).value("aether_sync_bus_published_total") == 6, "nothing is counted twice"


def test_what_is_registered_under_another_name_goes_on_there(registry: CollectorRegistry) -> None:
    """Each event counts once, under the name that its bus had then, or got next."""

    def published(name: str) -> float | None:
        return Scrape(registry).value("aether_sync_bus_published_total", name=name)

    with EventBus() as stays, EventBus() as bus, InMemoryEventStore() as store:
        register(stays, registry=registry)
        for name, before in ("a", 0), ("b", 1), ("a", 2), ("c", 1):
            with register(bus, store, name=name, registry=registry):
                publish(bus, 1)
                store.save_event(make_event(version=store.get_latest_version("thing-0") + 1))
                assert published(name) == before + 1, name
            publish(bus, 1)
        seconds = dict.fromkeys("abc", 0.0)
        scrape = Scrape(registry)
        for name in seconds:
            seconds[name] = scrape.value("aether_sync_store_call_seconds_sum", name=name, method="save_event") or 0.0
        calls = store.metrics().calls["save_event"].seconds
        assert sum(seconds.values()) == pytest.approx(calls.sum)
        counts = [
            scrape.value("aether_sync_store_call_seconds_count", name=name, method="save_event") for name in "abc"
        ]
        assert counts == [2, 1, 1]


def test_the_last_counts_of_a_collected_object(registry: CollectorRegistry) -> None:
    with EventBus() as stays, register(stays, registry=registry):
        bus, store = EventBus(), InMemoryEventStore()
        register(bus, registry=registry)
        of_store = register(store, registry=registry)
        Scrape(registry)
        with bus.subscribe("orders.*", maxsize=1) as events:
            publish(bus, 3)
            events.get(timeout=0)
        store.save_event(make_event(version=1))
        del bus, store, events
        gc.collect()
        of_store.unregister()
        scrape = Scrape(registry)
        assert scrape.value("aether_sync_bus_published_total") == 3
        assert scrape.value("aether_sync_bus_delivered_total") == 1
        assert scrape.value("aether_sync_bus_dropped_total", reason="maxsize") == 2
        assert scrape.value("aether_sync_store_events_written_total") == 1
        assert scrape.value("aether_sync_bus_subscriptions") == 0


@pytest.mark.slow
def test_nothing_is_kept_alive(registry: CollectorRegistry) -> None:
    with EventBus() as stays, register(stays, registry=registry):
        before = None
        for _ in range(50):
            bus = EventBus()
            register(bus, registry=registry)
            publish(bus)
            assert Scrape(registry).value("aether_sync_bus_subscriptions") == 0
            bus.close()
            ref = weakref.ref(bus)
            del bus
            gc.collect()
            assert ref() is None
            size = len(Scrape(registry).samples)
            assert before in (None, size)
            before = size
        assert Scrape(registry).value("aether_sync_bus_published_total") == 50


def test_a_registry_that_is_dropped_takes_all_with_it(local_bus: EventBus) -> None:
    registry = CollectorRegistry()
    register(local_bus, registry=registry)
    ref = weakref.ref(registry)
    del registry
    gc.collect()
    assert ref() is None


def test_the_default_registry(local_bus: EventBus) -> None:
    with register(local_bus):
        publish(local_bus, 2)
        assert REGISTRY.get_sample_value("aether_sync_bus_published_total", {"namespace": "orders.eu"}) == 2
        only = generate_latest(REGISTRY.restricted_registry(["aether_sync_bus_subscriptions"])).decode()
        assert "aether_sync_bus_subscriptions 0.0" in only
    assert REGISTRY.get_sample_value("aether_sync_bus_published_total", {"namespace": "orders.eu"}) is None


# -- what does not harm


class Broken(EventBus):
    is_broken = True

    def metrics(self) -> Metrics:
        if self.is_broken:
            raise RuntimeError("no metrics today")
        return super().metrics()


def test_a_broken_object_does_not_keep_others_from_being_shown(
    local_bus: EventBus, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    with Broken() as broken, register(local_bus, broken, registry=registry):
        publish(local_bus)
        publish(broken, 2)
        scrape = Scrape(registry)
        assert scrape.value("aether_sync_bus_published_total") == 1
        assert scrape.value("aether_sync_export_errors_total", object="bus") == 1
        assert flush_logs()
        (record,) = [one for one in caplog.records if one.__dict__.get("kind") == "export_failed"]
        assert "no metrics today" in record.getMessage()
        broken.is_broken = False
        assert Scrape(registry).value("aether_sync_bus_published_total") == 3


@pytest.mark.fault
def test_a_scrape_does_not_wait_for_a_server_that_is_away(
    own_server: NATSServer, prefix: str, registry: CollectorRegistry
) -> None:
    with (
        NATSEventBus(own_server.url, prefix=prefix) as bus,
        JetStreamEventStore(bus.connection, prefix) as store,
        register(bus, store, store.consumer("mailer"), registry=registry),
    ):
        bus.flush()
        Scrape(registry)
        own_server.pause()
        try:
            publish(bus, 3)
            begun = time.monotonic()
            scrape = Scrape(registry)
            assert time.monotonic() - begun < PATIENCE / 20
            assert scrape.value("aether_sync_bus_published_total") == 3
        finally:
            own_server.resume()


def test_scrapes_and_registrations_at_the_same_time(registry: CollectorRegistry, fast_switching: None) -> None:
    seen: list[float] = []

    def scrape() -> None:
        for _ in range(30):
            seen.append(Scrape(registry).value("aether_sync_bus_published_total") or 0)

    def come_and_go() -> None:
        for _ in range(30):
            with EventBus() as bus, register(bus, registry=registry):
                publish(bus)

    with EventBus() as stays, register(stays, registry=registry):
        run_threads(scrape, come_and_go, come_and_go)
        assert seen == sorted(seen), "no counter goes down"
        assert Scrape(registry).value("aether_sync_bus_published_total") == 60


# -- what is refused


@pytest.mark.parametrize(
    "thing",
    ["nats://127.0.0.1:4222", None, EventBus, CollectorRegistry()],
    ids=["a URL", "None", "a class", "a registry"],
)
def test_an_unknown_object_is_named(thing: Any, local_bus: EventBus, registry: CollectorRegistry) -> None:
    with pytest.raises(
        InvalidOptionError, match="takes buses, connections, stores, runners, consumers, workers and relays, not"
    ):
        register(local_bus, thing, registry=registry)
    assert Scrape(registry).text == "", "nothing half made"


def test_wrong_arguments_are_named(local_bus: EventBus, registry: CollectorRegistry) -> None:
    with pytest.raises(InvalidOptionError, match="was given none"):
        register(registry=registry)
    with pytest.raises(InvalidOptionError, match="registry must be a CollectorRegistry"):
        register(local_bus, registry="prometheus")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="name must"):
        register(local_bus, name=7, registry=registry)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="at most 100"):
        register(local_bus, name="x" * 101, registry=registry)
    with (
        register(local_bus, name="one", registry=registry),
        pytest.raises(InvalidOptionError, match="'one' already"),
    ):
        register(local_bus, name="two", registry=registry)


def test_names_that_others_have_are_named(local_bus: EventBus, registry: CollectorRegistry) -> None:
    Counter("aether_sync_bus_received", "Mine.", registry=registry)
    with pytest.raises(InvalidOptionError, match=r"same names.*aether_sync_bus_received"):
        register(local_bus, registry=registry)


# -- a server of its own


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


def test_a_program_without_a_web_server(local_bus: EventBus, registry: CollectorRegistry) -> None:
    register(local_bus, registry=registry)
    publish(local_bus)
    with start_http_server(0, address="127.0.0.1", registry=registry) as server:
        assert 'published_total{namespace="orders.eu"} 1.0' in fetch(server.port)
        with pytest.raises(InvalidOptionError, match=rf"port {server.port} of 127\.0\.0\.1 is taken.*choose another"):
            start_http_server(server.port, address="127.0.0.1", registry=registry)
        server.close()
    with start_http_server(server.port, address="127.0.0.1", registry=registry):
        assert "published_total" in fetch(server.port)


def test_a_server_that_cannot_be() -> None:
    with pytest.raises(InvalidOptionError, match="port must be a whole number from 0 to 65535"):
        start_http_server(65_536)
    with pytest.raises(InvalidOptionError, match="is no address of this machine"):
        start_http_server(0, address="192.0.2.1")
    with pytest.raises(InvalidOptionError, match="registry must"):
        start_http_server(0, registry="mine")  # type: ignore[arg-type]
