"""Fold new good images into a stored model, as if it had been fitted on all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable, note_change
from padim_jax.images import UnreadableImage
from padim_jax.images.folder import digest_file
from padim_jax.method.calibration import Calibration, at_rates, at_threshold, join_calibrations
from padim_jax.runs.calibrate import FEWEST_FITTED, suffices
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.fold import fold_files
from padim_jax.runs.left_out import held_out_scores
from padim_jax.runs.plausible import LEAST_P, compare
from padim_jax.runs.recalibration import rates_of, recalibrate, tell_replaced
from padim_jax.runs.records import Fold
from padim_jax.runs.watch import Watch, ignore_note


class NothingNew(ValueError):
    """The model was fitted on every one of the images already."""


@dataclass(frozen=True)
class Update:
    """A model after an update.

    Attributes:
      model: with the new images.
      added: files that were folded in.
      repeated: how many files were left out because the model was fitted on them already.
      skipped: files that could not be read, with the reason.
    """

    model: Updatable
    added: tuple[Path, ...]
    repeated: int
    skipped: dict[str, str]


def update_files(
    model: Updatable,
    paths: Sequence[Path],
    *,
    held_out: Sequence[Path] | None = None,
    keep_calibration: bool = False,
    half_life: float | None = None,
    false_alarm_rate: float | None = None,
    pixel_rate: float | None = None,
    trusted: bool = False,
    batch_size: int = 16,
    watch: Watch | None = None,
    engine: Engine | None = None,
) -> Update:
    """Fold good image files into a stored model; those that it was fitted on already are left out.

    The new images calibrate it, each left out in turn. Where they are fewer than the scores that the model had, and
    than the false-alarm rate takes, its scores are kept beside the new ones, and so is a threshold set by hand, unless
    a false-alarm rate is given. ``watch`` is told of one that goes.

    Args:
      model: as :func:`padim_jax.load_updatable` gives it; it is used up.
      paths: good image files, as :func:`padim_jax.images.find_images` finds them.
      held_out: other good image files, to calibrate on instead.
      keep_calibration: leave the calibration as it was. It is for images that were chosen for what they score, as false
        alarms are: they belong to the model, but say nothing about how high good images score.
      half_life: after so many newer images an older one counts half; None: all count alike.
      false_alarm_rate: as of :func:`recalibrate`.
      pixel_rate: as of :func:`recalibrate`.
      trusted: as of :func:`recalibrate`.
      batch_size: images computed at once.
      watch: follows the work, in stages "compare", "update" and "calibrate".
      engine: where to compute, and to save the result by. Default: the default device.

    Raises:
      NothingNew: no file that the model was not fitted on.
      UnreadableImage: a file that can't be read, unless ``watch.unreadable`` lets it pass.
      MixedImages, Implausible: as :func:`recalibrate`.
      ValueError, FloatingPointError: as :func:`padim_jax.update` and :func:`recalibrate`.
      Interrupted: ``watch`` has stopped it.
    """
    watch, before = watch or Watch(), model.calibration
    digests = {path: digest_file(path) for path in paths}
    new = [path for path in paths if digests[path] not in model.images]
    if not new:
        raise NothingNew(f"update: the model was fitted on all of the {len(paths)} images already; add new ones")
    skipped: dict[str, str] = {}

    def unreadable(error: UnreadableImage) -> None:
        if str(error.path) not in skipped:
            watch.unreadable(error)
        skipped[str(error.path)] = error.reason

    engine = engine or OneDevice(model.backbone)
    first_scores = None  # of the new images, by the model that does not know them yet
    if before is not None and held_out is None and not keep_calibration:
        compare_watch = replace(watch, note=ignore_note, unreadable=unreadable)
        with watch.progress("compare", len(new)) as advance:
            held = engine.with_standard(engine.finalize(model.moments, model.roi), model.standard)
            first_scores = held_out_scores(engine, held, new, batch_size, compare_watch, advance)
            del held  # the factors, as large as the moments
    fold = Fold(engine.place(model.moments), dict(model.images), sizes=dict.fromkeys(model.image_sizes))
    with watch.progress("update", len(new)) as advance:
        update_watch = replace(watch, unreadable=unreadable)
        fold_files(engine, fold, new, batch_size, update_watch, advance, half_life=half_life)
    added = [path for path in new if str(path) not in skipped]
    changed = replace(
        model,
        moments=engine.whole(fold.state),
        images=fold.images,
        progress=note_change(model.progress, "updated"),
        image_sizes=fold.image_sizes,
    )
    if keep_calibration:
        return Update(changed, tuple(added), len(paths) - len(new), skipped)
    rates = rates_of(before, false_alarm_rate, pixel_rate)
    updated = recalibrate(
        replace(changed, calibration=None),
        held_out,
        fitted=[path for path in added if digests[path] in fold.images],  # the others have faded at once
        own=None if before is None else np.asarray(before.scores),
        keep=first_scores is not None,
        false_alarm_rate=rates[0],
        pixel_rate=rates[1],
        trusted=trusted,
        batch_size=batch_size,
        watch=watch,
        engine=engine,
    )
    number = 0 if updated.calibration is None else len(updated.calibration.scores)
    # what the model scored before tells nothing of one that so few images are left of
    has_faded = updated.calibration is None and half_life is not None and updated.moments.count < FEWEST_FITTED
    if (
        before is not None
        and not has_faded
        and first_scores is not None
        and not suffices(number, len(before.scores), rates[0], standardised=model.standard is not None)
    ):
        by_hand = before.threshold_source == "set" and false_alarm_rate is None  # only another rate takes it away
        kept = _with_earlier(updated, before, first_scores, rates, by_hand, watch)
        updated = replace(updated, calibration=kept)
        if updated.standard is not None:
            watch.remark(
                "warning: maps are standardised by those of the model before too, whose distances were larger: weak "
                "defects may be missed until padim calibrate on all images"
            )
    if updated.calibration is None:
        updated = replace(updated, standard=None)
    tell_replaced(before, updated.calibration, watch.remark)
    return Update(updated, tuple(added), len(paths) - len(new), skipped)


def _with_earlier(
    updated: Updatable,
    before: Calibration,
    first_scores: Float[np.ndarray, " n"],
    rates: tuple[float, float],
    by_hand: bool,
    watch: Watch,
) -> Calibration:
    """The scores of a model and those of the one before it, with a remark on how far apart they are.

    The threshold of the one before stays where that was set ``by_hand``.
    """
    calibration = updated.calibration
    if len(first_scores) and calibration is not None:
        if (p := compare(first_scores, np.asarray(before.scores))) < LEAST_P:
            watch.remark(
                f"warning: the new images scored much higher than the model's own before they were added (median "
                f"{np.median(first_scores):.4g} against {np.median(before.scores):.4g}; p = {p:.2g}): are they all "
                "good, from the same camera and light? padim undo takes them out again"
            )
        first, now = float(np.median(first_scores)), float(np.median(calibration.scores))
        # standard deviations are of either sign, and have no ratio
        far = f"{first:.3g} where this one scores {now:.3g}"
        if updated.standard is None:
            far = f"{first / max(now, 1e-12):.3g} times as high as this one"
        watch.remark(
            f"note: {len(before.scores)} calibration scores of the model before are kept beside "
            f"{len(calibration.scores)} new ones; on the new images that model scored {far}, so the threshold may be "
            f"too {'high' if first >= now else 'low'} by up to that (padim calibrate on all images makes it exact)"
        )
    combined = at_rates(before, *rates) if calibration is None else join_calibrations([before, calibration], *rates)
    if not by_hand:
        return combined
    watch.remark(
        f"note: the threshold that was set by hand, {float(before.threshold):.4g}, stays (padim calibrate changes it)"
    )
    return at_threshold(combined, float(before.threshold))
