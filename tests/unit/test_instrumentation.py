"""``instrument()``: what an observer sees in one process, and what it adds to what is sent."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest

from aether_sync import (
    Event,
    EventBus,
    InMemoryEventStore,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    Operation,
    Stamp,
    VersionConflictError,
    flush_logs,
    handling,
    instrument,
    instrumentation,
)
from aether_sync._runtime.reporter import Burst
from aether_sync.instrumentation import observers

from ..support.common import PATIENCE, make_event, numbers

MINE = {"traceparent": "mine", "other": "kept"}


class Observed:
    """An observer that notes what it sees, and stamps what is sent."""

    def __init__(self, stamp: Stamp | None = None) -> None:
        self.seen: list[Operation] = []
        self.ended: list[tuple[str, str]] = []
        self._stamp = stamp

    def __call__(self, operation: Operation) -> AbstractContextManager[Stamp | None]:
        return self._around(operation)

    @contextmanager
    def _around(self, operation: Operation) -> Iterator[Stamp | None]:
        self.seen.append(operation)
        try:
            yield self._stamp if operation.kind == "send" else None
        except BaseException as error:
            self.ended.append((operation.name, type(error).__name__))
            raise
        self.ended.append((operation.name, ""))

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.seen]


Observe = Callable[..., Observed]


@pytest.fixture
def observe() -> Iterator[Observe]:
    taken: list[Callable[[], None]] = []

    def observe(stamp: Stamp | None = None) -> Observed:
        observed = Observed(stamp)
        taken.append(instrument(observed))
        return observed

    yield observe
    for take_off in taken:
        take_off()
    assert observers == []


def traced(event: Event) -> Mapping[str, str | None]:
    return {"traceparent": f"of {event.id}", "gone": None}


class TestPublishing:
    def test_it_is_seen_and_stamped(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe(traced)
        event = make_event(1, metadata={"gone": "x", "userId": "u"})
        with local_bus.subscribe("orders.*") as events:
            local_bus.publish("orders.eu", event)
            (publish,) = observed.seen
            assert (publish.name, publish.kind, publish.destination) == ("publish", "send", "orders.eu")
            assert publish.events == (event,)
            assert not publish.is_batch
            got = events.get(1)
        assert got.metadata == {"userId": "u", "traceparent": f"of {event.id}"}
        assert event.metadata == {"gone": "x", "userId": "u"}  # the program's own is not changed
        assert observed.ended == [("publish", ""), ("receive", "")]

    def test_several_at_once_are_one_operation(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe(traced)
        events = [make_event(n) for n in range(3)]
        with local_bus.subscribe(">") as subscription:
            local_bus.publish_many("n", iter(events))
            got = subscription.get_batch(5, 1)
        assert [one.metadata["traceparent"] for one in got] == [f"of {one.id}" for one in events]
        publish, receive = observed.seen
        assert (publish.events, publish.is_batch) == (tuple(events), True)
        assert (len(receive.events), receive.is_batch, receive.destination, receive.pattern) == (3, True, "n", ">")

    def test_what_is_refused_is_not_seen(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe(traced)
        with pytest.raises(InvalidNamespaceError):
            local_bus.publish("no such.*", make_event())
        with pytest.raises(InvalidEventError):
            local_bus.publish("n", "event")  # type: ignore[arg-type]
        with pytest.raises(InvalidEventError):
            local_bus.publish_many("n", [make_event(), 3])  # type: ignore[list-item]
        assert not local_bus.try_publish("*", make_event())
        assert observed.seen == []
        assert local_bus.metrics().publish_errors == 5  # as without an observer: 1 + 1 + 2 + 1

    def test_an_error_is_seen(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe(traced)
        assert not local_bus.try_publish("n", make_event(data={"n": float("nan")}))
        assert observed.ended == [("publish", "EncodingError")]
        assert local_bus.metrics().publish_errors == 1

    def test_a_stamp_that_is_no_text_changes_nothing(
        self, local_bus: EventBus, observe: Observe, caplog: pytest.LogCaptureFixture
    ) -> None:
        observe(lambda _: {"traceparent": 3})  # type: ignore[dict-item,return-value]
        observe(lambda _: {"traceparent": "good"})
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event())
            assert events.get(1).metadata == {"traceparent": "good"}


class TestStoring:
    @pytest.fixture
    def store(self) -> Iterator[InMemoryEventStore]:
        with InMemoryEventStore(namespace="tenant-a") as store:
            yield store

    def test_it_is_seen_and_stamped(self, store: InMemoryEventStore, observe: Observe) -> None:
        observed = observe(traced)
        event = make_event(1)
        (stored,) = store.append("thing-1", event, expected_version=0)
        assert stored.event.metadata == {"traceparent": f"of {event.id}"}
        assert store.get_events("thing-1")[0].metadata == stored.event.metadata
        assert event.metadata == {}
        store.save_events([make_event(1, version=2), make_event(2, version=1)])
        assert [(one.name, one.destination, one.is_batch) for one in observed.seen] == [
            ("append", "tenant-a", False),
            ("save", "tenant-a", True),
        ]

    def test_a_second_attempt_is_recognised(self, store: InMemoryEventStore, observe: Observe) -> None:
        moments = iter("ab")
        observe(lambda _: {"traceparent": next(moments)})
        event = make_event(1, version=1)
        first, second = store.save_event(event), store.save_event(event)
        assert second.duplicate
        assert first.event.metadata == second.event.metadata == {"traceparent": "a"}

    def test_an_error_is_seen(self, store: InMemoryEventStore, observe: Observe) -> None:
        observed = observe()
        with pytest.raises(VersionConflictError):
            store.append("thing-1", make_event(1), expected_version=3)
        assert observed.ended == [("append", "VersionConflictError")]

    def test_what_is_announced_is_published_within(
        self, store: InMemoryEventStore, local_bus: EventBus, observe: Observe
    ) -> None:
        store.set_broadcaster(local_bus)
        observed = observe()
        store.append("thing-1", make_event(1), expected_version=0)
        assert observed.ended == [("publish", ""), ("append", "")]

    def test_followers_are_seen(self, store: InMemoryEventStore, observe: Observe) -> None:
        for n in range(4):
            store.append(f"thing-{n}", make_event(n), expected_version=0)
        observed = observe()
        with store.follow() as events:
            next(events)
            events.get(0)
            events.get_batch(5, 0)
            assert events.get_batch(5, 0) == []
        assert [(one.name, numbers(one.events), one.is_batch) for one in observed.seen] == [
            ("receive", [0], False),
            ("receive", [1], False),
            ("receive", [2, 3], True),
        ]


class TestReceiving:
    def test_each_way_is_seen(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe()
        with local_bus.subscribe("n", "orders.*", queue_group="g") as events:
            local_bus.publish_many("n", map(make_event, range(4)))
            next(events)
            events.get(1)
            asyncio.run(self.take(events))
            assert numbers(events.get_batch(9, 1)) == [3]
        received = [one for one in observed.seen if one.kind == "receive"]
        assert [(numbers(one.events), one.is_batch) for one in received] == [
            ([0], False),
            ([1], False),
            ([2], False),
            ([3], True),
        ]
        assert {(one.destination, one.pattern, one.consumer) for one in received} == {("n", "n, orders.*", "g")}
        assert all(0 <= one.seconds < 60 for one in received)

    @staticmethod
    async def take(events: Any) -> None:
        await anext(events)

    def test_a_batch_of_several_namespaces_has_no_destination(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe()
        with local_bus.subscribe("orders.*") as events:
            local_bus.publish("orders.eu", make_event(1))
            local_bus.publish("orders.us", make_event(2))
            events.get_batch(2, 1)
        assert observed.seen[-1].destination == ""

    def test_nothing_received_is_not_seen(self, local_bus: EventBus, observe: Observe) -> None:
        observed = observe()
        with local_bus.subscribe("n") as events:
            assert events.get_batch(1, 0) == []
            with pytest.raises(TimeoutError):
                events.get(0)
        with suppress(StopIteration):
            next(events)
        assert observed.seen == []


class TestProcessing:
    def test_a_block_is_seen(self, observe: Observe) -> None:
        observed = observe()
        with pytest.raises(LookupError), handling(make_event(1, namespace="orders.eu")):
            raise LookupError
        (process,) = observed.seen
        assert (process.name, process.destination, process.is_pushed) == ("process", "orders.eu", False)
        assert observed.ended == [("process", "LookupError")]


class TestObservers:
    def test_the_first_is_outermost_and_the_last_has_the_last_word(self, local_bus: EventBus, observe: Observe) -> None:
        order: list[str] = []

        def named(name: str) -> Callable[[Operation], AbstractContextManager[Stamp | None]]:
            @contextmanager
            def observer(operation: Operation) -> Iterator[Stamp | None]:
                order.append(f"in {name}")
                yield lambda _: {"by": name, name: "was here"}
                order.append(f"out {name}")

            return observer

        with local_bus.subscribe("n") as events:
            take_off = [instrument(named("one")), instrument(named("two"))]
            local_bus.publish("n", make_event())
            for one in take_off:
                one()
            assert order == ["in one", "in two", "out two", "out one"]
            assert events.get(1).metadata == {"by": "two", "one": "was here", "two": "was here"}

    def test_each_is_taken_off_alone_and_once(self, local_bus: EventBus) -> None:
        observed = Observed()
        first, second = instrument(observed), instrument(observed)
        first()
        first()
        local_bus.publish("n", make_event())
        assert observed.names == ["publish"]
        second()
        local_bus.publish("n", make_event())
        assert observed.names == ["publish"]

    def test_none_can_hide_an_error(self, local_bus: EventBus) -> None:
        @contextmanager
        def hiding(operation: Operation) -> Iterator[None]:
            with suppress(Exception):
                yield

        take_off = instrument(hiding)
        try:
            with pytest.raises(ValueError, match="NaN"):
                local_bus.publish("n", make_event(data={"n": float("nan")}))
        finally:
            take_off()

    @pytest.mark.parametrize("where", ["call", "enter", "stamp", "exit"])
    def test_what_one_raises_changes_nothing(
        self, local_bus: EventBus, where: str, observe: Observe, caplog: pytest.LogCaptureFixture
    ) -> None:
        def stamp(event: Event) -> Mapping[str, str | None]:
            raise LookupError("stamp")

        class Raising:
            def __init__(self, operation: Operation) -> None:
                if where == "call":
                    raise LookupError("call")

            def __enter__(self) -> Any:
                if where == "enter":
                    raise LookupError("enter")
                return stamp if where == "stamp" else None

            def __exit__(self, *error: object) -> None:
                if where == "exit":
                    raise LookupError("exit")

        instrumentation._failures = Burst()
        outer = observe(traced)
        take_off = instrument(Raising)
        inner = observe()
        event = make_event(1)
        try:
            with local_bus.subscribe("n") as events, InMemoryEventStore() as store:
                local_bus.publish("n", event)
                got = events.get(1)
                with handling(got):
                    pass
                with pytest.raises(KeyError), handling(got):
                    raise KeyError("the handler's own")
                store.append("thing-1", event, expected_version=0)
        finally:
            take_off()
        assert got.metadata == {"traceparent": f"of {event.id}"}
        assert (
            outer.ended
            == inner.ended
            == [("publish", ""), ("receive", ""), ("process", ""), ("process", "KeyError"), ("append", "")]
        )
        flush_logs()
        (record,) = [one for one in caplog.records if getattr(one, "kind", "") == "observer_failed"]  # of a burst
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == where

    @pytest.mark.parametrize("where", ["call", "enter", "stamp", "exit"])
    def test_what_a_signal_handler_raises_in_one_passes(
        self, local_bus: EventBus, where: str, observe: Observe
    ) -> None:
        def stamp(event: Event) -> Mapping[str, str | None]:
            raise KeyboardInterrupt

        class Interrupted:
            def __init__(self, operation: Operation) -> None:
                if where == "call":
                    raise KeyboardInterrupt

            def __enter__(self) -> Any:
                if where == "enter":
                    raise KeyboardInterrupt
                return stamp if where == "stamp" else None

            def __exit__(self, *error: object) -> None:
                if where == "exit":
                    raise KeyboardInterrupt

        outer = observe()
        take_off = instrument(Interrupted)
        with pytest.raises(KeyboardInterrupt):
            local_bus.publish("n", make_event(1))
        take_off()
        assert outer.ended == [("publish", "" if where == "exit" else "KeyboardInterrupt")]
        local_bus.publish("n", make_event(1))  # the thread is not taken for one that is within an observer
        assert outer.names == ["publish", "publish"]

    @pytest.mark.parametrize("where", ["enter", "stamp", "exit"])
    def test_what_is_done_within_one_is_not_observed(self, local_bus: EventBus, where: str) -> None:
        """As by a signal handler, a log handler, or a span processor, while this thread holds a lock of the SDK."""
        lock = threading.Lock()
        seen: list[str] = []

        def inside() -> None:
            with lock:  # if it is observed, this waits for ever
                assert local_bus.try_publish("inside", make_event(2))
                assert events.get(1).metadata == {}
                with handling(make_event(3)):
                    pass

        def stamp(event: Event) -> Mapping[str, str | None]:
            if where == "stamp":
                inside()
            return {"stamped": "yes"}

        @contextmanager
        def observer(operation: Operation) -> Iterator[Stamp | None]:
            assert not lock.locked()
            seen.append(operation.name)
            if where == "enter":
                inside()
            try:
                yield stamp
            finally:
                if where == "exit":
                    inside()

        with local_bus.subscribe("inside") as events, local_bus.subscribe("n") as others:
            take_off = instrument(observer)
            try:
                local_bus.publish("n", make_event(1))
                assert seen == ["publish"]
            finally:
                take_off()
            assert others.get(1).metadata == {"stamped": "yes"}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.parametrize("is_within", [True, False])
    def test_a_forked_child_takes_none_whose_locks_may_be_held(
        self, local_bus: EventBus, is_within: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()
        seen: list[str] = []

        @contextmanager
        def observer(operation: Operation) -> Iterator[None]:
            seen.append(operation.name)
            if operation.destination == "slow":
                begun.set()
                go_on.wait(PATIENCE)
            yield
            seen.append("left")

        def in_child() -> int:
            local_bus.publish("n", make_event(1))
            flush_logs()
            warned = "observers are taken off" in caplog.text
            again = Observed()
            instrument(again)
            local_bus.publish("n", make_event(1))
            return int(again.names == ["publish"] and warned is is_within and ("left" in seen) is not is_within)

        take_off = instrument(observer)
        thread = threading.Thread(target=lambda: local_bus.publish("slow", make_event(1)))
        try:
            if is_within:
                thread.start()
                assert begun.wait(PATIENCE)
            with handling(make_event(2)):  # is left in the child, too
                child = os.fork()
            if child == 0:
                os._exit(42 if in_child() else 1)
        finally:
            take_off()
            go_on.set()
            if is_within:
                thread.join(PATIENCE)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42

    def test_one_that_cannot_be_called_is_refused(self) -> None:
        def generator(operation: Operation) -> Iterator[None]:  # for want of a @contextmanager
            yield

        with pytest.raises(InvalidOptionError, match="a function that is called with an Operation, not 'observer'"):
            instrument("observer")  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="must not be a generator function"):
            instrument(generator)  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="is called with one argument, an Operation"):
            instrument(lambda: None)  # type: ignore[arg-type, misc]
        assert observers == []


class TestFollowing:
    def test_the_context_of_a_trace_is_carried_on(self) -> None:
        carried = {
            "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
            "tracestate": "vendor=1",
            "baggage": "tenant=a",
            "userId": "u",
            "traceId": "t",
        }
        cause = make_event(1, metadata={**carried, "spanId": "s", "mine": "no"})
        effect = cause.following(event_type="Followed", actor_id="thing-2")
        assert effect.metadata == {**carried, "correlationId": cause.id, "causationId": cause.id}

    GOOD = f"00-{'a' * 32}-{'b' * 16}-01"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"baggage": "k=" + "x" * 900_000},
            {"baggage": "k=1," * 200 + "k=1"},
            {"baggage": "no member"},
            {"baggage": "k=ä"},
            {"baggage": "k=1,,"},
            {"traceparent": "junk", "tracestate": "vendor=1"},
            {"traceparent": GOOD + "\n"},
            {"traceparent": GOOD + "-" + " " * 30_000 + "\nx"},
            {"traceparent": GOOD.upper()},
            {"traceparent": "ff" + GOOD[2:]},
            {"traceparent": GOOD.replace("a", "0")},
            {"traceparent": GOOD.replace("b", "0")},
        ],
        ids=lambda one: repr(one)[:60],
    )
    def test_what_is_no_context_is_not_carried_on(self, wrong: dict[str, str]) -> None:
        effect = make_event(1, metadata=wrong).following(event_type="Followed", actor_id="thing-2")
        assert effect.metadata.keys() == {"correlationId", "causationId"}

    @pytest.mark.parametrize(
        ("state", "is_carried"),
        [
            ("a=1,b@c=x y , 0a@v=!~", True),
            ("a=" + "x" * 256, True),
            ("a=" + "x" * 257, False),
            ("a=1," * 128 + "a=1", False),
            ("a=1,=", False),
            ("a=1=2", False),
            ("a=1" + " " * 8_000 + "x", False),
            ("A=1", False),
            ("a=\x00", False),
        ],
        ids=lambda one: repr(one)[:30],
    )
    def test_the_state_of_a_trace_is_checked(self, state: str, is_carried: bool) -> None:
        cause = make_event(1, metadata={"traceparent": self.GOOD, "tracestate": state})
        effect = cause.following(event_type="Followed", actor_id="thing-2")
        assert effect.metadata.get("tracestate") == (state if is_carried else None)
        assert effect.metadata["traceparent"] == self.GOOD

    @pytest.mark.parametrize(
        ("metadata", "expected"),
        [
            ({}, ("", "")),
            ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, ("a" * 32, "b" * 16)),
            ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "traceId": "t", "spanId": "s"}, ("t", "s")),
            ({"traceparent": f"cc-{'a' * 32}-{'b' * 16}-01-more"}, ("a" * 32, "b" * 16)),
            ({"traceparent": "nonsense"}, ("", "")),
        ],
    )
    def test_ids_are_found_in_it(self, metadata: dict[str, str], expected: tuple[str, str]) -> None:
        event = make_event(1, metadata=metadata)
        assert (event.trace_id, event.span_id) == expected
