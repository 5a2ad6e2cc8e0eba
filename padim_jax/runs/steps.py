"""Files read in steps by processes that differ in nothing but the files they read; one process is the usual case.

A step takes the next run of files: ``batch_size`` of them for each process, process i the i-th part. After each step
the files dealt with are the first so many of all, whatever the number of processes: a checkpoint of 4 processes goes on
with 1 or 8. In each step the processes tell each other, beside the embeddings (:mod:`padim_jax.mesh`), what became of
their files and whether they can go on, so that they stop together and in words.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, UInt8

from padim_jax.config import PadimConfig
from padim_jax.images.folder import Batch, load_batches
from padim_jax.mesh.processes import ProcessFailed, gather
from padim_jax.runs.watch import Watch

_READ, _UNREADABLE = 1, 2  # what became of a file
_REPORT = np.dtype([("state", "u1"), ("digest", "u1", 16), ("pixels", "u1", 16), ("size", "<u4", 2)])


@dataclass(frozen=True)
class File:
    """A file of a step, whichever process read it.

    Attributes:
      path: of the file.
      digest: of its content, as of :class:`padim_jax.images.Batch`; None where it could not be read.
      pixels: digest of the image that was made of it, where it was asked for; files with the same pixels are copies.
      size: (width, height) in pixels.
    """

    path: Path
    digest: str | None
    pixels: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Step:
    """What the processes have read for a step.

    Attributes:
      images: this process's, uint8 (n, height, width, 3), as many in every process: filled up with black.
      valid: bool (n,), which of them count.
      files: of all processes, in order.
      own: those of this process that could be read, one for each valid image.
      stop: whether one of the processes was asked to stop.
    """

    images: UInt8[np.ndarray, "n height width 3"]
    valid: Bool[np.ndarray, " n"]
    files: list[File]
    own: list[File]
    stop: bool

    @classmethod
    def of(
        cls,
        images: UInt8[np.ndarray, "n height width 3"],
        size: int,
        files: Sequence[File] = (),
        own: Sequence[File] = (),
        stop: bool = False,
    ) -> "Step":
        """The step of these images, filled up to ``size`` with black; they need not be of files."""
        filled = np.zeros((size, *images.shape[1:]), np.uint8)
        filled[: len(images)] = images
        return cls(filled, np.arange(size) < len(images), list(files), list(own), stop)


def share(paths: Sequence[Path], batch_size: int, count: int, own: int) -> list[Sequence[Path]]:
    """Of each step, the files that process ``own`` of ``count`` reads: all processes' together are all files, once."""
    starts = range(own * batch_size, len(paths) + own * batch_size, count * batch_size)
    return [paths[start : start + batch_size] for start in starts]


def read_steps(
    paths: Sequence[Path], config: PadimConfig, batch_size: int, watch: Watch, *, size: int, pixels: bool = False
) -> Iterator[Step]:
    """Read this process's share of the files, in step with the others.

    Args:
      paths: all files, the same in every process.
      config: sizes, interpolation, value range.
      batch_size: files a step for each process.
      watch: told of notes, and of each file of this process that can't be read; asked whether to stop.
      size: that the images of a step are filled up to.
      pixels: give digests of pixels too.

    Raises:
      UnreadableImage: from ``watch.unreadable``.
      ProcessFailed: another process raised.
    """
    count, process = jax.process_count(), jax.process_index()
    runs = share(paths, batch_size, count, process)
    own_paths = [path for run in runs for path in run]
    batches = load_batches(own_paths, config, batch_size, watch.unreadable, watch.note, fill=False)
    for index, run in enumerate(runs):
        failure: Exception | None = None
        batch = Batch([], np.zeros((0, *config.crop, 3), np.uint8), [], [])
        try:
            batch = next(batches) if run else batch
        except Exception as error:  # whatever it is, the others must not wait for this process
            failure = error
        messages = gather(
            np.concatenate(
                [np.array([watch.stopped(), failure is not None], np.uint8), _report(run, batch, batch_size, pixels)]
            )
        )
        if failure is not None:
            raise failure
        if messages[:, 1].any():
            others = ", ".join(map(str, np.flatnonzero(messages[:, 1])))
            raise ProcessFailed(
                f"process {process} of {count} stops, because process {others} could not go on; see there"
            )
        step_paths = paths[index * count * batch_size : (index + 1) * count * batch_size]
        reports = np.ascontiguousarray(messages[:, 2:]).view(_REPORT).reshape(-1)
        files = [_file(path, report) for path, report in zip(step_paths, reports, strict=False)]
        own = files[process * batch_size : process * batch_size + len(run)]
        readable = [file for file in own if file.digest is not None]
        yield Step.of(batch.images, size, files, readable, bool(messages[:, 0].any()))


def _report(run: Sequence[Path], batch: Batch, batch_size: int, pixels: bool) -> UInt8[np.ndarray, " bytes"]:
    """What became of a process's files, as bytes of the same number in every step."""
    reports, rows = np.zeros(batch_size, _REPORT), iter(enumerate(run))
    reports["state"][: len(run)] = _UNREADABLE
    for path, image, digest, size in zip(batch.paths, batch.images, batch.digests, batch.sizes, strict=True):
        row = next(row for row, candidate in rows if candidate == path)  # those between could not be read
        pixel_digest = hashlib.sha256(image).digest()[:16] if pixels else bytes(16)
        reports[row] = (
            _READ,
            np.frombuffer(bytes.fromhex(digest), np.uint8),
            np.frombuffer(pixel_digest, np.uint8),
            size,
        )
    return reports.view(np.uint8)


def _file(path: Path, report: np.void) -> File:
    digest = report["digest"].tobytes().hex() if report["state"] == _READ else None
    width, height = map(int, report["size"])
    return File(path, digest, report["pixels"].tobytes(), (width, height))
