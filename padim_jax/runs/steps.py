"""Files read in steps by processes that differ in nothing but the files they read.

A step takes the next run of files: ``batch_size`` of them for each process, process i the i-th part. After each step
the files dealt with are the first so many of all, whatever the number of processes: a checkpoint of 4 processes goes on
with 1 or 8. In each step the processes tell each other, beside the embeddings (:mod:`padim_jax.mesh`), what became of
their files and whether they can go on, so that they stop together and in words.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from padim_jax.config import PadimConfig
from padim_jax.images import stop_at_unreadable
from padim_jax.images.decode import Note
from padim_jax.images.folder import Batch, load_groups
from padim_jax.mesh.processes import ProcessFailed, gathered
from padim_jax.runs.fold import Unreadable

_ABSENT, _READ, _UNREADABLE = range(3)  # what became of a file
_DIGEST = 16  # bytes of a file's digest


@dataclass(frozen=True)
class Step:
    """What a process has read for a step.

    Attributes:
      images: uint8 (n, height, width, 3), as many for every process: filled up with black.
      valid: bool (n,), which of them count.
      files: of all processes in order, with their digest; None of those that could not be read.
      stop: whether one of the processes was asked to stop.
      paths, digests, sizes: of this process's valid images.
    """

    images: UInt8[np.ndarray, "n height width 3"]
    valid: np.ndarray
    files: list[tuple[Path, str | None]]
    stop: bool
    paths: list[Path]
    digests: list[str]
    sizes: list[tuple[int, int]]


def share(paths: Sequence[Path], batch_size: int, count: int, own: int) -> list[Sequence[Path]]:
    """Of each step, the files that process ``own`` of ``count`` reads: all processes' together are all files, once."""
    starts = range(own * batch_size, len(paths) + own * batch_size, count * batch_size)
    return [paths[start : start + batch_size] for start in starts]


def steps(
    paths: Sequence[Path],
    config: PadimConfig,
    batch_size: int,
    *,
    multiple: int,
    unreadable: Unreadable = stop_at_unreadable,
    note: Note | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Read this process's share of the files, in step with the others.

    Args:
      paths: all files, the same in every process.
      config: sizes, interpolation, value range.
      batch_size: files a step for each process.
      multiple: of which each step's images are filled up to one; of this process's devices.
      unreadable: called with each file of this process that can't be read; may raise to stop all of them.
      note: as of :func:`padim_jax.images.load_batches`.
      stopped: whether this process was asked to stop.

    Raises:
      UnreadableImage: from ``unreadable``.
      ProcessFailed: another process raised.
    """
    count, own = jax.process_count(), jax.process_index()
    runs = share(paths, batch_size, count, own)
    groups = load_groups([path for run in runs for path in run], config, batch_size, unreadable, note)
    size = -(-batch_size // multiple) * multiple
    for index, run in enumerate(runs):
        failure: Exception | None = None
        batch = Batch([], np.zeros((0, *config.crop, 3), np.uint8), [], [])
        try:
            batch = next(groups) if run else batch
        except Exception as error:  # whatever it is, the others must not wait for this process
            failure = error
        said = np.zeros((batch_size, 1 + _DIGEST), np.uint8)
        known = dict(zip(batch.paths, batch.digests, strict=True))
        for row, path in zip(said, run, strict=False):
            row[0] = _READ if path in known else _UNREADABLE
            row[1:] = np.frombuffer(bytes.fromhex(known[path]), np.uint8) if path in known else 0
        heard = gathered(np.concatenate([np.asarray([stopped(), failure is not None], np.uint8), said.reshape(-1)]))
        if failure is not None:
            raise failure
        if heard[:, 1].any():
            others = ", ".join(map(str, np.flatnonzero(heard[:, 1])))
            raise ProcessFailed(f"process {own} of {count} stops, because process {others} could not go on; see there")
        rows = heard[:, 2:].reshape(count * batch_size, -1)
        here = paths[index * count * batch_size : (index + 1) * count * batch_size]
        files = [
            (path, bytes(row[1:]).hex() if row[0] == _READ else None) for path, row in zip(here, rows, strict=False)
        ]
        images = np.zeros((size, *config.crop, 3), np.uint8)
        images[: len(batch.images)] = batch.images
        yield Step(
            images,
            np.arange(size) < len(batch.images),
            files,
            bool(heard[:, 0].any()),
            batch.paths,
            batch.digests,
            batch.sizes,
        )
