"""``AetherSyncInstrumentor``: traces and metrics of all buses and stores of a process, by OpenTelemetry."""

import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined, unused-ignore]
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ..._version import __version__
from ...instrumentation import instrument
from .conventions import SCHEMA_URL, Destinations
from .tracing import Telemetry

__all__ = ["AetherSyncInstrumentor"]

_TEMPLATES = "OTEL_PYTHON_AETHER_SYNC_DESTINATION_TEMPLATES"


class AetherSyncInstrumentor(BaseInstrumentor):
    """Makes spans and metrics of everything that this process sends, receives, processes and settles.

    ``opentelemetry-instrument`` finds it by itself. A program calls ``AetherSyncInstrumentor().instrument()``, before
    or after it has made its buses and stores. The context of a trace travels in the metadata of the events.

    ``AetherSyncInstrumentor().instrument()`` takes:

    - ``tracer_provider``, ``meter_provider``: where spans and metrics go; the global ones by default.
    - ``destination_templates``: patterns of namespaces and of names of streams, such as ``"tenant-*.orders"``. What
      matches one is named by it in span names and metrics. By default they are those in the environment variable
      ``OTEL_PYTHON_AETHER_SYNC_DESTINATION_TEMPLATES``, with commas between them. Without a template, the first 100
      destinations of the process are named as they are, and later ones not at all.

    ``uninstrument()`` ends it; operations that have begun still end their spans.
    """

    _take_off: Callable[[], None] | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return nothing: what is instrumented is this very distribution."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        templates: Iterable[str] | None = kwargs.get("destination_templates")
        if templates is None:
            templates = [one.strip() for one in os.environ.get(_TEMPLATES, "").split(",") if one.strip()]
        tracers: TracerProvider | None = kwargs.get("tracer_provider")
        meters: MeterProvider | None = kwargs.get("meter_provider")
        destinations = Destinations(templates)
        tracer = trace.get_tracer(__name__, __version__, tracers, SCHEMA_URL)
        meter = metrics.get_meter(__name__, __version__, meters, SCHEMA_URL)
        self._take_off = instrument(Telemetry(tracer, meter, destinations))

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._take_off is not None:
            self._take_off()
            self._take_off = None
