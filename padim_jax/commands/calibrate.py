"""``padim calibrate``, and calibrating for the commands that change a model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable, lived_on, load, load_image_sizes, load_updatable, save, save_updatable
from padim_jax.artifact.folder import check_writable, read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.commands.terminal import note_ignored, say, tell, wrong_use
from padim_jax.commands.watching import watching
from padim_jax.images import find_images
from padim_jax.method.calibration import Calibration, at_rates, at_threshold
from padim_jax.method.records import Padim
from padim_jax.runs.calibrate import Terms, TooFewImages, calibrate_model
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.recalibration import rates_of
from padim_jax.runs.watch import Watch

_METHODS = {
    "leave-one-out": "leave-one-out",
    "held-out": "held-out",
    "kept": "kept, also from earlier states or parts of the model",
}


def calibrate_command(
    model: Path,
    good: tuple[Path, ...],
    out: Path | None,
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    threshold: float | None,
    batch_size: int,
) -> None:
    """Do what ``padim calibrate`` says it does."""
    if threshold is not None and (good or false_alarm_rate is not None):
        raise click.UsageError("--threshold is set by hand; GOOD images and --false-alarm-rate would find another")
    check_writable(out or model)
    with locked(out or model, "calibrate"):
        stored = load_any(model)
        known = stored.calibration
        rates = rates_of(known, false_alarm_rate, pixel_rate)
        if not good:
            if known is None:
                raise click.UsageError(f"{model} is not calibrated; name good images to calibrate it on")
            if threshold is None and known.threshold_source == "set" and false_alarm_rate is None:
                threshold = float(known.threshold)  # only another rate takes it away
            with wrong_use():
                done = at_rates(known, *rates) if threshold is None else at_threshold(known, threshold, rates[1])
            keep(stored, done, out or model, model)
            describe_calibration(done)
            return
        found = find_images(good)
        note_ignored(found.ignored)
        if known is not None and known.threshold_source == "set":
            say(f"the threshold that was set, {float(known.threshold):.4g}, gives way to one from these images")
        own = None if known is None else np.asarray(known.scores)
        terms = Terms(*rates, found.paths, trusted)
        with watching(f"{model} is as it was") as watch:
            done = _calibrate(stored, terms, own, batch_size, watch)
        keep(stored, done, out or model, model)
        describe_calibration(done)
        if known is not None and len(done.scores) < len(known.scores):
            say(
                f"warning: {len(done.scores)} scores took the place of {len(known.scores)}, so the threshold is less "
                "certain than it was (padim undo brings it back)"
            )


def load_any(path: Path) -> Updatable | Padim:
    """A model in the form it is stored in."""
    return load_updatable(path) if read_manifest(path).get("form") == "updatable" else load(path)


def images_of(stored: Updatable | Padim) -> Mapping[str, float] | None:
    """Digests of the images a model was fitted on, where it knows them."""
    return stored.images if isinstance(stored, Updatable) else None


def keep(stored: Updatable | Padim, known: Calibration | None, path: Path, model: Path) -> None:
    """Save a model that was loaded from ``model`` in its form, with another calibration; what it replaces is kept."""
    changed = replace(stored, calibration=known)
    if isinstance(changed, Updatable):
        save_updatable(replace(changed, progress=lived_on(changed.progress, "calibrated")), path, keep_previous=True)
    else:
        save(changed, path, image_sizes=load_image_sizes(model), keep_previous=True)


def describe_calibration(known: Calibration | None) -> None:
    """Print what a model's calibration says, and say what it can't."""
    if known is None:
        say("not calibrated: scores come without p-values and verdicts until padim calibrate has seen good images")
        return
    n, (low, high) = len(known.scores), known.interval()
    by_hand = known.threshold_source == "set"
    threshold = f"{float(known.threshold):.4g}{', set by hand,' if by_hand else ''}"
    asked = "" if by_hand else f"{known.false_alarm_rate:.2%} asked for, "
    tell(
        f"calibrated on {n} good images ({_METHODS[known.method]}): above {threshold} is anomalous; "
        f"false alarms {known.attained_rate:.2%} expected, {asked}{low:.2%} to {high:.2%} with 95% confidence"
    )
    if n < known.images_wanted:
        say(
            f"warning: {n} images are too few for a false-alarm rate of {known.false_alarm_rate:g}, which takes "
            f"{known.images_wanted}; the threshold is their highest score"
        )


def _calibrate(
    stored: Updatable | Padim, terms: Terms, own: Float[np.ndarray, " n"] | None, batch_size: int, watch: Watch
) -> Calibration:
    """The new calibration. The factors, as large as moments, which are to be packed, are gone when it returns."""
    model = stored.model() if isinstance(stored, Updatable) else stored
    engine = OneDevice(model.backbone)
    try:
        return calibrate_model(engine, engine.hold(model), (), images_of(stored), terms, batch_size, watch, own=own)
    except TooFewImages as error:
        raise click.ClickException(f"not calibrated: {error}") from error
