"""Fit and update on image files: host loops with flat memory, which an interruption does not undo."""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from padim_jax.artifact import Updatable, load_updatable, save_updatable
from padim_jax.artifact.folder import ArtifactError, check_writable, read_manifest
from padim_jax.artifact.ownership import is_ours
from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage, load_batches, stop_at_unreadable
from padim_jax.images.decode import Note
from padim_jax.images.folder import Batch
from padim_jax.method.calibration import Calibration
from padim_jax.method.checks import padded
from padim_jax.method.embedding import draw_embedding
from padim_jax.method.fitting import accumulate, finalize, init
from padim_jax.method.projection import principal_components
from padim_jax.method.records import Padim, PadimMoments
from padim_jax.method.scoring import with_roi
from padim_jax.runs.score import Advance

Unreadable = Callable[[UnreadableImage], None]

MOST_SIZES = 1000  # of images' files, that a model remembers
_NO_WEIGHT = 2.0**-64  # less counts as nothing in sums of float32, and would end at 0


class Interrupted(Exception):
    """A fit that was asked to stop and can go on later; the message says from where."""


@dataclass
class Folded:
    """Images folded into moments, in order.

    Attributes:
      moments: with all of them.
      images: digest of each file and the weight it counts with; that of a file that is there twice is 2.
      done: how many files were dealt with, readable or not.
      skipped: those that could not be read, with the reason.
      sizes: (width, height) of the files in pixels, each once, in the order met.
    """

    moments: PadimMoments
    images: dict[str, float] = field(default_factory=dict)
    done: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """As of :class:`padim_jax.artifact.Updatable`."""
        return few_sizes(self.sizes)


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished fit is kept, and what it must be a fit of to go on.

    Attributes:
      folder: of the checkpoint, itself a model that can be updated.
      identity: of files and settings.
      every: images after which it is written anew; 0 for interruptions only.
    """

    folder: Path
    identity: str
    every: int = 0

    def check(self) -> None:
        """Raise ``FileExistsError`` where something lies in the folder's place that is no unfinished fit of ours."""
        if self.folder.is_symlink() or (self.folder.exists() and not (self._is_ours() or _is_empty(self.folder))):
            raise in_the_way(self.folder)

    def write(self, backbone: Backbone, folded: Folded) -> None:
        """Replace what is kept, in one step."""
        self.check()
        progress = {"identity": self.identity, "done": folded.done, "skipped": folded.skipped}
        kept = Updatable(backbone, folded.moments, folded.images, progress=progress, image_sizes=folded.image_sizes)
        save_updatable(kept, self.folder)

    def read(self) -> Folded | None:
        """What an earlier, unfinished fit of the same files and settings has kept; None where there is none."""
        if not self.folder.exists():
            return None
        try:
            stored = load_updatable(self.folder)
        except ArtifactError:
            return None
        progress = stored.progress or {}
        if progress.get("identity") != self.identity:
            return None
        return Folded(
            stored.moments,
            dict(stored.images),
            int(progress["done"]),
            dict(progress["skipped"]),
            dict.fromkeys(stored.image_sizes),
        )

    def remove(self) -> None:
        """Forget it, once the model is saved; nothing is removed that is not ours, or with anything else in it."""
        with suppress(ArtifactError):
            check_writable(self.folder)
            if self._is_ours() and not self.folder.is_symlink():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ours(self) -> bool:
        try:
            progress = read_manifest(self.folder).get("progress")
        except ArtifactError:
            return is_ours(self.folder)  # killed while it was written for the first time
        return isinstance(progress, dict) and {"identity", "done", "skipped"} <= progress.keys()


def in_the_way(folder: Path) -> FileExistsError:
    """The error of a folder that lies where an unfinished fit would be kept and is none of ours."""
    return FileExistsError(
        f"fit: {folder}, where an unfinished fit would be kept, already exists and is none of padim's; move it away, "
        "or choose another name for the model"
    )


def remember_sizes(sizes: dict[tuple[int, int], None], more: Iterable[tuple[int, int]]) -> None:
    """Take the sizes of a batch into ``sizes``, as long as they are few: more than 1,000 say nothing."""
    if len(sizes) <= MOST_SIZES:
        sizes.update(dict.fromkeys(more))


