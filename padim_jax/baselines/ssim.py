"""Structural similarity of images, as scikit-image has it, as one differentiable program (Wang et al., 2004)."""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

SIDE = 11  # pixels of a window
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for values from 0 to 1


def ssim_map(
    x: Float[Array | np.ndarray, "n h w c"],
    y: Float[Array | np.ndarray, "n h w c"],
    window: Literal["gaussian", "uniform"] = "gaussian",
) -> Float[Array, "n h w c"]:
    """SSIM of the window around each pixel, channel by channel.

    ``((2 μ_x μ_y + 0.01²) (2 σ_xy + 0.03²)) / ((μ_x² + μ_y² + 0.01²) (σ_x² + σ_y² + 0.03²))`` with the window's
    weighted means μ, variances σ² (weights sum to 1) and covariance; beyond the edges images are mirrored. It is
    ``skimage.metrics.structural_similarity(x, y, data_range=1, full=True, use_sample_covariance=False)`` with
    ``gaussian_weights=True``, or with ``win_size=11``.

    Args:
      x: values from 0 to 1; another range has other constants.
      y: likewise.
      window: weights of its 11×11 pixels: "gaussian", of standard deviation 1.5, or "uniform".

    Returns:
      From -1 to 1, which equal windows have.
    """
    rows, columns = (jnp.asarray(_window(length, window)) for length in x.shape[1:3])

    def mean(values: Array | np.ndarray) -> Array:
        half = jnp.einsum("nhwc,xw->nhxc", values, columns, precision=lax.Precision.HIGHEST)
        return jnp.einsum("yh,nhxc->nyxc", rows, half, precision=lax.Precision.HIGHEST)

    mean_x, mean_y = mean(x), mean(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = mean(x * y) - product, mean(x**2 + y**2) - squares
    return (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))


@functools.lru_cache(maxsize=16)
def _window(length: int, window: str) -> Float[np.ndarray, "length length"]:
    """Weighted mean over a window along one axis, as a matrix: edges mirrored (…c b a | a b c…)."""
    offsets = np.arange(SIDE) - SIDE // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2) if window == "gaussian" else np.ones(SIDE)
    source = (np.arange(length)[:, None] + offsets) % (2 * length)
    source = np.where(source < length, source, 2 * length - 1 - source)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], source), weights / weights.sum())
    return matrix.astype(np.float32)
