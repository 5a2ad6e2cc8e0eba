"""The front door: ``fit``, ``calibrate`` and ``score`` for images as arrays, which go straight on, or as files."""

from collections.abc import Iterable
from dataclasses import replace

import jax
import numpy as np

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.factors import Solver
from padim_jax.images import find_value_range
from padim_jax.method import fitting, scoring
from padim_jax.method.calibration import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.method.checks import pad_batches
from padim_jax.method.records import Padim, Scores
from padim_jax.runs.inputs import (
    Images,
    Notes,
    Place,
    as_backbone,
    image_paths,
    is_array,
    paths_in,
    paths_or_arrays,
    read_images,
)
from padim_jax.runs.score import Rereadable


def fit(
    backbone: Backbone | str,
    batches: Place | Iterable[Place] | Images | Iterable[Images],
    config: PadimConfig | None = None,
    *,
    solver: Solver = fitting.DEFAULT_SOLVER,
    batch_size: int = 16,
) -> Padim:
    """Fit a model on good images: a folder of files, files, or batches of arrays.

    Arrays go to :func:`padim_jax.method.fitting.fit`.

    Files are found and read as ``padim fit`` does it: folders are searched for image files, each file counts once, and
    where they have more than 8 bits a channel and ``config.value_range`` is None, the range of their values is found
    and fixed in the model. Memory does not depend on the number of images.

    Args:
      backbone: from :func:`load_backbone`, or its name, which loads it.
      batches: a folder, a file, or several of them; or uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``,
        one or an iterable of them. They are read once, but twice for principal components.
      config: the settings; None for the defaults, of files with an ``image_size`` of 224, so that the model sees all of
        each image.
      solver: see :func:`finalize`.
      batch_size: of files, how many are computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError, FloatingPointError: as :func:`padim_jax.method.fitting.fit`; an unknown backbone; no image
        files.

    >>> model = padim.fit("efficientnet_lite0", good_images, config)
    >>> int(model.count), model.embedding.grid
    (20, (8, 12))
    """
    backbone = as_backbone("fit", backbone)
    places, arrays = paths_or_arrays("fit", batches)
    if places is None:
        return fitting.fit(backbone, arrays, config, solver=solver)
    config = PadimConfig(image_size=PadimConfig().crop_size) if config is None else config
    paths = image_paths("fit", places)
    if config.value_range is None:
        config = replace(config, value_range=find_value_range(paths))
    with Notes() as notes:
        read = Rereadable(lambda: read_images(paths, config, batch_size, notes))
        return fitting.fit(backbone, read, config, solver=solver)


def calibrate(
    model: Padim,
    batches: Place | Iterable[Place] | Images | Iterable[Images],
    *,
    held_out: bool = False,
    partial: bool = False,
    weights: Iterable[float] | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    pixel_rate: float = PIXEL_RATE,
    batch_size: int = 16,
) -> Padim:
    """Calibrate on good images alone, files or arrays, so that scores come with p-values and verdicts.

    The images it was fitted on are each scored by the model of all the others; others are given with ``held_out=True``.
    :func:`padim_jax.method.scoring.calibrate` says more.

    Args:
      model: as :func:`fit` or :func:`finalize` gives it, or loaded.
      batches: the good images it was fitted on, as :func:`fit` takes them; memory stays flat.
      held_out: they are other good images instead, which the model was not fitted on.
      partial: they are some of those it was fitted on, not all.
      weights: of the images in order, where they were not fitted with weight 1. Implies ``partial``.
      false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
      pixel_rate: share of good images' pixels that may be marked, in (0, 1).
      batch_size: of files, how many are computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError, FloatingPointError: as :func:`padim_jax.method.scoring.calibrate`; no image files.

    >>> model = padim.calibrate(padim.fit(backbone, folder / "good", config), folder / "good")
    >>> model.calibration.method
    'leave-one-out'
    """
    places, arrays = paths_or_arrays("calibrate", batches)
    paths = () if places is None else image_paths("calibrate", places)
    with Notes() as notes:
        if places is not None:
            arrays = read_images(paths, model.config, batch_size, notes)
        try:
            return scoring.calibrate(
                model,
                arrays,
                held_out=held_out,
                partial=partial,
                weights=weights,
                false_alarm_rate=false_alarm_rate,
                pixel_rate=pixel_rate,
            )
        except scoring.NoLeaveOneOut as error:
            if not paths or error.index is None:
                raise
            raise scoring.not_fitted("calibrate", paths[error.index], model) from error


def score(model: Padim, images: Place | Iterable[Place] | Images, *, batch_size: int = 16) -> Scores:
    """Score images, files or an array: a map of Mahalanobis distances each, and one score.

    Of a folder the scores come in the order of :func:`padim_jax.images.find_images`, sorted; of several paths in
    theirs. All maps are held in memory, 0.2 MB an image of 224×224; ``padim score`` holds few at a time.
    :func:`padim_jax.method.scoring.score` says what is computed.

    Args:
      model: from :func:`fit`, :func:`finalize` or :func:`load`.
      images: a file, a folder, or several of them; or RGB (n, height, width, 3) of ``config.crop_size``, uint8 from 0
        to 255 or float32 from 0 to 1, any n. The scores of float images can be differentiated.
      batch_size: of files, how many are computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError: as :func:`padim_jax.method.scoring.score`; no image files.

    >>> scores = padim.score(model, test_images)  # the second one has a black square
    >>> scores.anomalous.tolist(), scores.anomaly_map.shape
    ([False, True], (2, 32, 48))
    """
    places = None if is_array(images) else paths_in("score", images)
    if places is None:
        return scoring.score(model, images)  # type: ignore[arg-type]  # checked there, in words
    paths = [path for place in places for path in image_paths("score", [place])]
    parts: list[Scores] = []
    with Notes() as notes:
        for batch, valid in pad_batches("score", read_images(paths, model.config, batch_size, notes), model.config):
            n = int(valid.sum())
            parts.append(jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[:n], scoring.score(model, batch)))
    return jax.device_put(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
