"""``padim fit``, on one device, on several, or by several processes."""

import time
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax

from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.ownership import locked
from padim_jax.commands.calibrate import describe_calibration
from padim_jax.commands.devices import MeshOptions
from padim_jax.commands.inputs import find_inputs, warn_of_defects
from padim_jax.commands.settings import choose_settings, load_network, with_value_range
from padim_jax.commands.terminal import note_replaced, say, size_text, tell
from padim_jax.commands.watching import unreadable_option, watching
from padim_jax.config import PadimConfig
from padim_jax.images import read_roi_of, seen
from padim_jax.images.image import measure
from padim_jax.mesh.processes import check_agreement
from padim_jax.method.embedding import Embedding, draw_embedding
from padim_jax.runs.calibrate import Terms
from padim_jax.runs.checkpoint import Checkpoint, checkpoint_folder, identity
from padim_jax.runs.choosing import choose_files
from padim_jax.runs.engines import engine
from padim_jax.runs.fit import Fitted, fit_files
from padim_jax.runs.recalibration import rates_of


def fit_command(
    good_dir: Path,
    out: Path,
    method: str | None,
    folds: int,
    weights: str | None,
    skip_unreadable: bool,
    roi: Path | None,
    calibrate: bool,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    checkpoint_every: int,
    batch_size: int,
    **settings: Any,
) -> None:
    """Do what ``padim fit`` says it does."""
    if method is not None:
        from padim_jax.commands.fit_method import fit_method_command  # which few fits need

        given = {"roi": roi, "trust_calibration": trusted, "checkpoint_every": checkpoint_every}
        terms = held_out, *rates_of(None, false_alarm_rate, pixel_rate)
        reading = skip_unreadable, batch_size
        fit_method_command(
            good_dir, out, method, folds if calibrate else None, weights, terms, reading, given, settings
        )
        return
    mesh = MeshOptions(**{field.name: settings.pop(field.name) for field in fields(MeshOptions)}).mesh()
    name, candidates = choose_settings(**settings)
    check_writable(out)  # now, not after an hour of fitting
    Checkpoint(checkpoint_folder(out), "").check()
    first = jax.process_index() == 0
    with locked(out, "fit") if first else nullcontext():
        good = find_inputs([good_dir], out)
        warn_of_defects(good_dir, good.paths)
        candidates = with_value_range(candidates, good.paths)
        region = None if roi is None else read_roi_of(roi, candidates[0], good.paths)
        rates = rates_of(None, false_alarm_rate, pixel_rate)
        terms = Terms(*rates, find_inputs(held_out).paths if held_out else None, trusted) if calibrate else None
        backbone = load_network(name, weights, candidates[0])
        start = time.perf_counter()
        for one in candidates:
            check_agreement("files, settings or weights", identity(backbone, one, good.paths))
        state = "the same command goes on from there"
        with watching(state, unreadable_option(skip_unreadable), shown=first) as watch:
            config = choose_files(backbone, good.paths, candidates, batch_size, watch, roi=region)
            checkpoint = Checkpoint(checkpoint_folder(out), identity(backbone, config, good.paths), checkpoint_every)
            fitted = fit_files(
                engine(backbone, mesh),
                good.paths,
                config,
                out,
                checkpoint,
                batch_size,
                watch,
                roi=region,
                terms=terms,
                keep_previous=True,
            )
        if first:
            note_replaced(out)
            _say_fitted(out, draw_embedding(backbone, config), config, fitted, start)
            if fitted.uncalibrated:
                say(f"not calibrated: {fitted.uncalibrated}")
            describe_calibration(fitted.calibration, is_standardised=config.is_standardised)


def _say_fitted(out: Path, embedding: Embedding, config: PadimConfig, fitted: Fitted, start: float) -> None:
    for path, reason in fitted.skipped.items():
        say(f"skipped {path}: {reason}")
    count = len(fitted.paths)
    if copies := count - fitted.different:
        say(f"note: {copies} of {count} files are copies of others; each counts in the fit, but shows nothing new")
    tell(
        f"{out}: {embedding.backbone}, {', '.join(embedding.taps)}, d = {embedding.dimension}; fitted on "
        f"{count} images in {time.perf_counter() - start:.1f} s"
        + (f", {len(fitted.skipped)} skipped" if fitted.skipped else "")
    )
    share = float(seen(measure(fitted.paths[0]), config).mean())
    tell(f"the model sees {share:.0%} of the area of each image" + (_outside(config) if share < 1 else ""))


def _outside(config: PadimConfig) -> str:
    """How to see all of an image where the crop leaves something out."""
    return f"; what lies outside is never judged (--image-size {size_text(config.crop_size)} sees all of it)"
