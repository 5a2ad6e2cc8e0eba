"""Methods with a map, against loops in NumPy on the same features."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from padim_jax.baselines import DfmSettings, PatchCoreSettings, SpadeSettings, dfm, patchcore, spade
from padim_jax.baselines.coreset import coreset
from padim_jax.baselines.patchcore import patch_scores
from tests import oracle
from tests.baseline_models import BACKBONE, CONFIG, GOOD, TEST, activations, distances, local_mean, pooled, rows_of

FINE, MIDDLE = (8, 12), (4, 6)


def maps_of(grid: np.ndarray) -> np.ndarray:
    return oracle.anomaly_maps(grid, CONFIG.crop, CONFIG.sigma)


@pytest.mark.parametrize(
    ("settings", "n_images", "n_patches"),
    [
        (SpadeSettings(CONFIG), 9, 1),
        (SpadeSettings(replace(CONFIG, taps=("fine", "middle")), n_images=4, n_patches=3), 4, 3),
    ],
)
def test_spade_compares_patches_with_those_of_the_nearest_images(
    settings: SpadeSettings, n_images: int, n_patches: int
) -> None:
    found = spade.score(spade.fit(BACKBONE, [GOOD], settings), TEST)
    good, test = activations(GOOD), activations(TEST)
    whole = distances(pooled(test[-1]), pooled(good[-1]))
    n_taps = 3 if settings.config.taps is None else 2
    gallery, queries = rows_of(good[:n_taps], FINE), rows_of(test[:n_taps], FINE)
    grid = np.zeros((len(TEST), *FINE))
    for index, row in enumerate(whole):
        similar = np.concatenate(gallery[np.argsort(row)[:n_images]])
        grid[index] = np.sort(distances(queries[index], similar), axis=1)[:, :n_patches].mean(axis=1).reshape(FINE)
    np.testing.assert_allclose(found.image_score, np.sort(whole, axis=1)[:, :n_images].mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.anomaly_map, maps_of(grid), rtol=1e-4)


@pytest.mark.parametrize("n_neighbours", [1, 5])
@pytest.mark.parametrize("taps", [None, ("fine", "coarse")])
def test_patchcore_is_the_paper_s(taps: tuple[str, ...] | None, n_neighbours: int) -> None:
    config = replace(CONFIG, taps=taps, seed=3)
    settings = PatchCoreSettings(config, share=0.2, n_neighbours=n_neighbours, search_dimension=8)
    model = patchcore.fit(BACKBONE, [GOOD], settings)
    used = slice(1, None) if taps is None else slice(None, None, 2)  # without the finest, as published
    shape = MIDDLE if taps is None else FINE
    good, test = (rows_of([local_mean(part, 3) for part in activations(x)[used]], shape) for x in (GOOD, TEST))
    candidates = np.concatenate(good)
    size = int(0.2 * len(candidates))
    kept = candidates[np.asarray(coreset(jnp.asarray(candidates, jnp.float32), size, jnp.uint32(3), 8))]
    assert model.bank.shape == kept.shape
    np.testing.assert_allclose(model.bank, kept, atol=1e-5)

    found = patchcore.score(model, TEST)
    grid, wanted = np.zeros((len(TEST), *shape)), []
    for index, queries in enumerate(test):
        to_bank = distances(queries, kept)
        grid[index] = to_bank.min(axis=1).reshape(shape)
        worst = to_bank.min(axis=1).argmax()
        near, largest = to_bank[worst].argmin(), to_bank[worst].min()
        around = np.argsort(distances(kept[near][None], kept)[0])[:n_neighbours]
        weight = 1 - np.exp(largest) / np.exp(to_bank[worst, around]).sum()
        wanted.append(largest if n_neighbours == 1 else weight * largest)
    np.testing.assert_allclose(found.anomaly_map, maps_of(grid), rtol=1e-4)
    np.testing.assert_allclose(found.image_score, wanted, rtol=1e-4)


def test_the_weight_of_a_far_patch_does_not_overflow() -> None:
    bank = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    features = np.stack([bank[:4] + 500, bank[:4]])
    scores, grid = patch_scores(jnp.asarray(bank), jnp.asarray(features), 9)
    assert np.isfinite(scores).all()
    assert 0 < scores[0] < grid[0].max()
    np.testing.assert_array_equal(scores[1], 0)


@pytest.mark.parametrize(("variance", "pool"), [(0.9, 1), (0.995, 2), (1.0, 3), (0.9, 10**9)])
def test_dfm_is_the_reconstruction_error_of_scikit_learn(variance: float, pool: int) -> None:
    settings = DfmSettings(replace(CONFIG, taps=("middle",)), variance=variance, pool=pool)
    model = dfm.fit(BACKBONE, [GOOD], settings)
    good, test = (blocks(activations(x)[1], pool) for x in (GOOD, TEST))
    flat_good, flat_test = (x.reshape(len(x), -1) for x in (good, test))
    pca = PCA(n_components=variance if variance < 1 else len(GOOD) - 1, svd_solver="full").fit(flat_good)
    error = (flat_test - pca.inverse_transform(pca.transform(flat_test))).reshape(test.shape)
    assert model.components.shape[-1] == pca.n_components_
    found = dfm.score(model, TEST)
    np.testing.assert_allclose(found.image_score, np.sqrt((error**2).sum(axis=(1, 2, 3))), rtol=1e-4)
    np.testing.assert_allclose(found.anomaly_map, maps_of(np.sqrt((error**2).sum(axis=-1))), rtol=1e-4)


def blocks(x: np.ndarray, side: int) -> np.ndarray:
    """Means of blocks, of those at the end over the cells that there are."""
    rows, columns = (range(0, length, side) for length in x.shape[1:3])
    means = [[x[:, i : i + side, j : j + side].mean(axis=(1, 2)) for j in columns] for i in rows]
    return np.moveaxis(np.array(means), 2, 0)


def test_images_that_are_all_equal_have_no_components() -> None:
    with pytest.raises(ValueError, match=r"dfm\.fit: the 4 images have equal features, which vary in no direction"):
        dfm.fit(BACKBONE, [np.repeat(GOOD[:1], 4, axis=0)], DfmSettings(CONFIG))


def test_dfm_takes_one_tap() -> None:
    with pytest.raises(ValueError, match=r"dfm\.fit: config\.taps=\('fine', 'coarse'\), wanted one tap"):
        dfm.fit(BACKBONE, [GOOD], DfmSettings(replace(CONFIG, taps=("fine", "coarse"))))


def test_a_coreset_too_small_for_its_neighbours_is_refused() -> None:
    message = r"patchcore\.fit: share=0\.01 of 216 patches keeps 2, wanted n_neighbours=9 or more; raise share or lower"
    with pytest.raises(ValueError, match=message):
        patchcore.fit(BACKBONE, [GOOD], PatchCoreSettings(CONFIG, share=0.01))


def test_more_images_or_patches_to_compare_with_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spade\.fit: 9 images, wanted 10 or more good ones; give more images"):
        spade.fit(BACKBONE, [GOOD], SpadeSettings(CONFIG, n_images=10))
    with pytest.raises(ValueError, match=r"spade\.fit: n_patches=97, but images have 96 patches; lower it"):
        spade.fit(BACKBONE, [GOOD], SpadeSettings(CONFIG, n_patches=97))
