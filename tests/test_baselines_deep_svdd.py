"""Deep SVDD: its centre, its loss and its score, from the vectors of its network."""

import jax
import numpy as np

from padim_jax.baselines import DeepSvddSettings, deep_svdd
from tests.trained_models import CONFIG, GOOD, TEST

SETTINGS = DeepSvddSettings(CONFIG, width=4, latent=8, steps=4, batch_size=8)


def test_the_centre_is_the_mean_of_the_first_vectors_and_nowhere_near_0() -> None:
    model = deep_svdd.fit(None, [GOOD], DeepSvddSettings(CONFIG, width=4, latent=64, steps=4, batch_size=8, held_out=0))
    recipe = deep_svdd._Recipe(model.settings)
    first = recipe.network.draw(jax.random.fold_in(jax.random.key(0), 0))
    mean = np.asarray(deep_svdd.embed(recipe.network, first, GOOD), np.float64).mean(axis=0)
    assert (np.abs(mean) < 0.1).any()
    wanted = np.where(np.abs(mean) < 0.1, np.copysign(0.1, mean), mean)
    np.testing.assert_allclose(model.centre, wanted, rtol=1e-4)


def test_images_held_out_have_no_part_in_the_centre() -> None:
    changed = DeepSvddSettings(CONFIG, width=4, latent=8, steps=4, batch_size=8, held_out=0.5)
    first, second = (np.asarray(deep_svdd.fit(None, [GOOD], settings).centre) for settings in (SETTINGS, changed))
    assert not np.array_equal(first, second)


def test_the_loss_is_the_squared_distance_and_the_score_the_distance_from_the_centre() -> None:
    model = deep_svdd.fit(None, [GOOD], SETTINGS)
    recipe = deep_svdd._Recipe(SETTINGS)
    vectors = np.asarray(deep_svdd.embed(recipe.network, model.parameters, TEST))
    wanted = np.linalg.norm(vectors - np.asarray(model.centre), axis=1)
    np.testing.assert_allclose(deep_svdd.score(model, TEST).image_score, wanted, rtol=1e-4)
    losses = recipe.loss(model.parameters, {"centre": model.centre}, jax.numpy.asarray(TEST), jax.random.key(0))
    np.testing.assert_allclose(losses, wanted**2, rtol=1e-3)


def test_the_network_has_no_bias_that_could_give_the_centre_whatever_it_sees() -> None:
    parameters = deep_svdd._Recipe(SETTINGS).network.draw(jax.random.key(0))
    assert all(path.endswith("kernel") for path in parameters)
    grey = np.full((1, *CONFIG.crop, 3), 0.5, np.float32)
    np.testing.assert_array_equal(deep_svdd.embed(deep_svdd._Recipe(SETTINGS).network, parameters, grey), 0)
