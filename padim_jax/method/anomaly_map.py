"""Grid of distances to a map at image size, and to one score per image."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from padim_jax.config import Interpolation


def anomaly_map(
    distances: Float[Array, "n h w"], size: tuple[int, int], sigma: float, interpolation: Interpolation
) -> Float[Array, "n height width"]:
    """Upsample distances to ``size`` and blur them (PaDiM section IV-B).

    Both steps are linear and act on rows and columns apart, so they are composed once:
    ``map = A D Bᵀ`` with ``A = blur · upsample`` (height, h) and B likewise (width, w).

    Args:
      distances: Mahalanobis distances over the grid, not squared.
      size: (height, width) of the map in pixels.
      sigma: standard deviation of the Gaussian blur in pixels; 0 for none.
      interpolation: "bilinear" or "bicubic", half-pixel centres.

    Returns:
      The maps, in units of distance.
    """
    rows = jnp.asarray(resampling(distances.shape[1], size[0], sigma, interpolation))
    columns = jnp.asarray(resampling(distances.shape[2], size[1], sigma, interpolation))
    half = jnp.einsum("nhw,xw->nhx", distances, columns, precision=lax.Precision.HIGHEST)
    return jnp.einsum("yh,nhx->nyx", rows, half, precision=lax.Precision.HIGHEST)


def image_score(
    maps: Float[Array | np.ndarray, "n height width"],
    share: float | None = None,
    roi: Bool[Array | np.ndarray, "height width"] | None = None,
) -> Float[Array | np.ndarray, " n"]:
    """Largest value of each map (PaDiM section III-D), or the mean of its highest ones, in units of the maps.

    With a share f of the q pixels judged, whose values in falling order are m₁ ≥ … ≥ m_q, it is
    ``(m₁ + … + m_k) / k, k = max(1, round(f q))``.

    NumPy maps stay on the host. One map gives the same number there as on a CPU's device, to the last bit: the sum is
    made of halves of halves, so its order is fixed, and k is rounded in float32.

    Args:
      maps: float32; where there is a region of interest, nowhere higher than inside of it.
      share: f, in (0, 1]; None for the largest value.
      roi: True where pixels are judged; None for everywhere.
    """
    if share is None:
        return maps.max(axis=(1, 2))
    library = np if isinstance(maps, np.ndarray) else jnp
    values = maps.reshape(len(maps), math.prod(maps.shape[1:]))
    most = int(top_count(share, values.shape[1]))  # k is never more
    count = np.float32(most)
    if roi is not None:
        values, count = library.where(roi.reshape(1, -1), values, -np.inf), top_count(share, roi.sum())
    highest = np.sort(np.partition(values, -most)[:, -most:])[:, ::-1] if library is np else lax.top_k(values, most)[0]
    counted = library.where(library.arange(most, dtype=np.float32)[None] < count, highest, 0)
    width = 1 << (most - 1).bit_length()
    terms = library.pad(counted, [(0, 0), (0, width - most)])
    while width > 1:
        width //= 2
        terms = terms[:, :width] + terms[:, width:]
    return terms[:, 0] * (1 / count)  # a division by a constant would be rounded otherwise on a device


def top_count(share: float, pixels: int | np.integer | Array) -> Any:
    """The k of so many pixels, float32."""
    library = jnp if isinstance(pixels, Array) else np
    return library.maximum(1, library.rint(np.float32(share) * library.asarray(pixels, np.float32)))


@functools.lru_cache(maxsize=64)
def resampling(
    cells: int, pixels: int, sigma: float, interpolation: Interpolation
) -> Float[np.ndarray, "pixels cells"]:
    """Matrix, float32, that upsamples one axis and then blurs it."""
    return (_blur(pixels, sigma) @ _upsampling(cells, pixels, interpolation)).astype(np.float32)


def _upsampling(cells: int, pixels: int, interpolation: Interpolation) -> np.ndarray:
    """Interpolation weights: the kernel at the distance of centres, renormalised where it leaves the grid."""
    centres = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    distance = np.abs(centres[:, None] - np.arange(cells))
    if interpolation == "bilinear":
        weights = np.maximum(1 - distance, 0)
    else:  # Keys (1981), a = -1/2, as Pillow resizes images
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def _blur(length: int, sigma: float) -> np.ndarray:
    """Gaussian filter as a matrix: cut off at 4σ, edges mirrored (…c b a | a b c…), as scipy.ndimage has it."""
    if sigma == 0:
        return np.eye(length)
    radius = math.floor(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    source = (np.arange(length)[:, None] + offsets) % (2 * length)
    source = np.where(source < length, source, 2 * length - 1 - source)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], source), kernel)
    return matrix
