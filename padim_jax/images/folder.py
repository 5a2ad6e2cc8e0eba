"""Folders of image files: found in a fixed order, decoded ahead of the device."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from padim_jax.config import PadimConfig
from padim_jax.images.ahead import map_ahead
from padim_jax.images.decode import FilePath, Note, UnreadableImage, open_image, read_file
from padim_jax.images.image import centre_crop, resize

SUFFIXES = frozenset(".png .jpg .jpeg .bmp .tif .tiff .webp .ppm .pgm .gif".split())


@dataclass(frozen=True)
class FoundImages:
    """Result of a search.

    Attributes:
      paths: image files, each once, sorted within each argument.
      ignored: how many other files were passed over, by suffix ("" for none), hidden ones, linked folders, pipes,
        sockets and devices.
    """

    paths: tuple[Path, ...]
    ignored: Counter[str]


@dataclass(frozen=True)
class Batch:
    """Images read together, in the order asked for.

    Attributes:
      paths: their files.
      images: RGB, as the network will see them.
      digests: of the files' contents, the first 32 hexadecimal digits of SHA-256: equal files, equal digests.
      sizes: (width, height) of the upright images in the files, in pixels.
    """

    paths: list[Path]
    images: UInt8[np.ndarray, "n height width 3"]
    digests: list[str]
    sizes: list[tuple[int, int]]


def find_images(arguments: Iterable[FilePath], exclude: FilePath | None = None) -> FoundImages:
    """Find image files: folders recursively in sorted order, files as they are named.

    Symbolic links to folders are not followed, which rules out loops. A file named outright is
    taken whatever its suffix and kind; reading it tells what is wrong with it.

    Args:
      arguments: folders and files.
      exclude: a folder to leave out, such as one that results are written to.

    Raises:
      FileNotFoundError: an argument that is not there.
      ValueError: no image at all; says what was found instead. A folder so deep that the system can't name it.

    >>> [path.name for path in padim.images.find_images([folder / "good"]).paths]
    ['000.png', '001.png', '002.png', '003.png']
    """
    arguments = [Path(argument) for argument in arguments]
    excluded = Path(exclude).resolve() if exclude is not None else None
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
            elif path.exists() and not path.is_file():
                ignored["pipe, socket or device"] += 1
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
    paths: Sequence[FilePath],
    config: PadimConfig,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    note: Note | None = None,
) -> Iterator[Batch]:
    """Read images in order, in threads that stay two batches ahead of the caller.

    Args:
      paths: files to read.
      config: sizes, interpolation, value range.
      batch_size: images a batch; only the last is smaller.
      unreadable: called with each file that can't be read, in order; may raise to stop.
      note: told, in order, that of a file the first of several frames was taken, or transparent pixels were laid on
        black. None: such files can't be read.

    Yields:
      Batches without the files that can't be read.
    """
    batch: list[tuple[Path, _Read]] = []
    for path, read in _read_ahead(paths, config, 3 * batch_size, unreadable, note):
        if read is not None:
            batch.append((path, read))
        if len(batch) == batch_size:
            yield _batch(batch, config)
            batch = []
    if batch:
        yield _batch(batch, config)


def load_groups(
    paths: Sequence[FilePath],
    config: PadimConfig,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    note: Note | None = None,
) -> Iterator[Batch]:
    """As :func:`load_batches`, but of every ``batch_size`` files a batch, without those that can't be read."""
    batch: list[tuple[Path, _Read]] = []
    for count, (path, read) in enumerate(_read_ahead(paths, config, 3 * batch_size, unreadable, note), start=1):
        if read is not None:
            batch.append((path, read))
        if count % batch_size == 0 or count == len(paths):
            yield _batch(batch, config)
            batch = []


@dataclass(frozen=True)
class _Read:
    image: UInt8[np.ndarray, "height width 3"]
    digest: str
    size: tuple[int, int]
    notes: list[str]


def _read_ahead(
    paths: Sequence[FilePath],
    config: PadimConfig,
    ahead: int,
    unreadable: Callable[[UnreadableImage], None],
    note: Note | None,
) -> Iterator[tuple[Path, _Read | None]]:
    """Every file in order with what was read; None of those that can't be, after ``unreadable`` was told."""
    read, tell = partial(_read, config=config, noted=note is not None), note or (lambda path, text: None)
    for path, future in map_ahead(read, map(Path, paths), ahead, name="decode"):
        try:
            result = future.result()
        except UnreadableImage as error:
            unreadable(error)
            yield path, None
        else:
            for text in result.notes:
                tell(path, text)
            yield path, result


def _batch(read: Sequence[tuple[Path, _Read]], config: PadimConfig) -> Batch:
    done = [one for _, one in read]
    images = np.stack([one.image for one in done]) if done else np.zeros((0, *config.crop, 3), np.uint8)
    return Batch([path for path, _ in read], images, [one.digest for one in done], [one.size for one in done])


def _read(path: Path, config: PadimConfig, noted: bool) -> _Read:
    content = read_file(path)
    notes: list[str] = []
    opened = open_image(path, content, (lambda _, text: notes.append(text)) if noted else None)
    image = np.asarray(centre_crop(resize(path, opened, config), config))
    return _Read(image, digest_of(content), opened.size, notes)


def digest_file(path: Path) -> str:
    """Digest of a file's content, as :class:`Batch` has them.

    Raises:
      UnreadableImage: it can't be read.
    """
    return digest_of(read_file(path))


def digest_of(content: bytes) -> str:
    """Digest of a file's content, as :class:`Batch` has them."""
    return hashlib.sha256(content).hexdigest()[:32]


def _walk(folder: Path, excluded: Path | None) -> Iterator[Path]:
    """Files, hidden entries and linked folders below, in sorted order."""
    open_folders = [_entries(folder)]  # from the outermost inwards; no recursion, which ends at a depth of its own
    while open_folders:
        try:
            for path in open_folders[-1]:
                if not path.is_dir() or path.is_symlink() or path.name.startswith("."):
                    yield path
                elif excluded is None or path.resolve() != excluded:
                    open_folders.append(_entries(path))
                    break
            else:
                open_folders.pop()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise ValueError(
                f"find_images: {folder} holds folders within folders {len(open_folders)} deep, and there a path "
                "becomes longer than the system can open; search further in, or move the images up"
            ) from error


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir(), key=lambda path: path.name))
