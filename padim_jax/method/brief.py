"""The ``__repr__`` of the method's records, on one line each (:mod:`padim_jax.backbones.brief`)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from padim_jax.backbones.brief import fact_or_mark, line, number


def moments(self: Any) -> str:
    """What is fitted, and on how many images so far."""
    return line(self, *_fitted(self.embedding), lambda: f"{number(self.moments.count)} images")


def padim(self: Any) -> str:
    """What was fitted, on how many images, and from which score on an image is anomalous."""
    return line(
        self,
        *_fitted(self.embedding),
        lambda: f"{number(self.count)} images",
        lambda: _judging(self.calibration),
        *([] if self.roi is None else [lambda: "inside a region of interest"]),
    )


def updatable(self: Any) -> str:
    """As of :func:`padim`, and of how many files it knows the digests."""
    return line(
        self,
        *_fitted(self.moments.embedding),
        lambda: f"{number(self.moments.count)} images",
        lambda: f"{len(self.images)} of them known by their digests",
        lambda: _judging(self.calibration),
        *([] if self.roi is None else [lambda: "inside a region of interest"]),
    )


def calibration(self: Any) -> str:
    """What it was made from, and what follows from it."""
    return line(
        self,
        lambda: f"{len(self.scores)} good images",
        lambda: self.method,
        lambda: f"anomalous above {number(self.threshold)}",
        lambda: f"false-alarm rate {self.false_alarm_rate:g}",
        lambda: f"pixels marked above {number(self.pixel_threshold)}",
    )


def scores(self: Any) -> str:
    """How many, their range, size of the maps, verdicts."""
    return line(
        self,
        lambda: f"{_count(self.image_score)} images",
        lambda: f"scores {_range(self.image_score)}",
        lambda: f"maps {'×'.join(map(str, self.anomaly_map.shape[-2:]))}",
        lambda: "not calibrated" if self.anomalous is None else f"{_true(self.anomalous)} anomalous",
    )


def _fitted(embedding: Any) -> list[Callable[[], str]]:
    return [
        lambda: embedding.backbone,
        lambda: f"taps {', '.join(embedding.taps)}",
        lambda: f"d = {embedding.dimension}",
        lambda: f"grid {embedding.grid[0]}×{embedding.grid[1]}",
    ]


def _judging(known: Any) -> str:
    return "not calibrated" if known is None else f"calibrated: anomalous above {number(known.threshold)}"


def _count(values: Any) -> int:
    return int(np.prod(values.shape, dtype=int))


def _range(values: Any) -> str:
    def told() -> str:
        known = np.asarray(values)
        return f"{known.min():.4g} to {known.max():.4g}" if known.size else "none"

    return fact_or_mark(told)


def _true(values: Any) -> str:
    return fact_or_mark(lambda: str(int(np.asarray(values).sum())))
