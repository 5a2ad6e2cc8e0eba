"""Pillow's resize and the crop after it as integers: which pixels of a photo count for which of the crop, and how much.

Pillow resizes bytes along one axis, rounds to bytes, and resizes along the other. A byte is
``clip((2^21 + Σ w x) >> 22)``, with weights w that are integers of 22 bits after the point. In float32 such sums are
not exact; those of the two parts of ``w = 2^7 high + low`` are, since neither reaches 2^24, and then so is
``floor((2^14 + Σ high x + floor(Σ low x / 2^7)) / 2^15)``, which is the same number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from padim_jax.config import PadimConfig
from padim_jax.export.describe import ExportError
from padim_jax.images.geometry import crop_corner, place

LOW_BITS = 7  # of a weight
HIGH_BITS = 15  # the others after the point
_EXACT = 2**24  # integers below this are exact in float32, and so are sums of them that stay below
_MOST_PIXELS = 89_478_485  # of a photo: Pillow's limit, beyond which padim reads none


def _bilinear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _bicubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


_FILTERS: dict[str, tuple[float, Callable[[float], float]]] = {"bilinear": (1.0, _bilinear), "bicubic": (2.0, _bicubic)}


@dataclass(frozen=True, eq=False)
class Pass:
    """A resize along one axis.

    Attributes:
      axis: 1 for rows and 2 for columns, of images (n, height, width, 3).
      length: pixels along it before.
      starts: the first pixel that counts, for each that is made.
      weights: of it and of those after it, in units of 2⁻²²; 0 where there are fewer than taps.
    """

    axis: int
    length: int
    starts: Int[np.ndarray, " m"]
    weights: Int32[np.ndarray, "m taps"]

    @property
    def is_copy(self) -> bool:
        """Whether pixels are only copied, one beside the other."""
        return self.weights.shape[1] == 1

    def parts(self) -> tuple[Int32[np.ndarray, "m taps"], Int32[np.ndarray, "m taps"]]:
        """High and low parts of the weights, ``w = 2^7 high + low``, low from -64 to 63."""
        high = (self.weights + 2 ** (LOW_BITS - 1)) >> LOW_BITS
        return high, self.weights - (high << LOW_BITS)

    def is_exact(self) -> bool:
        """Whether sums of bytes by these weights are exact in float32, in any order."""
        high, low = (255 * np.abs(part).astype(np.int64).sum(axis=1).max() for part in self.parts())
        return bool(low < _EXACT and high + 2 ** (HIGH_BITS - 1) + (low >> LOW_BITS) + 1 < _EXACT)


@dataclass(frozen=True, eq=False)
class Resampling:
    """How photos of one size become images of the crop's size.

    Attributes:
      photo: height and width.
      passes: in their order.
      margins: rows above and below, columns before and after, of the black border that ``resize="pad"`` leaves.
    """

    photo: tuple[int, int]
    passes: tuple[Pass, Pass]
    margins: tuple[int, int, int, int]


def plan_resampling(photo: tuple[int, int], config: PadimConfig) -> Resampling:
    """What :func:`padim_jax.images.image.read_image` does with upright photos of 8 bits.

    Args:
      photo: height and width.
      config: sizes, ``resize`` and ``interpolation``.

    Raises:
      ExportError: photos that padim does not read either; more bits than 8; sums that float32 can't hold.
    """
    _check_readable(photo, config)
    height, width = photo
    placing, corner = place((width, height), config), crop_corner(config)
    left, top, right, bottom = (float(np.float32(side)) for side in placing.box)  # as Pillow has them
    spans = {1: (height, top, bottom, *placing.target[1::2]), 2: (width, left, right, *placing.target[::2])}
    passes, margins = list[Pass](), list[int]()
    for axis, (length, low, high, start, end) in spans.items():
        made = _weigh(axis, length, low, high, end - start, config.interpolation)
        first = max(0, corner[axis - 1] - start)
        last = min(end - start, corner[axis - 1] + config.crop[axis - 1] - start)
        passes.append(Pass(axis, length, made.starts[first:last], made.weights[first:last]))
        before = start + first - corner[axis - 1]
        margins += [before, config.crop[axis - 1] - before - (last - first)]
    if not all(one.is_exact() for one in passes):
        raise ExportError(
            f"export_model: photos of {width}×{height} pixels are averaged over so many for one of "
            f"image_size={config.image_size} that float32 can't add them up exactly; shrink the photos first"
        )
    rows, columns = placing.target[3] - placing.target[1], placing.target[2] - placing.target[0]
    # the order that Pillow takes; rounding in between makes it matter
    down_first = height > rows and height - rows > (width - columns) * 2
    return Resampling(photo, (passes[0], passes[1]) if down_first else (passes[1], passes[0]), (*margins,))  # pyright: ignore[reportArgumentType]


def _check_readable(photo: tuple[int, int], config: PadimConfig) -> None:
    (height, width), (rows, columns) = photo, config.crop
    if config.value_range is not None:
        raise ExportError(
            "export_model: the model is for images of more than 8 bits (value_range), and a program that takes photos "
            "takes 8; leave input out, and give the program pixels that padim has read"
        )
    is_short, is_narrow = height < rows, width < columns
    if (is_short and is_narrow) if config.resize == "pad" else (is_short or is_narrow):
        raise ExportError(
            f"export_model: photos of {width}×{height} pixels are smaller than the crop of {columns}×{rows}; input is "
            "('photo', height, width), as the camera gives them"
        )
    if height * width > _MOST_PIXELS:
        raise ExportError(
            f"export_model: photos of {width}×{height} have {height * width / 1e6:.0f} megapixels, and padim reads at "
            f"most {_MOST_PIXELS / 1e6:.0f}; scale them down first"
        )


def _weigh(axis: int, length: int, low: float, high: float, pixels: int, interpolation: str) -> Pass:
    """Weights of the part from ``low`` to ``high`` of an axis, resized to ``pixels``."""
    if pixels == length and low == 0 and high == length:
        return Pass(axis, length, np.arange(pixels), np.full((pixels, 1), 2 ** (LOW_BITS + HIGH_BITS), np.int32))
    support, weight = _FILTERS[interpolation]
    scale = float(np.float32(high) - np.float32(low)) / pixels
    stretch = max(1.0, scale)  # a photo that is made smaller is averaged
    reach = support * stretch
    starts = np.zeros(pixels, np.int64)
    weights = np.zeros((pixels, 2 * math.ceil(reach) + 1), np.int32)
    for pixel in range(pixels):
        centre = low + (pixel + 0.5) * scale
        start = max(0, int(centre - reach + 0.5))
        count = min(length, int(centre + reach + 0.5)) - start
        own = np.array([weight((tap + start - centre + 0.5) * (1 / stretch)) for tap in range(count)])
        scaled = own / np.cumsum(own)[-1] * 2 ** (LOW_BITS + HIGH_BITS)  # added one after the other, as Pillow does
        starts[pixel], weights[pixel, :count] = start, np.trunc(scaled + np.copysign(0.5, scaled))
    return Pass(axis, length, starts, weights)
