"""Grid of distances to a map at image size, and to one score per image."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

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


def image_score(maps: Float[Array, "n height width"]) -> Float[Array, " n"]:
    """Largest value of each map (PaDiM section III-D), in units of distance."""
    return jnp.max(maps, axis=(1, 2))


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
