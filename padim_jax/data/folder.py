"""Image files and folders of them: found in a fixed order, read strictly, decoded ahead of the device."""

import io
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from padim_jax.config import PadimConfig

Item = TypeVar("Item")

SUFFIXES = frozenset(".png .jpg .jpeg .bmp .tif .tiff .webp .ppm .pgm .gif".split())
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")  # the ones whose depth we can tell


class UnreadableImage(ValueError):
    """A file that can't be used as an image; holds its ``path`` and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"can't read {path}: {reason}")


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


def read_image(path: Path, config: PadimConfig, content: bytes | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as the network will see it: upright, RGB, resized to ``image_size``, cropped to ``crop_size``.

    8-bit grey, RGB, palette and CMYK are taken, and an alpha channel that is opaque throughout;
    EXIF orientation is applied; resizing averages where it shrinks (Pillow's filters).

    Args:
      path: the file.
      config: sizes and interpolation.
      content: the file's bytes, where they don't lie at ``path``.

    Raises:
      UnreadableImage: damaged or no image, more than 8 bits a channel (which would have to be clipped),
        transparent pixels, several frames, or smaller than the crop.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as opened:
            _check_depth(path, opened)
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # MPO: a JPEG with a preview
                raise UnreadableImage(path, "it holds several frames or pages; save the one to inspect by itself")
            image = ImageOps.exif_transpose(opened)
        image = _drop_opaque_alpha(path, image).convert("RGB")
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the damage makes of them
        reason = "no image, or of a format Pillow doesn't know" if "cannot identify" in str(error) else str(error)
        raise UnreadableImage(path, reason or type(error).__name__) from error
    height, width = config.crop
    if image.height < height or image.width < width:
        raise UnreadableImage(
            path,
            f"it has {image.width}×{image.height} pixels, smaller than the crop of {width}×{height}; "
            "what the network sees would be made up (lower the crop size and the image size to use it)",
        )
    method = Image.Resampling.BILINEAR if config.interpolation == "bilinear" else Image.Resampling.BICUBIC
    resized = image.resize((config.image[1], config.image[0]), method)
    top, left = (config.image[0] - height) // 2, (config.image[1] - width) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


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


def _check_depth(path: Path, image: Image.Image) -> None:
    # Pillow opens 16-bit colour as mode "RGB" and drops the low byte; only the tile's arguments tell:
    # its raw mode, and for PPM the largest value
    tiles = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", [])]
    arguments = [argument for tile in tiles for argument in tile]
    raw = " ".join(map(str, arguments))
    deep = image.format == "PPM" and any(isinstance(argument, int) and argument > 255 for argument in arguments)
    if deep or image.mode in ("I", "F") or image.mode.startswith("I;") or re.search(r";(12|16|32|64)", raw):
        raise UnreadableImage(path, "it has more than 8 bits a channel, which would be clipped; convert it to 8 bits")


def _drop_opaque_alpha(path: Path, image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] != 255:
        raise UnreadableImage(path, "it has transparent pixels; put it on a background first")
    return rgba
