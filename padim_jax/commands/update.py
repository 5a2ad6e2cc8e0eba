"""``padim update``, ``padim merge``, ``padim forget`` and ``padim undo``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from padim_jax.artifact import Updatable, load_updatable, save_updatable
from padim_jax.artifact.folder import check_writable, undo
from padim_jax.artifact.ownership import locked
from padim_jax.baselines.manifest import refuse
from padim_jax.commands.calibrate import describe_calibration
from padim_jax.commands.devices import MeshOptions
from padim_jax.commands.inputs import find_inputs
from padim_jax.commands.terminal import note_replaced, progress_bar, say, tell
from padim_jax.commands.watching import unreadable_option, watching
from padim_jax.method.calibration import Calibration
from padim_jax.runs.engines import Engine, engine
from padim_jax.runs.forget import REFERENCE_STAYS, forget_files
from padim_jax.runs.merge import merge_models
from padim_jax.runs.recalibration import rates_of, recalibrate, tell_replaced
from padim_jax.runs.update import NothingNew, update_files


def update_command(
    model: Path,
    good_dir: Path,
    out: Path | None,
    half_life: float | None,
    skip_unreadable: bool,
    held_out: tuple[Path, ...],
    keep_calibration: bool,
    devices: int | None,
    batch_size: int,
    **calibrating: Any,
) -> None:
    """Do what ``padim update`` says it does."""
    if keep_calibration and (held_out or any(calibrating.values())):
        raise click.UsageError("--keep-calibration leaves the calibration as it is, and other options would change it")
    refuse(model, "update")
    target, mesh = out or model, MeshOptions(devices).mesh()
    check_writable(target)
    with locked(target, "update"):
        stored = load_updatable(model)
        where = engine(stored.backbone, mesh)
        images = find_inputs([good_dir])
        with watching(_as_it_is(model), unreadable_option(skip_unreadable)) as watch:
            try:
                done = update_files(
                    stored,
                    images.paths,
                    held_out=_paths(held_out),
                    keep_calibration=keep_calibration,
                    half_life=half_life,
                    batch_size=batch_size,
                    watch=watch,
                    engine=where,
                    **calibrating,
                )
            except NothingNew as error:
                raise click.ClickException(
                    f"{good_dir} holds no image that is not in {model} already; nothing was changed"
                ) from error
        if done.repeated:
            say(f"{done.repeated} of {len(images.paths)} images are in {model} already and are left out")
        for path, reason in done.skipped.items():
            say(f"skipped {path}: {reason}")
        where.save(done.model, target, keep_previous=True)
    tell(f"{target}: {len(done.added)} images added; fitted on {_count(done.model)}")
    describe_calibration(done.model.calibration, is_standardised=done.model.moments.config.is_standardised)


def merge_command(
    model: Path,
    others: tuple[Path, ...],
    out: Path,
    held_out: tuple[Path, ...],
    trusted: bool,
    batch_size: int,
    **rates: float | None,
) -> None:
    """Do what ``padim merge`` says it does."""
    for each in (model, *others):
        refuse(each, "merge")
    check_writable(out)
    calibrations: list[Calibration] = []
    with locked(out, "merge"):
        with progress_bar("merge", 1 + len(others), "models") as advance:
            merged = merge_models(_load_each((model, *others), calibrations, advance), remark=say, **rates)
        first = calibrations[0] if calibrations else None  # the whole may not have any
        calibrating = dict(zip(("false_alarm_rate", "pixel_rate"), rates_of(first, **rates), strict=True))
        where = engine(merged.backbone)
        _finish(merged, out, where, held_out, batch_size, merged.calibration, trusted=trusted, **calibrating)
        note_replaced(out)


def _load_each(
    models: tuple[Path, ...], calibrations: list[Calibration], advance: Callable[[int], None]
) -> Iterator[Updatable]:
    """Load one model at a time, and add its calibration to ``calibrations``."""
    for model in models:
        part = load_updatable(model)
        calibrations += [] if part.calibration is None else [part.calibration]
        yield part
        advance(1)


def forget_command(
    model: Path,
    directory: Path,
    out: Path | None,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    devices: int | None,
    batch_size: int,
) -> None:
    """Do what ``padim forget`` says it does."""
    refuse(model, "forget")
    target, mesh = out or model, MeshOptions(devices).mesh()
    check_writable(target)
    with locked(target, "forget"):
        stored = load_updatable(model)
        images = find_inputs([directory])
        rates = rates_of(stored.calibration, false_alarm_rate, pixel_rate)
        calibrating = {"false_alarm_rate": rates[0], "pixel_rate": rates[1], "trusted": trusted}
        with watching(_as_it_is(model)) as watch:
            where = engine(stored.backbone, mesh)
            changed = forget_files(stored, images.paths, batch_size=batch_size, watch=watch, engine=where)
        before = stored.calibration
        del stored
        changed = _finish(changed, target, where, held_out, batch_size, before, **calibrating)
    if changed.moments.alignment is not None:
        is_known = changed.calibration is not None
        limit = "" if is_known else "; how well a part has to match it is not known until padim calibrate has set it"
        say(f"note: {REFERENCE_STAYS}{limit}")


def undo_command(model: Path) -> None:
    """Do what ``padim undo`` says it does."""
    manifest = undo(model)
    images = manifest.get("images")
    fitted = "" if images is None else f"; fitted on {len(images)} images"
    calibrated = "calibrated" if manifest.get("calibration") else "not calibrated"
    tell(f"{model}: as it was before the last change{fitted}, {calibrated}")


def _finish(
    changed: Updatable,
    path: Path,
    where: Engine,
    held_out: tuple[Path, ...],
    batch_size: int,
    before: Calibration | None,
    **calibrating: Any,
) -> Updatable:
    """Calibrate on ``held_out`` if given, save and say, also what is lost of ``before``; gives what was saved."""
    good = _paths(held_out)
    if good is None:
        where.finalize(changed.moments, changed.roi)  # what can't be factored is not saved
    else:
        with watching(_as_it_is(path)) as watch:
            options = {"batch_size": batch_size, "watch": watch, "engine": where}
            changed = recalibrate(changed, good, **options, **calibrating)
    save_updatable(changed, path, keep_previous=True)
    tell(f"{path}: fitted on {_count(changed)}")
    tell_replaced(before, changed.calibration, say)
    describe_calibration(changed.calibration, is_standardised=changed.moments.config.is_standardised)
    return changed


def _paths(folders: tuple[Path, ...]) -> tuple[Path, ...] | None:
    return find_inputs(folders).paths if folders else None


def _count(stored: Updatable) -> str:
    weights = stored.images.values()
    faded = f", which count as {float(stored.moments.count):.1f}" if any(w != int(w) for w in weights) else ""
    return f"{len(stored.images) or int(stored.moments.count)} images{faded}"


def _as_it_is(model: Path) -> str:
    """What an interruption leaves."""
    return f"{model} is as it was"
