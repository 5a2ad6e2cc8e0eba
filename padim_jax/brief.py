"""What the records say of themselves on one line: facts instead of arrays. Each is the ``__repr__`` of its record.

They are asked inside ``jit`` too, by tracebacks and debuggers, and while JAX fills their fields with placeholders: what
has no value there is given as "?".
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def backbone(self: Any) -> str:
    """Name, weights, size, taps it can give."""
    return _line(
        self,
        lambda: self.spec.name,
        lambda: f"weights {self.weights_digest[:8]}",
        lambda: f"{sum(leaf.size for leaf in jax.tree.leaves(self.parameters)) / 1e6:.2f} million parameters",
        lambda: f"default taps {', '.join(self.spec.default_taps)}",
    )


def moments(self: Any) -> str:
    """What is fitted, and on how many images so far."""
    return _line(self, *_fitted(self.embedding), lambda: f"{_number(self.moments.count)} images")


def padim(self: Any) -> str:
    """What was fitted, on how many images, and from which score on an image is anomalous."""
    return _line(
        self,
        *_fitted(self.embedding),
        lambda: f"{_number(self.count)} images",
        lambda: _judging(self.calibration),
        *([] if self.roi is None else [lambda: "inside a region of interest"]),
    )


def updatable(self: Any) -> str:
    """As of :func:`padim`, and of how many files it knows the digests."""
    return _line(
        self,
        *_fitted(self.moments.embedding),
        lambda: f"{_number(self.moments.count)} images",
        lambda: f"{len(self.images)} of them known by their digests",
        lambda: _judging(self.calibration),
        *([] if self.roi is None else [lambda: "inside a region of interest"]),
    )


def calibration(self: Any) -> str:
    """What it was made from, and what follows from it."""
    return _line(
        self,
        lambda: f"{len(self.scores)} good images",
        lambda: self.method,
        lambda: f"anomalous above {_number(self.threshold)}",
        lambda: f"false-alarm rate {self.false_alarm_rate:g}",
        lambda: f"pixels marked above {_number(self.pixel_threshold)}",
    )


def scores(self: Any) -> str:
    """How many, their range, size of the maps, verdicts."""
    return _line(
        self,
        lambda: f"{_count(self.image_score)} images",
        lambda: f"scores {_range(self.image_score)}",
        lambda: f"maps {'×'.join(map(str, self.anomaly_map.shape[-2:]))}",
        lambda: "not calibrated" if self.anomalous is None else f"{_true(self.anomalous)} anomalous",
    )


def _line(record: Any, *facts: Callable[[], str]) -> str:
    return f"{type(record).__name__}({', '.join(map(_fact, facts))})"


def _fact(fact: Callable[[], str]) -> str:
    try:
        return fact()
    except Exception:  # whatever it is, a repr that fails would hide the error that somebody looks for
        return "?"


def _fitted(embedding: Any) -> list[Callable[[], str]]:
    return [
        lambda: embedding.backbone,
        lambda: f"taps {', '.join(embedding.taps)}",
        lambda: f"d = {embedding.dimension}",
        lambda: f"grid {embedding.grid[0]}×{embedding.grid[1]}",
    ]


def _judging(known: Any) -> str:
    return "not calibrated" if known is None else f"calibrated: anomalous above {_number(known.threshold)}"


def _number(value: Any) -> str:
    return _fact(lambda: f"{float(value):.4g}")


def _count(values: Any) -> int:
    return int(np.prod(values.shape, dtype=int))


def _range(values: Any) -> str:
    def told() -> str:
        known = np.asarray(values)
        return f"{known.min():.4g} to {known.max():.4g}" if known.size else "none"

    return _fact(told)


def _true(values: Any) -> str:
    return _fact(lambda: str(int(np.asarray(values).sum())))
