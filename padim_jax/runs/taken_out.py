"""The calibration of a model that images are taken out of, without what these contribute to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable
from padim_jax.method.calibration import Calibration, Histogram, without_scores
from padim_jax.method.scoring import judged_pixels
from padim_jax.runs.left_out import left_out_files

Found = Literal["own", "next", "none"]
_ALIKE = 1e-4  # relative: as far as batches of other sizes may round a score


@dataclass(frozen=True)
class TakenOut:
    """A calibration without some images.

    Attributes:
      calibration: of the others.
      found: of each image, which score went: its own; the next higher one, where its own is not there; or none.
    """

    calibration: Calibration
    found: tuple[Found, ...]


def calibration_without(model: Updatable, paths: Sequence[Path], *, batch_size: int = 16) -> TakenOut:
    """A model's calibration without the scores of images that it was fitted on and calibrated by.

    A calibration does not say which score is which image's. Each image is therefore scored once more by the model of
    all the others, as it was when the model was calibrated, and the equal score goes. Where the model has changed
    since, none may be equal; then the next higher one goes, as a model of more images gives lower scores. An image that
    scores higher than all is none of them. The scores of the other images stay, though they come from models that knew
    these: they are rather too low, and err towards more false alarms.

    Args:
      model: as it was when it was calibrated, as far as possible; maps of distances, not standardised.
      paths: image files that it was fitted on.
      batch_size: images computed at once.

    Raises:
      ValueError: a model that is not calibrated, or whose maps are standardised; no score would be left; as
        :func:`padim_jax.runs.left_out.left_out_files`.
      UnreadableImage: a file that can't be read.
    """
    reference = model.calibration
    if reference is None or model.standard is not None:
        what = "is not calibrated" if reference is None else "has standardised maps, which say nothing of one image"
        raise ValueError(f"calibration_without: the model {what}; wanted a calibrated one of maps of distances")
    fitted, histogram = model.model(), Histogram()
    scores, gone, found = np.asarray(reference.scores), list[int](), list[Found]()
    for item in left_out_files(fitted, paths, model.images, batch_size=batch_size):
        place, kind = _place(scores, item.score, gone)
        found.append(kind)
        if place is not None:
            gone.append(place)
            histogram.add(judged_pixels(fitted, item.anomaly_map[None]))
    return TakenOut(without_scores(reference, gone, histogram.counts) if gone else reference, tuple(found))


def _place(scores: Float[np.ndarray, " n"], score: float, taken: Sequence[int]) -> tuple[int | None, Found]:
    """Where an image's score is among ascending ones that are not taken yet, and what was found there."""
    free = np.setdiff1d(np.arange(len(scores)), taken)
    near = free[np.abs(scores[free] - score) <= _ALIKE * abs(score)]
    if len(near):
        return int(near[np.argmin(np.abs(scores[near] - score))]), "own"
    above = free[scores[free] > score]
    return (int(above[0]), "next") if len(above) else (None, "none")
