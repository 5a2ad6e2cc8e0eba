"""Where the network looks in an image: from its original pixels to the crop, and back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from padim_jax.config import PadimConfig


@dataclass(frozen=True)
class Placing:
    """How an image is resized.

    Attributes:
      box: part of the original that is used: left, top, right, bottom, in its pixels.
      target: pixels of the resized image, ``config.image`` large, that ``box`` fills; the others are black.
    """

    box: tuple[float, float, float, float]
    target: tuple[int, int, int, int]


def place(size: tuple[int, int], config: PadimConfig) -> Placing:
    """Placing of an image of ``size`` (width, height) by ``config.resize``."""
    (width, height), (rows, columns) = size, config.image
    box, target = (0.0, 0.0, float(width), float(height)), (0, 0, columns, rows)
    if config.resize == "shorter-side":
        if rows * width >= columns * height:
            length = columns * height / rows
            box = ((width - length) / 2, 0.0, (width + length) / 2, float(height))
        else:
            length = rows * width / columns
            box = (0.0, (height - length) / 2, float(width), (height + length) / 2)
    elif config.resize == "pad":
        if rows * width >= columns * height:
            length = max(1, round(columns * height / width))
            target = (0, (rows - length) // 2, columns, (rows - length) // 2 + length)
        else:
            length = max(1, round(rows * width / height))
            target = ((columns - length) // 2, 0, (columns - length) // 2 + length, rows)
    return Placing(box, target)


@dataclass(frozen=True)
class Part:
    """The part of an original that the crop shows, and where it lies in the crop.

    Attributes:
      original: its left, top, right and bottom, in pixels of the original.
      crop: the same, in pixels of the crop; all of it, unless the image was padded.
    """

    original: tuple[float, float, float, float]
    crop: tuple[float, float, float, float]


def seen_part(size: tuple[int, int], config: PadimConfig) -> Part:
    """Part of an original of ``size`` (width, height) that the crop sees."""
    placing, (crop_top, crop_left) = place(size, config), crop_corner(config)
    spans = []
    for axis, (first, length) in enumerate(((crop_left, config.crop[1]), (crop_top, config.crop[0]))):
        start, end = placing.target[axis], placing.target[axis + 2]
        low, high = max(start, first), min(end, first + length)
        origin, scale = placing.box[axis], (placing.box[axis + 2] - placing.box[axis]) / (end - start)
        spans.append((origin + (low - start) * scale, origin + (high - start) * scale, low - first, high - first))
    (left, right, crop_from_x, crop_to_x), (top, bottom, crop_from_y, crop_to_y) = spans
    return Part((left, top, right, bottom), (crop_from_x, crop_from_y, crop_to_x, crop_to_y))


def crop_corner(config: PadimConfig) -> tuple[int, int]:
    """First (row, column) of the centred crop in the resized image, rounded towards the top left."""
    (image_height, image_width), (height, width) = config.image, config.crop
    return (image_height - height) // 2, (image_width - width) // 2


def seen(size: tuple[int, int], config: PadimConfig) -> Bool[np.ndarray, "height width"]:
    """Pixels of an original of ``size`` (width, height) whose centres lie inside the crop."""
    rows, columns = _crop_coordinates(size, config)
    height, width = config.crop
    return _inside(rows, height)[:, None] & _inside(columns, width)


def to_original(
    anomaly_map: Float[np.ndarray, "h w"], size: tuple[int, int], config: PadimConfig
) -> Float32[np.ndarray, "height width"]:
    """Map at the pixels of the original: bilinear between the map's cells, NaN where the crop never looked.

    Args:
      anomaly_map: of ``config.crop_size``.
      size: (width, height) of the upright original.
      config: sizes and ``resize`` that the image was read with.

    Raises:
      ValueError: a map of another shape.
    """
    _check_shape("to_original: anomaly_map", anomaly_map.shape, config)
    rows, columns = _crop_coordinates(size, config)
    height, width = config.crop
    image = np.full((size[1], size[0]), np.nan, np.float32)
    row_inside, column_inside = _inside(rows, height), _inside(columns, width)
    values = anomaly_map.astype(np.float32, copy=False)
    for n_cells, coordinates in ((height, rows[row_inside]), (width, columns[column_inside])):
        low, share = _cells(coordinates, n_cells)
        high = np.minimum(low + 1, n_cells - 1)
        # the interpolated axis goes last, so that the second pass works on the columns
        values = (values[low] * (1 - share)[:, None] + values[high] * share[:, None]).T
    image[np.ix_(row_inside, column_inside)] = values
    return image


def place_in_original(row: float, column: float, size: tuple[int, int], config: PadimConfig) -> tuple[int, int]:
    """(row, column) of the original's pixel that a point of the crop lies in.

    Args:
      row: of the point, in pixels of the crop; the centre of its first pixel is at 0.5.
      column: likewise.
      size: (width, height) of the upright original; where the point lies in a black border, its nearest pixel.
      config: sizes and ``resize`` that the image was read with.
    """
    placing, (crop_top, crop_left) = place(size, config), crop_corner(config)
    (left, top, right, bottom), target = placing.box, placing.target
    y = top + (row + crop_top - target[1]) * ((bottom - top) / (target[3] - target[1]))
    x = left + (column + crop_left - target[0]) * ((right - left) / (target[2] - target[0]))
    return min(max(int(y), 0), size[1] - 1), min(max(int(x), 0), size[0] - 1)


def pixel_edges(
    size: tuple[int, int], config: PadimConfig
) -> tuple[Int[np.ndarray, " height+1"], Int[np.ndarray, " width+1"]]:
    """First row, and first column, of the original whose pixels' centres lie in each cell of the crop or beyond.

    A cell i covers the rows from ``edges[i]`` to ``edges[i + 1]``, the last one excluded, as :func:`mask_to_original`
    marks them. Cells in a black border cover none, nor do some cells where the original is small.

    Args:
      size: (width, height) of the upright original.
      config: sizes and ``resize`` that the image was read with.
    """
    rows, columns = (
        np.searchsorted(coordinates, np.arange(length + 1))
        for coordinates, length in zip(_crop_coordinates(size, config), config.crop, strict=True)
    )
    return rows, columns


def mask_to_original(
    mask: Bool[np.ndarray, "h w"], size: tuple[int, int], config: PadimConfig
) -> Bool[np.ndarray, "height width"]:
    """Mask at the pixels of the original: that of the nearest cell, False where the crop never looked.

    The arguments are those of :func:`to_original`.

    Raises:
      ValueError: a mask of another shape.
    """
    _check_shape("mask_to_original: mask", mask.shape, config)
    rows, columns = _crop_coordinates(size, config)
    height, width = config.crop
    image = np.zeros((size[1], size[0]), bool)
    row_inside, column_inside = _inside(rows, height), _inside(columns, width)
    cells = np.ix_(rows[row_inside].astype(np.intp), columns[column_inside].astype(np.intp))
    image[np.ix_(row_inside, column_inside)] = mask[cells]
    return image


def _crop_coordinates(
    size: tuple[int, int], config: PadimConfig
) -> tuple[Float[np.ndarray, " height"], Float[np.ndarray, " width"]]:
    """Rows and columns of the original's pixel centres in the crop, whose first cell spans 0 to 1."""
    placing, (crop_top, crop_left) = place(size, config), crop_corner(config)
    (left, top, right, bottom), target = placing.box, placing.target
    rows = (np.arange(size[1]) + 0.5 - top) * ((target[3] - target[1]) / (bottom - top)) + (target[1] - crop_top)
    columns = (np.arange(size[0]) + 0.5 - left) * ((target[2] - target[0]) / (right - left)) + (target[0] - crop_left)
    return rows, columns


def _inside(coordinates: Float[np.ndarray, " n"], length: int) -> Bool[np.ndarray, " n"]:
    return (coordinates >= 0) & (coordinates < length)


def _cells(coordinates: Float[np.ndarray, " n"], length: int) -> tuple[np.ndarray, Float32[np.ndarray, " n"]]:
    """Cell before each coordinate, and the share of the one after it; the border's cells reach to the border."""
    centres = np.clip(coordinates - 0.5, 0, length - 1)
    low = centres.astype(np.intp)
    return low, (centres - low).astype(np.float32)


def _check_shape(what: str, shape: tuple[int, ...], config: PadimConfig) -> None:
    if shape != config.crop:
        raise ValueError(f"{what} has shape {shape}, wanted {config.crop}, the crop_size of its config")
