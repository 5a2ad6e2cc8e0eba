"""``padim update``, ``padim merge`` and ``padim forget``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from padim_jax.artifact import Updatable, load_updatable, save_updatable
from padim_jax.commands.calibrate import (
    calibrated,
    calibration_options,
    describe_calibration,
    rates_of,
    stop_and_say,
)
from padim_jax.commands.lazy_click import Command
from padim_jax.commands.terminal import (
    Notes,
    batch_option,
    debug_option,
    interruption,
    note_ignored,
    progress_bar,
    say,
)
from padim_jax.data import UnreadableImage, find_images
from padim_jax.data.folder import digest_file
from padim_jax.fitting import Folded, Interrupted, fold_files
from padim_jax.padim import forget, init, merge
from padim_jax.storage import check_writable

_model = click.argument("model", type=click.Path(path_type=Path))
_out = click.option("--out", type=click.Path(path_type=Path), help="Model folder to write. Default: MODEL itself.")


@click.command("update", cls=Command, example="padim update bracket.padim this_week/")
@_model
@click.argument("good_dir", type=click.Path(exists=True, path_type=Path))
@_out
@click.option(
    "--half-life",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Let older images fade: after N newer ones they count half.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read, and list them.")
@calibration_options
@batch_option
@debug_option
def update_command(
    model: Path,
    good_dir: Path,
    out: Path | None,
    half_life: float | None,
    skip_unreadable: bool,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    batch_size: int,
) -> None:
    """Add the good images of GOOD_DIR to MODEL, as if it had been fitted on all.

    Images that MODEL knows already are left out. Then it is calibrated anew: on the new images, each left out in turn,
    or on all good images at hand with --calibration.
    """
    check_writable(out or model)
    stored = load_updatable(model)
    found = find_images([good_dir])
    note_ignored(found.ignored)
    others = find_images(held_out).paths if held_out else None
    new = [path for path in found.paths if _digest(path) not in stored.images]
    if len(new) < len(found.paths):
        say(f"{len(found.paths) - len(new)} of {len(found.paths)} images are in {model} already and are left out")
    if not new:
        raise click.ClickException(f"{good_dir} holds no image that is not in {model} already; nothing was changed")
    folded, notes = Folded(stored.moments, dict(stored.images)), Notes()
    with interruption() as stopped, _undisturbed(model):
        with progress_bar("update", len(new)) as advance:
            fold_files(
                stored.backbone,
                folded,
                new,
                batch_size=batch_size,
                half_life=half_life,
                unreadable=(lambda error: None) if skip_unreadable else stop_and_say("--skip-unreadable"),
                note=notes,
                advance=advance,
                stopped=stopped,
            )
        notes.say()
        for path, reason in folded.skipped.items():
            say(f"skipped {path}: {reason}")
        changed = replace(stored, moments=folded.moments, images=folded.images, calibration=None, progress=None)
        read = [path for path in new if str(path) not in folded.skipped]
        rates = rates_of(stored.calibration, false_alarm_rate, pixel_rate)
        known = calibrated(changed.model(), read, folded.images, others, rates, batch_size, stopped).calibration
    save_updatable(replace(changed, calibration=known), out or model)
    click.echo(f"{out or model}: {len(read)} images added; fitted on {_count(changed)}")
    describe_calibration(known)


@click.command("merge", cls=Command, example="padim merge site_a.padim site_b.padim --out both.padim")
@_model
@click.argument("others", metavar="OTHER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@calibration_options
@batch_option
@debug_option
def merge_command(
    model: Path,
    others: tuple[Path, ...],
    out: Path,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    batch_size: int,
) -> None:
    """Join MODEL and all OTHERs, as if one had been fitted on the images of all; no image is needed.

    They must have been fitted alike: backbone, weights, channels, sizes. Many are joined in pairs, pairs of pairs and
    so on, so that rounding grows with the logarithm of their number, and so do the models held in memory. The result
    is calibrated only with --calibration: on good images of any, or others.
    """
    check_writable(out)
    waiting: list[tuple[int, Updatable]] = []  # how many models each is made of: falling powers of two
    with progress_bar("merge", 1 + len(others), "models") as advance:
        for path in (model, *others):
            size, joined = 1, load_updatable(path)
            while waiting and waiting[-1][0] == size:
                size, joined = 2 * size, _both(waiting.pop()[1], joined)
            waiting.append((size, joined))
            advance(1)
    joined = waiting.pop()[1]
    while waiting:
        joined = _both(waiting.pop()[1], joined)
    rates = rates_of(joined.calibration, false_alarm_rate, pixel_rate)
    _finish(replace(joined, calibration=None), out, held_out, rates, batch_size)


def _both(first: Updatable, second: Updatable) -> Updatable:
    if (first.roi is None) != (second.roi is None) or (first.roi is not None and (first.roi != second.roi).any()):
        raise click.ClickException("merge: two have different regions of interest; only like models can be merged")
    if twice := len(first.images.keys() & second.images.keys()):
        say(f"warning: {twice} images are in both and count twice now")
    images = dict(first.images)
    for digest, weight in second.images.items():
        images[digest] = images.get(digest, 0) + weight
    return replace(first, moments=merge(first.moments, second.moments), images=images, progress=None)


@click.command("forget", cls=Command, example="padim forget bracket.padim recalled_parts/")
@_model
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@_out
@calibration_options
@batch_option
@debug_option
def forget_command(
    model: Path,
    directory: Path,
    out: Path | None,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    batch_size: int,
) -> None:
    """Take the images of DIR out of MODEL, as if it had never been fitted on them.

    Refuses images that it was not fitted on, and where too little would be left to be exact. The result is calibrated
    only with --calibration.
    """
    check_writable(out or model)
    stored = load_updatable(model)
    found = find_images([directory])
    note_ignored(found.ignored)
    left = dict(stored.images)
    for path in found.paths:
        digest = _digest(path)
        if digest not in left:
            raise click.ClickException(f"{path} is not among the images {model} was fitted on; nothing was changed")
        if left[digest] != int(left[digest]):
            raise click.ClickException(f"{path} has faded by a half-life and can't be taken out; fit anew without it")
        left[digest] -= 1
        if not left[digest]:
            del left[digest]
    # the very projection of the model, which principal components would not find again
    config = stored.moments.config
    known = stored.moments.projection if config.projection == "principal-components" else None
    gone = Folded(init(stored.backbone, config, projection=known))
    with interruption() as stopped, _undisturbed(model), progress_bar("forget", len(found.paths)) as advance:
        fold_files(
            stored.backbone, gone, found.paths, batch_size=batch_size, note=Notes(), advance=advance, stopped=stopped
        )
    changed = replace(
        stored, moments=forget(stored.moments, gone.moments), images=left, calibration=None, progress=None
    )
    _finish(changed, out or model, held_out, rates_of(stored.calibration, false_alarm_rate, pixel_rate), batch_size)


def _finish(
    changed: Updatable, path: Path, held_out: tuple[Path, ...], rates: tuple[float, float], batch_size: int
) -> None:
    """Factor, calibrate on ``held_out`` if given, save and say."""
    others = find_images(held_out).paths if held_out else None
    fitted = changed.model()
    if others is not None:
        with interruption() as stopped, _undisturbed(path):
            fitted = calibrated(fitted, None, changed.images, others, rates, batch_size, stopped)
    known = fitted.calibration
    del fitted  # its factors take as much room as the moments, which are packed now
    save_updatable(replace(changed, calibration=known), path)
    click.echo(f"{path}: fitted on {_count(changed)}")
    describe_calibration(known)


def _count(stored: Updatable) -> str:
    weights = stored.images.values()
    faded = f", which count as {float(stored.moments.count):.1f}" if any(w != int(w) for w in weights) else ""
    return f"{len(stored.images) or int(stored.moments.count)} images{faded}"


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except UnreadableImage as error:
        raise click.ClickException(f"{error} (mend or remove it)") from error


@contextmanager
def _undisturbed(model: Path) -> Iterator[None]:
    """Say that an interruption changed nothing."""
    try:
        yield
    except Interrupted as error:
        raise click.ClickException(f"{error}; {model} is as it was") from error
