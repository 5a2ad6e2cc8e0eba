"""One image or mask: read strictly, resized, cropped."""

import io
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from padim_jax.config import PadimConfig

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")  # the ones whose depth we can tell
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class UnreadableImage(ValueError):
    """A file that can't be used as an image; holds its ``path`` and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"can't read {path}: {reason}")


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
    return np.asarray(centre_crop(resize(path, open_image(path, content), config), config))


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Upright RGB image at its own size, under :func:`read_image`'s rules.

    Raises:
      UnreadableImage: as :func:`read_image`, but of any size.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as opened:
            if _is_deep(opened):
                raise UnreadableImage(
                    path, "it has more than 8 bits a channel, which would be clipped; convert it to 8 bits"
                )
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # MPO: a JPEG with a preview
                raise UnreadableImage(path, "it holds several frames or pages; save the one to inspect by itself")
            ImageOps.exif_transpose(opened, in_place=True)
        image = _drop_opaque_alpha(path, opened)
        return image if image.mode == "RGB" else image.convert("RGB")
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the damage makes of them
        raise UnreadableImage(path, _reason(error)) from error


def open_mask(path: Path, content: bytes | None, size: tuple[int, int]) -> Image.Image:
    """Mask at its own size; :func:`find_defective` tells what it marks.

    Args:
      path: the file, or the image that the mask belongs to.
      content: the mask's bytes, where they don't lie at ``path``.
      size: (width, height) of the image.

    Raises:
      UnreadableImage: damaged, not of the image's size, or of another kind than 8-bit grey, black-and-white or RGB.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as opened:
            if opened.mode not in ("1", "L", "RGB") or _is_deep(opened):
                depth = "more than 8 bits a channel" if _is_deep(opened) else f"mode {opened.mode}"
                raise UnreadableImage(path, f"its mask has {depth}; wanted 8-bit grey, black-and-white or RGB")
            opened.load()
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(path, f"its mask: {_reason(error)}") from error
    if opened.size != size:
        found, wanted = ("×".join(map(str, shape)) for shape in (opened.size, size))
        raise UnreadableImage(path, f"its mask has {found} pixels, the image {wanted}")
    return opened


def find_defective(mask: Image.Image) -> Bool[np.ndarray, "height width"]:
    """True where any channel of a mask is not 0."""
    return np.atleast_3d(np.asarray(mask)).max(axis=2) > 0


def measure(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone.

    Raises:
      UnreadableImage: the file holds no image.
    """
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            # the base class's getexif: a PNG's own decodes the pixels first
            sideways = Image.Image.getexif(opened).get(0x0112) in _SIDEWAYS
            width, height = opened.size
            return (height, width) if sideways else (width, height)
    except Exception as error:
        raise UnreadableImage(path, _reason(error)) from error


def resampling(config: PadimConfig) -> Image.Resampling:
    """Pillow's name of ``config.interpolation``."""
    return Image.Resampling.BILINEAR if config.interpolation == "bilinear" else Image.Resampling.BICUBIC


def resize(path: Path, image: Image.Image, config: PadimConfig) -> Image.Image:
    """Image at ``image_size``; ``UnreadableImage`` names ``path`` where it is smaller than the crop."""
    height, width = config.crop
    if image.height < height or image.width < width:
        raise UnreadableImage(
            path,
            f"it has {image.width}×{image.height} pixels, smaller than the crop of {width}×{height}; "
            "what the network sees would be made up (lower the crop size and the image size to use it)",
        )
    return _stretch(image, config, resampling(config))


def resize_mask(mask: Image.Image, config: PadimConfig) -> Image.Image:
    """Mask at ``image_size``, each pixel that of the nearest."""
    return _stretch(mask, config, Image.Resampling.NEAREST)


def centre_crop(image: Image.Image, config: PadimConfig) -> Image.Image:
    """The middle ``crop_size`` of an image of ``image_size``, rounded towards the top left."""
    (image_height, image_width), (height, width) = config.image, config.crop
    return crop(image, (image_height - height) // 2, (image_width - width) // 2, config)


def crop(image: Image.Image, top: int, left: int, config: PadimConfig) -> Image.Image:
    """``crop_size`` of an image from row ``top`` and column ``left``."""
    height, width = config.crop
    return image.crop((left, top, left + width, top + height))


def _stretch(image: Image.Image, config: PadimConfig, method: Image.Resampling) -> Image.Image:
    height, width = config.image
    return image.resize((width, height), method)


def _reason(error: Exception) -> str:
    if "cannot identify" in str(error):
        return "no image, or of a format Pillow doesn't know"
    return str(error) or type(error).__name__


def _is_deep(image: Image.Image) -> bool:
    # Pillow opens 16-bit colour as mode "RGB" and drops the low byte; only the tile's arguments tell:
    # its raw mode, and for PPM the largest value
    tiles = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", [])]
    arguments = [argument for tile in tiles for argument in tile]
    raw = " ".join(map(str, arguments))
    deep = image.format == "PPM" and any(isinstance(argument, int) and argument > 255 for argument in arguments)
    return (
        deep or image.mode in ("I", "F") or image.mode.startswith("I;") or re.search(r";(12|16|32|64)", raw) is not None
    )


def _drop_opaque_alpha(path: Path, image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] != 255:
        raise UnreadableImage(path, "it has transparent pixels; put it on a background first")
    return rgba
