"""Triangles packed without gaps, as they are stored: on the host, in NumPy, chunk by chunk of positions."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, overload

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from padim_jax.gaussians import triangle
from padim_jax.gaussians.triangle import Panels, SymmetricMatrix, TriangularMatrix

_HOST_BYTES = 16 * 2**20  # of the squares of one chunk, about what a processor's cache holds


def pack_triangle(square: Shaped[Array | np.ndarray, "p d d"] | Panels, *, lower: bool) -> Shaped[np.ndarray, "p m"]:
    """One triangle of every matrix with its diagonal, ``m = d(d+1)/2``, row by row from the left (row-major).

    Raises:
      ValueError: the lower triangle of upper triangular matrices.
    """
    if lower and isinstance(square, TriangularMatrix):
        raise ValueError("pack_triangle: upper triangular matrices have no lower triangle; pass lower=False")
    panels = square.panels if isinstance(square, Panels) else None
    p, d = len(square), square.side if isinstance(square, Panels) else square.shape[-1]
    packed = np.empty((p, d * (d + 1) // 2), np.asarray(square[:0] if panels is None else panels[0][:0]).dtype)
    for chunk in host_chunks(p, d):
        part = _upper_squares(square[chunk]) if isinstance(square, Panels) else np.asarray(square[chunk])
        part = part.swapaxes(1, 2) if lower and panels is not None else part
        for row, (columns, place) in enumerate(rows_of(d, lower)):
            packed[chunk, place] = part[:, row, columns]
    return packed


def unpack_triangle(
    packed: Shaped[np.ndarray, "p m"], *, lower: bool, symmetric: bool = False
) -> Shaped[np.ndarray, "p d d"]:
    """The matrices of :func:`pack_triangle`, the other triangle zero, or the mirror image where ``symmetric``.

    Raises:
      ValueError: m is no d(d+1)/2.
    """
    d = side("unpack_triangle", packed.shape[1])
    square = np.zeros((len(packed), d, d), packed.dtype)
    for chunk in host_chunks(len(packed), d):
        part, target = packed[chunk], square[chunk]
        for row, (columns, place) in enumerate(rows_of(d, lower)):
            target[:, row, columns] = part[:, place]
            if symmetric:
                target[:, columns, row] = part[:, place]
    return square


@overload
def unpack_panels(parts: Iterable[np.ndarray], p: int, *, lower: Literal[True]) -> SymmetricMatrix: ...
@overload
def unpack_panels(parts: Iterable[np.ndarray], p: int, *, lower: Literal[False]) -> TriangularMatrix: ...
def unpack_panels(
    parts: Iterable[Float[np.ndarray, "_ m"]], p: int, *, lower: bool
) -> SymmetricMatrix | TriangularMatrix:
    """The matrices of :func:`pack_triangle` in panels on the device: symmetric ones of their lower triangles, or upper.

    Args:
      parts: the packed triangles of all p positions in order, some at a time; each can be freed once it is unpacked.
      p: positions.
      lower: as they were packed.

    Raises:
      ValueError: m is no d(d+1)/2, or not p positions.
    """
    panels: list[np.ndarray] = []
    position = 0
    for part in parts:
        d = side("unpack_panels", part.shape[1])
        panels = panels or [np.empty((p, stop, stop - start), np.float32) for start, stop in triangle.spans(d)]
        for chunk in host_chunks(len(part), d):
            square = unpack_triangle(part[chunk], lower=lower, symmetric=lower)
            for panel, (start, stop) in zip(panels, triangle.spans(d), strict=True):
                panel[position : position + len(square)] = square[:, :stop, start:stop]
            position += len(square)
    if position != p:
        raise ValueError(f"unpack_panels: {position} positions, wanted {p}")
    on_device: list[Array] = []
    while panels:  # one after the other, or host and device would hold the whole of it
        on_device.append(jax.block_until_ready(jax.device_put(panels.pop(0))))
    return SymmetricMatrix(tuple(on_device)) if lower else TriangularMatrix(tuple(on_device))


def _upper_squares(part: Panels) -> np.ndarray:
    """On the host, the squares of a few positions."""
    square = np.zeros((len(part), part.side, part.side), np.float32)
    for panel, (start, stop) in zip(part.panels, part.spans, strict=True):
        square[:, :stop, start:stop] = panel
    return square


def rows_of(d: int, lower: bool) -> Iterator[tuple[slice, slice]]:
    """For each row of a triangle, its columns and their place among the packed numbers."""
    start = 0
    for row in range(d):
        columns = slice(0, row + 1) if lower else slice(row, d)
        length = columns.stop - columns.start
        yield columns, slice(start, start + length)
        start += length


def host_chunks(p: int, d: int) -> Iterator[slice]:
    """Positions of each chunk of p whose squares stay in a processor's cache."""
    chunk = max(1, _HOST_BYTES // (4 * d * d))
    return (slice(start, min(start + chunk, p)) for start in range(0, p, chunk))


def side(call: str, m: int) -> int:
    """The d of triangles packed in m numbers; ``ValueError`` names ``call`` where there is no such d."""
    d = (math.isqrt(8 * m + 1) - 1) // 2
    if d < 1 or d * (d + 1) // 2 != m:
        raise ValueError(f"{call}: {m} numbers a position, wanted d(d+1)/2 of them; pack_triangle gives that")
    return d
