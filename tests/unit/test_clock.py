"""A clock that a test stops: what is stamped follows it, what is waited for does not."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from time import CLOCK_MONOTONIC, clock_gettime

import pytest
from freezegun import freeze_time

from aether_sync import (
    DeadlineExceededError,
    EventBus,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Snapshot,
)
from aether_sync._codec.decoding import decode_event
from aether_sync._codec.encoding import encode_event

from ..support.common import PATIENCE, UNIT, make_event
from ..support.proxy import Proxy

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]

SHORT = 0.2 * UNIT  # seconds
FROZEN = datetime(2012, 1, 14, 12, 30, tzinfo=UTC)


def eventually(condition: Callable[[], object], what: str) -> None:
    """As that of conftest, on a clock that goes."""
    end = clock_gettime(CLOCK_MONOTONIC) + PATIENCE
    while not condition():
        assert clock_gettime(CLOCK_MONOTONIC) < end, f"{what} did not come true within {PATIENCE:g} s"


@contextmanager
def passes() -> Iterator[None]:
    """Within, a time-out of SHORT passes: at that time."""
    begun = clock_gettime(CLOCK_MONOTONIC)
    yield
    assert SHORT * 0.9 < clock_gettime(CLOCK_MONOTONIC) - begun < PATIENCE


# -- what is stamped


def test_an_event_has_the_time_of_the_test() -> None:
    with freeze_time(FROZEN) as frozen:
        first = make_event()
        frozen.tick(1.5)
        second = make_event()
        frozen.move_to("2030-02-03T04:05:06Z")
        third = make_event()
    assert [first.timestamp, second.timestamp] == [FROZEN, FROZEN + timedelta(seconds=1.5)]
    assert third.timestamp == datetime(2030, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert datetime.now(UTC) - make_event().timestamp < timedelta(minutes=1)


@freeze_time(FROZEN, tz_offset=-8, tick=True)
def test_an_event_has_it_in_utc_also_where_the_clock_goes_on() -> None:
    assert timedelta(0) <= make_event().timestamp - FROZEN + timedelta(hours=8) < timedelta(minutes=1)


@freeze_time(FROZEN)
def test_a_snapshot_has_it_too() -> None:
    assert Snapshot(actor_id="a", version=1, state={}).timestamp == FROZEN


def test_nothing_of_the_stopped_clock_is_left_in_an_event() -> None:
    with freeze_time(FROZEN):
        made = [make_event(), make_event(timestamp=datetime.now(UTC)), make_event().replace(version=3)]
        snapshot = Snapshot(actor_id="a", version=1, state={})
    for event in (*made, snapshot):
        assert type(event.timestamp) is datetime
        assert event.timestamp.tzinfo is UTC
        assert event.timestamp == FROZEN


def test_an_event_is_copied_compared_written_and_read_while_the_clock_is_stopped() -> None:
    before = make_event()
    data = {"at": datetime(2020, 1, 1, tzinfo=UTC), "day": date(2020, 1, 2)}
    with freeze_time(FROZEN):
        event = make_event(data={**data, "now": datetime.now(UTC), "today": date.today(), "real": data["at"]})
        assert copy.copy(event) == copy.deepcopy(event) == event == event.replace()
        read = decode_event(encode_event(event), "")
        assert decode_event(encode_event(before), "") == before
    assert type(read.timestamp) is datetime
    assert read.timestamp == FROZEN
    assert read.data == {
        "at": "2020-01-01T00:00:00Z", "day": "2020-01-02", "real": "2020-01-01T00:00:00Z",
        "now": "2012-01-14T12:30:00Z", "today": "2012-01-14",
    }  # fmt: skip
    assert decode_event(encode_event(event), "") == read  # and afterwards
    assert encode_event(read) == encode_event(event)


def test_data_is_read_as_moments_of_the_callers_own_classes() -> None:
    @dataclass
    class Seen:
        at: datetime

    with freeze_time(FROZEN):
        event = make_event(data={"at": datetime.now(UTC)})
        read = decode_event(encode_event(event), "")
    assert read.data_as(Seen) == Seen(FROZEN)


_IMPORTED_MEANWHILE = """
from datetime import UTC, date, datetime
from freezegun import freeze_time

with freeze_time("2012-01-14T12:30:00Z"):
    from aether_sync import *
    from aether_sync._codec.decoding import decode_event
    from aether_sync._codec.encoding import encode_event
    with EventBus() as bus, bus.subscribe("n") as events:
        bus.publish("n", Event(event_type="E", actor_id="a", data={"day": date(2020, 1, 2)}))
        event = events.get(timeout=10)
        assert events.get_batch(1, timeout=0.1) == []
    assert event.timestamp == datetime(2012, 1, 14, 12, 30, tzinfo=UTC), event
made = {"d": date.today()}
for one in (event, Event(event_type="E", actor_id="a", timestamp=datetime(2020, 1, 1, tzinfo=UTC), data=made)):
    read = decode_event(encode_event(one), "")
    assert type(one.timestamp) is type(read.timestamp) is datetime, (one, read)
    assert read.timestamp == one.timestamp
