"""Float images are scored as their uint8 counterparts, and their scores can be differentiated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.backbones.layers import Conv, max_pool
from tests.conftest import SMALL, images


def as_floats(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


@pytest.fixture(scope="module")
def test_images() -> np.ndarray:
    return images(3, SMALL, seed=1)


def assert_gradient(function: Any, x: jax.Array, step: float) -> jax.Array:
    """The central difference along the gradient is its norm."""
    gradient = jax.jit(jax.grad(function))(x)
    norm, compiled = float(jnp.linalg.norm(gradient)), jax.jit(function)
    shift = step * gradient / norm
    np.testing.assert_allclose(float(compiled(x + shift) - compiled(x - shift)) / (2 * step), norm, rtol=0.02)
    return gradient


@pytest.mark.slow
def test_they_score_as_bytes_do(small_model: padim.Padim, test_images: np.ndarray) -> None:
    wanted, found = padim.score(small_model, test_images), padim.score(small_model, as_floats(test_images))
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-3)
    calibrated = padim.calibrate(small_model, images(20, SMALL))
    assert padim.score(calibrated, as_floats(test_images)).p_value is not None
    assert padim.score(small_model, as_floats(test_images)[:0]).image_score.shape == (0,)


@pytest.mark.slow
def test_gradients_agree_with_differences_by_either_solver(small_model: padim.Padim, test_images: np.ndarray) -> None:
    x = 0.1 + 0.8 * jnp.asarray(as_floats(test_images))

    def mean(model: padim.Padim, x: jax.Array) -> jax.Array:  # which has no kinks where another pixel is the largest
        return padim.score(model, x).anomaly_map.mean()

    wanted = assert_gradient(lambda x: mean(small_model, x), x, step=0.02)
    solved = jax.jit(jax.grad(mean, argnums=1))(padim.with_solver(small_model, "triangular-solve"), x)
    np.testing.assert_allclose(solved, wanted, atol=1e-3 * float(jnp.abs(wanted).max()))


@pytest.mark.slow
def test_gradients_pass_jit_and_vmap(small_model: padim.Padim, test_images: np.ndarray) -> None:
    x = jnp.asarray(as_floats(test_images))

    def total(x: jax.Array) -> jax.Array:
        return padim.score(small_model, x).image_score.sum()

    wanted = jax.jit(jax.grad(total))(x)
    assert float(jnp.abs(wanted).max()) > 0
    each = jax.jit(jax.vmap(jax.grad(lambda one: total(one[None]))))(x)
    np.testing.assert_allclose(each, wanted, atol=1e-3 * float(jnp.abs(wanted).max()))


def test_patches_at_their_mean_have_no_gradient_instead_of_nan(lite0: padim.Backbone) -> None:
    black = np.zeros((3, *SMALL.crop, 3), np.uint8)
    model = padim.fit(lite0, [black], SMALL)
    exact = padim.score(model, as_floats(black))
    gradient = jax.jit(jax.grad(lambda x: padim.score(model, x).anomaly_map.sum()))(jnp.asarray(as_floats(black)))
    assert float(exact.image_score.max()) < 1e-2
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"channels_in": 6, "kernel_size": 3, "rows": 2},
        {"channels_in": 6, "kernel_size": 3, "rows": 4},
        {"channels_in": 6, "kernel_size": 3, "stride": 2},
        {"channels_in": 3, "kernel_size": 5, "groups": 3},
        {"channels_in": 3, "kernel_size": 3, "stride": 2, "tf_same": True},
    ],
    ids=str,
)
def test_every_kernel_has_its_gradient(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    conv = Conv(channels_out=3, **settings)
    conv.kernel[...] = jnp.asarray(rng.standard_normal(conv.kernel.shape), jnp.float32)
    x = jnp.asarray(rng.standard_normal((2, 6, 5, settings["channels_in"])), jnp.float32)
    assert_gradient(lambda x: jnp.sum(conv(x) ** 2), x, step=0.1)


def test_max_pooling_has_its_gradient() -> None:
    x = jax.random.uniform(jax.random.key(0), (2, 6, 5, 3))
    assert_gradient(lambda x: jnp.sum(max_pool(x) ** 2), x, step=1e-2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, x: padim.score(m, x * 255), ValueError, r"score: float images have values from 0 to 255, wanted RGB from 0 \(black\) to 1 \(white\); divide"),
        (lambda m, x: padim.score(m, x - 1), ValueError, "values from -1 to 0"),
        (lambda m, x: padim.score(m, x * np.float32("nan")), ValueError, "values from nan"),
        (lambda m, x: padim.score(m, x.astype(np.float64)), TypeError, r"uint8 array of RGB \(0 to 255\) or a float32 array of RGB \(0 to 1\), got float64; .*by images.astype"),
        (lambda m, x: padim.calibrate(m, [x]), TypeError, r"must be a uint8 array of RGB \(0 to 255\), got float32; convert them first: where 1 is white, by \(255"),
        (lambda m, x: padim.score(m, x[:, :20]), ValueError, "smaller than the crop"),
    ],
)  # fmt: skip
def test_wrong_floats_are_refused(
    small_model: padim.Padim, test_images: np.ndarray, call: Any, error: type[Exception], words: str
) -> None:
    x = as_floats(test_images)
    x[0, 0, 0], x[0, 0, 1] = 0, 1
    with pytest.raises(error, match=words):
        call(small_model, x)
