"""Folders of image files: found in a fixed order, decoded ahead of the device."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from padim_jax.config import PadimConfig
from padim_jax.data.image import UnreadableImage, read_image

SUFFIXES = frozenset(".png .jpg .jpeg .bmp .tif .tiff .webp .ppm .pgm .gif".split())


@dataclass(frozen=True)
class FoundImages:
    """Result of a search.

    Attributes:
      paths: image files, each once, sorted within each argument.
      ignored: how many other files were passed over, by suffix ("" for none), hidden ones, linked folders.
    """

    paths: tuple[Path, ...]
    ignored: Counter[str]


def find_images(arguments: Iterable[str | os.PathLike[str]], exclude: Path | None = None) -> FoundImages:
    """Find image files: folders recursively in sorted order, files as they are named.

    Symbolic links to folders are not followed, which rules out loops. A file named outright is
    taken whatever its suffix.

    Args:
      arguments: folders and files.
      exclude: a folder to leave out, such as one that results are written to.

    Raises:
      FileNotFoundError: an argument that is not there.
      ValueError: no image at all; says what was found instead.
    """
    arguments = [Path(argument) for argument in arguments]
    excluded = exclude.resolve() if exclude is not None else None
    paths: dict[Path, Path] = {}  # by absolute path, so that overlapping arguments give each file once
    ignored: Counter[str] = Counter()
    for argument in arguments:
        if not argument.exists():
            raise FileNotFoundError(f"there is no file or folder {argument}")
        if not argument.is_dir():
            paths.setdefault(Path(os.path.abspath(argument)), argument)
            continue
        for path in _walk(argument, excluded):
            if path.name.startswith("."):
                ignored["hidden"] += 1
            elif path.is_dir():
                ignored["linked folder"] += 1
            elif path.suffix.lower() not in SUFFIXES:
                ignored[path.suffix.lower()] += 1
            else:
                paths.setdefault(Path(os.path.abspath(path)), path)
    if not paths:
        where = ", ".join(map(str, arguments))
        what = f"only {describe(ignored)}" if ignored else "no files at all"
        raise ValueError(f"found no images in {where}: {what}; images end in {' '.join(sorted(SUFFIXES))}")
    return FoundImages(tuple(paths.values()), ignored)


def describe(ignored: Mapping[str, int]) -> str:
    """Ignored files in words: "3 .txt, 1 hidden"."""
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(ignored.items()))


def stop_at_unreadable(error: UnreadableImage) -> None:
    """Raise ``error``: what to do with the first file that can't be read, unless told otherwise."""
    raise error


def load_batches(
    paths: Sequence[Path],
    config: PadimConfig,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
) -> Iterator[tuple[list[Path], UInt8[np.ndarray, "n height width 3"]]]:
    """Read images in order, in threads that stay two batches ahead of the caller.

    Args:
      paths: files to read.
      config: sizes and interpolation.
      batch_size: images a batch; only the last is smaller.
      unreadable: called with each file that can't be read, in order; may raise to stop.

    Yields:
      The files of a batch, and its images.
    """
    remaining = iter(paths)
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    try:
        pending: deque[tuple[Path, Future[np.ndarray]]] = deque()

        def submit(count: int) -> None:
            pending.extend((path, pool.submit(read_image, path, config)) for path in islice(remaining, count))

        submit(3 * batch_size)
        names: list[Path] = []
        images: list[np.ndarray] = []
        while pending:
            path, future = pending.popleft()
            submit(1)
            try:
                images.append(future.result())
                names.append(path)
            except UnreadableImage as error:
                unreadable(error)
            if images and (len(images) == batch_size or not pending):
                yield names, np.stack(images)
                names, images = [], []
    finally:
        pool.shutdown(cancel_futures=True)


def _walk(folder: Path, excluded: Path | None) -> Iterator[Path]:
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    for path in entries:
        if not path.is_dir() or path.is_symlink() or path.name.startswith("."):
            yield path
        elif path.resolve() != excluded:
            yield from _walk(path, excluded)
