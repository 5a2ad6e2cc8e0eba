"""``padim calibrate``, and calibrating for the commands that change a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable, lived_on, load, load_image_sizes, load_updatable, save, save_updatable
from padim_jax.artifact.folder import check_writable, read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.commands.terminal import interruption, note_ignored, progress_bar, say, tell, wrong_use
from padim_jax.images import UnreadableImage, find_images
from padim_jax.method.calibration import Calibration, at_rates, at_threshold
from padim_jax.method.records import Padim
from padim_jax.runs.calibrate import (
    TooFewImages,
    calibrate_files,
    calibration_files,
    check_others,
)
from padim_jax.runs.fold import Interrupted, Unreadable
from padim_jax.runs.recalibration import rates_of

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
        fitted = _scoring(stored)
        own = None if known is None else np.asarray(known.scores)
        with interruption() as stopped, going_on():
            done = calibrated(
                fitted, None, images_of(stored), found.paths, rates, batch_size, stopped, own=own, trusted=trusted
            ).calibration
        del fitted  # its factors take as much room as moments, which are packed now
        if done is None:
            raise click.ClickException(f"{model} is as it was")
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


def calibrated(
    model: Padim,
    fitted: Sequence[Path] | None,
    images: Mapping[str, float] | None,
    others: Sequence[Path] | None,
    rates: tuple[float, float],
    batch_size: int,
    stopped: Callable[[], bool],
    *,
    own: Float[np.ndarray, " n"] | None = None,
    trusted: bool = False,
) -> Padim:
    """Model calibrated on ``others`` if given, fitted on or not, else on the files ``fitted``, left out in turn.

    Others that it was not fitted on are compared with its ``own`` images' scores, or where these are not known with
    those of some of ``fitted``; unless they are ``trusted``.
    """
    try:
        with wrong_use(but=(TooFewImages, UnreadableImage)):
            paths, weights = calibration_files(model, fitted or (), images, others)
        with progress_bar("calibrate", len(paths)) as advance:
            done = calibrate_files(
                model,
                paths,
                weights,
                batch_size=batch_size,
                false_alarm_rate=rates[0],
                pixel_rate=rates[1],
                advance=advance,
                stopped=stopped,
                tell=lambda text: say(f"note: {text}"),
            )
        if weights is None and not trusted and done.calibration is not None:
            check_others("calibrate", model, done.calibration, own, fitted or (), images, batch_size=batch_size)
    except TooFewImages as error:
        say(f"not calibrated: {error}")
        return model
    except UnreadableImage as error:
        raise click.ClickException(f"{error} (mend or remove it)") from error
    return done


def describe_calibration(known: Calibration | None) -> None:
    """Print what a model's calibration says, and say what it can't."""
    if known is None:
        say("not calibrated: scores come without p-values and verdicts until padim calibrate has seen good images")
        return
    n, (low, high) = len(known.scores), known.interval()
    threshold = f"{float(known.threshold):.4g}{', set by hand,' if known.threshold_source == 'set' else ''}"
    tell(
        f"calibrated on {n} good images ({_METHODS[known.method]}): above {threshold} is anomalous; "
        f"false alarms {known.attained_rate:.2%} expected, {low:.2%} to {high:.2%} with 95 % confidence"
    )
    if n < known.images_wanted:
        say(
            f"warning: {n} images are too few for a false-alarm rate of {known.false_alarm_rate:g}, which takes "
            f"{known.images_wanted}; the threshold is their highest score"
        )


def stop_and_say(option: str) -> Unreadable:
    """What to do with the first file that can't be read where ``option`` was not given."""

    def stop(error: UnreadableImage) -> None:
        raise click.ClickException(f"{error} (mend or remove it, or pass {option})") from error

    return stop


@contextmanager
def going_on() -> Iterator[None]:
    """Say how an interrupted command goes on."""
    try:
        yield
    except Interrupted as error:
        raise click.ClickException(f"{error}; the same command goes on from there") from error


def _scoring(stored: Updatable | Padim) -> Padim:
    return stored.model() if isinstance(stored, Updatable) else stored
