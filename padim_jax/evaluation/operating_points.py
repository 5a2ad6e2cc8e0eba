"""Thresholds of an evaluation from its good training images alone, and what each finds among the test images.

A threshold chosen on the labels of the test images flatters; in production there are no such labels. Here each good
training image is scored by the model of all the others (:mod:`padim_jax.gaussians.leave_one_out`), and the thresholds
follow from these scores as :mod:`padim_jax.method.calibration` says: what is counted at them is what a user gets who
has good images only.
"""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from padim_jax.method.calibration import Calibration, Histogram, calibration, p_values
from padim_jax.method.checks import check_images
from padim_jax.method.scoring import NoLeaveOneOut, check_scores
from padim_jax.runs.engines import Engine
from padim_jax.runs.steps import Step

RATES = (0.01, 0.05)  # of false alarms; a report starts at the first
EARLIER = "written by an earlier version, which did not calibrate; evaluate again for thresholds from good images"


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds for each of ``RATES``.

    Attributes:
      known: a calibration for each; empty where there can be none.
      impossible: why there can be none, in words; None where there are.
    """

    known: tuple[Calibration, ...]
    impossible: str | None = None

    @property
    def colour_scale(self) -> tuple[float, float] | None:
        """Distances at the ends of the heat maps' colours, the first threshold in the middle; None without any."""
        if not self.known:
            return None
        low, high = np.asarray(self.known[0].colour_scale).tolist()
        return low, high

    def p_values(self, scores: Sequence[float]) -> list[float | None]:
        """Of each score, ``(1 + #{i: s_i ≥ s}) / (n + 1)`` among the left-out ones; None without any."""
        if not self.known:
            return [None] * len(scores)
        return [float(p) for p in p_values(self.known[0], np.asarray(scores, np.float32))]

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of the thresholds, under "calibration"."""
        return {
            "method": "leave-one-out",
            "images": len(self.known[0].scores) if self.known else 0,
            "impossible": self.impossible,
            "thresholds": [
                {
                    "false_alarm_rate": one.false_alarm_rate,
                    "threshold": float(one.threshold),
                    "expected_false_alarms": one.attained_rate,
                    "interval": list(one.interval()),
                    "images_wanted": one.images_wanted,
                }
                for one in self.known
            ],
        }

    def measure(self, labels: Sequence[int], scores: Sequence[float]) -> dict[str, float | None] | None:
        """Shares of the test images above each threshold; None without any, and where there are no such images.

        ``recall_at_1_percent`` is of the defective ones, ``false_alarms_at_1_percent`` of the good ones, and so on.
        """
        found: dict[str, float | None] = {}
        for one in self.known:
            above = np.asarray(scores) > float(one.threshold)
            for name, label in (("recall", 1), ("false_alarms", 0)):
                chosen = above[np.asarray(labels) == label]
                found[at_rate(name, one.false_alarm_rate)] = float(chosen.mean()) if len(chosen) else None
        return found or None


def at_rate(name: str, rate: float) -> str:
    """Name of a number at a false-alarm rate: ``recall_at_1_percent``."""
    return f"{name}_at_{100 * rate:g}_percent"


def leave_out(
    engine: Engine, models: Sequence[Any], batches: Iterable[UInt8[np.ndarray, "n height width 3"]], size: int
) -> OperatingPoints:
    """Thresholds for summed maps of ``models``, each of the good images left out of all of them in turn.

    Principal components, where a model has them, stay those of all images.

    Args:
      engine: where to compute.
      models: fitted on the same images, as the engine holds them.
      batches: these images, in any order, no batch empty; read once, and memory stays flat.
      size: that batches are filled up to, as :meth:`padim_jax.runs.engines.OneDevice.step_size` says.
    """
    histogram, scores = Histogram(), list[float]()
    try:
        held: list[Any] = [engine.for_leave_one_out("leave_out", model) for model in models]
        for batch in batches:
            check_images("leave_out", batch, engine.model(held[0]).config)
            step = Step.of(batch, size)
            left_out = [engine.leave_out(model, step, step.valid.astype(np.float32)) for model in held]
            for model, part in zip(held, left_out, strict=True):
                check_scores("leave_out", part.image_score, engine.model(model), len(scores), held_out=False)
            maps = functools.reduce(operator.add, (part.anomaly_map for part in left_out))
            scores.extend(maps.max(axis=(1, 2)).tolist())
            histogram.add(maps)
    except NoLeaveOneOut as error:
        return OperatingPoints((), str(error).removeprefix("leave_out: "))
    values = np.asarray(scores, np.float32)
    return OperatingPoints(
        tuple(calibration(values, histogram.counts, "leave-one-out", rate) for rate in RATES),
    )


def remarks(found: Mapping[str, Any] | None) -> list[str]:
    """What has to be known of a run's "calibration", in words; nothing where all is as one would expect."""
    if found is None:
        return [EARLIER]
    if found["impossible"] is not None:
        return [f"no thresholds from good images: {found['impossible']}"]
    scarce = [one for one in found["thresholds"] if found["images"] < one["images_wanted"]]
    if not scarce:
        return []
    rates = " and ".join(f"{one['false_alarm_rate']:.0%} (which takes {one['images_wanted']})" for one in scarce)
    return [
        f"{found['images']} good images are too few for a false-alarm rate of {rates}: the threshold is their highest "
        f"leave-one-out score, where {scarce[0]['expected_false_alarms']:.1%} are to be expected"
    ]
