"""Counts and latencies of a service, in the text format that Prometheus reads.

The format is some lines of text; the client library of Prometheus would bring a registry for the whole process, which a
service of one page of numbers has no use for.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from padim_jax.runs.tables import escape_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How many observations lie up to each of :data:`BUCKETS`."""

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(BUCKETS) + 1), 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Metrics:
    """The numbers of one service; threads may change them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[Labels]] = {name: Counter() for name in _COUNTERS}
        self._seconds: dict[str, dict[Labels, Histogram]] = {name: {} for name in _HISTOGRAMS}

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Raise a counter."""
        with self._lock:
            self._counts[name][tuple(sorted(labels.items()))] += by

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add to a histogram of seconds."""
        with self._lock:
            self._seconds[name].setdefault(tuple(sorted(labels.items())), Histogram()).add(seconds)

    def text(self, gauges: Mapping[str, Mapping[Labels, float]]) -> str:
        """Everything, as Prometheus reads it.

        Args:
          gauges: numbers of this moment by their labels, by the names in ``_GAUGES``.
        """
        lines = list[str]()
        with self._lock:
            for name, about in _COUNTERS.items():
                lines += _head(name, about, "counter")
                lines += [f"{name}{_text(labels)} {value}" for labels, value in sorted(self._counts[name].items())]
            for name, about in _HISTOGRAMS.items():
                lines += _head(name, about, "histogram")
                for labels, histogram in sorted(self._seconds[name].items()):
                    lines += _histogram(name, labels, histogram)
        for name, about in _GAUGES.items():
            lines += _head(name, about, "gauge")
            lines += [f"{name}{_text(labels)} {value:g}" for labels, value in sorted(gauges[name].items())]
        return "\n".join(lines) + "\n"


_COUNTERS = {
    "padim_requests_total": "Requests that were answered, by route and status.",
    "padim_refused_total": "Requests that were refused, by reason.",
    "padim_verdicts_total": "Verdicts that were given, by model.",
    "padim_corrections_total": "Corrections by people, by what they say.",
}
_HISTOGRAMS = {
    "padim_request_seconds": "From the first byte of a request's head to the end of its answer.",
    "padim_wait_seconds": "How long images waited to be computed.",
    "padim_batch_seconds": "How long batches took to be computed, recorded and kept.",
}
_GAUGES = {
    "padim_queue_length": "Images that wait.",
    "padim_requests_in_hand": "Requests to score that are being received, wait or are computed.",
    "padim_request_bytes_in_hand": "Bytes that these requests take.",
    "padim_models_loaded": "Models in memory.",
    "padim_ready": "1 once models are loaded and compiled.",
    "padim_drift_capital": "What bets on drift have made of the kind's share of 1 since its last alarm; 100 is one.",
    "padim_drift_alarm": "1 once images of the source and the model's present state have drifted in this kind.",
    "padim_drift_changes": "How many alarms there were of the source and the model's present state in this kind.",
}


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _text(labels: Iterable[tuple[str, str]]) -> str:
    shown = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{shown}}}" if shown else ""


def _escape(value: str) -> str:
    # names of files need not be UTF-8, and Prometheus reads nothing else
    return escape_bytes(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(name: str, labels: Labels, histogram: Histogram) -> list[str]:
    lines, below = list[str](), 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        below += count
        lines.append(f"{name}_bucket{_text((*labels, ('le', bound)))} {below}")
    return [*lines, f"{name}_sum{_text(labels)} {histogram.total:.6f}", f"{name}_count{_text(labels)} {below}"]
