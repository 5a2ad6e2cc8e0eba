"""Thresholds of an evaluation from its good training images alone, and what each finds among the test images.

A threshold chosen on the labels of the test images flatters; in production there are no such labels. Here each good
training image is scored by the model of all the others (:mod:`padim_jax.gaussians.leave_one_out`), and the thresholds
follow from these scores as :mod:`padim_jax.method.calibration` says: so the figures are those
that a user with good images only gets.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from padim_jax.method.anomaly_map import image_score
from padim_jax.method.calibration import Calibration, Histogram, p_values, pixel_colour_scale
from padim_jax.method.calibration import calibration as calibrate_scores
from padim_jax.method.checks import check_images
from padim_jax.method.map_sample import MapSample
from padim_jax.method.scoring import NoLeaveOneOut, check_scores
from padim_jax.method.standard import MapStandard
from padim_jax.runs.engines import Engine
from padim_jax.runs.folds import Batch, Folds, TooFewInFolds, score_folds
from padim_jax.runs.scorer import Scorer
from padim_jax.runs.steps import Step

RATES = (0.01, 0.05)  # of false alarms; a report starts at the first
EARLIER = "written by an earlier version, which did not calibrate; evaluate again for thresholds from good images"


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds for each of ``RATES``.

    Attributes:
      calibrations: one for each rate; empty where there can be none.
      impossible: why there can be none, in words; None where there are some.
      standards: of each model's maps; None for maps of distances.
      folds: that good images were dealt into, each scored by a model of the others; None where each image was left
        out of a model of all others.
    """

    calibrations: tuple[Calibration, ...]
    impossible: str | None = None
    standards: tuple[MapStandard | None, ...] = ()
    folds: int | None = None

    @property
    def colour_scale(self) -> tuple[float, float] | None:
        """Values at the ends of the heat maps' colours; None without any threshold.

        The first threshold is in the middle. Where images may be scored by something else than their maps, it is what
        one in 1000 of good images' pixels exceeds (:attr:`padim_jax.method.calibration.Calibration.pixel_threshold`).
        """
        if not self.calibrations:
            return None
        if self.folds is not None:
            return pixel_colour_scale(self.calibrations[0])
        low, high = np.asarray(self.calibrations[0].colour_scale).tolist()
        return low, high

    @property
    def method(self) -> str:
        """Where the good images' scores come from, in words."""
        return "leave-one-out" if self.folds is None else f"{self.folds} folds"

    def p_values(self, scores: Sequence[float]) -> list[float | None]:
        """For each score s, ``(1 + #{i: s_i ≥ s}) / (n + 1)`` over the n left-out scores s_i; None without any."""
        if not self.calibrations:
            return [None] * len(scores)
        return [float(p) for p in p_values(self.calibrations[0], np.asarray(scores, np.float32))]

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of the thresholds, under "calibration"."""
        return {
            "method": self.method,
            "images": len(self.calibrations[0].scores) if self.calibrations else 0,
            "impossible": self.impossible,
            "thresholds": [
                {
                    "false_alarm_rate": calibration.false_alarm_rate,
                    "threshold": float(calibration.threshold),
                    "expected_false_alarms": calibration.attained_rate,
                    "interval": list(calibration.interval()),
                    "images_wanted": calibration.images_wanted,
                }
                for calibration in self.calibrations
            ],
        }

    def measure(self, labels: Sequence[int], scores: Sequence[float]) -> dict[str, float | None] | None:
        """Shares of the test images above each threshold; None without any, and a share of no images is None.

        ``recall_at_1_percent`` is that of the defective images, ``false_alarms_at_1_percent`` of the good ones.
        """
        shares: dict[str, float | None] = {}
        for calibration in self.calibrations:
            above = np.asarray(scores) > float(calibration.threshold)
            for name, label in (("recall", 1), ("false_alarms", 0)):
                flagged = above[np.asarray(labels) == label]
                rate = calibration.false_alarm_rate
                shares[at_rate(name, rate)] = float(flagged.mean()) if len(flagged) else None
        return shares or None


def at_rate(name: str, rate: float) -> str:
    """Name of a metric at a false-alarm rate: ``recall_at_1_percent``."""
    return f"{name}_at_{100 * rate:g}_percent"


def leave_out(
    engine: Engine, models: Sequence[Any], batches: Iterable[UInt8[np.ndarray, "n height width 3"]], size: int
) -> OperatingPoints:
    """Thresholds for the summed maps of ``models``, with each good image left out of all models in turn.

    Principal components, where a model has them, remain those of all images. Maps that are to be standardised are so
    before they are summed.

    Args:
      engine: where to compute.
      models: models fitted on the same images, as the engine holds them.
      batches: these images in any order, with no empty batch; they are read once, and memory stays flat.
      size: what batches are filled up to, as :meth:`padim_jax.runs.engines.OneDevice.step_size` says.

    Raises:
      NoLeaveOneOut: there can be none, and maps are to be standardised, which takes the same scores.
    """
    histogram, scores = Histogram(), list[float]()
    configs = [engine.model(model).config for model in models]
    samples = [MapSample(config, None) for config in configs]
    is_standardised = [config.is_standardised for config in configs]

    def count(parts: Iterable[np.ndarray]) -> None:
        maps = functools.reduce(operator.add, parts)
        scores.extend(np.asarray(image_score(maps, configs[0].top_share)).tolist())
        histogram.add(maps)

    n_images = 0
    try:
        models = [engine.for_leave_one_out("leave_out", model) for model in models]
        for batch in batches:
            check_images("leave_out", batch, engine.model(models[0]).config)
            step = Step.of(batch, size)
            parts = [engine.leave_out(model, step, step.valid.astype(np.float32)) for model in models]
            indices = range(n_images, n_images + len(batch))
            for model, part in zip(models, parts, strict=True):
                check_scores("leave_out", part.image_score, engine.model(model), indices, held_out=False)
            n_images += len(batch)
            if any(is_standardised):
                for sample, part in zip(samples, parts, strict=True):
                    sample.add(part.grid)
            else:
                count(part.anomaly_map for part in parts)
    except NoLeaveOneOut as error:
        if any(is_standardised):
            raise
        return OperatingPoints((), str(error).removeprefix("leave_out: "))
    standards: list[MapStandard | None] = [None] * len(models)
    if any(is_standardised):
        members = [
            (sample.standard("leave_out", good), sample.left_out(good)) if standardised else (None, sample.by(None))
            for sample, standardised in zip(samples, is_standardised, strict=True)
            for good in [sample.good_maps()]
        ]
        standards = [standard for standard, _ in members]
        for parts in zip(*(maps for _, maps in members), strict=True):
            count(parts)
    values = np.asarray(scores, np.float32)
    calibrations = (calibrate_scores(values, histogram.counts, "leave-one-out", rate) for rate in RATES)
    return OperatingPoints(tuple(calibrations), standards=tuple(standards))


def points_of_folds(
    folds: Folds,
    read: Callable[[Sequence[int]], Iterator[Batch]],
    fit: Callable[[Iterable[Batch]], Scorer],
    counted: frozenset[int] | None = None,
) -> OperatingPoints:
    """Thresholds from :func:`padim_jax.runs.folds.score_folds`, with the same arguments and errors.

    Where the other folds are too few for a model there are none.
    """
    try:
        scores, histogram = score_folds(folds, read, fit, counted)
    except TooFewInFolds as error:
        return OperatingPoints((), str(error))
    calibrations = (calibrate_scores(scores, histogram.counts, "folds", rate) for rate in RATES)
    return OperatingPoints(tuple(calibrations), folds=len(folds))


def remarks(calibration: Mapping[str, Any] | None) -> list[str]:
    """What a reader has to know of a run's "calibration", in words; empty where there is nothing unusual."""
    if calibration is None:
        return [EARLIER]
    if calibration["impossible"] is not None:
        return [f"no thresholds from good images: {calibration['impossible']}"]
    images = calibration["images"]
    short = [entry for entry in calibration["thresholds"] if images < entry["images_wanted"]]
    if not short:
        return []
    rates = " and ".join(f"{entry['false_alarm_rate']:.0%} (which takes {entry['images_wanted']})" for entry in short)
    kind = "score by the other folds" if "folds" in calibration["method"] else "leave-one-out score"
    return [
        f"{images} good images are too few for a false-alarm rate of {rates}: the threshold is their highest {kind}, "
        f"where {short[0]['expected_false_alarms']:.1%} are to be expected"
    ]
