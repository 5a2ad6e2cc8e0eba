"""One image or mask: read strictly, resized, cropped."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.images.decode import (
    DeepImage,
    FilePath,
    Note,
    UnreadableImage,
    check_file,
    is_deep,
    open_header,
    open_image,
    read_file,
    reasons,
    upright_size,
)
from padim_jax.images.geometry import Placing, crop_corner, place, seen_part
from padim_jax.images.png import check_parts


def read_image(
    path: FilePath, config: PadimConfig, content: bytes | None = None, note: Note | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as the network will see it: upright, RGB, resized to ``image_size``, cropped to ``crop_size``.

    EXIF orientation is applied; resizing averages where it shrinks (Pillow's filters). Values of more than 8 bits
    are mapped by ``config.value_range`` and rounded only after they are resized.

    Args:
      path: the file.
      config: sizes, interpolation, value range.
      content: the file's bytes, where they don't lie at ``path``.
      note: as for :func:`padim_jax.images.decode.open_image`.

    Raises:
      UnreadableImage: as ``open_image``; or an image of another depth than ``value_range`` is for, with values outside
        it, or smaller than the crop.
    """
    path = Path(path)
    return np.asarray(centre_crop(resize(path, open_image(path, content, note), config), config))


def read_photo(path: Path, config: PadimConfig, longest: int) -> UInt8[np.ndarray, "height width 3"]:
    """The part of an image that the crop sees, in its own proportions: for people to look at.

    Larger ones are shrunk until ``longest`` pixels are left on the longer side. Values of more than 8 bits are mapped
    by ``config.value_range``, as they are for the network.

    Args:
      path: the file.
      config: sizes, value range.
      longest: pixels, 1 or more.

    Raises:
      UnreadableImage: as :func:`read_image`.
    """
    image = open_image(path, note=lambda path, text: None)  # it was reported when the file was scored
    left, top, right, bottom = box = seen_part(image.size, config).original
    factor = min(1.0, longest / max(right - left, bottom - top))
    size = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    if isinstance(image, DeepImage):
        if config.value_range is None:
            raise UnreadableImage(path, "it has more than 8 bits a channel, the model is for 8")
        planes = [
            Image.fromarray(_to_bytes_scale(image, channel, config.value_range))
            for channel in range(image.values.shape[2])
        ]
        resized = [np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box)) for plane in planes]
        return np.stack(resized * (3 // len(resized)), axis=-1).round().clip(0, 255).astype(np.uint8)
    # first by a whole factor, which is quick, then exactly
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=2.0))


def open_mask(path: Path, content: bytes | None, size: tuple[int, int]) -> Image.Image:
    """Mask at its own size; :func:`find_defective` gives what it marks.

    Args:
      path: the file, or the image that the mask belongs to.
      content: the mask's bytes, where they don't lie at ``path``.
      size: (width, height) of the image.

    Raises:
      UnreadableImage: damaged, not of the image's size, or of another kind than 8-bit grey, black-and-white or RGB.
    """
    try:
        with io.BytesIO(read_file(path) if content is None else content) as stream, reasons(path):
            check_parts(stream, pixels=True)
            opened = open_header(path, stream)
            if opened.mode not in ("1", "L", "RGB") or is_deep(opened):
                depth = "more than 8 bits a channel" if is_deep(opened) else f"mode {opened.mode}"
                raise UnreadableImage(path, f"it has {depth}; wanted 8-bit grey, black-and-white or RGB")
            opened.load()
    except UnreadableImage as error:
        raise UnreadableImage(path, f"its mask: {error.reason}") from error
    if opened.size != size:
        mask_pixels, image_pixels = ("×".join(map(str, shape)) for shape in (opened.size, size))
        raise UnreadableImage(path, f"its mask has {mask_pixels} pixels, the image {image_pixels}")
    return opened


def find_defective(mask: Image.Image) -> Bool[np.ndarray, "height width"]:
    """True where any channel of a mask is not 0."""
    return np.atleast_3d(np.asarray(mask)).max(axis=2) > 0