assert datetime.now(UTC).year - Event(event_type="E", actor_id="a").timestamp.year < 2
"""


def test_the_library_is_imported_while_the_clock_is_stopped() -> None:
    command = [sys.executable, "-W", "error", "-c", _IMPORTED_MEANWHILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


# -- what is waited for


@freeze_time(FROZEN)
def test_a_bus_of_one_process_waits_no_longer(local_bus: EventBus) -> None:
    with local_bus.subscribe("n") as events:
        with passes(), pytest.raises(DeadlineExceededError):
            events.get(timeout=SHORT)
        with passes():
            assert events.get_batch(1, timeout=SHORT) == []
        local_bus.publish("n", make_event())
        assert events.get(timeout=PATIENCE).timestamp == FROZEN


@pytest.mark.both_loops
class TestABus:
    @freeze_time(FROZEN)
    def test_it_is_made_used_and_closed(self, make_bus: MakeBus) -> None:
        bus, other = make_bus(), make_bus()
        with bus.subscribe("n") as events:
            other.publish("n", make_event())
            other.flush(timeout=PATIENCE)
            assert events.get(timeout=PATIENCE).timestamp == FROZEN
            with passes(), pytest.raises(DeadlineExceededError):
                events.get(timeout=SHORT)

    def test_the_clock_is_stopped_around_a_bus_in_use(self, make_bus: MakeBus) -> None:
        bus, other = make_bus(), make_bus()
        with bus.subscribe("n") as events:
            for step in range(3):
                with freeze_time(FROZEN) as frozen:
                    frozen.tick(step)
                    other.publish("n", make_event())
                    assert events.get(timeout=PATIENCE).timestamp == FROZEN + timedelta(seconds=step)
                    with passes():
                        assert events.get_batch(1, timeout=SHORT) == []
                other.publish("n", make_event())
                assert events.get(timeout=PATIENCE).timestamp > FROZEN + timedelta(days=365)

    @pytest.mark.fault
    def test_a_frozen_link_is_noticed_and_replaced(self, server: NATSServer, make_bus: MakeBus) -> None:
        with Proxy(server.port) as proxy:
            bus = make_bus(proxy.url, ping_interval=SHORT)
            bus.start()
            with freeze_time(FROZEN):
                proxy.stall()
                eventually(lambda: not bus.is_connected, "a frozen link that is noticed")
                with passes():
                    assert not bus.wait_connected(SHORT)
                proxy.restore()
                assert bus.wait_connected(PATIENCE)
                proxy.drop()
                eventually(lambda: bus.metrics().reconnects == 2, "another connection")
                bus.publish("n", make_event())
                bus.flush(timeout=PATIENCE)

    @pytest.mark.fault
    @freeze_time(FROZEN)
    def test_a_full_outbox_and_a_flush_while_the_server_is_away(self, server: NATSServer, make_bus: MakeBus) -> None:
        with Proxy(server.port) as proxy:
            bus = make_bus(proxy.url, outbox_events=1, publish_timeout=SHORT)
            bus.start()
            proxy.cut()
            eventually(lambda: not bus.is_connected, "a broken link")
            bus.publish("n", make_event())
            with passes(), pytest.raises(DeadlineExceededError):
                bus.publish("n", make_event())
            with passes(), pytest.raises(DeadlineExceededError):
                bus.flush(timeout=SHORT)
            proxy.restore()
            bus.flush(timeout=PATIENCE)


@freeze_time(FROZEN)
def test_a_store_in_memory_waits_no_longer() -> None:
    with InMemoryEventStore() as store:
        store.save_events([make_event(actor_id="a", version=1)])
        with store.follow() as follower:
            assert follower.get(timeout=PATIENCE).event.timestamp == FROZEN
            with passes(), pytest.raises(DeadlineExceededError):
                follower.get(timeout=SHORT)


class TestAStore:
    @freeze_time(FROZEN)
    def test_followers_and_consumptions_end_their_waits(self, store: JetStreamEventStore) -> None:
        store.save_events([make_event(actor_id="a", version=1)])
        with store.follow() as follower:
            assert follower.get(timeout=PATIENCE).event.timestamp == FROZEN
            with passes(), pytest.raises(DeadlineExceededError):
                follower.get(timeout=SHORT)
        with store.consumer("one").iterate() as deliveries:
            deliveries.get(timeout=PATIENCE).ack(confirm=True)
            with passes(), pytest.raises(DeadlineExceededError):
                deliveries.get(timeout=SHORT)
            store.save_events([make_event(actor_id="a", version=2)])
            deliveries.get(timeout=PATIENCE).ack()

    @pytest.mark.fault
    def test_an_append_that_nobody_answers_ends(self, server: NATSServer, make_store: MakeStore) -> None:
        with Proxy(server.port) as proxy:
            store = make_store(proxy.url)
            store.save_events([make_event(actor_id="a", version=1)])
            with freeze_time(FROZEN):
                proxy.stall()
                with passes(), pytest.raises(TimeoutError):
                    store.save_events([make_event(actor_id="a", version=2)], timeout=SHORT)
                with passes(), pytest.raises(TimeoutError):
                    store.get_events("a", timeout=SHORT)
                proxy.restore()
                assert store.get_events("a", timeout=PATIENCE)

    @pytest.mark.fault
    def test_a_follower_goes_on_after_another_connection(self, server: NATSServer, make_store: MakeStore) -> None:
        with Proxy(server.port) as proxy:
            store = make_store(proxy.url)
            with store.follow() as follower, freeze_time(FROZEN):
                store.save_events([make_event(actor_id="a", version=1)])
                assert follower.get(timeout=PATIENCE).event.version == 1
                proxy.drop()
                store.save_events([make_event(actor_id="a", version=2)], timeout=PATIENCE)
                assert follower.get(timeout=PATIENCE).event.version == 2


def test_the_clock_of_time_outs_is_none_that_is_stopped() -> None:
    from aether_sync._values.clock import monotonic, now

    with freeze_time(FROZEN):
        first = monotonic()
        assert now() == FROZEN
        eventually(lambda: monotonic() > first, "time that passes")
