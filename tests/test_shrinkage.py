"""Ledoit-Wolf coefficients against scikit-learn, streamed and merged."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

import padim_jax as padim
from padim_jax.gaussians import chunks, factors, shrinkage, triangle
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.moments import Moments
from tests.conftest import OPTIMISED, SMALL, images
from tests.test_gaussian import sample

UPDATE = jax.jit(gaussian_moments.update)  # one program a shape; op by op each would be compiled by itself


def folded(x: np.ndarray, sizes: list[int], padding: int = 0, update=UPDATE) -> Moments:
    """Moments of x, folded in by batches of ``sizes``, each with ``padding`` rows that do not count."""
    p, _, d = x.shape
    moments, start = gaussian_moments.init(p, d, higher=True), 0
    for size in sizes:
        rows = np.concatenate([x[:, start : start + size], np.full((p, padding, d), 9, np.float32)], axis=1)
        moments = update(moments, jnp.asarray(rows), jnp.arange(size + padding) < size)
        start += size
    return moments


def coefficients(moments: Moments) -> np.ndarray:
    assert moments.higher is not None
    return np.asarray(shrinkage.coefficient(moments.scatter.square(), moments.higher.fourth, moments.count))


@pytest.mark.parametrize("d", [2, 5, 30])
@pytest.mark.parametrize("n", [3, 20, 300])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_equal_to_scikit_learn(n: int, d: int, offset: float) -> None:
    x = sample(6, n, d, offset=offset)
    wanted = np.array([ledoit_wolf(at.astype(np.float64))[1] for at in x])
    for sizes in ([n], [1] * n, [n - 2, 2]):
        np.testing.assert_allclose(coefficients(folded(x, sizes)), wanted, atol=1e-4)
    np.testing.assert_allclose(coefficients(folded(x, [n], padding=3)), wanted, atol=1e-4)


@pytest.mark.parametrize("first", [0, 1, 7, 40])
def test_merged_is_equal_to_scikit_learn(first: int) -> None:
    x = sample(6, 40, 8)
    x[:, :20] += 2  # the two halves differ in mean
    merged = gaussian_moments.merge(folded(x[:, :first], [first]), folded(x[:, first:], [40 - first]))
    np.testing.assert_allclose(coefficients(merged), [ledoit_wolf(at.astype(np.float64))[1] for at in x], atol=1e-4)


def test_one_channel_and_a_constant_position_are_not_shrunk() -> None:
    x = sample(2, 10, 3)
    x[1] = 0.5
    assert coefficients(folded(x, [4, 6]))[1] == 0
    np.testing.assert_array_equal(coefficients(folded(sample(4, 10, 1), [10])), 0)


def test_covariance_is_scikit_learns_with_our_divisor() -> None:
    n, d, ridge = 25, 6, 1e-3
    x = sample(5, n, d)
    model = factors.finalize(folded(x, [10, 15]), ridge, "inverse-factor")
    assert isinstance(model, WhitenedGaussian)
    whitening = np.asarray(model.whitening.square(), np.float64)
    found = np.linalg.inv(whitening @ whitening.transpose(0, 2, 1))
    wanted = np.stack([ledoit_wolf(at.astype(np.float64))[0] for at in x]) * n / (n - 1) + ridge * np.eye(d)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sample(12, 9, 5)
    whole = gaussian_moments.merge(folded(x[:, :4], [4]), folded(x[:, 4:], [5]))
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3 * 5 * 5 * 4)
    chunked = jax.jit(lambda *arguments: gaussian_moments.update(*arguments))  # not the program of whole grids
    parts = gaussian_moments.merge(folded(x[:, :4], [4], update=chunked), folded(x[:, 4:], [5], update=chunked))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), parts, whole)


def test_an_update_holds_no_second_state(monkeypatch: pytest.MonkeyPatch) -> None:
    p, d, n = 32, 128, 4
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * d * d * 4)
    update = jax.jit(gaussian_moments.update, donate_argnums=0)
    shapes = jax.ShapeDtypeStruct((p, n, d), jnp.float32), jax.ShapeDtypeStruct((n,), bool)
    compiled = update.lower(jax.eval_shape(lambda: gaussian_moments.init(p, d, higher=True)), *shapes).compile(
        OPTIMISED
    )
    memory = compiled.memory_analysis()
    if memory is None:
        pytest.skip("this backend reports no memory")
    state = sum(stop * (stop - start) * 4 * p for start, stop in triangle.spans(d))
    assert memory.temp_size_in_bytes < state / 2


@pytest.mark.slow
def test_through_the_model(lite0: padim.Backbone) -> None:
    config = replace(SMALL, covariance="ledoit-wolf")
    x = images(9, config)
    parts = [
        padim.update(lite0, padim.init(lite0, config), x[:4]),
        padim.update(lite0, padim.init(lite0, config), x[4:]),
    ]
    merged = padim.finalize(lite0, padim.merge(*parts))
    whole = padim.fit(lite0, [x[:5], x[5:]], config)
    np.testing.assert_allclose(padim.score(merged, x).image_score, padim.score(whole, x).image_score, rtol=1e-3)
    plain = padim.fit(lite0, [x], SMALL)
    assert not np.allclose(padim.score(plain, x).image_score, padim.score(whole, x).image_score, rtol=1e-2)
