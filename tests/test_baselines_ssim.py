"""Structural similarity, against windows that are weighed one by one."""

from typing import Literal

import numpy as np
import pytest

from padim_jax.baselines.ssim import ssim_map
from tests.trained_models import BAD, TEST

Window = Literal["gaussian", "uniform"]


def slow_ssim(x: np.ndarray, y: np.ndarray, window: Window) -> np.ndarray:
    """Of two images of one channel, pixel by pixel, in float64."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets**2) / (2 * 1.5**2)) if window == "gaussian" else np.ones(11)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    x, y = (np.pad(image, 5, mode="symmetric") for image in (x, y))
    found = np.empty((len(x) - 10, x.shape[1] - 10))
    for row, column in np.ndindex(found.shape):
        a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
        alike = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        found[row, column] = alike * (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    return found


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_the_map_is_that_of_windows_weighed_one_by_one(window: Window) -> None:
    x, y = TEST[:2].astype(np.float32) / 255, BAD[1:3].astype(np.float32) / 255
    found = np.asarray(ssim_map(x, y, window))
    for image, channel in [(0, 0), (1, 2)]:
        wanted = slow_ssim(x[image, ..., channel].astype(float), y[image, ..., channel].astype(float), window)
        np.testing.assert_allclose(found[image, ..., channel], wanted, atol=2e-4)


def test_equal_images_have_similarity_1_and_small_ones_are_no_exception() -> None:
    x = TEST[:1, :7, :9].astype(np.float32) / 255
    np.testing.assert_allclose(ssim_map(x, x), np.ones(x.shape), atol=1e-4)
