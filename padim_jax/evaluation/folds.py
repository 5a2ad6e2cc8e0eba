"""Thresholds of a method that can't leave one image out exactly: good images in folds, each scored by the others.

Cross-conformal scores (Vovk, arXiv 1208.0806): they come from models of fewer images than the one that is used, so the
rate of false alarms holds approximately, on the side of fewer alarms where more images make good ones score less.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from padim_jax.evaluation.operating_points import RATES, OperatingPoints
from padim_jax.evaluation.scorer import Scorer
from padim_jax.method.calibration import Histogram
from padim_jax.method.calibration import calibration as calibrate_scores

Folds = tuple[tuple[int, ...], ...]
Batch = UInt8[np.ndarray, "n height width 3"]


def deal(n_images: int, n_folds: int, seed: int) -> Folds:
    """Places of ``n_images`` dealt into folds at random, by ``seed``; their numbers differ by 1 at most.

    Fewer images than folds make a fold of each.
    """
    order = np.random.default_rng(seed).permutation(n_images)
    folds = (order[start::n_folds] for start in range(min(n_folds, n_images)))
    return tuple(tuple(sorted(fold.tolist())) for fold in folds)


def score_folds(
    folds: Folds,
    read: Callable[[Sequence[int]], Iterator[Batch]],
    fit: Callable[[Iterable[Batch]], Scorer],
) -> OperatingPoints:
    """Thresholds from good images that are scored by a model fitted on the other folds.

    Args:
      folds: places of the images, from :func:`deal`.
      read: gives batches of the images at some places, at most the scorer's size each.
      fit: makes a scorer of good images.

    Raises:
      FloatingPointError: a score is not finite.
    """
    scores, histogram = list[float](), Histogram()
    for fold in folds:
        others = sorted(place for other in folds if other is not fold for place in other)
        try:
            scorer = fit(read(others))
        except ValueError as error:  # such as too few images
            return OperatingPoints((), f"of {len(folds)} folds of good images, {len(others)} images: {error}")
        for batch in read(fold):
            values, maps = scorer.finish(scorer.start(batch), len(batch))
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    "evaluate: a good image got a score that is not finite by a model of the others; the model or the "
                    "image is broken"
                )
            scores += values.tolist()
            histogram.add(values if maps is None else maps)
    values = np.asarray(scores, np.float32)
    calibrations = (calibrate_scores(values, histogram.counts, "held-out", rate) for rate in RATES)
    return OperatingPoints(tuple(calibrations), folds=len(folds))
