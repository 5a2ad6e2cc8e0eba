"""An image file's pixels, exactly: Pillow reads most, OpenCV reads colour of 16 bits, whose low byte Pillow drops."""

import io
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32, Real, Shaped
from PIL import Image, ImageFile

from padim_jax.images.frames import count_frames, frames_in_words
from padim_jax.images.png import check_parts, check_sums

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")  # those whose depth can be told
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGEST_FILE = 2**31  # bytes; more than any one image within Pillow's limit of pixels takes
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SAMPLE_FORMAT = 256, 257, 339
_TIFF_UNSIGNED, _TIFF_SIGNED = 1, 2

Note = Callable[[Path, str], None]  # called with a file and what was decided about it
FilePath = str | os.PathLike[str]


class UnreadableImage(ValueError):
    """A file that can't be used as an image; holds its ``path`` and the ``reason``."""

    def __init__(self, path: FilePath, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"can't read {path}: {reason}")


@dataclass(frozen=True)
class DeepImage:
    """Upright image of more than 8 bits a channel, its values as the file has them.

    Attributes:
      values: integers or float32, all finite; 1 channel for grey, 3 for RGB.
      alpha: opacity in [0, 1]; None where the image is opaque throughout.
    """

    values: Real[np.ndarray, "height width channels"]
    alpha: Float32[np.ndarray, "height width"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as Pillow's images have it."""
        return self.values.shape[1], self.values.shape[0]

    def visible(self) -> Real[np.ndarray, "n channels"]:
        """Values of the pixels that are not wholly transparent."""
        pixels = self.values.reshape(-1, self.values.shape[2])
        return pixels if self.alpha is None else pixels[self.alpha.reshape(-1) > 0]


def open_image(path: Path, content: bytes | None = None, note: Note | None = None) -> Image.Image | DeepImage:
    """Upright image at its own size: RGB of 8 bits a channel, or a :class:`DeepImage`.

    Args:
      path: the file.
      content: the file's bytes, where they don't lie at ``path``.
      note: called where the first of several frames is taken, or transparent pixels are laid on black. None refuses
        such files, as nobody would hear of it.

    Raises:
      UnreadableImage: damaged or no image, too large, with NaN or infinite values, or one that needs a ``note``.
    """
    with reasons(path):
        content = read_file(path) if content is None else content
        check_parts(io.BytesIO(content), pixels=True)
        with io.BytesIO(content) as stream:
            opened = open_header(path, stream)
            _check_frames(path, opened, note)
            if opened.format == "PNG":
                check_sums(content)
            image = _decode_deep(path, opened, content) if is_deep(opened) else _decode(path, opened)
        return _without_alpha(path, image, note)


def read_file(path: Path) -> bytes:
    """A regular file's bytes.

    Raises:
      UnreadableImage: no such file, one that may not be read, a pipe or device (which might never end), or too large.
    """
    with reasons(path):
        check_file(path)
        return path.read_bytes()


def check_file(path: Path) -> None:
    """Refuse what must not even be opened: see :func:`read_file`."""
    with reasons(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise UnreadableImage(path, f"it is {kind}, not a file")
        if status.st_size > _LARGEST_FILE:
            raise UnreadableImage(
                path,
                f"it has {status.st_size / 2**30:.1f} GiB, wanted at most 2; save the image to inspect as its own file",
            )


def open_header(path: Path, stream: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's image before its pixels are decoded.

    Raises:
      UnreadableImage: no image, one of more pixels than Pillow's ``MAX_IMAGE_PIXELS``, or a PNG that announces more
        than the file has.
    """
    with reasons(path):
        check_parts(stream, pixels=False)
        with _quiet():
            try:
                opened = Image.open(stream, formats=_FORMATS)
            except Image.DecompressionBombError as error:
                _refuse_pixels(path, int((re.findall(r"\d+", str(error)) or ["0"])[0]))
                raise
            exif = Image.Image.getexif(opened)  # the base class's method: a PNG's own decodes the pixels first
            for group in (0x8769, 0x8825, 0xA005):  # read now, without warnings: decoding a TIFF asks for them again
                exif.get_ifd(group)
        if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            _refuse_pixels(path, opened.width * opened.height)
        return opened


def upright_size(opened: ImageFile.ImageFile) -> tuple[int, int]:
    """(width, height) of the image once it is upright, from its header."""
    width, height = opened.size
    if opened.format == "TIFF":  # some versions of Pillow turn its size
        tags = _tiff_tags(opened)
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    sideways = Image.Image.getexif(opened).get(_ORIENTATION) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def is_deep(opened: ImageFile.ImageFile) -> bool:
    """Whether an image, its pixels not decoded yet, has more than 8 bits a channel."""
    # Pillow opens 16-bit colour as mode "RGB" and drops the low byte; only the tile's arguments tell:
    # its raw mode, and for PPM the largest value
    arguments = _tile_arguments(opened)
    raw = " ".join(map(str, arguments))
    return (
        (opened.format == "PPM" and any(isinstance(argument, int) and argument > 255 for argument in arguments))
        or opened.mode in ("I", "F")
        or opened.mode.startswith("I;")
        or re.search(r";(12|16|32|64)", raw) is not None
    )


def bits_per_channel(opened: ImageFile.ImageFile) -> int:
    """Bits that an image, its pixels not decoded yet, has for each channel: 1, 8, 12, 16, 32 or 64."""
    if not is_deep(opened):
        return 1 if opened.mode == "1" else 8
    match = re.search(r";(12|16|32|64)", " ".join([opened.mode, *map(str, _tile_arguments(opened))]))
    return int(match[1]) if match else 16 if opened.format == "PPM" and opened.mode != "F" else 32


@contextmanager
def reasons(path: Path) -> Iterator[None]:
    """Turn whatever error a decoder raises for a damaged file into ``UnreadableImage``."""
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | PermissionError):
        return error.strerror or str(error)
    if isinstance(error, MemoryError):
        return "its pixels don't fit in memory"
    if "MAX_TEXT" in str(error):
        return "its text or colour profile unpacks to far more than it should; save it without"
    if str(error) == "Truncated File Read":  # Pillow's, of a JPEG
        return "the file was cut short"
    if "cannot identify" in str(error):
        return "no image, or one of a format or pixel type that is not supported"
    if isinstance(error, OSError | ValueError | SyntaxError) and str(error):
        return error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return f"damaged ({type(error).__name__}: {error})"


_WARNINGS = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings about sizes and damaged metadata."""
    # all threads share Python's filters: one thread at a time changes them, briefly, and for Pillow alone
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _refuse_pixels(path: Path, pixels: int) -> None:
    limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    raise UnreadableImage(
        path, f"it has {pixels / 1e6:.0f} megapixels, wanted at most {limit:.0f}; scale it down or cut it into parts"
    )


def _check_frames(path: Path, opened: ImageFile.ImageFile, note: Note | None) -> None:
    if (frames := count_frames(opened)) > 1:
        if note is None:
            raise UnreadableImage(path, "it holds several frames or pages; save the one to inspect as its own file")
        note(path, f"first of {frames_in_words(frames)}")


def _decode(path: Path, opened: ImageFile.ImageFile) -> Image.Image:
    is_signed = opened.format == "TIFF" and _TIFF_SIGNED in _tuple(_tiff_tags(opened).get(_TIFF_SAMPLE_FORMAT))
    if is_signed:  # Pillow takes its values for unsigned
        raise UnreadableImage(path, "a TIFF of signed 8-bit values; save it as unsigned 8-bit or signed 16-bit ones")
    opened.load()
    method = _UPRIGHT.get(_orientation(opened))
    return opened if method is None else opened.transpose(method)


def _decode_deep(path: Path, opened: ImageFile.ImageFile, content: bytes) -> DeepImage:
    raw = " ".join(map(str, _tile_arguments(opened)))
    alpha = None
    if opened.format == "PPM" and opened.mode != "F":
        values = _decode_ppm(opened, content)
    elif opened.mode in ("I", "F") or opened.mode.startswith("I;"):
        values = _decode_grey(opened)
        transparent_value = opened.info.get("transparency")
        if isinstance(transparent_value, int):
            alpha = (values[..., 0] != transparent_value).astype(np.float32)
    elif re.match(r"(RGB|RGBA|RGBX|LA);16", raw):
        values = _decode_colour(path, opened, content)
        if values.shape[2] == 4 and not raw.startswith("RGBX"):
            alpha = values[..., 3].astype(np.float32) / np.float32(65535)
        values = values[..., :3]
    else:
        raise UnreadableImage(
            path, f"more than 8 bits a channel in the mode {raw.split(';')[0]}; save it as grey or RGB"
        )
    orientation = _orientation(opened)
    values, alpha = _turn(values, orientation), None if alpha is None else _turn(alpha, orientation)
    if values.dtype.kind == "f":
        _check_finite(path, values)
    return DeepImage(np.ascontiguousarray(values), None if alpha is None else np.ascontiguousarray(alpha))


def _decode_grey(opened: ImageFile.ImageFile) -> Real[np.ndarray, "height width 1"]:
    tags = _tiff_tags(opened) if opened.format == "TIFF" else {}
    is_unsigned = opened.mode == "I" and tags and _TIFF_UNSIGNED in _tuple(tags.get(_TIFF_SAMPLE_FORMAT, 1))
    opened.load()
    values = np.asarray(opened)
    if is_unsigned:  # Pillow keeps the bits and takes them for signed
        values = values.view(np.uint32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)[..., None]


def _decode_ppm(opened: ImageFile.ImageFile, content: bytes) -> Real[np.ndarray, "height width channels"]:
    """PGM or PPM as it is written; Pillow stretches to 8 or 16 bits."""
    (codec, _, offset, arguments) = opened.tile[0]
    largest = next((argument for argument in _tuple(arguments) if isinstance(argument, int) and argument > 255), 65535)
    shape = (opened.height, opened.width, 3 if opened.mode == "RGB" else 1)
    if codec == "ppm_plain":
        # one at a time: a list takes ten times the memory
        numbers = re.finditer(rb"\S+", re.sub(rb"#[^\r\n]*", b"", content[offset:]))
        values = np.fromiter((int(number[0]) for number in islice(numbers, int(np.prod(shape)))), np.int64)
    else:
        count = min((len(content) - offset) // 2, int(np.prod(shape)))
        values = np.frombuffer(content, ">u2", count, offset).astype(np.uint16)
    if values.size < np.prod(shape):
        raise ValueError(f"image file is truncated ({values.size} of {np.prod(shape)} values)")
    if values.min() < 0 or values.max() > largest:
        raise ValueError(f"damaged: it holds the value {values.max()}, its header says at most {largest}")
    return values.astype(np.uint16).reshape(shape)


def _decode_colour(path: Path, opened: ImageFile.ImageFile, content: bytes) -> Shaped[np.ndarray, "height width c"]:
    """16-bit colour, RGB or RGBA; upright where ``opened`` is."""
    opened.load()  # this raises where OpenCV passes over damage
    values = _import_cv2().imdecode(np.frombuffer(content, np.uint8), -1)  # IMREAD_UNCHANGED
    if values is None or values.ndim != 3 or values.dtype != np.uint16:
        raise UnreadableImage(path, "16-bit colour that OpenCV can't decode; save it anew")
    values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    high_bytes = np.asarray(opened.convert("RGB"))
    if values.shape[:2] != high_bytes.shape[:2] or not np.array_equal(values[..., :3] >> 8, high_bytes):
        raise UnreadableImage(path, "Pillow and OpenCV decode it differently; save it anew")
    return values


def _import_cv2() -> ModuleType:
    if "cv2" not in sys.modules:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # it prints about tags that it doesn't know
    import cv2

    return cv2


def _check_finite(path: Path, values: Real[np.ndarray, "height width channels"]) -> None:
    if np.isfinite(values).all():
        return
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    raise UnreadableImage(path, f"it holds {nan} NaN and {infinite} infinite among {values.size} values; correct it")


def _without_alpha(path: Path, image: Image.Image | DeepImage, note: Note | None) -> Image.Image | DeepImage:
    if isinstance(image, DeepImage):
        if image.alpha is None or image.alpha.min() == 1:
            return DeepImage(image.values)
        _note_transparent(path, note)
        return image
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    _note_transparent(path, note)
    black = Image.new("RGB", rgba.size)
    black.paste(rgba, mask=rgba.getchannel("A"))
    return black


def _note_transparent(path: Path, note: Note | None) -> None:
    if note is None:
        raise UnreadableImage(path, "it has transparent pixels; put it on a background first")
    note(path, "transparent pixels laid on black")


def _orientation(opened: ImageFile.ImageFile) -> int:
    """EXIF orientation that remains to be applied once the pixels are decoded; Pillow turns TIFFs itself."""
    value = Image.Image.getexif(opened).get(_ORIENTATION)
    return value if isinstance(value, int) else 1


def _turn(array: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "height width *c"]:
    """What ``_UPRIGHT`` does, for arrays."""
    if orientation in (2, 4):
        return np.flip(array, 1 if orientation == 2 else 0)
    if orientation == 7:
        return np.rot90(array, 2).swapaxes(0, 1)
    if orientation == 5:
        return array.swapaxes(0, 1)
    return np.rot90(array, {3: 2, 6: -1, 8: 1}.get(orientation, 0))


def _tiff_tags(opened: ImageFile.ImageFile) -> Any:
    return opened.tag_v2  # type: ignore[attr-defined] - of Pillow's TIFF images


def _tile_arguments(opened: ImageFile.ImageFile) -> list[Any]:
    return [argument for tile in opened.tile for argument in _tuple(tile[3])]


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
