"""What an image is like, in some numbers kept with its decision: light, sharpness, place, and where its map is high.

Of the image as the network sees it, with luma Y = 0.299 R + 0.587 G + 0.114 B from 0 to 255, its mean m and its
standard deviation s over all pixels, and E = |Y(i, j) - Y(i - 2, j)| + |Y(i, j) - Y(i, j - 2)| on every second pixel:

    brightness   m
    contrast     s / m
    sharpness    √(mean of L²) / s, where L = Y(i-1, j) + Y(i+1, j) + Y(i, j-1) + Y(i, j+1) - 4 Y(i, j)
    row, column  the shift that the alignment has found; of a model that does not align, the centre of the edges,
                 Σ E i / Σ E and Σ E j / Σ E, less the middle of the image
    turn         the angle that the alignment has found
    places       the mean of the map on each of :data:`GRID` × :data:`GRID` equal parts of it

A lamp that gets darker by a factor changes brightness alone: contrast and sharpness are ratios. None of these numbers
is good or bad: they are only ever compared with those of earlier images (:mod:`padim_jax.line.drift`).
"""

import math
import struct
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

GRID = 4  # places along each side of the picture
FIGURES = ("brightness", "contrast", "sharpness", "row", "column", "turn")
_FORMAT = struct.Struct(f"<{len(FIGURES) + GRID * GRID}f")
_NONE = float("nan")  # what stands for None in bytes


@dataclass(frozen=True)
class Appearance:
    """What an image is like, as of :mod:`padim_jax.line.appearance`; all numbers are ones of 32 bits.

    Attributes:
      brightness: from 0 to 255.
      contrast, sharpness: ratios, 0 or more.
      row, column: pixels at crop size, downwards and to the right.
      turn: degrees, counter-clockwise; None of a model that does not align, or only shifts.
      places: means of the map, row by row from the top left; none where the map is not known.
    """

    brightness: float
    contrast: float
    sharpness: float
    row: float
    column: float
    turn: float | None = None
    places: tuple[float, ...] = ()

    @property
    def numbers(self) -> tuple[float, ...]:
        """:data:`FIGURES` and the places, not a number where there is none."""
        own = (getattr(self, name) for name in FIGURES)
        return *(_NONE if value is None else value for value in own), *(self.places or (_NONE,) * (GRID * GRID))

    def pack(self) -> bytes:
        """All of it in few bytes: little-endian numbers of 32 bits."""
        return _FORMAT.pack(*self.numbers)

    @classmethod
    def unpack(cls, content: bytes) -> "Appearance":
        """What :meth:`pack` has packed.

        Raises:
          ValueError: something else.
        """
        if len(content) != _FORMAT.size:
            raise ValueError(f"{len(content)} bytes of what an image is like, wanted {_FORMAT.size}")
        values = _FORMAT.unpack(content)
        brightness, contrast, sharpness, row, column, turn, *places = values
        if not all(map(math.isfinite, (brightness, contrast, sharpness, row, column))) or any(map(math.isinf, values)):
            raise ValueError("what an image is like holds what is no number")
        angle = None if math.isnan(turn) else turn
        known = () if any(map(math.isnan, places)) else tuple(places)
        return cls(brightness, contrast, sharpness, row, column, angle, known)


def measure(pixels: UInt8[np.ndarray, "height width 3"]) -> Appearance:
    """What an image is like by itself, without a map and an alignment.

    >>> measure(np.full((32, 48, 3), 100, np.uint8))
    Appearance(brightness=100.0, contrast=0.0, sharpness=0.0, row=0.0, column=0.0, turn=None, places=())
    """
    y = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    mean = float(y.mean())
    centred = y - np.float32(mean)
    deviation = math.sqrt(np.vdot(centred, centred) / y.size)
    row, column = _centre_of_edges(y)
    return Appearance(
        brightness=_rounded(mean),
        contrast=_rounded(deviation / mean if mean else 0.0),
        sharpness=_rounded(_roughness(y) / deviation if deviation else 0.0),
        row=_rounded(row),
        column=_rounded(column),
    )


def complete(
    appearance: Appearance,
    anomaly_map: Float[np.ndarray, "height width"],
    pose: tuple[float, float, float] | None,
    *,
    turns: bool,
) -> Appearance:
    """The same with what a model has found.

    Args:
      appearance: of the image by itself.
      anomaly_map: of the image.
      pose: angle and shift, as of :class:`padim_jax.runs.score.ScoredImage`; None of a model that does not align.
      turns: whether the alignment looks for angles.
    """
    found = replace(appearance, places=_places(anomaly_map))
    if pose is None:
        return found
    angle, row, column = map(_rounded, pose)
    return replace(found, row=row, column=column, turn=angle if turns else None)


def _rounded(value: float) -> float:
    """As 32 bits hold it, so that what is read back is equal."""
    return float(np.float32(value))


def _roughness(y: Float[np.ndarray, "height width"]) -> float:
    if min(y.shape) < 3:
        return 0.0
    found = y[1:-1, 2:] + y[1:-1, :-2]
    found += y[2:, 1:-1]
    found += y[:-2, 1:-1]
    found -= 4 * y[1:-1, 1:-1]
    return math.sqrt(np.vdot(found, found) / found.size)


def _centre_of_edges(y: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    some = y[::2, ::2]  # of all pixels it would take most of the time, and tells no more
    if min(some.shape) < 2:
        return 0.0, 0.0
    edges = np.abs(some[1:, 1:] - some[:-1, 1:])
    edges += np.abs(some[1:, 1:] - some[1:, :-1])
    rows, columns = edges.sum(1, dtype=np.float64), edges.sum(0, dtype=np.float64)
    total = rows.sum()
    if not total:
        return 0.0, 0.0
    row, column = (float(line @ np.arange(len(line))) / total - (len(line) - 1) / 2 for line in (rows, columns))
    return 2 * row, 2 * column


def _places(anomaly_map: Float[np.ndarray, "height width"]) -> tuple[float, ...]:
    height, width = anomaly_map.shape
    if min(height, width) < GRID or not np.isfinite(anomaly_map).all():
        return ()
    rows, columns = (np.arange(GRID + 1) * length // GRID for length in (height, width))
    sums = np.add.reduceat(np.add.reduceat(anomaly_map, rows[:-1], 0), columns[:-1], 1)
    return tuple((sums / np.outer(np.diff(rows), np.diff(columns))).astype(np.float32).ravel().tolist())
