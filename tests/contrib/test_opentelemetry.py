"""Spans and metrics by OpenTelemetry: their names, attributes, kinds, parents and links, also across processes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from aether_sync import (
    Delivery,
    Event,
    EventBus,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    VersionConflictError,
    handling,
)
from aether_sync.contrib.opentelemetry import AetherSyncInstrumentor
from aether_sync.instrumentation import observers

from ..support.collector import Collector
from ..support.common import PATIENCE, eventually, make_event, run_threads

ROOT = Path(__file__).parents[2]
REMOTE = f"00-{'a' * 32}-{'b' * 16}-01"


@dataclass
class Telemetry:
    """What the SDK has been given."""

    tracers: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def span(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        found = [one for one in self.spans if one.name == name]
        assert len(found) == 1, [one.name for one in self.spans]
        return found[0]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes and the values of a metric; of a histogram how many values it has."""
        data = self.reader.get_metrics_data()
        metrics = (
            [] if data is None else [one for r in data.resource_metrics for s in r.scope_metrics for one in s.metrics]
        )
        found = [point for metric in metrics if metric.name == name for point in metric.data.data_points]
        return [(dict(one.attributes or {}), getattr(one, "value", getattr(one, "count", None))) for one in found]


Instrument = Callable[..., Telemetry]


@pytest.fixture
def instrumented() -> Iterator[Instrument]:
    """Instruments the process, with an SDK of the test's own."""
    providers: list[Any] = []

    def instrument(sampler: Any = None, **options: Any) -> Telemetry:
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, meters = (
            TracerProvider(sampler=sampler, shutdown_on_exit=False),
            MeterProvider([reader], shutdown_on_exit=False),
        )
        tracers.add_span_processor(SimpleSpanProcessor(exporter))
        providers.extend([tracers, meters])
        AetherSyncInstrumentor().instrument(tracer_provider=tracers, meter_provider=meters, **options)
        return Telemetry(tracers, exporter, reader)

    yield instrument
    if AetherSyncInstrumentor().is_instrumented_by_opentelemetry:
        AetherSyncInstrumentor().uninstrument()
    for one in providers:
        one.shutdown()
    assert observers == []


@pytest.fixture
def telemetry(instrumented: Instrument) -> Telemetry:
    return instrumented()


def ids(span: Any) -> tuple[int, int]:
    """By which a span is known: its own context, or that of a link or a parent."""
    found = getattr(span, "context", span)
    return found.trace_id, found.span_id


