"""Fold image files into moments: one loop, on one device or on many, which an interruption does not undo."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from padim_jax.config import PadimConfig
from padim_jax.gaussians.moments import Moments
from padim_jax.images import UnreadableImage, load_batches
from padim_jax.mesh.processes import gather
from padim_jax.method.aligned import Alignment
from padim_jax.method.centres import PatchSample
from padim_jax.method.embedding import draw_embedding
from padim_jax.method.reference import find_alignment
from padim_jax.method.registration import REFERENCE_IMAGES
from padim_jax.method.regularisation import ImageSample
from padim_jax.runs.checkpoint import Checkpoint
from padim_jax.runs.engines import Engine
from padim_jax.runs.records import Fold
from padim_jax.runs.regularise import regularise_images
from padim_jax.runs.steps import Step, read_steps
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_note, skip_unreadable


def fit_moments(
    engine: Engine,
    paths: Sequence[Path],
    config: PadimConfig,
    batch_size: int,
    watch: Watch,
    checkpoint: Checkpoint | None = None,
) -> Fold:
    """Moments of image files, continued from an earlier fit's checkpoint if there is one.

    Args:
      engine: where to compute.
      paths: all files, the same in every process.
      config: the settings.
      batch_size: images that each process computes at once.
      watch: follows one stage, "fit", of ``config.passes`` times as many files.
      checkpoint: where an unfinished fit is kept; None for nowhere.

    Raises:
      UnreadableImage: from ``watch.unreadable``.
      Interrupted: one of the processes was asked to stop; the checkpoint holds what was done.
      ProcessFailed: another process stopped.
      ValueError: no readable image for the principal components; fewer different patches than components, or
        several of them on many devices.
    """
    fold = None if checkpoint is None else checkpoint.read(engine)
    if checkpoint is not None and fold is None and checkpoint.folder.exists():
        watch.remark(f"{checkpoint.folder} is of other files or settings; fitting from the start")
    with watch.progress("fit", len(paths) * config.passes) as advance:
        if fold is not None:
            advance(len(paths) * (config.passes - 1) + fold.done)
        else:
            reference = _find_alignment(paths, config, batch_size, watch)

            def read() -> Iterator[Step]:
                return _read_ahead(engine, paths, config, batch_size, watch, advance)

            fold = Fold(_begin(engine, config, read, reference))
        fold_files(engine, fold, paths[fold.done :], batch_size, watch, advance, checkpoint=checkpoint)
    return fold


def fold_files(
    engine: Engine,
    fold: Fold,
    paths: Sequence[Path],
    batch_size: int,
    watch: Watch,
    advance: Advance,
    *,
    half_life: float | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fold image files into ``fold``; its state is used up and replaced.

    Args:
      engine: where to compute.
      fold: what to continue from.
      paths: files to add, the same in every process.
      batch_size: images that each process computes at once.
      watch: told of notes and unreadable files, asked whether to stop.
      advance: told how many more files are done.
      half_life: as of :func:`padim_jax.update`.
      checkpoint: where to keep what was done, as often as it says and where the run is stopped; None for nowhere.

    Raises:
      UnreadableImage: from ``watch.unreadable``.
      Interrupted: one of the processes was asked to stop; the checkpoint, if any, holds what was done.
      ProcessFailed: another process stopped.
    """
    config, n_unsaved, reasons = fold.config, 0, dict[str, str]()

    def unreadable(error: UnreadableImage) -> None:
        watch.unreadable(error)
        reasons[str(error.path)] = error.reason

    size = engine.step_size(batch_size, len(paths))
    for step in read_steps(paths, config, batch_size, replace(watch, unreadable=unreadable), size=size):
        if any(file.digest is not None for file in step.files):
            fold.state = engine.fold(fold.state, step, half_life)
        fold.remember(step.files, reasons, half_life)
        n_unsaved += len(step.files)
        advance(len(step.files))
        stop = step.stop or (jax.process_count() == 1 and watch.stopped())
        if checkpoint is not None and (stop or (checkpoint.every and n_unsaved >= checkpoint.every)):
            moments = engine.whole(fold.state)
            checkpoint.write(engine, fold, moments)
            fold.state, n_unsaved = engine.place(moments), 0
        if stop:
            where = f"; {fold.done} files are kept in {checkpoint.folder}" if checkpoint is not None else ""
            raise Interrupted(f"interrupted{where}")


