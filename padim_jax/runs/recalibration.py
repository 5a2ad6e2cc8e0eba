"""Calibrate a stored model that has changed, or is calibrated already."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable
from padim_jax.config import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.method.calibration import Calibration
from padim_jax.runs.calibrate import TooFewImages, calibrate_files, calibration_files, check_others
from padim_jax.runs.watch import Watch


def recalibrate(
    model: Updatable,
    good: Sequence[Path] | None = None,
    *,
    fitted: Sequence[Path] = (),
    own: Float[np.ndarray, " n"] | None = None,
    false_alarm_rate: float | None = None,
    pixel_rate: float | None = None,
    trusted: bool = False,
    batch_size: int = 16,
    watch: Watch | None = None,
) -> Updatable:
    """The model, calibrated anew on good images.

    Images that it was fitted on are each left out in turn; others are scored as they are, and refused where they score
    far higher than the model's own. Where fewer than three different images could be left out, ``watch`` is told, and
    the model comes back as it was.

    Args:
      model: as loaded, or as :func:`update_files`, :func:`forget_files` or :func:`merge_models` gives it.
      good: image files, all of them among those that it was fitted on, or none; None for ``fitted``.
      fitted: files that it was fitted on, to calibrate on where ``good`` is None, and to compare ``good`` with.
      own: calibration scores of the model's own images, to compare ``good`` with. Default: those of ``model``.
      false_alarm_rate: as of :func:`padim_jax.calibrate`. Default: the model's, or 0.01.
      pixel_rate: as of :func:`padim_jax.calibrate`. Default: the model's.
      trusted: other images are not compared with the model's own.
      batch_size: images computed at once.
      watch: follows the work.

    Raises:
      UnreadableImage: the first file that can't be read.
      MixedImages: some of ``good`` are among the images fitted on, and some are not.
      Implausible: other images score so high that they may not be good.
      ValueError, FloatingPointError: as :func:`padim_jax.finalize` and :func:`padim_jax.calibrate`.
      Interrupted: ``watch`` has stopped it.
    """
    watch, before = watch or Watch(), model.calibration
    rates = rates_of(before, false_alarm_rate, pixel_rate)
    if own is None and before is not None:
        own = np.asarray(before.scores)
    scoring = model.model()
    try:
        paths, weights = calibration_files(scoring, fitted, model.images, good)
        with watch.progress("calibrate", len(paths)) as advance:
            done = calibrate_files(
                scoring,
                paths,
                weights,
                batch_size=batch_size,
                false_alarm_rate=rates[0],
                pixel_rate=rates[1],
                advance=advance,
                stopped=watch.stopped,
                tell=lambda text: watch.remark(f"note: {text}"),
            )
        if weights is None and not trusted and done.calibration is not None:
            check_others("calibrate", scoring, done.calibration, own, fitted, model.images, batch_size=batch_size)
    except TooFewImages as error:
        watch.remark(f"not calibrated: {error}")
        return model
    return replace(model, calibration=done.calibration)


def rates_of(
    calibration: Calibration | None, false_alarm_rate: float | None, pixel_rate: float | None
) -> tuple[float, float]:
    """The rates asked for, or the calibration's, or the defaults."""
    return (
        false_alarm_rate or (FALSE_ALARM_RATE if calibration is None else calibration.false_alarm_rate),
        pixel_rate or (PIXEL_RATE if calibration is None else calibration.pixel_rate),
    )
