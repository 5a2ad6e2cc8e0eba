"""Patch SVDD: the patches it draws, its loss, its hierarchy, and its maps, against patches taken one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from padim_jax.baselines import PatchSvddSettings, patch_pairs, patch_svdd
from tests.trained_models import CONFIG, GOOD, TEST

SETTINGS = PatchSvddSettings(
    CONFIG, width=4, latent=8, patch_size=16, large_stride=6, small_stride=5, steps=4, batch_size=8, pairs=2
)


@pytest.fixture(scope="module")
def model() -> patch_svdd.PatchSvdd:
    return patch_svdd.fit(None, [GOOD], SETTINGS)


def corners_of(patches: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where each patch lies in an image whose pixels all differ."""
    width = image.shape[1]
    place = {value: divmod(index, width) for index, value in enumerate(image[..., 0].ravel())}
    return [place[patch[0, 0, 0]] for patch in patches]


def test_pairs_lie_where_their_places_say_and_stay_inside() -> None:
    height, width, side, pairs = 32, 48, 16, 200
    image = np.arange(height * width, dtype=np.float32).reshape(1, height, width, 1).repeat(3, axis=-1)
    patches, places = patch_pairs.draw_pairs(jax.random.key(0), jnp.asarray(image), side, pairs)
    assert patches.shape == (4, 1, pairs, side, side, 3)
    first, other, one, beside = (np.asarray(corners_of(np.asarray(part)[0], image[0])) for part in patches)
    for part in (first, other, one, beside):
        assert part.min() >= 0
        assert (part <= [height - side, width - side]).all()
    assert set(np.asarray(places)[0]) == set(range(8))
    wanted = 12 * patch_pairs.PLACES[np.asarray(places)[0]]
    assert np.abs(other - first - wanted).max() <= 2
    assert (np.abs(other - first - wanted) > 0).any()
    assert set(np.abs(beside - one).ravel()) == {0, 1}
    np.testing.assert_array_equal(
        np.asarray(patches)[0, 0, 0, :, :, 0], image[0, first[0, 0] :, first[0, 1] :, 0][:16, :16]
    )


@pytest.mark.parametrize(("size", "side", "stride"), [((32, 48), 16, 6), ((32, 48), 8, 5), ((9, 8), 8, 8)])
def test_a_pixel_has_the_mean_of_the_patches_it_lies_in(size: tuple[int, int], side: int, stride: int) -> None:
    rows, columns = (patch_pairs.patch_starts(length, side, stride) for length in size)
    values = np.random.default_rng(0).random((2, len(rows), len(columns)))
    total, count = np.zeros((2, *size)), np.zeros(size)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            total[:, row : row + side, column : column + side] += values[:, i, j, None, None]
            count[row : row + side, column : column + side] += 1
    found = patch_pairs.spread(jnp.asarray(values.reshape(2, -1), jnp.float32), size, side, stride)
    assert count.min() > 0
    np.testing.assert_allclose(found, total / count, rtol=1e-5)


def slow_vectors(model: patch_svdd.PatchSvdd, image: np.ndarray) -> list[np.ndarray]:
    """Of the large and the small patches, which are cut out one by one; a large one's quarters too."""
    network = patch_svdd._Recipe(SETTINGS).network.holding(model.parameters)
    values, found = image.astype(np.float32) / 255, []
    for side, stride in SETTINGS.sides:
        starts = [patch_pairs.patch_starts(length, side, stride) for length in CONFIG.crop]
        patches = np.stack([values[y : y + side, x : x + side] for y in starts[0] for x in starts[1]])
        if side == SETTINGS.patch_size:
            half = side // 2
            corners = [(y, x) for y in (0, half) for x in (0, half)]
            quarters = [network.small(jnp.asarray(patches[:, y : y + half, x : x + half])) for y, x in corners]
            grid = jnp.stack(quarters, axis=1).reshape(-1, 2, 2, 8)
            joined = jax.nn.leaky_relu(network.join(grid), 0.2)
            found.append(np.asarray(jnp.tanh(network.joined(joined)[:, 0, 0])))
        else:
            found.append(np.asarray(network.small(jnp.asarray(patches))))
    return found


