"""update, merge, forget and half-life against fits from scratch: distances equal to 1e-3 over random data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import padim_jax as padim
from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.moments import Moments
from tests import oracle
from tests.conftest import SMALL, images
from tests.test_gaussian import RIDGE, covariances, sample
from tests.test_shrinkage import UPDATE, folded

FORGET, MERGE, ROUNDING = (
    jax.jit(one) for one in (gaussian_moments.forget, gaussian_moments.merge, gaussian_moments.rounding_left)
)
FINALIZE = jax.jit(factors.finalize, static_argnums=(1, 2))
SHAPES = st.sampled_from([(3, 4), (12, 6), (40, 6)])  # few shapes: each is compiled once


def distances(moments: Moments, test: np.ndarray) -> np.ndarray:
    return np.asarray(FINALIZE(moments, RIDGE, "inverse-factor").distances(jnp.asarray(test)))


def batches(x: np.ndarray, moments: Moments | None = None) -> Moments:
    """Folded in one by one, so that any number of images is one program."""
    state: Moments = gaussian_moments.init(x.shape[0], x.shape[2]) if moments is None else moments
    for k in range(x.shape[1]):
        state = UPDATE(state, jnp.asarray(x[:, k : k + 1]), jnp.ones(1, bool))
    return state


@settings(deadline=None, max_examples=40)
@given(
    shape=SHAPES,
    kept=st.integers(2, 12),
    gone=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    offset=st.sampled_from([0.0, 3.0, -30.0]),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_update_merge_and_forget_equal_fits_from_scratch(shape, kept, gone, seed, offset, scale) -> None:
    p, d = shape
    x = (sample(p, kept + gone, d, seed=seed) * scale + offset).astype(np.float32)
    test = (sample(p, 3, d, seed=seed + 1) * scale + offset).astype(np.float32)
    first, last = batches(x[:, :kept]), batches(x[:, kept:])
    sigma = [covariances(part) + RIDGE * np.eye(d) for part in (x, x[:, :kept])]
    difference = [test - part.mean(axis=1, dtype=np.float64)[:, None] for part in (x, x[:, :kept])]
    whole, part = (
        np.sqrt(np.einsum("pni,pij,pnj->pn", delta, np.linalg.inv(one), delta))
        for delta, one in zip(difference, sigma, strict=True)
    )
    np.testing.assert_allclose(distances(batches(x[:, kept:], first), test), whole, rtol=1e-3)
    np.testing.assert_allclose(distances(MERGE(first, last), test), whole, rtol=1e-3)
    before, after = batches(x), FORGET(batches(x), last)
    rounding = ROUNDING(before, after, FINALIZE(after, RIDGE, "inverse-factor").whitening)
    assume(rounding.max() <= 2e-3)  # else it would be refused
    np.testing.assert_allclose(distances(after, test), part, rtol=max(1e-3, float(rounding.max())))


@pytest.mark.parametrize("kept", [5, 30])
def test_forgetting_keeps_ledoit_wolf_exact(kept: int) -> None:
    x = sample(6, 40, 8, offset=5)
    after = FORGET(folded(x, [40]), folded(x[:, kept:], [40 - kept]))
    wanted = folded(x[:, :kept], [kept])
    assert after.higher is not None
    assert wanted.higher is not None
    for found, right in zip(jax.tree.leaves(after.higher), jax.tree.leaves(wanted.higher), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3 * np.abs(right).max())
    found, right = gaussian_moments.shrinkage_strength(after), gaussian_moments.shrinkage_strength(wanted)
    assert found is not None
    assert right is not None
    np.testing.assert_allclose(found, right, atol=1e-3)


@pytest.mark.parametrize(
    ("sizes", "half_life"), [([20], 2.0), ([20], 5.0), ([7, 13], 5.0), ([7, 13], 1e6), ([1] * 20, 5.0)]
)
def test_half_life_is_a_weighted_fit(lite0: padim.Backbone, sizes: list[int], half_life: float) -> None:
    """Whatever the batches: weights 2^(-age / H) in the plain formulas, in float64."""
    pixels = images(20, SMALL)
    moments, start = padim.init(lite0, SMALL), 0
    for size in sizes:
        moments = padim.update(lite0, moments, pixels[start : start + size], half_life=half_life)
        start += size
    x = oracle.embeddings(lite0, moments.embedding, pixels).reshape(20, -1, moments.embedding.dimension)
    weights = 2.0 ** (-np.arange(19, -1, -1) / half_life)
    mean = np.einsum("n,npd->pd", weights, x) / weights.sum()
    scatter = np.einsum("n,npi,npj->pij", weights, x - mean, x - mean)
    np.testing.assert_allclose(float(moments.count), weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(moments.moments.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moments.moments.scatter.square(), scatter, rtol=1e-3, atol=1e-3 * np.abs(scatter).max())


@pytest.mark.parametrize("half_life", [0, -1, float("inf"), float("nan")])
def test_half_life_must_be_a_number_of_images(lite0: padim.Backbone, half_life: float) -> None:
    with pytest.raises(ValueError, match="wanted a positive number of images"):
        padim.update(lite0, padim.init(lite0, SMALL), images(2, SMALL), half_life=half_life)


def moments_of(backbone: padim.Backbone, pixels: np.ndarray, config: padim.PadimConfig = SMALL) -> padim.PadimMoments:
    return padim.update(backbone, padim.init(backbone, config), pixels)


def test_forget_through_the_network(lite0: padim.Backbone) -> None:
    pixels, test = images(24, SMALL), images(3, SMALL, seed=9)
    kept = padim.forget(moments_of(lite0, pixels), moments_of(lite0, pixels[16:]))
    assert int(kept.count) == 16
    wanted = padim.score(padim.fit(lite0, [pixels[:16]], SMALL), test)
    found = padim.score(padim.finalize(lite0, kept), test)
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-3)
    inside = jax.jit(padim.forget)(moments_of(lite0, pixels), moments_of(lite0, pixels[16:]))
    np.testing.assert_allclose(inside.moments.mean, kept.moments.mean, rtol=1e-5)


def test_forget_refuses_what_it_cannot_do(lite0: padim.Backbone) -> None:
    whole = moments_of(lite0, images(6, SMALL))
    with pytest.raises(ValueError, match="1 of 6 images would be left; a fit needs 2 or more"):
        padim.forget(whole, moments_of(lite0, images(6, SMALL)[1:]))
    with pytest.raises(ValueError, match="no images to forget"):
        padim.forget(whole, padim.init(lite0, SMALL))
    with pytest.raises(ValueError, match="those were never folded in"):
        padim.forget(whole, moments_of(lite0, images(3, SMALL, seed=8)))
    other = padim.PadimConfig(n_channels=11, image_size=(40, 56), crop_size=(32, 48))
    with pytest.raises(ValueError, match=r"forget: the two were not fitted alike.*n_channels: 12 against 11"):
        padim.forget(whole, moments_of(lite0, images(3, other), other))


@pytest.mark.slow
def test_forget_refuses_where_rounding_would_outweigh_what_is_left(lite0: padim.Backbone) -> None:
    """5 of 200 left: distances would be off by 8 %."""
    pixels = images(200, SMALL)
    whole, gone = moments_of(lite0, pixels), moments_of(lite0, pixels[5:])
    with pytest.raises(FloatingPointError, match="would show in distances; fit anew"):
        padim.forget(whole, gone)
