"""How the context of a trace travels in the metadata of an event: as W3C Trace Context and W3C Baggage.

The keys are those of the W3C headers: ``traceparent``, ``tracestate`` (https://www.w3.org/TR/trace-context/) and
``baggage`` (https://www.w3.org/TR/baggage/). They do not depend on ``OTEL_PROPAGATORS``, since other nodes of the
cluster and later readers of a store have to find them; but baggage travels only if the propagators of the program
include it.
"""

from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..._values.trace_context import baggage_in, trace_parent_in, trace_state_in
from ...events import CarriedMetadata, Event
from ...instrumentation import Stamp

__all__ = ["context_of", "distinct", "keeps_its_own", "origin_of", "stamp_of", "with_baggage_of"]

_KEYS = ("traceparent", "tracestate", "baggage")

_trace_context = TraceContextTextMapPropagator()
_baggage = W3CBaggagePropagator()


def _has_baggage() -> bool:
    return "baggage" in get_global_textmap().fields


def context_of(event: Event, origin: SpanContext) -> Context:
    """Return the context that travels in an event, whose origin is given."""
    return with_baggage_of(event, trace.set_span_in_context(NonRecordingSpan(origin), Context()))


def with_baggage_of(event: Event, context: Context) -> Context:
    """Return a context with the baggage of an event besides."""
    if not ("baggage" in event.metadata and _has_baggage()):
        return context
    baggage = baggage_in(event.metadata)
    return _baggage.extract({"baggage": baggage}, context) if baggage else context


def origin_of(event: Event) -> SpanContext | None:
    """Return the span that created an event; None if it does not say.

    This is done here, as some versions of OpenTelemetry read a long text in a time that is quadratic in its length.
    """
    found = trace_parent_in(event.metadata)
    if found is None:
        return None
    trace_id, span_id, flags = found
    state = trace_state_in(event.metadata)
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        True,
        TraceFlags(int(flags, 16)),
        TraceState.from_header([state]) if state else None,
    )


def distinct(origins: Iterable[SpanContext | None]) -> list[SpanContext]:
    """Return the spans that created events, each once."""
    return list({(one.trace_id, one.span_id): one for one in origins if one is not None}.values())


def keeps_its_own(event: Event) -> bool:
    """Whether the context that an event has says who created it, so that sending the event must not change it.

    The conventions want that of a context which the program has given to an event, and of an event that is sent on. But
    an event made by ``following()`` has the context of its cause, and is created by whoever sends it.
    """
    return type(event.metadata) is not CarriedMetadata and trace_parent_in(event.metadata) is not None


def stamp_of(context: Context) -> Stamp | None:
    """Return what puts a context into the events that do not keep their own; None if the context has no span."""
    carrier: dict[str, str] = {}
    _trace_context.inject(carrier, context)
    if not carrier:
        return None
    if _has_baggage():
        _baggage.inject(carrier, context)
    changes = {key: carrier.get(key) for key in _KEYS}
    nothing: Mapping[str, str | None] = {}

    def stamp(event: Event) -> Mapping[str, str | None]:
        if keeps_its_own(event):
            return nothing
        if "baggage" in carrier or not (own := baggage_in(event.metadata)):
            return changes
        return {**changes, "baggage": own}

    return stamp
