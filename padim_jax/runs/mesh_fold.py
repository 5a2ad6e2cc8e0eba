"""Fit, calibrate and save by many processes or devices: what :mod:`padim_jax.runs.fold` does on one device.

Checkpoints are Orbax's: each process writes and reads its own part, on whatever mesh it is.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from padim_jax import mesh as meshes
from padim_jax.artifact import Updatable, save_updatable
from padim_jax.artifact.ownership import is_ours, mark, remove
from padim_jax.backbones import Backbone
from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.images import UnreadableImage, stop_at_unreadable
from padim_jax.images.decode import Note
from padim_jax.mesh import MeshModel, MeshMoments
from padim_jax.mesh.processes import gathered, together
from padim_jax.method.calibration import FALSE_ALARM_RATE, PIXEL_RATE, Calibration, Histogram, Method, calibration
from padim_jax.method.records import PadimMoments
from padim_jax.runs.calibrate import fitted_weights
from padim_jax.runs.fold import Interrupted, Unreadable, few_sizes, ignore, in_the_way, remember_sizes
from padim_jax.runs.score import Advance
from padim_jax.runs.steps import steps


@dataclass
class Shared:
    """Images folded into moments by all processes, in order; equal in all of them.

    Attributes:
      moments: on the mesh.
      images, done, skipped: as of :class:`padim_jax.runs.fold.Folded`; the reasons of files that another process could
        not read are told there.
      sizes: likewise, of the files that this process read.
    """

    moments: MeshMoments
    images: dict[str, float] = field(default_factory=dict)
    done: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)


@dataclass(frozen=True)
class MeshCheckpoint:
    """Where an unfinished fit of many processes is kept: an Orbax checkpoint, each process writing its own part.

    Attributes:
      folder: of the checkpoints, one but for the time of writing.
      identity: of files and settings, as of :class:`padim_jax.runs.fold.Checkpoint`.
      every: images after which it is written anew; 0 for interruptions only.
    """

    folder: Path
    identity: str
    every: int = 0

    def check(self) -> None:
        """Raise ``FileExistsError`` where something lies in the folder's place that is no unfinished fit of ours."""
        if self.folder.is_symlink() or (self.folder.exists() and not is_ours(self.folder) and any(self._entries())):
            raise in_the_way(self.folder)

    def write(self, shared: Shared) -> None:
        """Replace what is kept; the rows' moments are joined for it."""
        if jax.process_index() == 0:
            self.check()
            mark(self.folder)
        mesh, projection = shared.moments.mesh, shared.moments.projection
        joined = meshes.joined(shared.moments)
        progress = {
            "identity": self.identity,
            "done": shared.done,
            "images": shared.images,
            "skipped": shared.skipped,
            "sizes": list(shared.sizes),
        }
        leaves = dict(zip(_names(joined), jax.tree.leaves(joined.moments), strict=True))
        if projection is not None:
            leaves["projection"] = projection
        target = self.folder.resolve() / f"step-{shared.done:012}"
        with together(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(
                target, args=ocp.args.Composite(state=ocp.args.PyTreeSave(leaves), progress=ocp.args.JsonSave(progress))
            )
        if jax.process_index() == 0:
            for other in self._entries():
                if re.fullmatch(r"step-\d{12}(\.orbax.*)?", other.name) and other.name != target.name:
                    shutil.rmtree(other, ignore_errors=True)
        shared.moments = meshes.split(mesh, joined)

    def read(self, mesh: Mesh, empty: PadimMoments) -> Shared | None:
        """What is kept of the same files and settings, on any mesh; None where there is none.

        Args:
          mesh: to go on with.
          empty: the shapes of the moments of one device.
        """
        found = sorted(path for path in self.folder.glob("step-*") if path.name[5:].isdigit())
        if not found:
            return None
        with together(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(
                found[-1].resolve(), args=ocp.args.Composite(progress=ocp.args.JsonRestore())
            )
            progress = restored["progress"]
            if progress["identity"] != self.identity:
                return None
            names, wanted = _names(empty), {}
            for name, leaf in zip(names, jax.tree.leaves(empty.moments), strict=True):
                sharding, shape = meshes.restored_as(mesh, leaf.shape)
                wanted[name] = ocp.ArrayRestoreArgs(sharding=sharding, global_shape=shape, strict=False)
            if empty.projection is not None:
                everywhere = NamedSharding(mesh, PartitionSpec())
                wanted["projection"] = ocp.ArrayRestoreArgs(sharding=everywhere, global_shape=empty.projection.shape)
            item = dict.fromkeys(wanted, 0)
            leaves = checkpointer.restore(
                found[-1].resolve(),
                args=ocp.args.Composite(state=ocp.args.PyTreeRestore(item=item, restore_args=wanted)),
            )["state"]
        moments = jax.tree.unflatten(jax.tree.structure(empty.moments), [leaves[name] for name in names])
        whole = PadimMoments(moments, empty.config, empty.embedding, leaves.get("projection"))
        return Shared(
            meshes.split(mesh, whole),
            dict(progress["images"]),
            int(progress["done"]),
            dict(progress["skipped"]),
            dict.fromkeys((int(width), int(height)) for width, height in progress.get("sizes", ())),
        )

    def remove(self) -> None:
        """Forget it, once the model is saved, if it is ours."""
        if jax.process_index() == 0:
            remove(self.folder)

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else [self.folder]


def fold_shared(
    backbone: Backbone,
    shared: Shared,
    paths: Sequence[Path],
    *,
    batch_size: int,
    unreadable: Unreadable = stop_at_unreadable,
    note: Note | None = None,
    advance: Advance = lambda count: None,
    checkpoint: MeshCheckpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Fold image files into ``shared``, from the first it has not dealt with: :func:`padim_jax.runs.fold.fold_files`.

    The backbone is :func:`padim_jax.mesh.replicated`, the paths are all files, the same in every process, and
    ``batch_size`` is the files a step for each process. ``shared`` has its moments used up and replaced.

    Raises:
      UnreadableImage: from ``unreadable``.
      ProcessFailed: another process stopped.
      Interrupted: one of the processes was asked to stop; the checkpoint, if any, holds what was done.
    """
    mesh, since = shared.moments.mesh, 0

    def report(error: UnreadableImage) -> None:
        unreadable(error)
        shared.skipped[str(error.path)] = error.reason

    advance(shared.done)
    for step in steps(
        paths[shared.done :],
        shared.moments.config,
        batch_size,
        multiple=len(mesh.local_devices),
        unreadable=report,
        note=note,
        stopped=stopped,
    ):
        with together():
            images, valid = meshes.shared_out(mesh, step.images), meshes.shared_out(mesh, step.valid)
            # one step in flight: a fast reader must not queue up images
            shared.moments = jax.block_until_ready(meshes.update(backbone, shared.moments, images, valid))
        for path, digest in step.files:
            if digest is None:
                shared.skipped.setdefault(str(path), "not readable; the process that was to read it says why")
            else:
                shared.images[digest] = shared.images.get(digest, 0.0) + 1
        remember_sizes(shared.sizes, step.sizes)
        shared.done += len(step.files)
        since += len(step.files)
        advance(len(step.files))
        if checkpoint is not None and (step.stop or (checkpoint.every and since >= checkpoint.every)):
            checkpoint.write(shared)
            since = 0
        if step.stop:
            kept = f"; {shared.done} files are kept in {checkpoint.folder}" if checkpoint is not None else ""
            raise Interrupted(f"interrupted{kept}")


def calibrate_shared(
    model: MeshModel,
    paths: Sequence[Path],
    images: Mapping[str, float] | None,
    *,
    batch_size: int,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    pixel_rate: float = PIXEL_RATE,
    advance: Advance = lambda count: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Calibration:
    """Calibrate on image files by all processes: :func:`padim_jax.runs.calibrate.calibrate_files`.

    Files of the same content count once; of different content with the same pixels each counts.

    Raises:
      UnreadableImage, ValueError, Interrupted: as there.
      ProcessFailed: another process stopped.
    """
    mesh, config = model.mesh, model.model.config
    roi = None if model.model.roi is None else np.asarray(model.model.roi)
    histogram, scores, met = Histogram(), np.full(0, np.nan, np.float32), set[str]()
    for step in steps(paths, config, batch_size, multiple=len(mesh.local_devices), note=ignore, stopped=stopped):
        placed, n = meshes.shared_out(mesh, step.images), len(step.digests)
        with together():
            if images is None:
                found = meshes.score(model, placed)
            else:
                weights = np.zeros(len(step.images), np.float32)
                weights[:n] = fitted_weights("calibrate", step.paths, step.digests, images)
                found = meshes.leave_one_out_scores(model, placed, meshes.shared_out(mesh, weights))
            values, maps = meshes.rows_here(found.image_score), meshes.rows_here(found.anomaly_map)[:n]
        if not np.isfinite(values[:n]).all():
            raise FloatingPointError(
                "calibrate: a score is not finite; an image has no leave-one-out score, or the model is broken"
            )
        first: dict[str, Path] = {}  # of files that are there several times
        for path, digest in step.files:
            if digest is not None and digest not in met:
                first.setdefault(digest, path)
        met |= first.keys()
        kept = np.array([first.get(d) == path for path, d in zip(step.paths, step.digests, strict=True)], bool)
        values[n:] = np.nan
        values[:n][~kept] = np.nan
        scores = np.concatenate([scores, values])
        maps = maps[kept]
        histogram.add(maps if roi is None else maps[:, roi])
        advance(len(step.files))
        if step.stop:
            raise Interrupted("interrupted while calibrating")
    every = gathered(scores).reshape(-1)
    method: Method = "held-out" if images is None else "leave-one-out"
    counts = gathered(histogram.counts).sum(axis=0)
    return calibration(every[np.isfinite(every)], counts, method, false_alarm_rate, pixel_rate)


def save_shared(
    network: Backbone, shared: Shared, whole: PadimMoments, known: Calibration | None, roi: Any, out: Path
) -> None:
    """Save as :func:`padim_jax.artifact.save_updatable` does; process 0 writes, the others hand it their parts.

    Args:
      network: of this process alone.
      shared: what was folded; its moments are not looked at.
      whole: of :func:`padim_jax.mesh.joined`.
      known: the calibration, or None.
      roi: the region of interest, or None.
      out: folder to write.

    Raises:
      ArtifactError, OSError: as there.
      ProcessFailed: process 0 could not write.
    """
    p = whole.embedding.n_positions
    scatter: Any = _Gathered(whole.moments.scatter, p)
    rest = jax.tree.map(lambda a: _rows(a, 0, p) if a.ndim else np.asarray(a), replace(whole.moments, scatter=None))
    projection: Any = None if whole.projection is None else np.asarray(whole.projection)
    moments = PadimMoments(replace(rest, scatter=scatter), whole.config, whole.embedding, projection)
    done = Updatable(network, moments, shared.images, known, roi, image_sizes=few_sizes(shared.sizes))
    with together():
        save_updatable(done, out, attending=jax.process_index() > 0)
    gathered(np.zeros(1))  # until it is there


class _Gathered:
    """The first p triangles, fetched from where they lie; all processes must ask for the same."""

    def __init__(self, whole: SymmetricMatrix, p: int) -> None:
        self._whole, self._p = whole, p

    def __getitem__(self, positions: slice) -> SymmetricMatrix:
        start, stop, _ = positions.indices(self._p)
        return SymmetricMatrix(tuple(_rows(panel, start, stop) for panel in self._whole.panels))


def _rows(array: jax.Array, start: int, stop: int) -> np.ndarray:
    """Positions of an array that is shared out, in every process."""
    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())  # pyright: ignore[reportAttributeAccessIssue]
    take = jax.jit(lambda a, first: lax.dynamic_slice_in_dim(a, first, stop - start), out_shardings=everywhere)
    return np.asarray(take(array, start))


def _names(moments: PadimMoments) -> list[str]:
    """Of the moments' arrays, in order."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(moments.moments)[0]]
    return [jax.tree_util.keystr(path).strip(".").replace("[", ".").replace("]", "") for path in paths]