def measure(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header alone.

    Raises:
      UnreadableImage: the file holds no image, or too large a one.
    """
    with reasons(path):
        check_file(path)
        with path.open("rb") as stream:
            return upright_size(open_header(path, stream))


def resampling(config: PadimConfig) -> Image.Resampling:
    """Pillow's name of ``config.interpolation``."""
    return Image.Resampling.BILINEAR if config.interpolation == "bilinear" else Image.Resampling.BICUBIC


def resize(path: Path, image: Image.Image | DeepImage, config: PadimConfig) -> Image.Image:
    """Image at ``image_size``, RGB of 8 bits a channel.

    Raises:
      UnreadableImage: naming ``path``: smaller than the crop (with "pad": in both directions), of another depth than
        ``config.value_range`` is for, or with values outside it.
    """
    (width, height), (crop_height, crop_width) = image.size, config.crop
    is_short, is_narrow = height < crop_height, width < crop_width
    if (is_short and is_narrow) if config.resize == "pad" else (is_short or is_narrow):
        raise UnreadableImage(
            path,
            f"it has {width}×{height} pixels, smaller than the crop of {crop_width}×{crop_height}; "
            "what the network sees would be made up (lower the crop size and the image size to use it)",
        )
    placing = place(image.size, config)
    if not isinstance(image, DeepImage):
        if config.value_range is not None:
            raise UnreadableImage(
                path,
                f"it has 8 bits a channel, the model is for values from {_ends(config.value_range)}; "
                "give it as it came from the camera, or fit on images of 8 bits without --value-range",
            )
        return _resample(image, placing, config, resampling(config))
    if config.value_range is None:
        raise UnreadableImage(
            path,
            "it has more than 8 bits a channel, the model is for 8; fit on images of this depth "
            "(with --value-range LOW HIGH), or convert it to 8 bits as those of the fit were",
        )
    _check_range(path, image, config.value_range)
    channels = [
        _resample(Image.fromarray(plane), placing, config, resampling(config))
        for plane in (_to_bytes_scale(image, channel, config.value_range) for channel in range(image.values.shape[2]))
    ]
    # cubic interpolation may overshoot
    rounded = [Image.fromarray(np.rint(np.asarray(channel)).clip(0, 255).astype(np.uint8)) for channel in channels]
    return Image.merge("RGB", rounded * 3 if len(rounded) == 1 else rounded)


def resize_mask(mask: Image.Image, config: PadimConfig) -> Image.Image:
    """Mask at ``image_size``, each pixel that of the nearest; black where ``resize="pad"`` adds to the image."""
    return _resample(mask, place(mask.size, config), config, Image.Resampling.NEAREST)


def centre_crop(image: Image.Image, config: PadimConfig) -> Image.Image:
    """The middle ``crop_size`` of an image of ``image_size``, rounded towards the top left."""
    return crop(image, *crop_corner(config), config)


def crop(image: Image.Image, top: int, left: int, config: PadimConfig) -> Image.Image:
    """``crop_size`` of an image from row ``top`` and column ``left``."""
    height, width = config.crop
    return image.crop((left, top, left + width, top + height))


def _resample(image: Image.Image, placing: Placing, config: PadimConfig, method: Image.Resampling) -> Image.Image:
    height, width = config.image
    left, top, right, bottom = placing.target
    resized = image.resize((right - left, bottom - top), method, placing.box)
    if resized.size == (width, height):
        return resized
    padded = Image.new(resized.mode, (width, height))
    padded.paste(resized, (left, top))
    return padded


def _to_bytes_scale(
    image: DeepImage, channel: int, value_range: tuple[float, float]
) -> Float32[np.ndarray, "height width"]:
    """One channel on the scale of 8 bits, not rounded, over black where it is transparent."""
    low, high = value_range
    plane = ((image.values[..., channel] - np.float64(low)) * (255 / (high - low))).astype(np.float32)
    return plane if image.alpha is None else plane * image.alpha


def _check_range(path: Path, image: DeepImage, value_range: tuple[float, float]) -> None:
    values, (low, high) = image.visible(), value_range
    if not values.size or (low <= values.min() and values.max() <= high):
        return
    outside = np.count_nonzero((values < low) | (values > high))
    below, above = low - float(values.min()), float(values.max()) - high
    extreme = f"the highest is {_number(values.max())}" if above >= below else f"the lowest is {_number(values.min())}"
    raise UnreadableImage(
        path,
        f"{100 * outside / values.size:.3g} % of its values lie outside the range fixed at fit, "
        f"{_ends(value_range)} ({extreme}); fit with a wider --value-range",
    )


def _ends(value_range: tuple[float, float]) -> str:
    return " to ".join(map(_number, value_range))


def _number(value: float | np.number) -> str:
    return f"{float(value):.12g}"
