"""Triangles packed for storage."""

import numpy as np
from jaxtyping import Float


def pack_triangle(square: Float[np.ndarray, "p d d"], *, lower: bool) -> Float[np.ndarray, "p m"]:
    """The kept triangle's rows one after the other, d (d + 1) / 2 numbers per position."""
    p, d, _ = square.shape
    packed, at = np.empty((p, d * (d + 1) // 2), square.dtype), 0
    for i in range(d):
        row = square[:, i, : i + 1] if lower else square[:, i, i:]
        packed[:, at : at + row.shape[1]] = row
        at += row.shape[1]
    return packed


def unpack_triangle(
    packed: Float[np.ndarray, "p m"], *, lower: bool, symmetric: bool = False
) -> Float[np.ndarray, "p d d"]:
    """:func:`pack_triangle` undone; zeros, or where ``symmetric`` the mirrored triangle, fill the other half."""
    p, m = packed.shape
    d = round((np.sqrt(8 * m + 1) - 1) / 2)
    square, at = np.zeros((p, d, d), packed.dtype), 0
    for i in range(d):
        part = slice(0, i + 1) if lower else slice(i, d)
        row = packed[:, at : at + part.stop - part.start]
        square[:, i, part] = row
        if symmetric:
            square[:, part, i] = row
        at += row.shape[1]
    return square
