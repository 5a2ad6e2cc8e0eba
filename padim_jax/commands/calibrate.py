"""``padim calibrate``, and calibrating for the commands that change a model."""

from dataclasses import replace
from pathlib import Path

import click

from padim_jax.artifact import (
    Updatable,
    load,
    load_compacted,
    load_image_sizes,
    load_images,
    load_updatable,
    note_change,
    save,
    save_compacted,
    save_updatable,
)
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.baselines.manifest import refuse
from padim_jax.commands.devices import MeshOptions
from padim_jax.commands.inputs import find_inputs
from padim_jax.commands.terminal import say, tell, wrong_use
from padim_jax.commands.watching import watching
from padim_jax.config import PadimConfig
from padim_jax.method.calibration import Calibration, at_rates, at_threshold
from padim_jax.method.records import Padim
from padim_jax.runs.engines import engine
from padim_jax.runs.recalibration import rates_of, recalibrate, tell_replaced

_METHODS = {
    "leave-one-out": "leave-one-out",
    "held-out": "held-out",
    "folds": "each by a model of the other folds",
    "kept": "kept, also from earlier states or parts of the model",
}


def calibrate_command(
    model: Path,
    good: tuple[Path, ...],
    out: Path | None,
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    image_score: str | None,
    trusted: bool,
    threshold: float | None,
    devices: int | None,
    batch_size: int,
) -> None:
    """Do what ``padim calibrate`` says it does."""
    if threshold is not None and (good or false_alarm_rate is not None):
        raise click.UsageError("--threshold is set by hand; GOOD images and --false-alarm-rate would find another")
    if image_score is not None:
        if not good:
            raise click.UsageError("--image-score changes what good images score; name GOOD images to calibrate on")
        with wrong_use():
            PadimConfig(image_score=image_score)
    refuse(model, "calibrate")
    mesh = MeshOptions(devices).mesh()
    check_writable(out or model)
    with locked(out or model, "calibrate"):
        stored = load_any(model)
        before = stored.calibration
        if not good:
            if before is None:
                raise click.UsageError(f"{model} is not calibrated; name good images to calibrate it on")
            if threshold is None and before.threshold_source == "set" and false_alarm_rate is None:
                threshold = float(before.threshold)  # only another rate takes it away
            rates = rates_of(before, false_alarm_rate, pixel_rate)
            with wrong_use():
                after = at_rates(before, *rates) if threshold is None else at_threshold(before, threshold, rates[1])
            _keep(replace(stored, calibration=after), out or model, model)
            return
        images = find_inputs(good)
        with watching(f"{model} is as it was") as watch:
            changed = recalibrate(
                stored,
                images.paths,
                known=None if isinstance(stored, Updatable) else load_images(model),
                false_alarm_rate=false_alarm_rate,
                pixel_rate=pixel_rate,
                image_score=image_score,
                trusted=trusted,
                batch_size=batch_size,
                watch=watch,
                engine=engine(stored.backbone, mesh),
            )
        if changed is stored:  # the watch was told why
            raise click.ClickException(f"{model} is as it was")
        _keep(changed, out or model, model)
        tell_replaced(before, changed.calibration, say)


def load_any(path: Path) -> Updatable | Padim:
    """A model in the form it is stored in."""
    return load_updatable(path) if read_manifest(path).get("form") == "updatable" else load(path)


def _keep(changed: Updatable | Padim, path: Path, model: Path) -> None:
    """Save a model that was loaded from ``model``, in its form; what it replaces is kept."""
    if isinstance(changed, Updatable):
        save_updatable(replace(changed, progress=note_change(changed.progress, "calibrated")), path, keep_previous=True)
    elif (compacted := load_compacted(model, changed)) is not None:  # its factors are as they were
        fitted = {"images": load_images(model), "image_sizes": load_image_sizes(model)}
        save_compacted(compacted, path, **fitted, keep_previous=True)
    else:
        save(changed, path, image_sizes=load_image_sizes(model), keep_previous=True)
    describe_calibration(changed.calibration)


def describe_calibration(calibration: Calibration | None, *, is_standardised: bool = False) -> None:
    """Print what a model's calibration says, and say what it can't; maps that are standardised can't do without."""
    if calibration is None:
        missing = "there are no scores" if is_standardised else "scores come without p-values and verdicts"
        say(f"not calibrated: {missing} until padim calibrate has seen good images")
        return
    n, (low, high) = len(calibration.scores), calibration.interval()
    by_hand = calibration.threshold_source == "set"
    threshold = f"{float(calibration.threshold):.4g}{', set by hand,' if by_hand else ''}"
    target = "" if by_hand else f"{calibration.false_alarm_rate:.2%} asked for, "
    tell(
        f"calibrated on {n} good images ({_METHODS[calibration.method]}): above {threshold} is anomalous; "
        f"false alarms {calibration.attained_rate:.2%} expected, {target}{low:.2%} to {high:.2%} with 95% confidence"
    )
    if n < calibration.images_wanted:
        say(
            f"warning: {n} images are too few for a false-alarm rate of {calibration.false_alarm_rate:g}, which takes "
            f"{calibration.images_wanted}; the threshold is their highest score"
        )
