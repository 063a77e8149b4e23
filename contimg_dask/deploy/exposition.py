"""Put figures of our own on Dask's ``/metrics``, by prometheus_client where it is installed.

It is an extra (``metrics``) and may be missing: then a log line says so, and nothing else changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from typing import Any, Literal

from contimg_dask.deploy.worker_figures import BUCKETS_S, Histogram

prometheus: Any
try:
    prometheus = import_module("prometheus_client.core")
except ModuleNotFoundError:
    prometheus = None

log = logging.getLogger("distributed.contimg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One metric as it stands: ``samples`` are (values of the labels, number or histogram).

    The name has its unit, and ``_total`` when it is a counter.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    samples: Iterable[tuple[tuple[str, ...], float | Histogram]] = ()


Figures = Callable[[], Iterator[Figure]]


class _Collector:
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Any]:
        return map(_family, self._figures())


def expose(figures: Figures) -> None:
    """Show what ``figures`` returns whenever this process is asked for its metrics."""
    if prometheus is None:
        log.warning("no metrics of our own: pip install 'contimg-dask[metrics]' brings them")
        return
    prometheus.REGISTRY.register(_Collector(figures))


def _family(figure: Figure) -> Any:
    kinds: dict[str, Any] = {
        "counter": prometheus.CounterMetricFamily,
        "gauge": prometheus.GaugeMetricFamily,
        "histogram": prometheus.HistogramMetricFamily,
    }
    family = kinds[figure.kind](figure.name, figure.help, labels=figure.labels)
    for labels, value in figure.samples:
        if isinstance(value, Histogram):
            family.add_metric(labels, _cumulative(value), value.sum_s)
        else:
            family.add_metric(labels, value)
    return family


def _cumulative(histogram: Histogram) -> list[tuple[str, int]]:
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
