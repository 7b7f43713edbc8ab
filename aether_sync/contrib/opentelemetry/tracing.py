"""``Telemetry``: makes a span of each operation, and counts and times it."""

from contextlib import AbstractContextManager, nullcontext
from contextvars import Token
from time import time_ns
from types import TracebackType
from typing import Final, NamedTuple

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import Meter
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer

from ..._values.shown import explained
from ...instrumentation import Operation, Stamp
from .conventions import DURATION_BOUNDS, SYSTEM, Destination, Destinations
from .propagation import context_of, distinct, keeps_its_own, origin_of, stamp_of, with_baggage_of

__all__ = ["Telemetry"]

_SECOND: Final = 10**9  # nanoseconds

_LONGEST_STATUS = 1_000  # characters

_KINDS = {"receive": SpanKind.CLIENT, "process": SpanKind.CONSUMER, "settle": SpanKind.CLIENT}

_Attributes = dict[str, str | int]


class Telemetry:
    """Sees all operations of this process. Any thread may call it; it has no state but counts of the SDK.

    Args:
        tracer: Makes the spans.
        meter: Makes the instruments.
        destinations: Names the destinations.
    """

    def __init__(self, tracer: Tracer, meter: Meter, destinations: Destinations) -> None:
        self._tracer = tracer
        self._destinations = destinations
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages that were sent.",
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the program.",
        )
        self._operations = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of sending, receiving and settling.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self._processing = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of handling a message.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )

    def __call__(self, operation: Operation) -> AbstractContextManager[Stamp | None]:
        """Observe an operation; not while the program has suppressed that, as exporters do for their own requests."""
        return _Observation(self, operation) if is_instrumentation_enabled() else nullcontext()

    def begin(self, operation: Operation) -> "_Begun":
        """Start the span of an operation."""
        began = time_ns() - int(operation.seconds * _SECOND)
        destination = self._destinations.of(operation)
        parent, links = _relations(operation)
        span = self._tracer.start_span(
            f"{operation.name} {destination.label}".rstrip(),
            parent,
            _kind(operation),
            _span_attributes(operation, destination),
            [Link(one) for one in links],
            began,
        )
        return _Begun(began, span, trace.set_span_in_context(span, parent), _metric_attributes(operation, destination))

    def measure(self, operation: Operation, labels: _Attributes, seconds: float) -> None:
        """Count and time an operation."""
        if operation.kind == "process":
            self._processing.record(max(0.0, seconds), labels)
        else:
            self._operations.record(max(0.0, seconds), labels)
        if operation.kind == "send":
            self._sent.add(len(operation.events), labels)
        elif operation.kind == "receive" or operation.is_pushed:
            self._consumed.add(len(operation.events), labels)


class _Begun(NamedTuple):
    began: int  # nanoseconds
    span: Span
    context: Context
    labels: _Attributes


class _Observation:
    """The context that an operation is done in: its span is current.

    What the SDK raises is raised, after all else is done; ``instrument()`` logs it. A context that is dropped without
    being left does nothing more, as it may be dropped while this thread holds locks of the SDK.
    """

    __slots__ = ("_begun", "_operation", "_telemetry", "_token")

    _begun: _Begun
    _token: Token[Context]

    def __init__(self, telemetry: Telemetry, operation: Operation) -> None:
        self._telemetry = telemetry
        self._operation = operation

    def __enter__(self) -> Stamp | None:
        self._begun = self._telemetry.begin(self._operation)
        self._token = otel.attach(self._begun.context)
        try:
            return stamp_of(self._begun.context) if self._operation.kind == "send" else None
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        began, span, _, labels = self._begun
        ended = time_ns()
        try:
            if error is not None and kind is not GeneratorExit:  # nobody iterates a generator any more: no failure
                labels["error.type"] = _note_failure(span, error)
        finally:
            try:
                self._telemetry.measure(self._operation, labels, (ended - began) / _SECOND)
            finally:
                try:
                    otel.detach(self._token)
                finally:
                    span.end(ended)


def _kind(operation: Operation) -> SpanKind:
    if operation.kind != "send":
        return _KINDS[operation.kind]
    return SpanKind.CLIENT if all(map(keeps_its_own, operation.events)) else SpanKind.PRODUCER


def _relations(operation: Operation) -> tuple[Context, list[SpanContext]]:
    """Return the context that the span of an operation begins in, and the spans that it is linked to.

    The span is a child of the span that is current. If there is none, and the operation is about one event, it is a
    child of the span that created the event; a ``receive`` is not, as what was waited for is not part of that trace.
    An event that is processed brings its baggage along in each case, for the events that follow it.
    """
    current = otel.get_current()
    origins = distinct(map(origin_of, operation.events))
    if len(operation.events) != 1 or operation.kind == "receive":
        return current, origins
    (event,) = operation.events
    if not origins or trace.get_current_span(current).get_span_context().is_valid:
        return with_baggage_of(event, current) if operation.kind == "process" else current, origins
    return context_of(event, origins[0]), origins if operation.kind == "process" else []


def _span_attributes(operation: Operation, destination: Destination) -> _Attributes:
    found = _common_attributes(operation)
    if operation.consumer:
        found["messaging.consumer.group.name"] = operation.consumer
    if destination.template:
        found["messaging.destination.template"] = destination.template
    if destination.name:
        found["messaging.destination.name"] = destination.name
    if operation.is_batch:
        found["messaging.batch.message_count"] = len(operation.events)
    elif operation.events:
        (event,) = operation.events
        found["messaging.message.id"] = event.id
        if event.correlation_id:
            found["messaging.message.conversation_id"] = event.correlation_id
    return found


def _metric_attributes(operation: Operation, destination: Destination) -> _Attributes:
    found = _common_attributes(operation)
    if destination.group:
        found["messaging.consumer.group.name"] = destination.group
    if destination.template:
        found["messaging.destination.template"] = destination.template
    elif destination.few:
        found["messaging.destination.name"] = destination.few
    return found


def _common_attributes(operation: Operation) -> _Attributes:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation.name,
        "messaging.operation.type": operation.kind,
    }


def _note_failure(span: Span, error: BaseException) -> str:
    """Record what has ended an operation; return its type."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.set_status(Status(StatusCode.ERROR, explained(error, _LONGEST_STATUS)))
    span.record_exception(error)
    return name
