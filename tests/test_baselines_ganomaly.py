"""GANomaly: its losses from what its networks give, each moving its own network, and its score."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from padim_jax.baselines import GanomalySettings, ganomaly
from tests.trained_models import CONFIG, GOOD, TEST

SETTINGS = GanomalySettings(CONFIG, width=4, latent=8, steps=4, batch_size=8, contextual=20, encoding=3)


@pytest.fixture(scope="module")
def trained() -> ganomaly.Ganomaly:
    return ganomaly.fit(None, [GOOD], SETTINGS)


@pytest.fixture(scope="module")
def parts(trained: ganomaly.Ganomaly) -> dict[str, np.ndarray]:
    """What the networks give for the test images."""

    @jax.jit
    def compute(parameters: Any) -> dict[str, jax.Array]:
        network = ganomaly._Recipe(SETTINGS).network.holding(parameters)
        x = ganomaly.signed(jax.numpy.asarray(TEST))
        fake, code, again = network.generator(x)
        real, said = network.discriminator(x)
        fakes, says = network.discriminator(fake)
        names = "x fake code again real said fakes says".split()
        return dict(zip(names, (x, fake, code, again, real, said, fakes, says), strict=True))

    return {name: np.asarray(part, np.float64) for name, part in compute(trained.parameters).items()}


@pytest.mark.slow
def test_the_losses_are_the_paper_s(trained: ganomaly.Ganomaly, parts: dict[str, np.ndarray]) -> None:
    recipe, key = ganomaly._Recipe(SETTINGS), jax.random.key(0)
    found = jax.jit(recipe.deceive)(trained.parameters, {}, TEST, key)
    adversarial = ((parts["real"] - parts["fakes"]) ** 2).mean(axis=(1, 2, 3))
    contextual = np.abs(parts["x"] - parts["fake"]).mean(axis=(1, 2, 3))
    encoding = ((parts["code"] - parts["again"]) ** 2).mean(axis=1)
    np.testing.assert_allclose(found, adversarial + 20 * contextual + 3 * encoding, rtol=1e-4)
    right = 1 / (1 + np.exp(-parts["said"])), 1 - 1 / (1 + np.exp(-parts["says"]))
    wanted = -np.mean(np.log(right), axis=0)[:, 0]
    np.testing.assert_allclose(jax.jit(recipe.tell_apart)(trained.parameters, {}, TEST, key), wanted, rtol=1e-4)


def test_scores_are_the_distance_of_the_codes(trained: ganomaly.Ganomaly, parts: dict[str, np.ndarray]) -> None:
    wanted = np.linalg.norm(parts["code"] - parts["again"], axis=1) / np.sqrt(8)
    np.testing.assert_allclose(ganomaly.score(trained, TEST).image_score, wanted, rtol=1e-3)
    assert np.abs(parts["fake"]).max() <= 1


@pytest.mark.slow
def test_each_loss_moves_its_own_network() -> None:
    still = replace(SETTINGS, adversarial=0, contextual=0, encoding=0, weight_decay=0)
    first = ganomaly._Recipe(SETTINGS).network.draw(jax.random.fold_in(jax.random.key(0), 0))
    last = ganomaly.fit(None, [GOOD], still).parameters
    moved = {path.split(".")[0] for path in first if not np.array_equal(first[path], last[path])}
    assert moved == {"discriminator"}  # whose loss has a slope in the generator's parameters too
