"""``padim calibrate``, and calibrating for the commands that change a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from padim_jax.artifact import Updatable, load, load_updatable, save, save_updatable
from padim_jax.calibration import FALSE_ALARM_RATE, PIXEL_RATE, Calibration, at_rates
from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import RATE, batch_option, debug_option
from padim_jax.commands.options import calibration_options as calibration_options
from padim_jax.commands.terminal import interruption, note_ignored, progress_bar, say
from padim_jax.data import UnreadableImage, find_images
from padim_jax.fitting import Interrupted, Unreadable, calibrate_files, calibration_files
from padim_jax.model import Padim
from padim_jax.storage import check_writable, read_manifest


@click.command("calibrate", cls=Command, example="padim calibrate bracket.padim good_parts/ --false-alarm-rate 0.01")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Model folder to write. Default: MODEL itself.")
@click.option("--false-alarm-rate", type=RATE, help="Share of good images that may be called anomalous.")
@click.option("--pixel-rate", type=RATE, help="Share of good images' pixels that masks may mark.")
@batch_option
@debug_option
def calibrate_command(
    model: Path,
    good: tuple[Path, ...],
    out: Path | None,
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    batch_size: int,
) -> None:
    """Calibrate MODEL on GOOD images, for p-values and verdicts; without GOOD, change its rates only.

    Images that MODEL was fitted on are each scored by the model of all the others; images it was not fitted on are
    scored as they are (split-conformal: exact p-values). A mix of the two is refused.
    """
    check_writable(out or model)
    stored = load_any(model)
    known = stored.calibration
    rates = rates_of(known, false_alarm_rate, pixel_rate)
    if not good:
        if known is None:
            raise click.UsageError(f"{model} is not calibrated; name good images to calibrate it on")
        done = at_rates(known, *rates)
        keep(stored, done, out or model)
        describe_calibration(done)
        return
    found = find_images(good)
    note_ignored(found.ignored)
    fitted = _scoring(stored)
    with interruption() as stopped, going_on():
        known = calibrated(fitted, None, images_of(stored), found.paths, rates, batch_size, stopped).calibration
    del fitted  # its factors take as much room as moments, which are packed now
    keep(stored, known, out or model)
    describe_calibration(known)


def load_any(path: Path) -> Updatable | Padim:
    """A model in the form it is stored in."""
    return load_updatable(path) if read_manifest(path).get("form") == "updatable" else load(path)


def images_of(stored: Updatable | Padim) -> Mapping[str, float] | None:
    """Digests of the images a model was fitted on, where it knows them."""
    return stored.images if isinstance(stored, Updatable) else None


def keep(stored: Updatable | Padim, known: Calibration | None, path: Path) -> None:
    """Save a model in its form, with another calibration."""
    changed = replace(stored, calibration=known)
    if isinstance(changed, Updatable):
        save_updatable(changed, path)
    else:
        save(changed, path)


def calibrated(
    model: Padim,
    fitted: Sequence[Path] | None,
    images: Mapping[str, float] | None,
    others: Sequence[Path] | None,
    rates: tuple[float, float],
    batch_size: int,
    stopped: Callable[[], bool],
) -> Padim:
    """Model calibrated on ``others`` if given, fitted on or not, else on the files ``fitted``, left out in turn."""
    try:
        chosen = calibration_files(model, fitted or (), images, others)
    except UnreadableImage as error:
        raise click.ClickException(f"{error} (mend or remove it)") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if chosen is None:
        say("not calibrated: leaving one image out takes 3 or more; padim calibrate takes other good images")
        return model
    with progress_bar("calibrate", len(chosen[0])) as advance:
        try:
            return calibrate_files(
                model,
                *chosen,
                batch_size=batch_size,
                false_alarm_rate=rates[0],
                pixel_rate=rates[1],
                advance=advance,
                stopped=stopped,
            )
        except UnreadableImage as error:
            raise click.ClickException(f"{error} (mend or remove it)") from error


def describe_calibration(known: Calibration | None) -> None:
    """Print what a model's calibration says, and say what it can't."""
    if known is None:
        say("not calibrated: scores come without p-values and verdicts until padim calibrate has seen good images")
        return
    n, (low, high) = len(known.scores), known.interval()
    click.echo(
        f"calibrated on {n} good images ({known.method}): above {float(known.threshold):.4g} is anomalous; "
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


def rates_of(
    known: Calibration | None, false_alarm_rate: float | None, pixel_rate: float | None
) -> tuple[float, float]:
    """The rates asked for, or the model's, or the defaults."""
    return (
        false_alarm_rate or (FALSE_ALARM_RATE if known is None else known.false_alarm_rate),
        pixel_rate or (PIXEL_RATE if known is None else known.pixel_rate),
    )


def _scoring(stored: Updatable | Padim) -> Padim:
    return stored.model() if isinstance(stored, Updatable) else stored