@pytest.mark.slow
def test_the_banks_hold_the_vectors_of_all_good_patches(model: patch_svdd.PatchSvdd) -> None:
    large, small = slow_vectors(model, GOOD[3])
    assert model.large.shape == (24 * 4 * 7, 8)  # rows start at 0, 6, 12 and 16
    assert model.small.shape == (24 * 6 * 9, 8)
    for vectors, bank in ((large, model.large), (small, model.small)):
        distances = np.abs(vectors[:, None] - np.asarray(bank)[None]).max(axis=2)
        assert distances.min(axis=1).max() < 1e-4


def test_the_map_is_the_root_of_the_product_of_the_distances_to_the_nearest_good_patches(
    model: patch_svdd.PatchSvdd,
) -> None:
    sharp = jax.tree.map(lambda leaf: leaf, model)
    object.__setattr__(sharp, "settings", PatchSvddSettings(**{**SETTINGS.__dict__, "config": _sharp()}))
    wanted = np.ones(CONFIG.crop)
    for vectors, bank, (side, stride) in zip(
        slow_vectors(model, TEST[0]), (model.large, model.small), SETTINGS.sides, strict=True
    ):
        nearest = np.linalg.norm(vectors[:, None] - np.asarray(bank)[None], axis=2).min(axis=1)
        wanted *= np.asarray(patch_pairs.spread(jnp.asarray(nearest[None]), CONFIG.crop, side, stride))[0]
    wanted = np.sqrt(wanted)
    scores = patch_svdd.score(sharp, TEST[:1])
    np.testing.assert_allclose(scores.anomaly_map[0], wanted, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scores.image_score[0], wanted.max(), rtol=1e-3)
    few = patch_svdd.score(model, TEST, chunk_bytes=4000)
    np.testing.assert_allclose(few.anomaly_map, patch_svdd.score(model, TEST).anomaly_map, rtol=1e-4, atol=1e-6)


def _sharp() -> Any:
    return CONFIG.__class__(**{**CONFIG.__dict__, "sigma": 0})


@pytest.mark.slow
def test_the_loss_falls_as_places_are_told_and_near_patches_come_near(model: patch_svdd.PatchSvdd) -> None:
    key = jax.random.key(0)

    def loss(weight: float) -> np.ndarray:
        recipe = patch_svdd._Recipe(PatchSvddSettings(**{**SETTINGS.__dict__, "svdd_weight": weight}))
        return np.asarray(jax.jit(recipe.loss)(model.parameters, {}, TEST, key))

    places, both, twice = loss(0.0), loss(1.0), loss(2.0)
    assert (both > places).all()
    np.testing.assert_allclose(twice - places, 2 * (both - places), rtol=1e-3)
    lost = dict(model.parameters) | {
        path: jnp.zeros_like(leaf) for path, leaf in model.parameters.items() if "_place.last" in path
    }
    recipe = patch_svdd._Recipe(PatchSvddSettings(**{**SETTINGS.__dict__, "svdd_weight": 0.0}))
    np.testing.assert_allclose(
        jax.jit(recipe.loss)(lost, {}, TEST, key), 2 * np.log(8), rtol=1e-5
    )  # eight equal places


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"patch_size": 20}, r"patch_size=20 with crop_size=\(32, 48\), wanted images of two patches each way or more"),
        ({"patch_size": 14}, "patch_size=14, wanted a multiple of 4, 8 or more"),
        ({"large_stride": 17}, "large_stride=17, wanted 16 or less, the side of a patch"),
        ({"small_stride": 9}, "small_stride=9, wanted 8 or less, the side of a patch"),
    ],
)
def test_patches_that_do_not_fit_are_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchSvddSettings(**{"config": CONFIG, "patch_size": 16} | own)