def few_sizes(sizes: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """What :func:`remember_sizes` has gathered, as a model remembers it; nothing where they were too many."""
    found = tuple(sizes)
    return found if len(found) <= MOST_SIZES else ()


def identity(backbone: Backbone, config: PadimConfig, paths: Sequence[Path]) -> str:
    """Digest of everything a fit's moments depend on: weights, settings, the files' names, sizes and times."""
    files = [(os.path.abspath(path), status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()]]
    described = json.dumps([backbone.weights_digest, asdict(config), files])
    return hashlib.sha256(described.encode("utf-8", "surrogateescape")).hexdigest()


def fit_files(
    backbone: Backbone,
    paths: Sequence[Path],
    config: PadimConfig,
    *,
    batch_size: int,
    unreadable: Unreadable = stop_at_unreadable,
    note: Note | None = None,
    advance: Advance = lambda count: None,
    checkpoint: Checkpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
    least: int = 0,
) -> Folded:
    """Moments of image files, from where an earlier fit was interrupted if there is a checkpoint of it.

    ``advance`` is told of every file ``config.passes`` times; ``least`` is as of
    :func:`padim_jax.method.fitting.accumulate`.

    Raises:
      UnreadableImage: from ``unreadable``.
      Interrupted: ``stopped`` has become true; the checkpoint holds what was done.
      ValueError: no readable image for the principal components.
    """
    folded = checkpoint.read() if checkpoint is not None else None
    if folded is None:
        projection = None
        if config.projection == "principal-components":
            quiet = None if note is None else ignore
            first = _told(load_batches(paths, config, batch_size, _ignoring(advance), quiet), advance, stopped)
            batches = padded("fit", first, config, least)
            projection = principal_components(backbone, draw_embedding(backbone, config), batches)
        folded = Folded(init(backbone, config, projection=projection))
    elif config.passes > 1:
        advance(len(paths) * (config.passes - 1))
    advance(folded.done)
    fold_files(
        backbone,
        folded,
        paths[folded.done :],
        batch_size=batch_size,
        unreadable=unreadable,
        note=note,
        advance=advance,
        checkpoint=checkpoint,
        stopped=stopped,
        least=least,
    )
    return folded


def fold_files(
    backbone: Backbone,
    folded: Folded,
    paths: Sequence[Path],
    *,
    batch_size: int,
    half_life: float | None = None,
    unreadable: Unreadable = stop_at_unreadable,
    note: Note | None = None,
    advance: Advance = lambda count: None,
    checkpoint: Checkpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
    least: int = 0,
) -> None:
    """Fold image files into ``folded``; its moments are used up and replaced.

    Files of several frames or with transparent pixels are refused unless ``note`` is there to be told.

    Raises:
      UnreadableImage: from ``unreadable``.
      Interrupted: ``stopped`` has become true; the checkpoint, if any, holds what was done.
    """
    pending: deque[Batch] = deque()
    since = 0

    def report(error: UnreadableImage) -> None:
        unreadable(error)
        folded.skipped[str(error.path)] = error.reason
        advance(1)

    def batches() -> Iterator[np.ndarray]:
        for batch in load_batches(paths, folded.moments.config, batch_size, report, note):
            pending.append(batch)
            yield batch.images

    before = len(folded.skipped)
    for moments in accumulate(backbone, folded.moments, batches(), half_life=half_life, least=least):
        batch = pending.popleft()
        folded.moments = moments
        remember_sizes(folded.sizes, batch.sizes)
        _remember(folded.images, batch.digests, half_life)
        folded.done += len(batch.paths) + len(folded.skipped) - before
        since, before = since + len(batch.paths), len(folded.skipped)
        advance(len(batch.paths))
        stop = stopped()
        if checkpoint is not None and (stop or (checkpoint.every and since >= checkpoint.every)):
            checkpoint.write(backbone, folded)
            since = 0
        if stop:
            kept = f"; {folded.done} files are kept in {checkpoint.folder}" if checkpoint is not None else ""
            raise Interrupted(f"interrupted{kept}")


def finish(
    backbone: Backbone,
    folded: Folded,
    out: Path,
    checkpoint: Checkpoint,
    roi: Bool[np.ndarray, "height width"] | None,
    calibrated: Callable[[Padim], Padim],
    progress: Mapping[str, Any] | None = None,
) -> tuple[Calibration | None, int]:
    """Factor what was folded, calibrate and save it, and forget the checkpoint.

    Whatever fails once it is factored, the fit is kept in the checkpoint.

    Args:
      backbone: the one it was folded with.
      folded: of all files.
      out: folder to write.
      checkpoint: where an unfinished fit is kept.
      roi: as of :func:`padim_jax.method.scoring.with_roi`.
      calibrated: gives the model with its calibration, or as it is.
      progress: as of :class:`padim_jax.artifact.Updatable`.

    Returns:
      The calibration, and how many images the model was fitted on.

    Raises:
      ValueError, FloatingPointError: as :func:`padim_jax.finalize` and ``calibrated``.
      ArtifactError, OSError: as :func:`padim_jax.artifact.save_updatable`.
      Interrupted: from ``calibrated``.
    """
    fitted = with_roi(finalize(backbone, folded.moments), roi)
    try:
        model = calibrated(fitted)
    except Exception as error:
        checkpoint.write(backbone, folded)
        if not isinstance(error, Interrupted):
            raise
        raise Interrupted(f"{error}; the fit is kept in {checkpoint.folder}") from error
    del fitted
    known, count = model.calibration, int(model.count)
    del model  # its factors take as much room as the moments, which are packed now
    save_updatable(Updatable(backbone, folded.moments, folded.images, known, roi, progress, folded.image_sizes), out)
    checkpoint.remove()
    return known, count


def _remember(images: dict[str, float], digests: Sequence[str], half_life: float | None) -> None:
    """Add files of one batch, the older ones fading as their moments did; those of no weight left are dropped."""
    if half_life is not None:
        faded = 2 ** (-len(digests) / half_life)
        for digest in list(images):
            images[digest] *= faded
            if images[digest] < _NO_WEIGHT:
                del images[digest]
    for age, digest in enumerate(reversed(digests)):
        weight = 1.0 if half_life is None else 2 ** (-age / half_life)
        if weight >= _NO_WEIGHT:
            images[digest] = images.get(digest, 0.0) + weight


def _told(
    batches: Iterator[Batch], advance: Advance, stopped: Callable[[], bool]
) -> Iterator[UInt8[np.ndarray, "n height width 3"]]:
    for batch in batches:
        yield batch.images
        advance(len(batch.paths))
        if stopped():
            raise Interrupted("interrupted before anything could be kept")


def ignore(path: Path, text: str) -> None:
    """For a pass over files of which the same was, or will be, told in another."""


def _ignoring(advance: Advance) -> Unreadable:
    """For a pass before the one that reports."""

    def skip(_: UnreadableImage) -> None:
        advance(1)

    return skip


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None
