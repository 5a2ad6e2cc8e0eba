"""Folders of image files, found in a fixed order and decoded ahead of the device."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from padim_jax.artifact.ownership import is_ours
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
        sockets and devices, and the pictures in each folder of results.
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

    Symbolic links to folders are not followed, which rules out loops. Folders of results that padim wrote are passed
    over: their pictures are no images of parts. A file named outright is taken whatever its suffix and kind; reading it
    shows what is wrong with it.

    Args:
      arguments: folders and files.
      exclude: a folder to leave out, such as one that results are written to.

    Raises:
      FileNotFoundError: an argument that is not there.
      ValueError: no image at all; says what was found instead. A folder of results that padim wrote. A folder so deep
        that the system can't open it.

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
        if is_ours(argument):
            raise ValueError(f"{argument} holds results that padim wrote; name the folder of the images themselves")
        for path in _walk(argument, excluded, ignored):
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
        searched = ", ".join(map(str, arguments))
        contents = f"only {describe(ignored)}" if ignored else "no files at all"
        raise ValueError(f"found no images in {searched}: {contents}; images end in {' '.join(sorted(SUFFIXES))}")
    return FoundImages(tuple(paths.values()), ignored)


def describe(ignored: Mapping[str, int]) -> str:
    """Ignored files in words: "3 .txt, 1 hidden"."""
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(ignored.items()))


def stop_at_unreadable(error: UnreadableImage) -> None:
    """Raise ``error``: the default way to handle the first file that can't be read."""
    raise error


def load_batches(
    paths: Sequence[FilePath],
    config: PadimConfig,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    note: Note | None = None,
    *,
    fill: bool = True,
) -> Iterator[Batch]:
    """Read images in order, in threads that stay two batches ahead of the caller.

    Args:
      paths: files to read.
      config: sizes, interpolation, value range.
      batch_size: images a batch; only the last is smaller.
      unreadable: called with each file that can't be read, in order; may raise to stop.
      note: called, in order, where the first of a file's several frames was taken, or its transparent pixels were laid
        on black. None: such files can't be read.
      fill: later images fill the places of files that can't be read; else a batch is of ``batch_size`` files.

    Yields:
      Batches without the files that can't be read.
    """
    files = _read_ahead(paths, config, 3 * batch_size, unreadable, note)
    if fill:
        files = (file for file in files if file is not None)
    while group := list(islice(files, batch_size)):
        readable = [file for file in group if file is not None]
        images = [file.image for file in readable]
        yield Batch(
            [file.path for file in readable],
            np.stack(images) if images else np.zeros((0, *config.crop, 3), np.uint8),
            [file.digest for file in readable],
            [file.size for file in readable],
        )


@dataclass(frozen=True)
class _ReadFile:
    path: Path
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
) -> Iterator[_ReadFile | None]:
    """Every file in order, as read; None for those that can't be read, after ``unreadable`` was called."""
    read = partial(_read, config=config, with_notes=note is not None)
    for path, future in map_ahead(read, map(Path, paths), ahead, name="decode"):
        try:
            file = future.result()
        except UnreadableImage as error:
            unreadable(error)
            yield None
        else:
            if note is not None:
                for text in file.notes:
                    note(path, text)
            yield file


def _read(path: Path, config: PadimConfig, with_notes: bool) -> _ReadFile:
    content = read_file(path)
    notes: list[str] = []
    opened = open_image(path, content, (lambda _, text: notes.append(text)) if with_notes else None)
    image = np.asarray(centre_crop(resize(path, opened, config), config))
    return _ReadFile(path, image, digest_of(content), opened.size, notes)


def digest_file(path: Path) -> str:
    """Digest of a file's content, as :class:`Batch` has them.

    Raises:
      UnreadableImage: it can't be read.
    """
    return digest_of(read_file(path))


def digest_of(content: bytes) -> str:
    """Digest of a file's content, as :class:`Batch` has them."""
    return hashlib.sha256(content).hexdigest()[:32]


def _walk(folder: Path, excluded: Path | None, ignored: Counter[str]) -> Iterator[Path]:
    """Files, hidden entries and linked folders below, in sorted order; pictures in folders of results are counted."""
    open_folders = [_entries(folder)]  # from the outermost inwards; not by recursion, whose depth is limited
    while open_folders:
        try:
            for path in open_folders[-1]:
                if not path.is_dir() or path.is_symlink() or path.name.startswith("."):
                    yield path
                elif is_ours(path) or path.resolve() == excluded:
                    if pictures := sum(file.suffix.lower() in SUFFIXES for file in path.rglob("*")):
                        ignored[f"in {path}, where results go"] = pictures
                else:
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
