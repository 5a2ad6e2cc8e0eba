"""``padim fit``."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax

from padim_jax import mesh as meshes
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.ownership import locked
from padim_jax.commands.calibrate import (
    calibrated,
    describe_calibration,
    going_on,
    rates_of,
    stop_and_say,
)
from padim_jax.commands.fit_mesh import MeshOptions, fit_on_mesh, mesh_checkpoint
from padim_jax.commands.settings import chosen, loaded, with_value_range
from padim_jax.commands.terminal import (
    Notes,
    interruption,
    note_ignored,
    progress_bar,
    say,
    size_text,
    tell,
)
from padim_jax.config import PadimConfig
from padim_jax.images import find_images, read_roi_of, seen
from padim_jax.images.image import measure
from padim_jax.method.embedding import Embedding, draw_embedding
from padim_jax.method.records import Padim
from padim_jax.runs.fold import Checkpoint, finish, fit_files, identity
from padim_jax.runs.mesh_fold import MeshCheckpoint


def fit_command(
    good_dir: Path,
    out: Path,
    weights: str | None,
    skip_unreadable: bool,
    roi: Path | None,
    wanted: bool,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    checkpoint_every: int,
    batch_size: int,
    **settings: Any,
) -> None:
    """Do what ``padim fit`` says it does."""
    mesh = MeshOptions(**{field.name: settings.pop(field.name) for field in fields(MeshOptions)}).mesh()
    backbone, config = chosen(**settings)
    check_writable(out)  # now, not after an hour of fitting
    unfinished = out.with_name(f"{out.name}.unfinished")
    Checkpoint(unfinished, "").check()
    MeshCheckpoint(mesh_checkpoint(out), "").check()
    with locked(out, "fit") if jax.process_index() == 0 else nullcontext():
        found = find_images([good_dir], exclude=out)
        note_ignored(found.ignored)
        config = with_value_range(config, found.paths)
        others = find_images(held_out).paths if held_out else None
        region = None if roi is None else read_roi_of(roi, config, found.paths)
        network = loaded(backbone, weights, config)
        embedding = draw_embedding(network, config)
        start = time.perf_counter()
        if mesh is None and mesh_checkpoint(out).exists():
            mesh = meshes.device_mesh(devices=jax.devices()[:1])
        if mesh is not None:
            done = fit_on_mesh(
                network,
                found.paths,
                config,
                mesh,
                out,
                region=region,
                others=others,
                wanted=wanted,
                trusted=trusted,
                rates=(false_alarm_rate, pixel_rate),
                skip_unreadable=skip_unreadable,
                checkpoint_every=checkpoint_every,
                batch_size=batch_size,
            )
            if done is not None:
                shared, known = done
                fitted = [path for path in found.paths if str(path) not in shared.skipped]
                _say_fitted(out, embedding, config, fitted, len(shared.images), start, shared.skipped)
                describe_calibration(known)
            return
        checkpoint = Checkpoint(unfinished, identity(network, config, found.paths), checkpoint_every)
        if unfinished.exists() and checkpoint.read() is None:
            say(f"{unfinished} is of other files or settings; fitting from the start")
        notes = Notes()
        with interruption() as stopped, going_on():
            with progress_bar("fit", len(found.paths) * config.passes) as advance:
                folded = fit_files(
                    network,
                    found.paths,
                    config,
                    batch_size=batch_size,
                    unreadable=(lambda error: None) if skip_unreadable else stop_and_say("--skip-unreadable"),
                    note=notes,
                    advance=advance,
                    checkpoint=checkpoint,
                    stopped=stopped,
                )
            rates = rates_of(None, false_alarm_rate, pixel_rate)
            fitted = [path for path in found.paths if str(path) not in folded.skipped]

            def calibrate(model: Padim) -> Padim:
                if not wanted:
                    return model
                return calibrated(model, fitted, folded.images, others, rates, batch_size, stopped, trusted=trusted)

            known, _ = finish(network, folded, out, checkpoint, region, calibrate)
        notes.say()
        _say_fitted(out, embedding, config, fitted, len(folded.images), start, folded.skipped)
        describe_calibration(known)


def _say_fitted(
    out: Path,
    embedding: Embedding,
    config: PadimConfig,
    fitted: Sequence[Path],
    different: int,
    start: float,
    skipped: Mapping[str, str],
) -> None:
    for path, reason in skipped.items():
        say(f"skipped {path}: {reason}")
    if copies := len(fitted) - different:
        say(
            f"note: {copies} of {len(fitted)} files are copies of others; each counts in the fit, but shows nothing new"
        )
    tell(
        f"{out}: {embedding.backbone}, {', '.join(embedding.taps)}, d = {embedding.dimension}; fitted on "
        f"{len(fitted)} images in {time.perf_counter() - start:.1f} s"
        + (f", {len(skipped)} skipped" if skipped else "")
    )
    share = float(seen(measure(fitted[0]), config).mean())
    tell(f"the model sees {share:.0%} of the area of each image" + (_outside(config) if share < 1 else ""))


def _outside(config: PadimConfig) -> str:
    """How more is seen, where the crop leaves something out."""
    return f"; what lies outside is never judged (--image-size {size_text(config.crop_size)} sees all of it)"
