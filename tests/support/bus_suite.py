"""The promises of a bus, written once: every implementation is run through them.

A subclass says by ``nodes`` what it means to publish "elsewhere": for a bus of one process that is the same bus, for a
cluster another node.
"""

import gc
import random
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest

from aether_sync import (
    BusClosedError,
    DeadlineExceededError,
    EncodingError,
    Event,
    EventBus,
    EventStored,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    Subscription,
    SubscriptionClosedError,
    SubscriptionFilter,
    SubscriptionOverflowError,
    flush_logs,
)

from .common import PATIENCE, UNIT, eventually, make_event, run_threads

Nodes = tuple[EventBus, EventBus]
Keep = Callable[[Subscription], Subscription]


def numbers(events: list[Event]) -> list[int]:
    return [event.data["n"] for event in events if event.data is not None]


class BusPromises:
    """Each test gets two nodes: one that subscribes, one that publishes."""

    @pytest.fixture
    def nodes(self) -> Nodes:
        raise NotImplementedError

    @pytest.fixture
    def here(self, nodes: Nodes) -> EventBus:
        return nodes[0]

    @pytest.fixture
    def there(self, nodes: Nodes) -> EventBus:
        return nodes[1]

    # -- what arrives

    def test_an_event_arrives_as_it_was_published(self, here: EventBus, there: EventBus) -> None:
        event = Event(
            event_type="OrderPlaced",
            actor_id="order-1",
            version=7,
            data={"qty": 3, "name": "Žluťoučký 馬", "big": 2**60, "none": None, "deep": [{"a": [1.5, True]}]},
            command_id="c-1",
            metadata={"correlationId": "x"},
        )
        with here.subscribe("orders.eu") as events:
            there.publish("orders.eu", event)
            got = events.get(timeout=PATIENCE)
        assert got == event
        assert (got.namespace, event.namespace) == ("orders.eu", "")

    def test_what_json_does_not_know_arrives_in_its_form_everywhere(self, here: EventBus, there: EventBus) -> None:
        data = {"tuple": (1, 2), "mapping": MappingProxyType({"a": 1})}
        with here.subscribe("n") as events, there.subscribe("n") as own:
            there.publish("n", make_event(data=data))
            for subscription in (events, own):
                assert subscription.get(timeout=PATIENCE).data == {"tuple": [1, 2], "mapping": {"a": 1}}

    def test_a_subscriber_never_holds_the_publishers_own_data(self, here: EventBus) -> None:
        data: dict[str, Any] = {"list": [1]}
        with here.subscribe("n") as events:
            here.publish("n", make_event(data=data))
            data["list"].append(2)
            got = events.get(timeout=PATIENCE)
        assert got.data == {"list": [1]}

    def test_one_event_is_shared_by_the_subscribers_of_a_node(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe("a.b") as one, here.subscribe("a.*") as two:
            there.publish("a.b", make_event())
            assert one.get(timeout=PATIENCE) is two.get(timeout=PATIENCE)

    @pytest.mark.parametrize(
        ("pattern", "matching", "other"),
        [
            ("a.b", "a.b", "a.c"),
            ("a.*", "a.b", "a.b.c"),
            ("a.>", "a.b.c", "a"),
            (">", "x.y.z", None),
            ("*.b", "a.b", "a.c"),
            ("tenant-*", "tenant-a", "other-a"),
            ("tenant-*.orders", "tenant-a.orders", "ten.orders"),
            ("a.*-eu.>", "a.x-eu.y", "a.x-us.y"),
            ("ž.*", "ž.馬", "z.馬"),
        ],
    )
    def test_patterns(self, here: EventBus, there: EventBus, pattern: str, matching: str, other: str | None) -> None:
        with here.subscribe(pattern) as events:
            if other is not None:
                there.publish(other, make_event(0))
            there.publish(matching, make_event(1))
            assert numbers([events.get(timeout=PATIENCE)]) == [1]
            assert events.get_batch(10, timeout=0) == []

    def test_overlapping_patterns_bring_an_event_once(self, here: EventBus, there: EventBus) -> None:
        patterns = ("orders.eu", "orders.*", "orders.>", "*.eu", "ord*.eu", "orders.e*", ">")
        with here.subscribe(*patterns) as all_of_them, here.subscribe("orders.>") as one:
            for n in range(100):
                there.publish("orders.eu", make_event(n))
            there.publish("end", make_event(100))
            got = [all_of_them.get(timeout=PATIENCE) for _ in range(101)]
            assert numbers(got) == list(range(101))
            assert all_of_them.get_batch(10, timeout=0) == []
            assert numbers([one.get(timeout=PATIENCE) for _ in range(100)]) == list(range(100))
            assert one.get_batch(10, timeout=0) == []

    def test_a_nodes_own_events_come_once(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe("n", ">") as events, there.subscribe("n") as elsewhere:
            here.publish_many("n", [make_event(n) for n in range(50)])
            assert numbers([elsewhere.get(timeout=PATIENCE) for _ in range(50)]) == list(range(50))
            here.flush(PATIENCE)
            there.publish("n", make_event(50))
            assert numbers([events.get(timeout=PATIENCE) for _ in range(51)]) == list(range(51))
            assert events.get_batch(10, timeout=0) == []

    @pytest.mark.parametrize(
        ("filter_", "expected"),
        [
            (SubscriptionFilter(event_types={"Placed"}), [0, 2]),
            (SubscriptionFilter(event_types={"Placed", "Paid"}), [0, 1, 2]),
            (SubscriptionFilter(actor_pattern="order-*"), [0, 1]),
            (SubscriptionFilter(event_types={"Placed"}, actor_pattern="order-*"), [0]),
            (SubscriptionFilter(), [0, 1, 2, 3]),
        ],
    )
    def test_filters(self, here: EventBus, there: EventBus, filter_: SubscriptionFilter, expected: list[int]) -> None:
        with here.subscribe("n", filter=filter_) as events, here.subscribe("n") as everything:
            kinds = [("Placed", "order-1"), ("Paid", "order-2"), ("Placed", "cart-1"), ("Sent", "cart-2")]
            for n, (event_type, actor_id) in enumerate(kinds):
                there.publish("n", make_event(n, event_type=event_type, actor_id=actor_id))
            for _ in range(4):
                everything.get(timeout=PATIENCE)
            assert numbers(events.get_batch(10, timeout=0)) == expected

    def test_event_stored(self, here: EventBus, there: EventBus) -> None:
        stored = make_event(actor_id="order-1", version=4)
        with here.subscribe_to_event_stored("tenant-*") as events:
            there.publish("tenant-a", stored)
            there.publish("tenant-a", EventStored.of(stored, sequence=9))
            got = events.get(timeout=PATIENCE)
            assert (got.actor_id, got.version) == ("order-1", 4)
            payload = got.data_as(EventStored)
            assert (payload.event_id, payload.version, payload.sequence) == (stored.id, 4, 9)
            assert events.get_batch(1, timeout=0) == []

    def test_publish_many_keeps_the_order(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe("n") as events:
            there.publish_many("n", (make_event(n) for n in range(1000)))
            there.publish_many("n", [])
            assert numbers([events.get(timeout=PATIENCE) for _ in range(1000)]) == list(range(1000))

    # -- queue groups

    def test_a_group_gets_each_event_once_and_shares_the_work(
        self, here: EventBus, there: EventBus, keep: Keep
    ) -> None:
        members = [keep(bus.subscribe("jobs.*", queue_group="workers")) for bus in (here, here, here, there, there)]
        with here.subscribe("jobs.*") as everything:
            for n in range(200):
                there.publish("jobs.x", make_event(n))
            for _ in range(200):
                everything.get(timeout=PATIENCE)
            got: list[int] = []

            def all_there() -> bool:
                for member in members:
                    got.extend(numbers(member.get_batch(1000, timeout=0)))
                return len(got) >= 200

            eventually(all_there, "200 events in the group")
            assert sorted(got) == list(range(200))
            assert sum(member.stats().delivered > 0 for member in members) >= 2

    def test_a_group_is_known_by_its_name_whichever_patterns_its_members_have(
        self, here: EventBus, there: EventBus, keep: Keep
    ) -> None:
        members = [
            keep(here.subscribe(pattern, queue_group="g")) for pattern in ("jobs.*", "jobs.x", "jobs.>", "other")
        ]
        with here.subscribe("jobs.*") as everything:
            for n in range(100):
                there.publish("jobs.x", make_event(n))
            for _ in range(100):
                everything.get(timeout=PATIENCE)
        eventually(lambda: sum(member.stats().pending for member in members) >= 100, "100 events in the group")
        assert sum(member.stats().pending for member in members) == 100

    def test_turns_are_taken_across_namespaces(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        members = [keep(here.subscribe("jobs.*", queue_group="g")) for _ in range(4)]
        for n in range(40):
            there.publish(f"jobs.{n}", make_event(n))
        eventually(lambda: sum(member.stats().pending for member in members) == 40, "40 queued events")
        assert [member.stats().pending for member in members] == [10] * 4

    @pytest.mark.concurrent
    def test_members_come_and_go_and_no_event_with_them(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        stays = keep(here.subscribe("jobs", queue_group="g"))
        got: list[int] = []

        def come_and_go() -> None:
            for _ in range(20):
                member = there.subscribe("jobs", queue_group="g")
                got.extend(numbers(member.get_batch(10, timeout=0.01)))
                member.close()
                got.extend(numbers(list(member)))

        def publish() -> None:
            for n in range(1000):
                here.publish("jobs", make_event(n))
                if n % 20 == 0:
                    time.sleep(0.002)

        run_threads(come_and_go, publish)
        here.flush(PATIENCE)
        eventually(lambda: len(got) + stays.stats().pending == 1000, "1,000 events in the group")
        assert sorted(got + numbers(stays.get_batch(2000, timeout=0))) == list(range(1000))

    def test_a_member_that_failed_leaves_the_group(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        failing = keep(here.subscribe("jobs", queue_group="g", maxsize=1, overflow="fail"))
        for n in range(3):
            here.publish("jobs", make_event(n))
        eventually(lambda: failing.closed, "the failure")

        def has_left() -> bool:
            here.publish("other", make_event())
            return here.metrics().active_subscriptions == 0

        eventually(has_left, "its leave")

    def test_a_full_member_passes_to_its_neighbour(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        small = keep(here.subscribe("jobs", queue_group="g", maxsize=1))
        large = keep(here.subscribe("jobs", queue_group="g", maxsize=100))
        for n in range(50):
            there.publish("jobs", make_event(n))
        eventually(lambda: small.stats().pending + large.stats().pending == 50, "50 queued events")
        assert (small.stats().dropped, large.stats().dropped) == (0, 0)

    @pytest.mark.parametrize(
        "options",
        [
            {"filter": SubscriptionFilter(event_types={"X"})},
            {"patterns": ("tenant-*",)},
            {"patterns": ("a.*", "a.b")},
            {"patterns": ("a.>", "*.b")},
            {"queue_group": ""},
            {"queue_group": "a b"},
            {"queue_group": 3},
        ],
    )
    def test_groups_refuse_what_they_cannot_promise(self, here: EventBus, options: dict[str, Any]) -> None:
        options = {"queue_group": "g", "patterns": ("a",)} | options
        with pytest.raises(InvalidOptionError):
            here.subscribe(*options.pop("patterns"), **options)
        assert here.metrics().active_subscriptions == 0

    # -- overflow

    def fill(self, here: EventBus, there: EventBus, keep: Keep, **options: Any) -> Any:
        """Ten events for a queue of three."""
        events = keep(here.subscribe("n", maxsize=3, **options))
        with here.subscribe("n") as everything:
            for n in range(10):
                there.publish("n", make_event(n))
            for _ in range(10):
                everything.get(timeout=PATIENCE)
        return events

    def test_drop_newest(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = self.fill(here, there, keep)
        stats = events.stats()
        assert numbers(events.get_batch(10)) == [0, 1, 2]
        assert (stats.offered, stats.dropped, stats.pending, stats.high_water) == (10, 7, 3, 3)
        assert stats.dropped_by_reason == {"maxsize": 7}
        assert events.stats().delivered == 3

    def test_drop_oldest(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = self.fill(here, there, keep, overflow="drop_oldest")
        assert events.stats().dropped == 7
        assert numbers(events.get_batch(10)) == [7, 8, 9]

    def test_overflow_fails_after_what_was_queued(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = self.fill(here, there, keep, overflow="fail")
        got = []
        with pytest.raises(SubscriptionOverflowError, match="'n'"):
            for event in events:
                got.append(event)
        assert numbers(got) == [0, 1, 2]
        with pytest.raises(SubscriptionOverflowError):
            events.get(timeout=0)
        events.close()

    def test_bytes_are_bounded_too(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n", max_bytes=5_000))
        with here.subscribe("n") as everything:
            for n in range(10):
                there.publish("n", make_event(n, data={"n": n, "fill": "x" * 2000}))
            for _ in range(10):
                everything.get(timeout=PATIENCE)
        stats = events.stats()
        assert (stats.pending, stats.dropped_by_reason) == (2, {"max_bytes": 8})
        assert 4_000 < stats.pending_bytes < 5_000
        assert len(events.get_batch(10)) == 2
        there.publish("n", make_event(11, data={"n": 11, "fill": "x" * 20_000}))  # alone, it may be larger
        assert numbers([events.get(timeout=PATIENCE)]) == [11]
        assert events.stats().pending_bytes == 0

    def test_drops_are_logged_once_per_burst(
        self, here: EventBus, there: EventBus, keep: Keep, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.fill(here, there, keep)

        assert flush_logs(PATIENCE)
        (said,) = [record.getMessage() for record in caplog.records if "drops events" in record.getMessage()]
        assert "'n'" in said

    # -- reading

    def test_several_threads_share_one_subscription(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        got: list[list[int]] = [[] for _ in range(4)]

        def read(mine: list[int]) -> None:
            for event in events:
                mine.extend(numbers([event]))

        def feed() -> None:
            for n in range(500):
                there.publish("n", make_event(n))
            eventually(lambda: events.stats().delivered == 500, "500 deliveries")
            events.close()

        run_threads(feed, *(lambda mine=mine: read(mine) for mine in got))
        assert sorted(n for mine in got for n in mine) == list(range(500))
        assert all(mine == sorted(mine) for mine in got)

    def test_a_batch_wakes_as_many_threads_as_it_has_events(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        together = threading.Barrier(4)

        def take_one() -> None:
            events.get(timeout=PATIENCE)
            together.wait(PATIENCE)  # passes only if all four have one

        def feed() -> None:
            time.sleep(0.01 * UNIT)  # let them park; right also if they have not
            there.publish_many("n", [make_event(n) for n in range(4)])

        run_threads(feed, *[take_one] * 4)

    def test_timeouts(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        with pytest.raises(DeadlineExceededError, match="'n'"):
            events.get(timeout=0)
        with pytest.raises(TimeoutError):
            events.get(timeout=0.01)
        assert events.get_batch(5, timeout=0.01) == []
        for wrong in (-1, float("nan"), "1", True):
            with pytest.raises(InvalidOptionError):
                events.get(timeout=wrong)  # type: ignore[arg-type]
        for wrong in (0, -1, True, 1.5):
            with pytest.raises(InvalidOptionError):
                events.get_batch(wrong)  # type: ignore[arg-type]

    def test_closing_leaves_what_is_queued(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        events.close()
        there.publish("n", make_event(9))
        assert numbers(list(events)) == [0, 1, 2]
        assert list(events) == []
        with pytest.raises(SubscriptionClosedError):
            events.get(timeout=0)
        with pytest.raises(SubscriptionClosedError):
            events.get_batch(3)

    def test_closing_can_discard(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        events.close(discard=True)
        assert list(events) == []
        assert events.stats().dropped_by_reason == {"discarded": 3}
        assert here.metrics().dropped == 3

    def test_closing_releases_blocked_threads(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))

        def close() -> None:
            time.sleep(0.01 * UNIT)
            events.close()

        run_threads(*[lambda: list(events)] * 5, close)

    def test_closing_the_bus_ends_iterations(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        got: list[Event] = []

        def close() -> None:
            eventually(lambda: len(got) == 3, "3 read events")
            assert here.close()

        reader = threading.Thread(target=lambda: [got.append(event) for event in events])
        reader.start()
        close()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert numbers(got) == [0, 1, 2]

    def test_close_inside_an_iteration(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        got = []
        for event in events:
            got.append(event)
            events.close()
        assert numbers(got) == [0, 1, 2]

    def test_close_the_bus_inside_an_iteration(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish("n", make_event(0))
        got = []
        for event in events:
            got.append(event)
            here.close()
        assert numbers(got) == [0]

    def test_publish_inside_an_iteration(self, here: EventBus) -> None:
        with here.subscribe("n") as events:
            here.publish("n", make_event(0))
            for event in events:
                n = numbers([event])[0]
                if n == 100:
                    break
                here.publish("n", make_event(n + 1))

    def test_a_forgotten_subscription_is_collected(self, here: EventBus, there: EventBus) -> None:
        forgotten = here.subscribe("n")
        there.publish("n", make_event())
        eventually(lambda: forgotten.stats().pending == 1, "1 queued event")
        with pytest.warns(ResourceWarning, match="'n'"):
            del forgotten
            gc.collect()
        there.publish("n", make_event())
        here.publish("n", make_event())
        eventually(lambda: here.metrics().active_subscriptions == 0, "its leave")

    @pytest.mark.parametrize("how", ["publish", "try_publish", "publish_many"])
    def test_every_way_to_publish_lets_go_of_a_forgotten_subscription(self, here: EventBus, how: str) -> None:
        with pytest.warns(ResourceWarning, match="'n'"):
            here.subscribe("n")
            gc.collect()
        getattr(here, how)("n", [make_event()] if how == "publish_many" else make_event())
        eventually(lambda: here.metrics().active_subscriptions == 0, "its leave")

    # -- bad input

    @pytest.mark.parametrize(
        "namespace",
        [
            "", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "a b", " ", "a\tb", "a\0", "a\r\nPUB x 1", "a\u2028b",
            "a\u00a0b", "\ud800", "x" * 513, "ž" * 257, None, 3, b"a", ["a"], "a*b", "a>b",
        ],
    )  # fmt: skip
    def test_bad_namespaces(self, here: EventBus, namespace: Any) -> None:
        with here.subscribe(">") as events:
            with pytest.raises(InvalidNamespaceError):
                here.publish(namespace, make_event())
            with pytest.raises(ValueError):  # noqa: PT011  # as a builtin too
                here.publish_many(namespace, [make_event()])
            assert events.get_batch(1, timeout=0) == []
        assert here.metrics().publish_errors == 2

    @pytest.mark.parametrize("pattern", ["", "a.>.b", ">a", "a..b", " a", "a\n", "\ud800", "x" * 513, None, 3, ["a"]])
    def test_bad_patterns(self, here: EventBus, pattern: Any) -> None:
        with pytest.raises(InvalidNamespaceError):
            here.subscribe("good", pattern)
        assert here.metrics().active_subscriptions == 0
        assert here.metrics().subscribe_errors == 1

    @pytest.mark.parametrize(
        "options",
        [
            {"maxsize": 0}, {"maxsize": -1}, {"maxsize": True}, {"maxsize": 1.5}, {"maxsize": None}, {"max_bytes": 0},
            {"overflow": "block"}, {"overflow": None}, {"filter": "Placed"}, {"filter": {"Placed"}}, {"timeout": -1},
            {"timeout": "1"},
        ],
    )  # fmt: skip
    def test_bad_options(self, here: EventBus, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidOptionError):
            here.subscribe("n", **options)
        with pytest.raises(ValueError):  # noqa: PT011  # as a builtin too
            here.subscribe()
        assert here.metrics().active_subscriptions == 0

    @pytest.mark.parametrize(
        "bad",
        [
            float("nan"), float("inf"), {1, 2}, b"x", {1: 2}, {None: 1}, "\ud800", {"\ud800": 1}, object(),
            [float("nan")], bytearray(b"x"), 1j,
        ],
    )  # fmt: skip
    def test_data_that_json_does_not_have(self, here: EventBus, bad: Any) -> None:
        with here.subscribe("n") as events:
            good, wrong = make_event(), make_event(data={"bad": bad})
            with pytest.raises(EncodingError):
                here.publish("n", wrong)
            with pytest.raises(EncodingError):
                here.publish_many("n", [good, wrong])
            assert events.get_batch(2, timeout=0) == []

    def test_cycles(self, here: EventBus) -> None:
        cycle: dict[str, Any] = {}
        cycle["self"] = [cycle]
        with pytest.raises(EncodingError):
            here.publish("n", make_event(data=cycle))

    @pytest.mark.parametrize("event", [None, {"event_type": "X"}, "X", 3, Event])
    def test_what_is_no_event(self, here: EventBus, event: Any) -> None:
        with pytest.raises(InvalidEventError):
            here.publish("n", event)
        with pytest.raises(InvalidEventError):
            here.publish_many("n", event)

    def test_namespaces_of_other_str_types(self, here: EventBus, there: EventBus) -> None:
        class Kind(str, Enum):  # noqa: UP042  # its str() is not its value, which is the point
            ORDERS = "orders.eu"

        class Sly(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "x 0\r\n\r\nPUB other"

        with here.subscribe(Kind.ORDERS) as events, here.subscribe(">") as everything:
            there.publish(Kind.ORDERS, make_event(1))
            there.publish(Sly("orders.eu"), make_event(2))
            assert numbers([events.get(timeout=PATIENCE) for _ in range(2)]) == [1, 2]
            assert [event.namespace for event in (everything.get(timeout=PATIENCE) for _ in range(2))] == [
                "orders.eu"
            ] * 2

    def test_unsubscribe(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        here.unsubscribe(events)
        here.unsubscribe(events)
        assert events.closed
        assert here.metrics().active_subscriptions == 0
        with pytest.raises(InvalidOptionError):
            here.unsubscribe("n")  # type: ignore[arg-type]

    def test_unsubscribe_refuses_another_buses_subscription(self, here: EventBus, keep: Keep) -> None:
        with EventBus() as other:
            events = keep(here.subscribe("n"))
            with pytest.raises(InvalidOptionError, match="is not one of <EventBus"):
                other.unsubscribe(events)
        assert not events.closed
        here.unsubscribe(events)
        assert events.closed

    # -- the end

    def test_use_after_close(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        report = here.close()
        assert report
        assert here.close() == report
        assert here.closed
        assert not here.is_connected
        for use in (
            lambda: here.publish("n", make_event()),
            lambda: here.publish_many("n", [make_event()]),
            lambda: here.subscribe("n"),
            lambda: here.flush(),
            lambda: here.start(),
            lambda: here.wait_connected(1),
            lambda: here.__enter__(),
        ):
            with pytest.raises(BusClosedError, match="is closed: make a new one"):
                use()
        events.close()
        here.unsubscribe(events)
        assert here.metrics().active_subscriptions == 0

    def test_closing_from_many_threads(self, here: EventBus, keep: Keep) -> None:
        keep(here.subscribe("n"))
        reports: list[Any] = []
        run_threads(*[lambda: reports.append(here.close())] * 5)
        assert len(reports) == 5
        assert all(reports)

    # -- metrics

    def test_metrics_add_up(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        small = keep(here.subscribe("a.*", maxsize=5))
        large = keep(here.subscribe("a.*", "b"))
        there.publish_many("a.x", [make_event(n) for n in range(10)])
        there.publish("b", make_event())
        eventually(lambda: large.stats().pending == 11, "11 queued events")
        large.get_batch(4)
        metrics, published = here.metrics(), there.metrics()
        assert published.published == 11
        assert published.published_by_namespace == {"a.x": 10, "b": 1}
        assert (metrics.delivered, metrics.dropped, metrics.pending) == (4, 5, 12)
        assert metrics.dropped_by_reason == {"maxsize": 5}
        assert metrics.active_subscriptions == 2
        assert {stats.patterns: stats.offered for stats in metrics.subscriptions} == {("a.*",): 10, ("a.*", "b"): 11}
        small.close()
        assert list(small)
        large.close(discard=True)
        del small, large
        gc.collect()
        metrics = here.metrics()
        assert (metrics.delivered, metrics.dropped, metrics.pending) == (9, 12, 0)
        assert metrics.active_subscriptions == 0

    def test_metrics_are_bounded_in_memory(self, here: EventBus) -> None:
        for n in range(1_500):
            here.publish(f"n.{n}", make_event(n))
        metrics = here.metrics()
        assert metrics.published == 1_500
        assert len(metrics.published_by_namespace) <= 1_001
        assert metrics.published_by_namespace["*"] == 500

    # -- under threads

    @pytest.mark.concurrent
    def test_none_lost_none_twice_in_order_per_thread(self, here: EventBus, there: EventBus) -> None:
        threads, each = 4, 500
        with here.subscribe("n.*", maxsize=threads * each) as events:
            got: list[Event] = []

            def publish(thread: int) -> None:
                for n in range(each):
                    there.publish(f"n.{thread}", make_event(n, version=thread))

            def read() -> None:
                while len(got) < threads * each:
                    got.append(events.get(timeout=PATIENCE))

            run_threads(read, *(lambda t=t: publish(t) for t in range(threads)))
            assert events.get_batch(1, timeout=0) == []
        for thread in range(threads):
            assert numbers([event for event in got if event.version == thread]) == list(range(each))

    @pytest.mark.concurrent
    def test_subscriptions_come_and_go_under_traffic(self, here: EventBus, there: EventBus) -> None:
        stop = threading.Event()

        def publish() -> None:
            n = 0
            while not stop.is_set():
                there.publish("n", make_event(n))
                n += 1
                time.sleep(0.0005)

        def come_and_go(seed: int) -> None:
            choice = random.Random(seed)
            for _ in range(15):
                patterns = choice.sample(["n", "*", ">", "n*", "other"], choice.randint(1, 3))
                with here.subscribe(*patterns, maxsize=100_000) as events:
                    if patterns == ["other"]:
                        continue
                    got = [events.get(timeout=PATIENCE) for _ in range(3)]
                    first = numbers(got)[0]
                    assert numbers(got) == [first, first + 1, first + 2], "lost, or twice"

        def all_of_them() -> None:
            try:
                run_threads(*(lambda seed=seed: come_and_go(seed) for seed in range(4)))
            finally:
                stop.set()

        run_threads(publish, all_of_them)
        assert here.metrics().active_subscriptions == 0

    @pytest.mark.concurrent
    def test_close_races_with_everything(self, here: EventBus, there: EventBus) -> None:
        started = threading.Barrier(4)

        def until_closed(work: Callable[[], object]) -> None:
            started.wait(PATIENCE)
            try:
                while True:
                    work()
            except (BusClosedError, SubscriptionClosedError):
                pass

        def subscribe() -> None:
            with here.subscribe("n") as events:
                events.get_batch(5, timeout=0.001)

        def close() -> None:
            started.wait(PATIENCE)
            time.sleep(0.005)
            here.close()

        run_threads(
            lambda: until_closed(lambda: here.publish("n", make_event())),
            lambda: until_closed(lambda: here.publish_many("n", [make_event()] * 5)),
            lambda: until_closed(subscribe),
            close,
        )
