"""Leave-one-out by formula against brute-force refits, below, at and above n = d."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.gaussians import factors, shrinkage
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.triangle import SymmetricMatrix
from tests import oracle
from tests.conftest import SMALL, images
from tests.test_gaussian import sample

RIDGE = 0.01
LEFT_OUT = jax.jit(lambda model, *of: model.left_out_distances(*of))
SIZES = [(3, 5), (5, 20), (19, 20), (20, 20), (21, 20), (22, 20), (60, 20), (7, 1)]


def refits(x: np.ndarray, ridge: float, copies: int = 1, strength: np.ndarray | None = None) -> np.ndarray:
    """(p, n) distances of each image (the last ``copies`` are one) from a Gaussian fitted on the others, in float64."""
    p, n, d = x.shape
    out = np.empty((p, n))
    for i in range(p):
        for k in range(n):
            gone = list(range(n - copies, n)) if k >= n - copies else [k]
            others = np.delete(x[i].astype(np.float64), gone, axis=0)
            covariance = np.cov(others, rowvar=False, ddof=1).reshape(d, d)
            if strength is not None:
                mean = np.trace(covariance) / d
                covariance = (1 - strength[i]) * covariance + strength[i] * mean * np.eye(d)
            difference = x[i, k] - others.mean(axis=0)
            out[i, k] = np.sqrt(difference @ np.linalg.solve(covariance + ridge * np.eye(d), difference))
    return out


def fitted(x: np.ndarray, strength: np.ndarray | None = None) -> WhitenedGaussian:
    """In the dtype of ``x``."""
    mean = x.mean(axis=1, dtype=np.float64)
    centred = x - mean[:, None]
    scatter = np.einsum("pni,pnj->pij", centred, centred)
    count = jnp.asarray(x.shape[1], x.dtype)
    if strength is None:
        moments = Moments(count, jnp.asarray(mean, x.dtype), SymmetricMatrix.from_square(scatter.astype(x.dtype)))
        model = factors.finalize(moments, RIDGE, "inverse-factor")
    else:
        covariance = shrinkage.shrink(jnp.asarray(scatter / (x.shape[1] - 1), x.dtype), jnp.asarray(strength, x.dtype))
        factor = jnp.linalg.cholesky(covariance + RIDGE * jnp.eye(x.shape[2], dtype=x.dtype)[None])
        whole = factors.Gaussian(jnp.asarray(mean, x.dtype), factor, jnp.asarray(strength, x.dtype))
        model = whole.with_solver("inverse-factor")
    assert isinstance(model, WhitenedGaussian)
    return model


def distances(x: np.ndarray, model: WhitenedGaussian, weights: np.ndarray | None = None) -> np.ndarray:
    weights = np.ones(x.shape[1]) if weights is None else weights
    count = jnp.asarray(x.shape[1], x.dtype)
    return np.asarray(LEFT_OUT(model, jnp.asarray(x), count, jnp.asarray(weights, x.dtype), RIDGE))


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_equals_refits_in_float32(n: int, d: int) -> None:
    x = sample(4, n, d)
    np.testing.assert_allclose(distances(x, fitted(x)), refits(x, RIDGE), rtol=1e-3)


@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("strength", [None, 0.3])
def test_equals_refits_in_float64(n: int, d: int, strength: float | None) -> None:
    x = sample(3, n, d).astype(np.float64)
    rho = None if strength is None else np.full(3, strength)
    with jax.enable_x64(True):
        found = distances(x, fitted(x, rho))
    np.testing.assert_allclose(found, refits(x, RIDGE, strength=rho), rtol=1e-8)


def test_an_image_that_is_there_twice_is_left_out_twice() -> None:
    x = sample(3, 30, 8).astype(np.float64)
    x[:, -1] = x[:, -2]
    weights = np.array([1] * 28 + [2, 2])
    with jax.enable_x64(True):
        found = distances(x, fitted(x), weights)
    np.testing.assert_allclose(found, refits(x, RIDGE, copies=2), rtol=1e-8)


def test_one_image_with_all_the_variance_converges() -> None:
    """The series falls slowest where one image makes up the trace that the shrinkage is made of."""
    x = sample(2, 12, 6).astype(np.float64) * 0.01
    x[:, 0] += 50
    rho = np.full(2, 0.9)
    with jax.enable_x64(True):
        found = distances(x, fitted(x, rho))
    np.testing.assert_allclose(found, refits(x, RIDGE, strength=rho), rtol=1e-8)


def test_strangers_and_too_few_images_give_no_number() -> None:
    x = sample(4, 10, 20)
    stranger = x[:, :1] + 100
    assert np.isnan(
        np.asarray(fitted(x).left_out_distances(jnp.asarray(stranger), jnp.float32(10), jnp.ones(1), RIDGE))
    ).all()
    assert np.isnan(distances(x[:, :2], fitted(x[:, :2]))).all()


@pytest.mark.parametrize("n", [8, 12, 30])  # d = 12
def test_whole_scores_equal_those_of_refitted_models(lite0: padim.Backbone, n: int) -> None:
    """Maps and maxima, through the network: each image by a model that never saw it."""
    pixels = images(n, SMALL)
    model = padim.calibrate(padim.fit(lite0, [pixels], SMALL), [pixels[:5], pixels[5:]])
    assert model.calibration is not None
    x = oracle.embeddings(lite0, model.embedding, pixels)
    wanted = []
    for k in range(n):
        grid = oracle.distance_grid(np.delete(x, k, axis=0), x[k : k + 1], SMALL.regularisation("test")[0])
        wanted.append(oracle.anomaly_maps(grid, SMALL.crop, SMALL.sigma).max())
    found, wanted = np.asarray(model.calibration.scores), np.sort(wanted)
    # float32's rounding of the covariance, where the images span little of the space
    np.testing.assert_array_less(np.abs(found / wanted - 1), np.maximum(1e-3, 2.0**-23 * wanted**2))


@pytest.mark.slow
def test_ledoit_wolf_with_the_coefficient_held_is_near_a_refit(lite0: padim.Backbone) -> None:
    """ρ is that of all images, not of all but one: what this costs, stated in README.md."""
    config, pixels = replace(SMALL, covariance="ledoit-wolf"), images(30, SMALL)
    model = padim.calibrate(padim.fit(lite0, [pixels], config), [pixels])
    assert model.calibration is not None
    apart = []
    for k in range(30):
        others = padim.fit(lite0, [np.delete(pixels, k, axis=0)], config)
        apart.append(float(padim.score(others, pixels[k : k + 1]).image_score[0]))
    np.testing.assert_allclose(model.calibration.scores, np.sort(apart), rtol=0.05)