class TestSpans:
    def test_of_a_bus(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        event = make_event(1).with_metadata(correlation_id="c-1")
        with local_bus.subscribe("orders.eu") as events:
            local_bus.publish("orders.eu", event)
            with handling(events.get(1)):
                pass
        publish, receive, process = (telemetry.span(f"{name} orders.eu") for name in ("publish", "receive", "process"))
        assert [one.kind for one in (publish, receive, process)] == [
            SpanKind.PRODUCER,
            SpanKind.CLIENT,
            SpanKind.CONSUMER,
        ]
        assert dict(publish.attributes or {}) == {
            "messaging.system": "nats",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": "orders.eu",
            "messaging.message.id": event.id,
            "messaging.message.conversation_id": "c-1",
        }
        assert (publish.parent, list(publish.links)) == (None, [])
        assert receive.parent is None
        assert process.parent is not None
        assert ids(process.parent) == ids(publish)
        assert (
            [ids(one.context) for one in receive.links] == [ids(one.context) for one in process.links] == [ids(publish)]
        )
        assert all(one.status.status_code is StatusCode.UNSET for one in telemetry.spans)

    def test_of_a_batch(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        with local_bus.subscribe("orders.*", queue_group="g") as events:
            local_bus.publish_many("orders.eu", map(make_event, range(3)))
            got = events.get_batch(5, 1)
        publish, receive = telemetry.span("publish orders.eu"), telemetry.span("receive orders.*")
        assert publish.attributes is not None
        assert publish.attributes["messaging.batch.message_count"] == 3
        assert "messaging.message.id" not in publish.attributes
        assert dict(receive.attributes or {}) == {
            "messaging.system": "nats",
            "messaging.operation.name": "receive",
            "messaging.operation.type": "receive",
            "messaging.consumer.group.name": "g",
            "messaging.destination.template": "orders.*",
            "messaging.destination.name": "orders.eu",
            "messaging.batch.message_count": 3,
        }
        assert len({one.metadata["traceparent"] for one in got}) == 1
        assert [ids(one.context) for one in receive.links] == [ids(publish)]

    def test_of_a_store_and_a_runner(self, telemetry: Telemetry, store: JetStreamEventStore) -> None:
        current: list[tuple[int, int]] = []

        def handle(delivery: Delivery) -> None:
            current.append(ids(trace.get_current_span().get_span_context()))
            if delivery.attempt == 1:
                raise LookupError("not yet")

        (stored,) = store.append("thing-1", make_event(1), expected_version=0)
        with store.consumer("mailer").run(handle, retry_delay=0.01):
            eventually(lambda: f"ack {store.stream}" in [one.name for one in telemetry.spans])
        append, ack = telemetry.span(f"append {store.stream}"), telemetry.span(f"ack {store.stream}")
        failed, done = (one for one in telemetry.spans if one.name == f"process {store.stream}")
        assert [ids(failed), ids(done)] == current
        assert (append.kind, ack.kind, done.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CONSUMER)
        for one in (failed, done, ack):
            assert one.parent is not None
            assert ids(one.parent) == ids(append)
            assert one.attributes is not None
            assert one.attributes["messaging.consumer.group.name"] == "mailer"
            assert one.attributes["messaging.message.id"] == stored.event.id
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.attributes is not None
        assert failed.attributes["error.type"] == "LookupError"
        assert [one.name for one in failed.events] == ["exception"]
        assert done.status.status_code is StatusCode.UNSET

    def test_an_error_is_recorded(self, telemetry: Telemetry) -> None:
        with InMemoryEventStore() as store, pytest.raises(VersionConflictError):
            store.append("thing-1", make_event(1), expected_version=3)
        append = telemetry.span("append")  # a store without a name has no destination
        assert append.status.status_code is StatusCode.ERROR
        assert append.attributes is not None
        assert append.attributes["error.type"] == "aether_sync.errors.VersionConflictError"

    def test_no_name_and_no_metric_has_an_actor(self, telemetry: Telemetry, store: JetStreamEventStore) -> None:
        with EventBus() as bus, bus.subscribe(">") as events:
            store.set_broadcaster(bus, "tenant-a")
            store.append("secret-17", make_event(1, actor_id="secret-17"), expected_version=0)
            with handling(events.get(5)):
                pass
            with store.follow() as follower, handling(follower.get(5)):
                pass
        assert len(telemetry.spans) == 6
        assert "secret-17" not in "".join(one.to_json() for one in telemetry.spans)
        for name in (
            "client.sent.messages",
            "client.consumed.messages",
            "client.operation.duration",
            "process.duration",
        ):
            points = telemetry.points(f"messaging.{name}")
            assert points
            assert "secret-17" not in repr(points)


class TestContext:
    def test_a_span_that_is_current_is_the_parent(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        tracer = telemetry.tracers.get_tracer("test")
        with local_bus.subscribe("n") as events:
            with tracer.start_as_current_span("request") as request:
                local_bus.publish("n", make_event(1))
            with tracer.start_as_current_span("loop") as loop, handling(events.get(1)):
                pass
        publish, receive, process = (telemetry.span(f"{name} n") for name in ("publish", "receive", "process"))
        parents = [one.parent and ids(one.parent) for one in (publish, receive, process)]
        assert parents == [ids(request.get_span_context()), *[ids(loop.get_span_context())] * 2]
        assert [ids(one.context) for one in process.links] == [ids(publish)]

    def test_an_event_that_follows_another_continues_its_trace(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            cause = events.get(1)
            with handling(cause):
                local_bus.publish("m", cause.following(event_type="Within", actor_id="thing-2"))
            local_bus.publish("o", cause.following(event_type="Without", actor_id="thing-3"))
        first, process, within, without = (
            telemetry.span(name) for name in ("publish n", "process n", "publish m", "publish o")
        )
        assert within.parent is not None
        assert without.parent is not None
        assert ids(within.parent) == ids(process)
        assert ids(without.parent) == ids(first)
        assert len({one.context.trace_id for one in (first, process, within, without) if one.context}) == 1

    def test_each_event_names_the_span_that_sent_it(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        cause = make_event(1, metadata={"traceparent": REMOTE, "tracestate": "vendor=1"})
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", cause.following(event_type="Followed", actor_id="thing-2"))
            effect = events.get(1)
        publish = telemetry.span("publish n")
        assert publish.context is not None
        assert publish.parent is not None
        assert (effect.trace_id, effect.span_id) == ("a" * 32, f"{publish.context.span_id:016x}")
        assert effect.metadata["tracestate"] == "vendor=1"
        assert f"{publish.parent.span_id:016x}" == "b" * 16

    def test_a_context_of_the_programs_own_is_kept(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        with local_bus.subscribe("n", "m") as events:
            local_bus.publish("n", make_event(1, metadata={"traceparent": REMOTE}))
            received = events.get(1)
            local_bus.publish("m", received)  # sent on
            assert received.metadata["traceparent"] == events.get(1).metadata["traceparent"] == REMOTE
        publish = telemetry.span("publish n")
        assert publish.kind is SpanKind.CLIENT  # no event has its context
        assert publish.parent is not None
        assert f"{publish.parent.span_id:016x}" == "b" * 16

    def test_an_event_that_was_stored_is_sent_on_as_it_is(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        followed = make_event(1, metadata={"traceparent": REMOTE}).following(event_type="F", actor_id="thing-2")
        with InMemoryEventStore() as store, local_bus.subscribe("n") as events:
            store.save_event(followed.replace(version=1).with_metadata(mine="x"))
            (stored,) = store.get_events("thing-2")
            assert not stored.namespace
            assert stored.metadata["traceparent"] != REMOTE
            local_bus.publish("n", stored)
            assert events.get(1).metadata == stored.metadata

    def test_a_context_given_to_following_is_kept(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        given = {"traceparent": REMOTE}
        cause = make_event(1)
        with local_bus.subscribe("n") as events:
            for event in (
                cause.following(event_type="F", actor_id="thing-2", metadata=given),
                cause.following(event_type="F", actor_id="thing-2").with_metadata(**given),
            ):
                local_bus.publish("n", event)
                assert events.get(1).metadata["traceparent"] == REMOTE

    def test_baggage_that_was_carried_on_stays(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        cause = make_event(1, metadata={"traceparent": REMOTE, "baggage": "tenant=t1"})
        with local_bus.subscribe("n") as events, telemetry.tracers.get_tracer("test").start_as_current_span("own"):
            local_bus.publish("n", cause.following(event_type="F", actor_id="thing-2"))
            assert events.get(1).metadata["baggage"] == "tenant=t1"

    def test_a_broken_context_is_replaced(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1, metadata={"traceparent": "broken", "tracestate": "x"}))
            metadata = events.get(1).metadata
        assert metadata["traceparent"] != "broken"
        assert "tracestate" not in metadata

    def test_baggage_travels(self, telemetry: Telemetry, local_bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
        token = context.attach(baggage.set_baggage("tenant", "a b"))
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            context.detach(token)
            event = events.get(1)
            with handling(event):
                assert baggage.get_baggage("tenant") == "a b"
            assert baggage.get_baggage("tenant") is None
        assert event.metadata["baggage"] == "tenant=a+b"

    def test_baggage_of_an_event_is_taken_over_in_a_span_of_the_programs_own(
        self, telemetry: Telemetry, local_bus: EventBus
    ) -> None:
        with local_bus.subscribe("n", "m") as events:
            local_bus.publish("n", make_event(1, metadata={"traceparent": REMOTE, "baggage": "tenant=t1"}))
            cause = events.get(1)
            with telemetry.tracers.get_tracer("test").start_as_current_span("worker"):
                with handling(cause):
                    assert baggage.get_all() == {"tenant": "t1"}
                    local_bus.publish("m", cause.following(event_type="Followed", actor_id="thing-2"))
                assert baggage.get_all() == {}
            assert events.get(1).metadata["baggage"] == "tenant=t1"

    @pytest.mark.parametrize(
        "hostile",
        [
            {"traceparent": REMOTE + "-" + " " * 20_000 + "\nx"},
            {"traceparent": REMOTE, "tracestate": ",".join("=" * 4_000)},
            {"traceparent": REMOTE, "baggage": ",".join("=" * 4_000)},
        ],
        ids=["traceparent", "tracestate", "baggage"],
    )
    def test_hostile_texts_take_no_time_and_no_log(
        self, telemetry: Telemetry, local_bus: EventBus, hostile: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1, metadata=hostile, id="hostile"))
            began = time.process_time()
            with handling(events.get(1)):
                assert baggage.get_all() == {}
            assert time.process_time() - began < 1
        assert caplog.records == []

    def test_what_is_not_sampled_says_so(self, instrumented: Instrument, local_bus: EventBus) -> None:
        telemetry = instrumented(ALWAYS_OFF)
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            flags = int(events.get(1).metadata["traceparent"][-2:], 16)
            assert not flags & 1  # the flag "sampled"
        assert telemetry.spans == ()

    def test_suppressed_it_sees_nothing(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        with suppress_instrumentation(), local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            assert events.get(1).metadata == {}
        assert telemetry.spans == ()

    def test_nothing_stays_current(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            with pytest.raises(KeyboardInterrupt), handling(events.get(1)):
                raise KeyboardInterrupt
        assert not trace.get_current_span().get_span_context().is_valid
        assert telemetry.span("process n").status.status_code is StatusCode.ERROR

    @pytest.mark.concurrent
    def test_threads_do_not_mix_their_traces(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        meet = threading.Barrier(4)

        def work(number: int) -> None:
            with local_bus.subscribe(f"n{number}") as events:
                meet.wait()
                for turn in range(25):
                    local_bus.publish(f"n{number}", make_event(turn))
                    event = events.get(5)
                    with handling(event):
                        local_bus.publish(f"m{number}", event.following(event_type="F", actor_id="x"))

        run_threads(*(lambda number=number: work(number) for number in range(4)))  # type: ignore[misc]
        for number in range(4):
            traces = {
                one.context.trace_id for one in telemetry.spans if one.context and one.name == f"publish n{number}"
            }
            effects = {
                one.context.trace_id for one in telemetry.spans if one.context and one.name == f"publish m{number}"
            }
            assert len(traces) == 25
            assert traces == effects


class Failing(SpanProcessor):
    """Raises as the SDK begins or ends a span of ours."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        if self._where == "start":
            raise LookupError("broken processor")

    def on_end(self, span: ReadableSpan) -> None:
        if self._where == "end":
            raise LookupError("broken processor")


class TestTheSDK:
    @pytest.mark.parametrize("where", ["start", "end"])
    def test_what_it_raises_changes_nothing(
        self, telemetry: Telemetry, local_bus: EventBus, store: JetStreamEventStore, where: str
    ) -> None:
        telemetry.tracers.add_span_processor(Failing(where))
        handled: list[int] = []
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            with handling(events.get(1)):
                pass
        assert store.append("thing-1", make_event(1), expected_version=0)
        with store.consumer("mailer").run(lambda delivery: handled.append(delivery.sequence)) as runner:
            store.append("thing-2", make_event(2), expected_version=0)
            eventually(lambda: runner.metrics().handled == 2)
            assert (runner.metrics().failed, handled) == (0, [1, 2])
        assert not trace.get_current_span().get_span_context().is_valid  # the context is left
        if where == "end":
            assert telemetry.points("messaging.client.sent.messages")

    @pytest.mark.parametrize("where", ["start", "end"])
    def test_it_may_publish(self, telemetry: Telemetry, local_bus: EventBus, where: str) -> None:
        class Publishing(SpanProcessor):
            def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
                if where == "start":
                    local_bus.publish("audit", make_event(2))

            def on_end(self, span: ReadableSpan) -> None:
                if where == "end":
                    local_bus.publish("audit", make_event(2))

        telemetry.tracers.add_span_processor(Publishing())
        with local_bus.subscribe("audit") as audit:
            local_bus.publish("n", make_event(1))
            assert audit.stats().pending == 1
        assert [one.name for one in telemetry.spans] == ["publish n"]


class TestMetrics:
    def test_they_count_each_event_once(self, telemetry: Telemetry, store: JetStreamEventStore) -> None:
        with EventBus() as bus, bus.subscribe("n") as events:
            bus.publish_many("n", map(make_event, range(3)))
            for event in events.get_batch(5, 1):
                with handling(event):
                    pass
        store.append("thing-1", make_event(1), expected_version=0)
        with store.consumer("mailer").run(lambda delivery: None):
            eventually(
                lambda: telemetry.points("messaging.client.operation.duration")[-1][1] and len(telemetry.spans) == 8
            )
        common = {"messaging.system": "nats"}

        def labels(name: str, kind: str, destination: str, **more: str) -> dict[str, str]:
            return {
                **common,
                "messaging.operation.name": name,
                "messaging.operation.type": kind,
                "messaging.destination.name": destination,
                **{f"messaging.{key}": value for key, value in more.items()},
            }

        mailer = {"consumer.group.name": "mailer"}
        assert telemetry.points("messaging.client.sent.messages") == [
            (labels("publish", "send", "n"), 3),
            (labels("append", "send", store.stream), 1),
        ]
        assert telemetry.points("messaging.client.consumed.messages") == [
            (labels("receive", "receive", "n"), 3),
            (labels("process", "process", store.stream, **mailer), 1),
        ]
        assert telemetry.points("messaging.process.duration") == [
            (labels("process", "process", "n"), 3),
            (labels("process", "process", store.stream, **mailer), 1),
        ]
        assert telemetry.points("messaging.client.operation.duration") == [
            (labels("publish", "send", "n"), 1),
            (labels("receive", "receive", "n"), 1),
            (labels("append", "send", store.stream), 1),
            (labels("ack", "settle", store.stream, **mailer), 1),
        ]

    def test_failures_have_a_type(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        assert not local_bus.try_publish("n", make_event(data={"n": object()}))
        ((labels, count),) = telemetry.points("messaging.client.sent.messages")
        assert (labels["error.type"], count) == ("aether_sync.errors.EncodingError", 1)


class TestDestinations:
    def test_a_template_names_what_it_matches(self, instrumented: Instrument, local_bus: EventBus) -> None:
        telemetry = instrumented(destination_templates=["tenant-*.orders", "other.>"])
        for number in range(200):
            local_bus.publish(f"tenant-{number}.orders", make_event(1))
        local_bus.publish("plain", make_event(1))
        assert {one.name for one in telemetry.spans} == {"publish tenant-*.orders", "publish plain"}
        first = telemetry.spans[0].attributes
        assert first is not None
        assert first["messaging.destination.name"] == "tenant-0.orders"
        assert first["messaging.destination.template"] == "tenant-*.orders"
        assert len(telemetry.points("messaging.client.sent.messages")) == 2

    def test_without_one_only_the_first_are_named(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        for number in range(150):
            local_bus.publish(f"tenant-{number}", make_event(1))
        names = [one.name for one in telemetry.spans]
        assert names == [f"publish tenant-{number}" for number in range(100)] + ["publish"] * 50
        assert len(telemetry.points("messaging.client.sent.messages")) == 101

    def test_only_the_first_groups_are_named_in_metrics(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        for number in range(110):
            with local_bus.subscribe("n", queue_group=f"g{number}") as events:
                local_bus.publish("n", make_event(1))
                events.get(1)
        points = telemetry.points("messaging.client.consumed.messages")
        assert len(points) == 101
        assert sum("messaging.consumer.group.name" in labels for labels, _ in points) == 100
        last = telemetry.spans[-1].attributes
        assert last is not None
        assert last["messaging.consumer.group.name"] == "g109"

    def test_the_environment_has_templates(
        self, instrumented: Instrument, local_bus: EventBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_PYTHON_AETHER_SYNC_DESTINATION_TEMPLATES", "a.*, tenant-*,")
        telemetry = instrumented()
        local_bus.publish("tenant-7", make_event(1))
        assert telemetry.spans[0].name == "publish tenant-*"

    @pytest.mark.parametrize("wrong", ["tenant-*", [3], ["no such"], 5])
    def test_what_is_no_pattern_is_refused(self, instrumented: Instrument, wrong: object) -> None:
        with pytest.raises(InvalidOptionError, match="destination_templates"):
            instrumented(destination_templates=wrong)
        assert observers == []
        assert not AetherSyncInstrumentor().is_instrumented_by_opentelemetry


class TestInstrumentor:
    def test_uninstrument_restores_everything(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        AetherSyncInstrumentor().uninstrument()
        assert observers == []
        with local_bus.subscribe("n") as events:
            local_bus.publish("n", make_event(1))
            with handling(events.get(1)) as found:
                assert found.namespace == "n"
        assert telemetry.spans == ()

    def test_to_instrument_twice_does_it_once(self, telemetry: Telemetry, local_bus: EventBus) -> None:
        AetherSyncInstrumentor().instrument()
        local_bus.publish("n", make_event(1))
        assert len(telemetry.spans) == 1

    def test_without_an_sdk_nothing_is_added(self, local_bus: EventBus) -> None:
        none = trace.NoOpTracerProvider()
        AetherSyncInstrumentor().instrument(tracer_provider=none)
        try:
            with local_bus.subscribe("n") as events:
                local_bus.publish("n", make_event(1, metadata={"traceparent": REMOTE}))
                local_bus.publish("n", make_event(2))
                assert [one.metadata for one in (events.get(1), events.get(1))] == [{"traceparent": REMOTE}, {}]
        finally:
            AetherSyncInstrumentor().uninstrument()


# -- several processes

PUBLISHER = """
import json, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aether_sync import Event, JetStreamEventStore, NATSEventBus
from aether_sync.contrib.opentelemetry import AetherSyncInstrumentor

url, prefix = sys.argv[1:]
exporter, tracers = InMemorySpanExporter(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
AetherSyncInstrumentor().instrument(tracer_provider=tracers)
with NATSEventBus(url, prefix=prefix) as bus, JetStreamEventStore(url, prefix) as store:
    bus.publish("orders.eu", Event(event_type="OrderPlaced", actor_id="order-1"))
    store.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1"), expected_version=0)
    bus.flush()
print(json.dumps([[one.name, one.context.trace_id, one.context.span_id] for one in exporter.get_finished_spans()]))
"""


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_trace_goes_through_two_processes(
    telemetry: Telemetry,
    server: NATSServer,
    prefix: str,
    make_bus: Callable[..., NATSEventBus],
    store: JetStreamEventStore,
) -> None:
    handled = threading.Event()
    with make_bus().subscribe("orders.*") as events:
        there = json.loads(run([sys.executable, "-c", PUBLISHER, server.url, prefix]))
        with handling(events.get(PATIENCE)):
            pass
        with store.consumer("mailer").run(lambda delivery: handled.set()):
            assert handled.wait(PATIENCE)
            eventually(lambda: f"ack {prefix}" in [one.name for one in telemetry.spans])
    made = {name: (trace_id, span_id) for name, trace_id, span_id in there}
    assert made.keys() == {"publish orders.eu", f"append {prefix}"}
    for name, cause in {"process orders.eu": "publish orders.eu", f"process {prefix}": f"append {prefix}"}.items():
        process = telemetry.span(name)
        assert process.parent is not None
        assert ids(process.parent) == made[cause]
        assert [ids(one.context) for one in process.links] == [made[cause]]
    assert [ids(one.context) for one in telemetry.span("receive orders.*").links] == [made["publish orders.eu"]]


PROGRAM = """
import sys, threading
from aether_sync import Event, JetStreamEventStore, NATSEventBus

url, prefix = sys.argv[1:]
done = threading.Event()
with NATSEventBus(url, prefix=prefix) as bus, JetStreamEventStore(url, prefix) as store:
    def handle(delivery):
        bus.publish("mails", delivery.event.following(event_type="MailSent", actor_id="mail-1"))
        done.set()

    store.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1"), expected_version=0)
    with store.consumer("mailer").run(handle):
        assert done.wait(20)
"""


def test_opentelemetry_instrument_sends_it_to_a_collector(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    found = [one for one in entry_points(group="opentelemetry_instrumentor") if one.name == "aether_sync"]
    assert found, "the installed distribution has no such entry point: install it again"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with Collector() as collector:
        run(
            [
                str(Path(sys.executable).parent / "opentelemetry-instrument"),
                sys.executable,
                str(program),
                server.url,
                prefix,
            ],
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_LOGS_EXPORTER="none",
            OTEL_SERVICE_NAME="shop",
        )
    assert collector.faults == []
    spans = {span.name: span for service, span in collector.spans if service == "shop"}
    assert spans.keys() == {f"append {prefix}", f"process {prefix}", f"ack {prefix}", "publish mails"}
    append, process, publish = (spans[name] for name in (f"append {prefix}", f"process {prefix}", "publish mails"))
    assert (append.kind, process.kind) == (4, 5)  # SPAN_KIND_PRODUCER and SPAN_KIND_CONSUMER of trace.proto
    assert process.parent_span_id == append.span_id
    assert [one.span_id for one in process.links] == [append.span_id]
    assert publish.parent_span_id == process.span_id
    assert len({one.trace_id for one in (append, process, publish)}) == 1
    attributes = {one.key: one.value.string_value for one in process.attributes}
    assert attributes["messaging.consumer.group.name"] == "mailer"
    metrics = {one.name: one for one in collector.metrics}
    assert metrics.keys() == {
        "messaging.client.sent.messages",
        "messaging.client.consumed.messages",
        "messaging.client.operation.duration",
        "messaging.process.duration",
    }
    assert sum(point.as_int for point in metrics["messaging.client.sent.messages"].sum.data_points) == 2
    bounds = metrics["messaging.process.duration"].histogram.data_points[0].explicit_bounds
    assert (bounds[0], bounds[-1], metrics["messaging.process.duration"].unit) == (0.005, 10.0, "s")


def test_events_compare_as_before(telemetry: Telemetry, local_bus: EventBus) -> None:
    event = Event(event_type="A", actor_id="a-1")
    with local_bus.subscribe("n") as events:
        local_bus.publish("n", event)
        assert events.get(1).replace(metadata={}) == event