def fit_batches(
    engine: Engine,
    read: Callable[[], Iterable[UInt8[np.ndarray, "n height width 3"]]],
    config: PadimConfig,
    size: int,
) -> Any:
    """Fit on images in memory: the model, as the engine holds it.

    Args:
      engine: where to compute.
      read: gives the batches anew each time it is called; principal components, and several components,
        take passes of their own.
      config: the settings.
      size: that batches are filled up to, as :meth:`padim_jax.runs.engines.OneDevice.step_size` says.

    Raises:
      ValueError, FloatingPointError: as :func:`padim_jax.fit`.
    """
    reference = find_alignment(read(), config)
    state: Any = _begin(engine, config, lambda: (Step.of(images, size) for images in read()), reference)
    sample = ImageSample(config)
    for images in sample.watch(read()):
        state = engine.fold(state, Step.of(images, size), None)
    moments = regularise_images(engine, engine.whole(state), sample, size)
    return engine.finalize(moments, None, donate=True)


def _find_alignment(paths: Sequence[Path], config: PadimConfig, batch_size: int, watch: Watch) -> Alignment | None:
    """The alignment to a reference of evenly spread files, alike in every process; None where none is wanted."""
    if config.align == "none":
        return None
    some = paths[:: -(-len(paths) // REFERENCE_IMAGES)]
    with watch.progress("align", len(some)) as advance:

        def read() -> Iterator[UInt8[np.ndarray, "n height width 3"]]:
            for batch in load_batches(some, config, batch_size, skip_unreadable, ignore_note):
                yield batch.images
                advance(len(batch.images))
                if gather(np.array([watch.stopped()])).any():
                    raise Interrupted("interrupted before anything could be kept")

        found = find_alignment(read(), config)
    if found is None:
        return None
    if found.max_angle < config.largest_angle:
        watch.remark("note: the parts are not turned, so images are aligned by shifts alone")
    is_turned = bool(gather(np.array([found.max_angle > 0]))[0, 0])  # as process 0 has it
    return Alignment.to(gather(np.asarray(found.image))[0], config.largest_angle if is_turned else 0.0)


def _begin(engine: Engine, config: PadimConfig, read: Callable[[], Iterable[Step]], reference: Alignment | None) -> Any:
    """Moments of no image, with what the settings have found in passes of their own; ``read`` begins one."""
    found: dict[str, Any] = {"projection": _find_directions(engine, read(), config), "reference": reference}
    if config.n_components > 1:
        sample = PatchSample(draw_embedding(engine.backbone, config))
        for step in read():
            engine.add_patches(config, found["projection"], sample, step)
        found["centres"] = sample.centres(config)
    return engine.init(config, **found)


def _read_ahead(
    engine: Engine, paths: Sequence[Path], config: PadimConfig, batch_size: int, watch: Watch, advance: Advance
) -> Iterator[Step]:
    """A pass over all files before the one that folds them, which reports on files."""
    quiet = replace(watch, note=ignore_note, unreadable=skip_unreadable)
    for step in read_steps(paths, config, batch_size, quiet, size=engine.step_size(batch_size, len(paths))):
        yield step
        advance(len(step.files))
        if step.stop:
            raise Interrupted("interrupted before anything could be kept")


def _find_directions(engine: Engine, steps: Iterable[Step], config: PadimConfig) -> Float[np.ndarray, "c d"] | None:
    """The matrix of the principal components, from a pass of its own; None, and no pass, where they are not wanted."""
    if config.projection != "principal-components":
        return None
    embedding = draw_embedding(engine.backbone, config)
    moments: Moments | None = None
    for step in steps:
        moments = engine.channel_moments(embedding, moments, step)
    return engine.directions(embedding, moments)
