"""``Collector``: shows the sums of an exporter in one process, at each scrape as they are at that moment."""

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, Sample
from prometheus_client.registry import Collector as BaseCollector
from prometheus_client.utils import floatToGoString

from ...metrics import BOUNDS
from ._asking import Asking
from ._exporter import Exporter
from ._families import FAMILIES, Family, Series
from ._reading import Numbers

__all__ = ["LIMITS", "Collector", "labels_of"]

_CLASSES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}

#: The label ``le`` of each range of a histogram.
LIMITS = tuple(map(floatToGoString, (*BOUNDS, float("inf"))))


class Collector(BaseCollector):
    """What a registry asks when it is scraped. A scrape waits for no server."""

    def __init__(self) -> None:
        self.exporter = Exporter()
        self._asking = Asking(self.exporter, only_connected=False)

    def end(self) -> None:
        """End the thread that asks for consumers."""
        self._asking.stop()
        self.exporter.reporter.end()

    def begin_anew(self) -> None:
        """Begin with zeros in a forked child."""
        self.exporter.begin_anew()
        self._asking.begin_anew()

    def describe(self) -> Iterable[Metric]:
        """Return the families without values, by which a registry finds names that are taken."""
        return map(_empty, FAMILIES)

    def collect(self) -> Iterable[Metric]:
        """Return the families that have values."""
        self._asking.start()
        self.exporter.look()
        metrics = {family: _empty(family) for family in FAMILIES}
        for series, numbers in self.exporter.counts().items():
            metrics[series.family].samples += _samples(series, numbers)
        for series, value in self.exporter.gauges().items():
            metrics[series.family].samples.append(Sample(series.family.name, labels_of(series), value))
        return [metric for metric in metrics.values() if metric.samples]


def _empty(family: Family) -> Metric:
    made: Metric = _CLASSES[family.kind](family.name, family.text)
    return made


def labels_of(series: Series) -> dict[str, str]:
    """Return the labels of a series that are not empty."""
    return {name: value for name, value in zip(series.family.labels, series.labels, strict=True) if value}


def _samples(series: Series, numbers: Numbers) -> list[Sample]:
    name, labels = series.family.name, labels_of(series)
    if series.family.kind == "counter":
        return [Sample(name, labels, numbers[0])]
    *counts, total = numbers
    so_far = list(accumulate(counts))
    return [
        *(Sample(f"{name}_bucket", {**labels, "le": le}, n) for le, n in zip(LIMITS, so_far, strict=True)),
        Sample(f"{name}_count", labels, so_far[-1]),
        Sample(f"{name}_sum", labels, total),
    ]
