"""Batched Cholesky factors and inverses against float64."""

import jax
import numpy as np
import pytest

from padim_jax.gaussians import cholesky


def covariances(d: int, images: int, p: int = 3) -> np.ndarray:
    """Those of embeddings: variances over four decades, and singular but for the ridge where images ≤ d."""
    x = np.random.default_rng(0).standard_normal((p, images, d)) * np.geomspace(3, 0.03, d)
    return np.einsum("pni,pnj->pij", x, x) / images + 0.01 * np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 13, 14, 27, 100, 131])
@pytest.mark.parametrize("images", [300, 20])
def test_factor_and_inverse_are_those_of_float64(d: int, images: int) -> None:
    exact = covariances(d, images)
    given = exact.astype(np.float32)
    lower = np.asarray(jax.jit(cholesky.factor)(given), np.float64)
    inverse = np.asarray(jax.jit(cholesky.inverse_factor)(given), np.float64)
    scale = np.sqrt(np.einsum("pii->pi", exact))
    errors = (lower @ lower.swapaxes(1, 2) - exact) / (scale[:, :, None] * scale[:, None, :])
    assert np.abs(errors).max() < 2e-6
    assert (np.triu(lower, 1) == 0).all()
    assert (np.triu(inverse, 1) == 0).all()
    # lengths of whitened vectors are what distances are made of
    white = np.random.default_rng(1).standard_normal((len(exact), 40, d))
    vectors = white @ np.linalg.cholesky(exact).swapaxes(1, 2)
    lengths = np.linalg.norm(vectors @ inverse.swapaxes(1, 2), axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(white, axis=-1), rtol=2e-5)


@pytest.mark.parametrize("d", [5, 40])
def test_what_is_not_positive_definite_is_not_finite(d: int) -> None:
    matrices = np.stack([np.eye(d), np.diag([*np.ones(d - 1), -1])]).astype(np.float32)
    for function in (cholesky.factor, cholesky.inverse_factor):
        finite = np.isfinite(jax.jit(function)(matrices)).all(axis=(1, 2))
        assert finite.tolist() == [True, False], function.__name__
