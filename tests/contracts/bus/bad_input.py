"""What is refused, and that nothing comes of it."""

from enum import Enum
from typing import Any

import pytest

from aether_sync import (
    EncodingError,
    Event,
    EventBus,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
)

from ...support.common import PATIENCE, Keep, make_event, numbers
from .base import TwoNodes


class BadInput(TwoNodes):
    """What is refused, and that nothing comes of it."""

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
