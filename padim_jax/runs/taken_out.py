"""The calibration of a model that images are taken out of, without what these contribute to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable
from padim_jax.method.calibration import Calibration, Histogram, without_scores
from padim_jax.method.scoring import judged_pixels
from padim_jax.runs.left_out import left_out_files

_ALIKE = 1e-4  # relative: as far as batches of other sizes may round a score, but for one far above all others
_AROUND = 0.05  # relative: where other scores are counted
_CHANCE = 0.01  # that one of these were as near if none was the image's


class UnknownScores(ValueError):
    """Images whose scores a calibration does not have.

    Attributes:
      places: of these among those that were named.
    """

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__(f"the calibration has no score of {len(places)} images; wanted those it was made from")
        self.places = tuple(places)


def calibration_without(model: Updatable, paths: Sequence[Path], *, batch_size: int = 16) -> Calibration:
    """A model's calibration without the scores of images that it was fitted on and calibrated by.

    A calibration does not say which score is which image's. Each image is therefore scored once more by the model of
    all the others, as it was when the model was calibrated, and the equal score goes. Where the model has changed
    since, none is equal, and nothing is guessed: among many scores one is always near, so the more there are around an
    image's own, the nearer it has to be. The scores of the other images stay, though they come from models that knew
    these: they are rather too low, and err towards more false alarms.

    Args:
      model: as it was when it was calibrated; maps of distances, not standardised.
      paths: image files that it was fitted on.
      batch_size: images computed at once.

    Raises:
      UnknownScores: images whose scores are not there.
      ValueError: a model that is not calibrated, or whose maps are standardised; no score would be left; as
        :func:`padim_jax.runs.left_out.left_out_files`.
      UnreadableImage: a file that can't be read.
    """
    reference = model.calibration
    if reference is None or model.standard is not None:
        what = "is not calibrated" if reference is None else "has standardised maps, which say nothing of one image"
        raise ValueError(f"calibration_without: the model {what}; wanted a calibrated one of maps of distances")
    fitted, histogram = model.model(), Histogram()
    scores, gone, unknown = np.asarray(reference.scores), list[int](), list[int]()
    options: dict[str, Any] = {"batch_size": batch_size, "among": len(scores)}
    for number, item in enumerate(left_out_files(fitted, paths, model.images, **options)):
        place = _place(scores, item.score, gone)
        if place is None:
            unknown.append(number)
        else:
            gone.append(place)
            histogram.add(judged_pixels(fitted, item.anomaly_map[None]))
    if unknown:
        raise UnknownScores(unknown)
    return without_scores(reference, gone, histogram.counts)


def _place(scores: Float[np.ndarray, " n"], score: float, taken: Sequence[int]) -> int | None:
    """Where an image's score is among ascending ones that are not taken yet; None where it is not, or may not be."""
    free = np.setdiff1d(np.arange(len(scores)), taken)
    if not len(free):
        return None
    off = np.abs(scores[free].astype(np.float64) - score) / max(abs(score), float(np.finfo(np.float32).tiny))
    nearest = int(np.argmin(off))
    chance = off[nearest] * np.count_nonzero(off <= _AROUND) / _AROUND  # how many of them lie as near by chance
    return int(free[nearest]) if off[nearest] <= _ALIKE and chance <= _CHANCE else None
