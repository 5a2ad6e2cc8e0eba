"""The ``__repr__`` of the method's records, on one line each (:mod:`padim_jax.backbones.brief`)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from padim_jax.backbones.brief import fact_or_mark, line, number


def moments(self: Any) -> str:
    """What is fitted, and on how many images so far."""
    return line(self, *_embedding_facts(self.embedding), lambda: f"{number(self.moments.count)} images")


def padim(self: Any) -> str:
    """What was fitted, on how many images, and from which score on an image is anomalous."""
    return line(
        self,
        *_embedding_facts(self.embedding),
        lambda: f"{number(self.count)} images",
        lambda: _threshold_fact(self),
        *([] if self.roi is None else [lambda: "inside a region of interest"]),
    )


def updatable(self: Any) -> str:
    """As :func:`padim`, and of how many files the digests are known."""
    return line(
        self,
        *_embedding_facts(self.moments.embedding),
        lambda: f"{number(self.moments.count)} images",
        lambda: f"{len(self.images)} of them known by their digests",
        lambda: _threshold_fact(self),
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


def standard(self: Any) -> str:
    """How many good images' maps it is of, and how large they are."""
    return line(
        self, lambda: f"{number(self.count)} good images", lambda: f"maps {'×'.join(map(str, self.mean.shape))}"
    )


def alignment(self: Any) -> str:
    """How large the reference is, and how far images are turned."""
    return line(
        self,
        lambda: f"reference {'×'.join(map(str, self.image.shape[:2]))}",
        lambda: f"turned by up to {number(self.max_angle)}°" if self.max_angle else "shifts alone",
    )


def scores(self: Any) -> str:
    """How many images, the range of their scores, the size of the maps, and the verdicts."""
    return line(
        self,
        lambda: f"{_count(self.image_score)} images",
        lambda: f"scores {_range(self.image_score)}",
        lambda: f"maps {'×'.join(map(str, self.anomaly_map.shape[-2:]))}",
        lambda: "not calibrated" if self.anomalous is None else f"{_count_true(self.anomalous)} anomalous",
    )


def _embedding_facts(embedding: Any) -> list[Callable[[], str]]:
    return [
        lambda: embedding.backbone,
        lambda: f"taps {', '.join(embedding.taps)}",
        lambda: f"d = {embedding.dimension}",
        lambda: f"grid {embedding.grid[0]}×{embedding.grid[1]}",
    ]


def _threshold_fact(record: Any) -> str:
    threshold = None if record.calibration is None else record.calibration.threshold
    return "not calibrated" if threshold is None else f"calibrated: anomalous above {number(threshold)}"


def _count(values: Any) -> int:
    return int(np.prod(values.shape, dtype=int))


def _range(values: Any) -> str:
    def extent() -> str:
        array = np.asarray(values)
        return f"{array.min():.4g} to {array.max():.4g}" if array.size else "none"

    return fact_or_mark(extent)


def _count_true(values: Any) -> str:
    return fact_or_mark(lambda: str(int(np.asarray(values).sum())))
