"""The autoencoder: its layers are the paper's, and its loss and its scores are what their docstrings say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.baselines import AeSettings, ae
from padim_jax.baselines.ssim import ssim_map
from tests import oracle
from tests.trained_models import CONFIG, TEST


def drawn(settings: AeSettings) -> ae.Ae:
    """With the first weights of its network."""
    return ae.Ae(ae._Recipe(settings).network.draw(jax.random.key(0)), jnp.ones((1, 2)), settings)


def test_the_published_network_is_that_of_table_1() -> None:
    config = padim.PadimConfig(image_size=128, crop_size=128)
    paths = drawn(AeSettings.published(config=config)).parameters
    published = [
        (4, 3, 32),
        (4, 32, 32),
        (3, 32, 32),
        (4, 32, 64),
        (3, 64, 64),
        (4, 64, 128),
        (3, 128, 64),
        (3, 64, 32),
    ]
    for index, (side, before, after) in enumerate(published):
        assert paths[f"encoder.convolutions.{index}.kernel"].shape == (side, side, before, after)
        assert paths[f"decoder.convolutions.{7 - index}.kernel"].shape == (side, side, after, before)
    assert paths["narrow.kernel"].shape == (8, 8, 32, 100)
    assert paths["widen.kernel"].shape == (8, 8, 100, 32)


@pytest.mark.parametrize("loss", ["ssim", "l2"])
def test_loss_and_scores_compare_an_image_with_its_reconstruction(loss: Any) -> None:
    model = drawn(AeSettings(CONFIG, loss=loss, width=4, latent=8))
    x, y = TEST.astype(np.float32) / 255, np.asarray(ae.reconstruct(model, TEST))
    if loss == "ssim":
        similarity = np.asarray(ssim_map(x, y))
        errors, wanted = 1 - similarity.mean(axis=-1), 1 - similarity.mean(axis=(1, 2, 3))
    else:
        errors, wanted = np.linalg.norm(x - y, axis=-1), ((x - y) ** 2).mean(axis=(1, 2, 3))
    maps = oracle.anomaly_maps(errors, CONFIG.crop, CONFIG.sigma)
    found = ae.score(model, TEST)
    np.testing.assert_allclose(found.anomaly_map, maps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.image_score, maps.max(axis=(1, 2)), rtol=1e-4)
    losses = ae._Recipe(model.settings).loss(model.parameters, {}, jnp.asarray(TEST), jax.random.key(0))
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
