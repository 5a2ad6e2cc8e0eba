"""The variational autoencoder: its bound, against cases worked by hand and by SciPy, and its three kinds of maps."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import bernoulli, norm

from padim_jax.baselines import VaeSettings, vae
from tests.trained_models import BAD, CONFIG, GOOD, TEST


def test_the_bound_of_a_case_worked_by_hand() -> None:
    x, output = jnp.full((1, 1, 1, 2), 0.5), jnp.asarray([0.5, 0.7]).reshape(1, 1, 1, 2)
    mean, log_variance = jnp.full((1, 1, 1, 1), 2.0), jnp.full((1, 1, 1, 1), math.log(4.0))
    # half of (0.2 / 0.1)², and twice the logarithm of 0.1 √(2π); then half of 2² + 4 - 1 - log 4
    wanted = 2.0 + 2 * math.log(0.1 * math.sqrt(2 * math.pi)) + 0.5 * (4 + 4 - 1 - math.log(4))
    found = vae.negative_elbo(x, output, mean, log_variance, "gaussian", 0.1)
    np.testing.assert_allclose(found, [wanted / 2], rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_bound_is_that_of_scipy_s_distributions(likelihood: Any) -> None:
    rng = np.random.default_rng(0)
    x, output = rng.integers(0, 2, (3, 2, 4, 3)).astype(np.float32), rng.normal(0, 1, (3, 2, 4, 3)).astype(np.float32)
    mean, log_variance = rng.normal(0, 1, (2, 3, 1, 2, 2)).astype(np.float32)
    if likelihood == "gaussian":
        likelihoods = norm.logpdf(x, output, 0.3)
    else:
        likelihoods = bernoulli.logpmf(x, 1 / (1 + np.exp(-output.astype(float))))

    def divergence(m: float, s: float) -> float:
        return quad(lambda z: norm.pdf(z, m, s) * (norm.logpdf(z, m, s) - norm.logpdf(z)), m - 9 * s, m + 9 * s)[0]

    divergences = np.vectorize(divergence)(mean, np.exp(log_variance / 2))
    wanted = (divergences.sum(axis=(1, 2, 3)) - likelihoods.sum(axis=(1, 2, 3))) / 24
    arrays = [jnp.asarray(array) for array in (x, output, mean, log_variance)]
    found = vae.negative_elbo(arrays[0], arrays[1], arrays[2], arrays[3], likelihood, 0.3)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def settings(**own: Any) -> VaeSettings:
    return VaeSettings(**{"config": CONFIG, "width": 4, "latent": 4, "steps": 6, "batch_size": 8} | own)


def test_the_gradient_map_is_the_derivative_of_the_bound_by_the_pixels() -> None:
    config = VaeSettings(CONFIG.__class__(**{**CONFIG.__dict__, "sigma": 0})).config
    model = vae.fit(None, [GOOD], settings(map="gradient", config=config))
    x = TEST[:1].astype(np.float32) / 255
    network = vae._Recipe(model.settings).network

    def bound(values: jax.Array) -> jax.Array:
        net = network.holding(model.parameters)
        mean, log_variance = net.code(net.encoder(values))
        return 4608 * vae.negative_elbo(values, net.decode(mean), mean, log_variance, "gaussian", 0.1)[0]

    found = np.asarray(vae.score(model, TEST[:1]).anomaly_map)[0]
    for row, column in [(0, 0), (15, 23), (31, 40)]:
        slopes = []
        for channel in range(3):
            step = np.zeros_like(x)
            step[0, row, column, channel] = 0.02
            slopes.append((bound(jnp.asarray(x + step)) - bound(jnp.asarray(x - step))) / 0.04)
        np.testing.assert_allclose(found[row, column], np.linalg.norm(slopes), rtol=0.05)


@pytest.mark.slow
def test_attention_widens_over_good_images_as_training_asks() -> None:
    found = {}
    for expansion in (1e-9, 1.0):
        model = vae.fit(None, [GOOD], settings(map="attention", expansion=expansion, steps=40))
        maps = np.asarray(vae.score(model, TEST).anomaly_map)
        assert ((maps >= 0) & (maps <= 0.5 + 1e-6)).all()
        found[expansion] = maps.mean()
    assert found[1.0] < 0.5 * found[1e-9]


@pytest.mark.slow
def test_bernoulli_pixels_tell_defects_apart_too() -> None:
    own: dict[str, Any] = {"likelihood": "bernoulli", "steps": 150, "learning_rate": 4e-3}
    model = vae.fit(None, [GOOD], settings(**own))
    assert np.min(vae.score(model, BAD).image_score) > np.max(vae.score(model, TEST).image_score)


def test_attention_that_nothing_widens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"VaeSettings: map='attention' with expansion=0, .* set expansion=0\.01"):
        VaeSettings(map="attention")
