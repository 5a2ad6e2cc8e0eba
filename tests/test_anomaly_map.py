"""Upsampling and blur against the textbook formula, SciPy and Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from padim_jax.method.anomaly_map import _blur, anomaly_map, image_score
from tests import oracle


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (33, 50), (7, 9)], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.7, 4.0])
def test_bilinear_map_matches_the_oracle(size: tuple[int, int], sigma: float) -> None:
    grids = np.random.default_rng(0).gamma(4, size=(2, 4, 6)).astype(np.float32)
    found = anomaly_map(jnp.asarray(grids), size, sigma, "bilinear")
    wanted = np.stack([oracle.upsample_bilinear(grid.astype(np.float64), size) for grid in grids])
    if sigma:
        wanted = oracle.anomaly_maps(grids.astype(np.float64), size, sigma)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(image_score(found), wanted.max(axis=(1, 2)), rtol=1e-4)


def test_bicubic_upsampling_is_pillows() -> None:
    grid = np.random.default_rng(0).gamma(4, size=(5, 7)).astype(np.float32)
    found = anomaly_map(jnp.asarray(grid)[None], (40, 56), 0.0, "bicubic")[0]
    wanted = np.asarray(Image.fromarray(grid).resize((56, 40), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 5, 40])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 9.3])
def test_blur_is_scipys(length: int, sigma: float) -> None:
    x = np.random.default_rng(0).normal(size=length)
    wanted = scipy.ndimage.gaussian_filter1d(x, sigma, mode="reflect")
    np.testing.assert_allclose(_blur(length, sigma) @ x, wanted, rtol=1e-10, atol=1e-10)


def test_a_constant_stays_constant() -> None:
    for interpolation in ("bilinear", "bicubic"):
        found = anomaly_map(jnp.full((1, 3, 5), 7.0), (24, 31), 2.0, interpolation)
        np.testing.assert_allclose(found, 7.0, rtol=1e-6)
