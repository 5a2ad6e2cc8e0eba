"""Several Gaussians that all positions share: fit, scores and leave-one-out against refits in float64."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax import mesh as meshes
from padim_jax.artifact import Updatable
from padim_jax.artifact.compaction import compact
from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.arrangement import SharedGaussians
from padim_jax.gaussians.components import find_centres, nearest
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.pooling import Prior, pooled_covariance
from padim_jax.images.folder import digest_file
from padim_jax.inspection.model import inspect_model
from padim_jax.method.centres import PatchSample
from padim_jax.method.embedding import draw_embedding
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fold import fit_batches
from padim_jax.runs.forget import forget_files
from padim_jax.runs.merge import merge_models
from tests import oracle
from tests.conftest import SMALL, images, write_images
from tests.test_gaussian import sample

K, RIDGE, PRIOR = 3, 0.02, 1.5
SHARED = replace(SMALL, positions="shared", n_components=K)
POOLED = replace(SHARED, covariance="pooled", prior_images=2.0)


def belonging(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    gaps = x.astype(np.float64)[..., None, :] - centres.astype(np.float64)
    return (gaps**2).sum(axis=-1).argmin(axis=-1)


def reference(
    x: np.ndarray,
    weights: np.ndarray,
    centres: np.ndarray,
    ridge: float,
    prior: float = 0.0,
    pooled: np.ndarray | None = None,
) -> tuple[list[tuple[float, np.ndarray, np.ndarray]], np.ndarray]:
    """Share of all patches, mean and covariance of each component of images (p, n, d), in float64; and T.

    An image's cells share its weight; the divisor is a component's share of the images less one.
    """
    p, _, d = x.shape
    rows, shares, of = x.astype(np.float64).reshape(-1, d), np.tile(weights / p, p), belonging(x, centres).ravel()
    parts = []
    for k in range(len(centres)):
        own, held = rows[of == k], shares[of == k]
        mean = held @ own / held.sum() if len(own) else np.zeros(d)
        parts.append((held.sum() / weights.sum(), mean, ((own - mean) * held[:, None]).T @ (own - mean)))
    divisor = weights.sum() - 1
    held_fixed = np.sum([scatter for _, _, scatter in parts], axis=0) / divisor if pooled is None else pooled
    components = [
        (share, mean, (scatter + prior * held_fixed) / (share * divisor + prior) + ridge * np.eye(d))
        for share, mean, scatter in parts
        if share > 0
    ]
    return components, held_fixed


def distances(x: np.ndarray, components: list[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """How far twice the largest log-density of a component is below the largest there can be, and the root of that."""
    offsets = np.array([np.linalg.slogdet(sigma)[1] - 2 * np.log(share) for share, _, sigma in components])
    squares = [
        np.einsum("...i,ij,...j->...", x - mean, np.linalg.inv(sigma), x - mean) + offset
        for (_, mean, sigma), offset in zip(components, offsets, strict=True)
    ]
    return np.sqrt(np.min(squares, axis=0) - offsets.min())


def fold(centres: np.ndarray, *batches: np.ndarray) -> Moments:
    state = gaussian_moments.init(K, centres.shape[1], centres=jnp.asarray(centres))
    for x in batches:
        state = jax.jit(SharedGaussians(K).update)(state, jnp.asarray(x), jnp.ones(x.shape[1]))
    return state


def prior_of(state: Moments, images: float) -> Prior | None:
    return Prior(pooled_covariance(state, 1), jnp.float32(images)) if images else None


@pytest.fixture
def centres() -> np.ndarray:
    return sample(1, K, 6, seed=11)[0]


@pytest.mark.slow
@pytest.mark.parametrize("prior", [0.0, PRIOR])
@pytest.mark.parametrize("n", [3, 30])
def test_distances_are_those_of_the_likeliest_component(centres: np.ndarray, n: int, prior: float) -> None:
    x, y = sample(17, n, 6, seed=1), sample(17, 3, 6, seed=2)
    state = fold(centres, x[:, : n // 2], x[:, n // 2 :])
    assert float(state.count) == n
    assert state.components is not None
    np.testing.assert_allclose(np.sum(state.components.shares), n, rtol=1e-6)
    expected = distances(y, reference(x, np.ones(n), centres, RIDGE, prior)[0])
    for solver in ("inverse-factor", "triangular-solve"):
        fitted = factors.finalize(state, RIDGE, solver, prior_of(state, prior))
        found = SharedGaussians(K).distances(fitted, jnp.asarray(y))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prior", [0.0, PRIOR])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("n", [4, 30])
def test_left_out_distances_are_those_of_refits(centres: np.ndarray, n: int, copies: int, prior: float) -> None:
    x = sample(17, n + copies - 1, 6, seed=3)
    x[:, n - 1 :] = x[:, n - 1 : n]  # the last image was fitted as often as there are copies
    weights = np.where(np.arange(n) == n - 1, copies, 1.0)
    _, pooled = reference(x[:, :n], weights, centres, RIDGE)
    state = fold(centres, x)
    fitted = factors.finalize_whitened(state, RIDGE, prior_of(state, prior))
    arguments = jnp.asarray(x[:, :n]), state.count, jnp.asarray(weights, jnp.float32), RIDGE, prior
    found = np.asarray(SharedGaussians(K).left_out_distances(fitted, *arguments))
    for k in range(n):
        others = np.delete(x[:, :n], k, axis=1), np.delete(weights, k)
        components, _ = reference(*others, centres, RIDGE, prior, pooled)
        np.testing.assert_allclose(found[:, k], distances(x[:, k], components), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("prior", [0.0, PRIOR])
def test_a_component_of_one_image_alone_is_left_out_with_it(prior: float) -> None:
    x = sample(17, 5, 6, seed=4)
    x[3:9, 2] += 30
    centres = np.stack([x[5, 2], *sample(1, 2, 6, seed=12)[0]])
    state = fold(centres, x)
    fitted = factors.finalize_whitened(state, RIDGE, prior_of(state, prior))
    found = SharedGaussians(K).left_out_distances(fitted, jnp.asarray(x), state.count, jnp.ones(5), RIDGE, prior)
    _, pooled = reference(x, np.ones(5), centres, RIDGE)
    components, _ = reference(np.delete(x, 2, axis=1), np.ones(4), centres, RIDGE, prior, pooled)
    assert len(components) == 2
    np.testing.assert_allclose(found[:, 2], distances(x[:, 2], components), rtol=2e-3)


def test_merging_and_forgetting_go_by_component(centres: np.ndarray) -> None:
    x = sample(17, 12, 6, seed=5)
    parts, whole = (fold(centres, x[:, :7]), fold(centres, x[:, 7:])), fold(centres, x)
    merged = gaussian_moments.merge(*parts)
    for found, expected in ((merged, whole), (gaussian_moments.forget(whole, parts[1]), parts[0])):
        assert found.components is not None
        assert expected.components is not None
        np.testing.assert_allclose(found.components.shares, expected.components.shares, rtol=1e-5)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scatter.square(), expected.scatter.square(), rtol=1e-3, atol=1e-4)


def test_centres_are_those_of_clusters_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[0, 0, 9.0], [9, 0, 0], [0, 9, 0]])
    points = (true[rng.integers(0, 3, 300)] + rng.normal(size=(300, 3))).astype(np.float32)
    found = find_centres(points, 3, seed=4)
    assert set(belonging(true, found)) == {0, 1, 2}
    of = belonging(points, found)
    np.testing.assert_allclose(found, [points[of == k].mean(axis=0) for k in range(3)], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(nearest(jnp.asarray(points), jnp.asarray(found)), of)
    np.testing.assert_array_equal(found, find_centres(points, 3, seed=4))
    with pytest.raises(ValueError, match="n_components=3 is more than the 2 different patches"):
        find_centres(np.repeat(points[:2], 5, axis=0), 3, seed=0)


def test_the_sample_does_not_depend_on_order_batches_or_copies(lite0: padim.Backbone) -> None:
    embedding, pixels = draw_embedding(lite0, SHARED), images(7, SHARED)
    x = sample(96, 7, 12, seed=6)

    def sampled(order: list[int], *sizes: int) -> np.ndarray:
        kept = PatchSample(embedding, size=100)
        for part in np.split(np.array(order), np.cumsum(sizes)):
            kept.add(pixels[part], x[:, part], np.ones(len(part), bool))
        return kept._patches

    first = sampled([0, 1, 2, 3, 4, 5, 6], 4)
    assert first.shape == (100, 12)
    np.testing.assert_array_equal(sampled([6, 2, 4, 3, 0, 1, 5, 5, 2], 1, 3), first)
    per_image = [(first[:, None] == x[:, k][None]).all(axis=-1).any(axis=1).sum() for k in range(7)]
    assert sum(per_image) == 100
    assert min(per_image) > 4  # an even share is 14


def grids(model: padim.Padim, good: np.ndarray, test: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
    train, found = (oracle.embeddings(model.backbone, model.embedding, pixels) for pixels in (good, test))
    cells = train.reshape(len(train), -1, train.shape[-1]).swapaxes(0, 1)
    assert model.gaussian.components is not None
    centres = np.asarray(model.gaussian.components.centres)
    ridge, prior = model.config.regularisation("test")
    components, _ = reference(cells, np.ones(len(good)), centres, ridge, prior, pooled)
    return distances(found, components)


@pytest.fixture(scope="module")
def fitted(lite0: padim.Backbone) -> padim.Padim:
    good = images(20, POOLED)
    return padim.fit(lite0, [good[:13], good[13:]], POOLED)


@pytest.mark.slow
def test_maps_and_calibration_are_those_of_refits(lite0: padim.Backbone, fitted: padim.Padim) -> None:
    test, good = images(3, POOLED, seed=9), images(20, POOLED)
    expected = oracle.anomaly_maps(grids(fitted, good, test), POOLED.crop, POOLED.sigma)
    np.testing.assert_allclose(padim.score(fitted, test).anomaly_map, expected, rtol=1e-3)
    cells = oracle.embeddings(lite0, fitted.embedding, good).reshape(20, -1, 12).swapaxes(0, 1)
    assert fitted.gaussian.components is not None
    _, pooled = reference(cells, np.ones(20), np.asarray(fitted.gaussian.components.centres), POOLED.ridge)  # type: ignore[arg-type]
    maps = [
        oracle.anomaly_maps(
            grids(fitted, np.delete(good, k, axis=0), good[k : k + 1], pooled), POOLED.crop, POOLED.sigma
        )
        for k in range(20)
    ]
    calibrated = padim.calibrate(fitted, [good[:13], good[13:]])
    assert calibrated.calibration is not None
    np.testing.assert_allclose(calibrated.calibration.scores, np.sort(np.max(maps, axis=(1, 2, 3))), rtol=1e-3)
    with pytest.raises(ValueError, match="not the images the model was fitted on"):
        padim.calibrate(fitted, [images(20, POOLED, seed=8)])


@pytest.mark.slow
def test_a_model_is_saved_with_its_components(fitted: padim.Padim, tmp_path: Path) -> None:
    test = images(3, POOLED, seed=9)
    padim.save(fitted, tmp_path / "saved")
    loaded = padim.load(tmp_path / "saved")
    np.testing.assert_array_equal(padim.score(loaded, test).anomaly_map, padim.score(fitted, test).anomaly_map)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.gaussian))
    assert size == 4 * (K * (12 + 144) + K * 12 + K)
    calibrated = padim.calibrate(loaded, [images(20, POOLED)])
    assert calibrated.calibration is not None
    assert compact(fitted, 0.01).form == "triangle"
    record = inspect_model(tmp_path / "saved").record()
    assert record["condition_numbers"]["of"] == K
    assert record["log_determinant"]["least"] < record["log_determinant"]["most"]
    with pytest.raises(ValueError, match="the patches of a position can belong to any of 3 components"):
        padim.parameters_at(loaded, 0, 0)


def test_update_merge_and_forget_keep_the_centres(lite0: padim.Backbone, fitted: padim.Padim, tmp_path: Path) -> None:
    good, test = images(20, POOLED), images(3, POOLED, seed=9)
    assert fitted.gaussian.components is not None
    centres = fitted.gaussian.components.centres
    parts = [
        padim.update(lite0, padim.init(lite0, POOLED, centres=centres), good[part])
        for part in (slice(13), slice(13, 20))
    ]
    merged = padim.merge(*parts)
    for moments in (merged, padim.update(lite0, parts[0], good[13:])):
        maps = padim.score(padim.finalize(lite0, moments), test).anomaly_map
        np.testing.assert_allclose(maps, padim.score(fitted, test).anomaly_map, rtol=1e-3)
    left = padim.finalize(lite0, padim.forget(merged, parts[1]))
    again = padim.finalize(lite0, parts[0])
    np.testing.assert_allclose(padim.score(left, test).anomaly_map, padim.score(again, test).anomaly_map, rtol=2e-3)
    other = padim.init(lite0, POOLED, centres=centres + 1)
    with pytest.raises(ValueError, match=r"^merge: the two have other components"):
        padim.merge(merged, other)
    with pytest.raises(ValueError, match=r"^merge: the two have other components"):
        merge_models([Updatable(lite0, merged), Updatable(lite0, other)])
    padim.save_updatable(Updatable(lite0, merged, images={}), tmp_path / "model")
    stored = padim.load_updatable(tmp_path / "model")
    np.testing.assert_array_equal(
        padim.score(stored.model(), test).anomaly_map, padim.score(padim.finalize(lite0, merged), test).anomaly_map
    )


@pytest.mark.slow
def test_files_are_forgotten_and_a_component_never_emptied(lite0: padim.Backbone, tmp_path: Path) -> None:
    config = replace(POOLED, image_size=POOLED.crop_size)
    pixels = images(6, config)
    paths = write_images(tmp_path / "good", pixels)
    model = padim.fit(lite0, [pixels], config)
    assert model.gaussian.components is not None
    centres = np.array(model.gaussian.components.centres)
    moments = padim.update(lite0, padim.init(lite0, config, centres=centres), pixels)
    stored = Updatable(lite0, moments, images={digest_file(path): 1 for path in paths})
    left = forget_files(stored, paths[:1])
    expected = padim.update(lite0, padim.init(lite0, config, centres=centres), pixels[1:])
    np.testing.assert_allclose(left.moments.moments.mean, expected.moments.mean, rtol=1e-4, atol=1e-4)
    gone = padim.update(lite0, padim.init(lite0, config, centres=centres), pixels[:3])
    # a centre that only the patches of one image are near
    cells = oracle.embeddings(lite0, moments.embedding, pixels[:1]).reshape(-1, 12)
    lone = np.concatenate([centres[:2], cells[:1] * 1.0]).astype(np.float32)
    lone[2] += 1e3 * np.sign(cells[0] - cells.mean(axis=0))
    far = padim.update(lite0, padim.init(lite0, config, centres=lone), pixels)
    with pytest.raises(ValueError, match="forget: a component would be left without patches"):
        padim.forget(far, padim.update(lite0, padim.init(lite0, config, centres=lone), pixels[:3]))
    assert int(padim.forget(moments, gone).count) == 3


def test_every_way_to_fit_finds_the_same_model(lite0: padim.Backbone, fitted: padim.Padim) -> None:
    good, test = images(20, POOLED), images(3, POOLED, seed=9)
    files = fit_batches(OneDevice(lite0), lambda: [good[10:], good[:10]], POOLED, 10)
    np.testing.assert_allclose(padim.score(files, test).anomaly_map, padim.score(fitted, test).anomaly_map, rtol=1e-3)
    with pytest.raises(ValueError, match=r"^fit: several components take two passes; give a list"):
        padim.fit(lite0, iter([good]), POOLED)
    with pytest.raises(ValueError, match=r"^init: centres are missing, with config.n_components=3; see fit"):
        padim.init(lite0, POOLED)
    with pytest.raises(ValueError, match=r"^init: centres are \(2, 12\), wanted \(3, 12\)"):
        padim.init(lite0, POOLED, centres=np.zeros((2, 12), np.float32))
    with pytest.raises(ValueError, match=r"^init: n_components=3 is fitted on one device"):
        meshes.init(meshes.device_mesh(1, 1, jax.devices()[:1]), lite0, POOLED)


def test_a_mesh_scores_as_one_device_does(fitted: padim.Padim) -> None:
    test = images(3, POOLED, seed=9)
    held = meshes.place(meshes.device_mesh(1, 1, jax.devices()[:1]), fitted)
    expected = padim.score(fitted, test)
    np.testing.assert_allclose(meshes.score(held, test).anomaly_map, expected.anomaly_map, rtol=1e-4)


def test_gradients_are_finite(fitted: padim.Padim) -> None:
    pixels = jnp.asarray(images(1, POOLED, seed=9) / np.float32(255), jnp.float32)
    gradient = jax.grad(lambda x: padim.score(fitted, x).image_score.sum())(pixels)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
