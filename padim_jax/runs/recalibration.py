"""Calibrate a stored model that has changed, or is calibrated already."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable
from padim_jax.config import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.method.calibration import Calibration
from padim_jax.method.records import Padim
from padim_jax.runs.calibrate import Earlier, Terms, TooFewImages, calibrate_model
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.watch import Watch

Model = TypeVar("Model", bound=Updatable | Padim)


def recalibrate(
    model: Model,
    good: Sequence[Path] | None = None,
    *,
    fitted: Sequence[Path] = (),
    known: Mapping[str, float] | None = None,
    own: Float[np.ndarray, " n"] | None = None,
    keep: bool = False,
    false_alarm_rate: float | None = None,
    pixel_rate: float | None = None,
    image_score: str | None = None,
    trusted: bool = False,
    batch_size: int = 16,
    watch: Watch | None = None,
    engine: Engine | None = None,
) -> Model:
    """The model, calibrated anew on good images.

    Images that it was fitted on are each left out in turn; others are scored as they are, and refused where they score
    far higher than the model's own, or far lower, as images do that it was fitted on. A model that does not list its
    images takes all images for others. Where fewer than three different images could be left out or standardise maps,
    ``watch`` is told, and the model comes back as it was.

    Args:
      model: as :func:`padim_jax.load_updatable` or :func:`padim_jax.load` gives it, or as a change has left it.
      good: image files, all of them among those that it was fitted on, or none; None for ``fitted``.
      fitted: files that it was fitted on, to calibrate on where ``good`` is None, and to compare ``good`` with.
      known: digests of the files that a model of scores only was fitted on, as :func:`padim_jax.artifact.load_images`
        gives them; one that can be updated lists them itself.
      own: calibration scores of the model's own images before a change, to compare ``good`` with. Default: those of
        ``model``.
      keep: ``own`` are kept beside new scores, unless these are as many, or as many as the rate asks for (see
        :func:`update_files`): then maps are standardised by the images of both.
      false_alarm_rate: as of :func:`padim_jax.calibrate`. Default: the model's, or 0.01.
      pixel_rate: as of :func:`padim_jax.calibrate`. Default: the model's.
      image_score: what images are to score from now on, as of :class:`padim_jax.PadimConfig`; earlier scores are not
        compared with others of another kind. Default: the model's.
      trusted: other images are not compared with the model's own.
      batch_size: images computed at once.
      watch: follows the work.
      engine: where to compute. Default: the default device.

    Raises:
      UnreadableImage: the first file that can't be read.
      MixedImages: some of ``good`` are among the images fitted on, and some are not.
      Implausible: other images score so high that they may not be good, or so low that they may be known.
      ValueError, FloatingPointError: as :func:`padim_jax.finalize` and :func:`padim_jax.calibrate`.
      Interrupted: ``watch`` has stopped it.
    """
    watch, before = watch or Watch(), model.calibration
    rates = rates_of(before, false_alarm_rate, pixel_rate)
    asked = model if image_score is None else _with_image_score(model, image_score)
    smaller = own is not None or _has_grown(model) or (before is not None and before.method == "kept")
    if own is None and before is not None and asked is model:
        own = np.asarray(before.scores)
    earlier = None if own is None else Earlier(own, model.standard, keep, smaller)
    engine = engine or OneDevice(model.backbone)
    if isinstance(asked, Updatable):
        held, images = engine.finalize(asked.moments, asked.roi), asked.images
    else:
        held, images = engine.hold(asked), known
    terms = Terms(*rates, good, trusted)
    try:
        reference = calibrate_model(engine, held, fitted, images, terms, batch_size, watch, own=earlier)
    except TooFewImages as error:
        watch.remark(f"not calibrated: {error}")
        return model
    if asked is not model and own is None and not fitted and reference.calibration.method == "held-out":
        watch.remark(
            "warning: the model has no scores of its own images by the new image score to compare these with; make "
            "sure that they are good"
        )
    return replace(asked, calibration=reference.calibration, standard=reference.standard)


def _has_grown(model: Updatable | Padim) -> bool:
    """Whether a model was updated or merged last, so that its scores may be those of one of fewer images."""
    since = (model.progress or {}).get("since", ()) if isinstance(model, Updatable) else ()
    return bool(since) and since[-1] in ("updated", "merged")


def _with_image_score(model: Model, image_score: str) -> Model:
    """The same model, not calibrated, whose images score otherwise; ``model`` itself where they score so already."""
    config = model.moments.config if isinstance(model, Updatable) else model.config
    changed = replace(config, image_score=image_score)
    if changed == config:
        return model
    if isinstance(model, Updatable):
        return replace(model, moments=replace(model.moments, config=changed), calibration=None, standard=None)
    return replace(model, config=changed, calibration=None, standard=None)


def tell_replaced(before: Calibration | None, after: Calibration | None, remark: Callable[[str], None]) -> None:
    """Say what is lost with a calibration whose place another one takes, or none."""
    if before is None:
        return
    if before.threshold_source == "set" and (after is None or after.threshold_source != "set"):
        by = "goes with the calibration" if after is None else f"gives way to {float(after.threshold):.4g}"
        remark(f"warning: the threshold that was set by hand, {float(before.threshold):.4g}, {by}")
    if after is None and (options := rate_options(before)):
        remark(f"note: the rates go with the calibration; to have them again, calibrate with{options}")
    if after is not None and len(after.scores) < len(before.scores):
        remark(
            f"warning: {len(after.scores)} scores took the place of {len(before.scores)}, so the threshold is less "
            "certain than it was (padim undo brings it back)"
        )


def rate_options(calibration: Calibration) -> str:
    """The options, each after a space, by which padim calibrate asks for a calibration's rates; none for defaults."""
    false_alarms, pixels = calibration.false_alarm_rate, calibration.pixel_rate
    options = f" --false-alarm-rate {false_alarms:g}" if false_alarms != FALSE_ALARM_RATE else ""
    return options + (f" --pixel-rate {pixels:g}" if pixels != PIXEL_RATE else "")


def rates_of(
    calibration: Calibration | None, false_alarm_rate: float | None, pixel_rate: float | None
) -> tuple[float, float]:
    """The rates asked for, or the calibration's, or the defaults."""
    return (
        false_alarm_rate or (FALSE_ALARM_RATE if calibration is None else calibration.false_alarm_rate),
        pixel_rate or (PIXEL_RATE if calibration is None else calibration.pixel_rate),
    )
