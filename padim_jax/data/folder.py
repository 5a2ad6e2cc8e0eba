"""Folders of image files: found in a fixed order, decoded ahead of the device."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from padim_jax.config import PadimConfig
from padim_jax.data.image import UnreadableImage, read_image

Item = TypeVar("Item")

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
            if path.is_dir():
                ignored["linked folder"] += 1
            elif path.name.startswith("."):
                ignored["hidden"] += 1
            elif path.suffix.lower() not in SUFFIXES:
                ignored[path.suffix.lower()] += 1
            else:
                paths.setdefault(Path(os.path.abspath(path)), path)
    if not paths:
        where = ", ".join(map(str, arguments))
        what = f"only {describe(ignored)}" if ignored else "no files at all"
        raise ValueError(f"found no images in {where}: {what}; images end in {' '.join(sorted(SUFFIXES))}")
    return FoundImages(tuple(paths.values()), ignored)


def describe(ignored: Counter[str]) -> str:
    """Ignored files in words: "3 .txt, 1 hidden"."""
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(ignored.items()))


def stop_at_unreadable(error: UnreadableImage) -> None:
    """Raise ``error``: what to do with the first file that can't be read, unless told otherwise."""
    raise error


def load_batches(
    items: Sequence[Item],
    config: PadimConfig,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    read: Callable[[Item, PadimConfig], np.ndarray] = read_image,
) -> Iterator[tuple[list[Item], UInt8[np.ndarray, "n height width 3"]]]:
    """Read images in order, in threads that stay two batches ahead of the caller.

    Args:
      items: files to read, or whatever ``read`` takes.
      config: sizes and interpolation.
      batch_size: images a batch; only the last is smaller.
      unreadable: called with each file that can't be read, in order; may raise to stop.
      read: gives the image of one item; called in several threads.

    Yields:
      The items of a batch, and its images.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    try:
        pending: deque[tuple[Item, Future[np.ndarray]]] = deque()

        def submit(count: int) -> None:
            pending.extend((item, pool.submit(read, item, config)) for item in islice(remaining, count))

        submit(3 * batch_size)
        names: list[Item] = []
        images: list[np.ndarray] = []
        while pending:
            item, future = pending.popleft()
            submit(1)
            try:
                images.append(future.result())
                names.append(item)
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
        if not path.is_dir() or path.is_symlink():
            yield path
        elif path.resolve() != excluded:
            yield from _walk(path, excluded)
