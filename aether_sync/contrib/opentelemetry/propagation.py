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
from opentelemetry.trace import SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ...events import Event
from ...instrumentation import Stamp

__all__ = ["context_of", "distinct_origins", "keeps_its_own", "origin_of", "stamp_of"]

_KEYS = ("traceparent", "tracestate", "baggage")

_trace_context = TraceContextTextMapPropagator()
_baggage = W3CBaggagePropagator()


def _has_baggage() -> bool:
    return "baggage" in get_global_textmap().fields


def context_of(event: Event) -> Context:
    """Return the context that travels in an event; an empty one if there is none."""
    context = _trace_context.extract(event.metadata, Context())
    return _baggage.extract(event.metadata, context) if _has_baggage() else context


def origin_of(event: Event) -> SpanContext | None:
    """Return the span that created an event; None if it does not say."""
    if "traceparent" not in event.metadata:
        return None
    span = trace.get_current_span(_trace_context.extract(event.metadata, Context())).get_span_context()
    return span if span.is_valid else None


def distinct_origins(events: Iterable[Event]) -> list[SpanContext]:
    """Return the spans that created the events, each once."""
    found = {(one.trace_id, one.span_id): one for event in events if (one := origin_of(event)) is not None}
    return list(found.values())


def keeps_its_own(event: Event) -> bool:
    """Whether the context that an event has says who created it, so that sending the event must not change it.

    The conventions want that of a context which the program has given to an event, and of an event that is sent on. But
    an event made by ``following()`` has the context of its cause, and is created by whoever sends it.
    """
    is_carried_on = bool(event.causation_id) and not event.namespace
    return not is_carried_on and origin_of(event) is not None


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
        return nothing if keeps_its_own(event) else changes

    return stamp
