"""``padim update``, ``padim merge``, ``padim forget`` and ``padim undo``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable, lived_on, load_updatable, save_updatable
from padim_jax.artifact.folder import check_writable, undo
from padim_jax.artifact.ownership import locked
from padim_jax.commands.calibrate import (
    calibrated,
    describe_calibration,
    rates_of,
    stop_and_say,
)
from padim_jax.commands.terminal import (
    Notes,
    interruption,
    note_ignored,
    progress_bar,
    say,
    tell,
)
from padim_jax.images import UnreadableImage, find_images
from padim_jax.images.folder import digest_file
from padim_jax.method.calibration import Calibration, at_rates, at_threshold, joined
from padim_jax.method.fitting import forget, init, merge
from padim_jax.runs.calibrate import LEAST_P, compare, held_out_scores
from padim_jax.runs.fold import MOST_SIZES, Folded, Interrupted, fold_files


def update_command(
    model: Path,
    good_dir: Path,
    out: Path | None,
    half_life: float | None,
    skip_unreadable: bool,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    batch_size: int,
) -> None:
    """Do what ``padim update`` says it does."""
    target = out or model
    check_writable(target)
    with locked(target, "update"):
        stored = load_updatable(model)
        found = find_images([good_dir])
        note_ignored(found.ignored)
        others = find_images(held_out).paths if held_out else None
        new = [path for path in found.paths if _digest(path) not in stored.images]
        if len(new) < len(found.paths):
            say(f"{len(found.paths) - len(new)} of {len(found.paths)} images are in {model} already and are left out")
        if not new:
            raise click.ClickException(f"{good_dir} holds no image that is not in {model} already; nothing was changed")
        folded, notes = Folded(stored.moments, dict(stored.images), sizes=dict.fromkeys(stored.image_sizes)), Notes()
        before = stored.calibration
        with interruption() as stopped, _undisturbed(model):
            then = None  # what the new images score before they are known
            if before is not None and others is None:
                then = _scores_before(stored, new, batch_size, skip_unreadable)
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
            changed = replace(
                stored,
                moments=folded.moments,
                images=folded.images,
                calibration=None,
                progress=lived_on(stored.progress, "updated"),
                image_sizes=folded.image_sizes,
            )
            read = [path for path in new if str(path) not in folded.skipped]
            kept = [path for path in read if half_life is None or _digest(path) in folded.images]  # not faded at once
            rates = rates_of(before, false_alarm_rate, pixel_rate)
            own = None if before is None else np.asarray(before.scores)
            known = calibrated(
                changed.model(), kept, folded.images, others, rates, batch_size, stopped, own=own, trusted=trusted
            ).calibration
            if before is not None and then is not None and not _suffices(known, before):
                known = _with_earlier(known, before, then, rates)
        save_updatable(replace(changed, calibration=known), target, keep_previous=True)
    tell(f"{target}: {len(read)} images added; fitted on {_count(changed)}")
    describe_calibration(known)


def _scores_before(
    stored: Updatable, new: Sequence[Path], batch_size: int, skip_unreadable: bool
) -> Float[np.ndarray, " n"]:
    """What images score by the model that does not know them yet."""
    unreadable = (lambda error: None) if skip_unreadable else stop_and_say("--skip-unreadable")
    with progress_bar("compare", len(new)) as advance:
        return held_out_scores(stored.model(), new, batch_size=batch_size, advance=advance, unreadable=unreadable)


def _suffices(known: Calibration | None, before: Calibration) -> bool:
    """Whether new scores are as many as the ones before or as the rate asks for: then no older ones have to be kept."""
    return known is not None and len(known.scores) >= min(len(before.scores), known.images_wanted)


def _with_earlier(
    known: Calibration | None, before: Calibration, then: Float[np.ndarray, " n"], rates: tuple[float, float]
) -> Calibration:
    """The scores of a model and those of the one before it, and say how far they are apart on the same images."""
    if len(then) and known is not None:
        if (p := compare(then, np.asarray(before.scores))) < LEAST_P:
            say(
                f"warning: the new images scored much higher than the model's own before they were added (median "
                f"{np.median(then):.4g} against {np.median(before.scores):.4g}; p = {p:.2g}): are they all good, from "
                "the same camera and light? padim undo takes them out again"
            )
        ratio = float(np.median(then) / max(float(np.median(known.scores)), 1e-12))
        say(
            f"note: {len(before.scores)} calibration scores of the model before are kept beside {len(known.scores)} "
            f"new ones; on the new images that model scored {ratio:.3g} times as high as this one, so the threshold "
            f"may be too {'high' if ratio >= 1 else 'low'} by up to that (padim calibrate on all images makes it exact)"
        )
    done = at_rates(before, *rates) if known is None else joined([before, known], *rates)
    return _at_the_same_threshold(done, before)


def _at_the_same_threshold(known: Calibration, before: Calibration) -> Calibration:
    """A calibration with the threshold that was set by hand in the one before it, if one was."""
    if before.threshold_source == "rate":
        return known
    say(f"note: the threshold that was set by hand, {float(before.threshold):.4g}, stays (padim calibrate changes it)")
    return at_threshold(known, float(before.threshold))


def merge_command(
    model: Path,
    others: tuple[Path, ...],
    out: Path,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    batch_size: int,
) -> None:
    """Do what ``padim merge`` says it does."""
    check_writable(out)
    with locked(out, "merge"):
        whole = _merged(model, others)
        rates = rates_of(whole.calibration, false_alarm_rate, pixel_rate)
        if whole.calibration is not None and whole.calibration.threshold_source == "rate":
            whole = replace(whole, calibration=at_rates(whole.calibration, *rates))
        _finish(whole, out, held_out, rates, batch_size, trusted, keep_previous=False)


def _merged(model: Path, others: Sequence[Path]) -> Updatable:
    waiting: list[tuple[int, Updatable]] = []  # how many models each is made of: falling powers of two
    with progress_bar("merge", 1 + len(others), "models") as advance:
        for path in (model, *others):
            size, part = 1, load_updatable(path)
            while waiting and waiting[-1][0] == size:
                size, part = 2 * size, _both(waiting.pop()[1], part)
            waiting.append((size, part))
            advance(1)
    whole = waiting.pop()[1]
    while waiting:
        whole = _both(waiting.pop()[1], whole)
    if whole.calibration is not None:
        say(
            f"note: the {len(whole.calibration.scores)} calibration scores are those of the parts; the whole knows "
            "more images, so they are rather too high than too low (padim calibrate on good images makes them exact)"
        )
    return whole


def _both(first: Updatable, second: Updatable) -> Updatable:
    if (first.roi is None) != (second.roi is None) or (first.roi is not None and (first.roi != second.roi).any()):
        raise click.ClickException("merge: two have different regions of interest; only like models can be merged")
    if twice := len(first.images.keys() & second.images.keys()):
        say(f"warning: {twice} images are in both and count twice now")
    images = dict(first.images)
    for digest, weight in second.images.items():
        images[digest] = images.get(digest, 0) + weight
    known = [one.calibration for one in (first, second) if one.calibration is not None]
    by_hand = {float(one.threshold) for one in known if one.threshold_source == "set"}
    if twice and len(known) == 2:  # scores of one image in two models are not independent
        known = [max(known, key=lambda one: len(one.scores))]
        say(f"note: only the {len(known[0].scores)} calibration scores of one of the two are kept")
    whole = joined(known, known[0].false_alarm_rate, known[0].pixel_rate) if known else None
    if by_hand and whole is not None and (len(by_hand) > 1 or any(one.threshold_source == "rate" for one in known)):
        told = ", ".join(f"{one:.4g}" for one in sorted(by_hand))
        say(
            f"warning: thresholds of parts were set by hand ({told}) and differ; the whole takes "
            f"{float(whole.threshold):.4g}, from its scores"
        )
    elif by_hand and whole is not None:
        whole = at_threshold(whole, by_hand.pop())
    return replace(
        first,
        moments=merge(first.moments, second.moments),
        images=images,
        calibration=whole,
        progress=lived_on(None, "merged"),
        image_sizes=tuple(dict.fromkeys((*first.image_sizes, *second.image_sizes)))[:MOST_SIZES],
    )


def forget_command(
    model: Path,
    directory: Path,
    out: Path | None,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    batch_size: int,
) -> None:
    """Do what ``padim forget`` says it does."""
    target = out or model
    check_writable(target)
    with locked(target, "forget"):
        stored = load_updatable(model)
        changed = _without(stored, model, directory, batch_size)
        rates = rates_of(stored.calibration, false_alarm_rate, pixel_rate)
        _finish(changed, target, held_out, rates, batch_size, trusted, keep_previous=True)


def undo_command(model: Path) -> None:
    """Do what ``padim undo`` says it does."""
    manifest = undo(model)
    known = manifest.get("calibration")
    images = manifest.get("images")
    fitted = "" if images is None else f"; fitted on {len(images)} images"
    tell(f"{model}: as it was before the last change{fitted}, {'calibrated' if known else 'not calibrated'}")


def _without(stored: Updatable, model: Path, directory: Path, batch_size: int) -> Updatable:
    """The model without the images of a folder, not calibrated."""
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
    return replace(
        stored,
        moments=forget(stored.moments, gone.moments),
        images=left,
        calibration=None,
        progress=lived_on(stored.progress, "made to forget"),
    )


def _finish(
    changed: Updatable,
    path: Path,
    held_out: tuple[Path, ...],
    rates: tuple[float, float],
    batch_size: int,
    trusted: bool,
    keep_previous: bool,
) -> None:
    """Factor, calibrate on ``held_out`` if given, save and say."""
    others = find_images(held_out).paths if held_out else None
    fitted, known = changed.model(), changed.calibration
    if others is not None:
        own = None if known is None else np.asarray(known.scores)
        with interruption() as stopped, _undisturbed(path):
            fitted = calibrated(
                fitted, None, changed.images, others, rates, batch_size, stopped, own=own, trusted=trusted
            )
        known = fitted.calibration
    del fitted  # its factors take as much room as the moments, which are packed now
    save_updatable(replace(changed, calibration=known), path, keep_previous=keep_previous)
    tell(f"{path}: fitted on {_count(changed)}")
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
