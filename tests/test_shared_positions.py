"""One Gaussian for all positions: fit, scores and leave-one-out against refits in float64, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import Updatable
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.saving import save_compacted
from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.arrangement import SharedGaussians
from padim_jax.gaussians.factors import Solver
from padim_jax.gaussians.moments import Moments
from padim_jax.inspection.model import inspect_model
from padim_jax.inspection.positions import find_peaks
from padim_jax.method import scoring
from tests import oracle
from tests.conftest import SMALL, images
from tests.test_gaussian import sample

SHARED = replace(SMALL, positions="shared")
RIDGE = 0.02


def reference(x: np.ndarray, weights: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (d,), (d, d) of all cells of images (p, n, d), in float64; an image's cells share its weight.

    The divisor is the number of images less one.
    """
    p, _, d = x.shape
    rows, shares = x.astype(np.float64).reshape(-1, d), np.tile(weights / p, p)
    mean = shares @ rows / shares.sum()
    centred = rows - mean
    return mean, (centred * shares[:, None]).T @ centred / (weights.sum() - 1) + ridge * np.eye(d)


def distances(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    delta = x.astype(np.float64) - mean
    return np.sqrt(np.einsum("...i,ij,...j->...", delta, np.linalg.inv(covariance), delta))


def fold(*batches: np.ndarray) -> Moments:
    state = gaussian_moments.init(1, batches[0].shape[2])
    for x in batches:
        state = jax.jit(SharedGaussians().update)(state, jnp.asarray(x), jnp.ones(x.shape[1]))
    return state


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("solver", ["inverse-factor", "triangular-solve"])
def test_distances_are_those_of_one_gaussian_of_all_cells(n: int, solver: Solver) -> None:
    x, y = sample(7, n, 6, seed=1), sample(7, 3, 6, seed=2)
    state = fold(x[:, : n // 2], x[:, n // 2 :])
    assert float(state.count) == n
    fitted = factors.finalize(state, RIDGE, solver)
    expected = distances(y, *reference(x, np.ones(n), RIDGE))
    np.testing.assert_allclose(SharedGaussians().distances(fitted, jnp.asarray(y)), expected, rtol=1e-4)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("n", [3, 5, 30])
def test_left_out_distances_are_those_of_refits_without_the_whole_image(n: int, copies: int) -> None:
    x = sample(7, n + copies - 1, 6, seed=3)
    x[:, n - 1 :] = x[:, n - 1 : n]  # the last image was fitted as often as there are copies
    state = fold(x)
    weights = np.where(np.arange(n) == n - 1, copies, 1.0)
    fitted = factors.finalize_whitened(state, RIDGE)
    arguments = jnp.asarray(x[:, :n]), state.count, jnp.asarray(weights, jnp.float32), RIDGE
    found = np.asarray(SharedGaussians().left_out_distances(fitted, *arguments))
    for k in range(n):
        others = np.delete(weights, k)
        expected = distances(x[:, k], *reference(np.delete(x[:, :n], k, axis=1), others, RIDGE))
        np.testing.assert_allclose(found[:, k], expected, rtol=2e-4)


def test_what_cannot_be_left_out_is_not_finite() -> None:
    x = sample(7, 2, 6, seed=4)
    state, strange = fold(x), 100 * sample(7, 2, 6, seed=5)
    fitted = factors.finalize_whitened(state, RIDGE)
    one = jnp.ones(2)
    assert np.isnan(SharedGaussians().left_out_distances(fitted, jnp.asarray(x), state.count, one, RIDGE)).all()
    more = fold(np.concatenate([x, sample(7, 4, 6, seed=6)], axis=1))
    fitted = factors.finalize_whitened(more, RIDGE)
    assert np.isnan(SharedGaussians().left_out_distances(fitted, jnp.asarray(strange), more.count, one, RIDGE)).all()
    assert np.isfinite(SharedGaussians().left_out_distances(fitted, jnp.asarray(x), more.count, 0 * one, RIDGE)).all()


@pytest.fixture(scope="module")
def shared(lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, [images(20, SHARED)[:13], images(20, SHARED)[13:]], SHARED)


def grids(model: padim.Padim, good: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(n, h, w): distances of images from the Gaussian of all cells of ``good``."""
    train, found = (oracle.embeddings(model.backbone, model.embedding, pixels) for pixels in (good, test))
    cells = train.reshape(len(train), -1, train.shape[-1]).swapaxes(0, 1)
    return distances(found, *reference(cells, np.ones(len(good)), float(model.config.regularisation("test")[0])))


def test_maps_are_those_of_a_refit_in_float64(shared: padim.Padim) -> None:
    test = images(3, SHARED, seed=9)
    expected = oracle.anomaly_maps(grids(shared, images(20, SHARED), test), SHARED.crop, SHARED.sigma)
    scores = padim.score(shared, test)
    np.testing.assert_allclose(scores.anomaly_map, expected, rtol=1e-4)
    assert shared.gaussian.mean.shape == (1, 12)
    solving = padim.score(padim.with_solver(shared, "triangular-solve"), test)
    np.testing.assert_allclose(solving.anomaly_map, expected, rtol=1e-4)


@pytest.mark.parametrize("anomaly_map", ["distance", "combined"])
def test_calibration_scores_are_those_of_refits_without_each_image(lite0: padim.Backbone, anomaly_map: str) -> None:
    config, good = replace(SHARED, anomaly_map=anomaly_map), images(6, SHARED)
    model = padim.fit(lite0, [good], config)
    maps = np.concatenate(
        [
            oracle.anomaly_maps(grids(model, np.delete(good, k, axis=0), good[k : k + 1]), config.crop, config.sigma)
            for k in range(6)
        ]
    )
    calibrated = padim.calibrate(model, [good[:4], good[4:]])
    assert calibrated.calibration is not None
    if anomaly_map == "distance":
        np.testing.assert_allclose(calibrated.calibration.scores, np.sort(maps.max(axis=(1, 2))), rtol=2e-4)
    else:
        assert calibrated.standard is not None
        np.testing.assert_allclose(calibrated.standard.mean, maps.mean(axis=0), rtol=2e-4)
    with pytest.raises(ValueError, match=r"not the images the model was fitted on \(their mean differs\)"):
        padim.calibrate(model, [images(6, SHARED, seed=8)])


def test_where_a_part_lies_does_not_matter(shared: padim.Padim) -> None:
    x = jnp.asarray(sample(96, 2, 12, seed=7))
    turned = SharedGaussians().distances(shared.gaussian, x[::-1])
    np.testing.assert_allclose(turned[::-1], SharedGaussians().distances(shared.gaussian, x), rtol=1e-6)


@pytest.mark.slow
def test_merged_and_forgotten_moments_are_those_of_a_fit(lite0: padim.Backbone) -> None:
    good = images(9, SHARED)
    parts = [padim.update(lite0, padim.init(lite0, SHARED), good[part]) for part in (slice(0, 5), slice(5, 9))]
    whole = padim.update(lite0, padim.init(lite0, SHARED), good)
    merged = padim.merge(*parts)
    for found, expected in ((merged, whole), (padim.forget(merged, parts[1]), parts[0])):
        assert float(found.count) == float(expected.count)
        np.testing.assert_allclose(found.moments.mean, expected.moments.mean, rtol=1e-5, atol=1e-5)
        square = expected.moments.scatter.square()
        np.testing.assert_allclose(found.moments.scatter.square(), square, rtol=1e-4, atol=1e-4)
    own = padim.update(lite0, padim.init(lite0, SMALL), good)
    with pytest.raises(ValueError, match=r"positions: 'shared' against 'own'"):
        padim.merge(whole, own)


def test_a_model_is_saved_in_kilobytes_and_scores_alike(shared: padim.Padim, tmp_path: Path) -> None:
    calibrated = padim.calibrate(shared, [images(20, SHARED)])
    test = images(3, SHARED, seed=9)
    wanted = padim.score(calibrated, test)
    padim.save(calibrated, tmp_path / "saved")
    found = padim.score(padim.load(tmp_path / "saved"), test)
    np.testing.assert_array_equal(found.anomaly_map, wanted.anomaly_map)
    np.testing.assert_array_equal(found.p_value, wanted.p_value)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(padim.load(tmp_path / "saved").gaussian))
    assert size == 4 * (12 + 144)  # beside p = 96 positions' 60 kB


def test_an_updatable_model_goes_on_and_compacts_to_full_rank(lite0: padim.Backbone, tmp_path: Path) -> None:
    good = images(8, SHARED)
    moments = padim.update(lite0, padim.init(lite0, SHARED), good[:5])
    padim.save_updatable(Updatable(lite0, moments), tmp_path / "model")
    stored = padim.load_updatable(tmp_path / "model")
    model = padim.finalize(lite0, padim.update(stored.backbone, stored.moments, good[5:]))
    once = padim.fit(lite0, [good], SHARED)
    test = images(3, SHARED, seed=9)
    np.testing.assert_allclose(padim.score(model, test).anomaly_map, padim.score(once, test).anomaly_map, rtol=1e-4)
    # 8 images of 12 dimensions have 768 patches: no low rank is tried
    compacted = compact(once, 0.01, moments=stored.moments.moments, rank=7)
    assert {form for form, _, _ in compacted.tried} <= {"triangle", "triangle-16bit"}
    assert compacted.form == "triangle-16bit"
    save_compacted(compacted, tmp_path / "small")
    small = padim.score(padim.load(tmp_path / "small"), test)
    np.testing.assert_allclose(small.anomaly_map, padim.score(once, test).anomaly_map, rtol=0.01)


def test_a_half_life_weighs_images(lite0: padim.Backbone) -> None:
    good = images(6, SHARED)
    moments = padim.init(lite0, SHARED)
    for batch in (good[:4], good[4:]):
        moments = padim.update(lite0, moments, batch, half_life=3.0)
    embedded = oracle.embeddings(lite0, moments.embedding, good)
    cells = embedded.reshape(6, -1, 12).swapaxes(0, 1)
    mean, covariance = reference(cells, 0.5 ** (np.arange(5, -1, -1) / 3), 0.01)
    model = padim.finalize(lite0, moments)
    cell = padim.parameters_at(model, 3, 4)
    np.testing.assert_allclose(cell.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cell.covariance, covariance, rtol=1e-3, atol=1e-4)


def test_inspection_speaks_of_one_covariance(shared: padim.Padim, tmp_path: Path) -> None:
    padim.save(shared, tmp_path / "model")
    record = inspect_model(tmp_path / "model").record()
    assert record["condition_numbers"]["of"] == 1
    assert record["log_determinant"]["least"] == record["log_determinant"]["most"]
    cell = padim.parameters_at(shared, 7, 11)
    np.testing.assert_array_equal(cell.covariance, padim.parameters_at(shared, 0, 0).covariance)
    assert record["log_determinant"]["most"] == pytest.approx(np.linalg.slogdet(cell.covariance)[1], rel=1e-5)
    with pytest.raises(ValueError, match=r"^find_peaks: all positions share Gaussians"):
        find_peaks(shared, [images(20, SHARED)])


def test_gradients_are_finite(shared: padim.Padim) -> None:
    pixels = jnp.asarray(images(1, SHARED, seed=9) / np.float32(255), jnp.float32)
    gradient = jax.grad(lambda x: padim.score(shared, x).image_score.sum())(pixels)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_leave_one_out_takes_three_images_and_whole_factors(lite0: padim.Backbone) -> None:
    model = padim.fit(lite0, [images(2, SHARED)], SHARED)
    with pytest.raises(scoring.NoLeaveOneOut, match="2 images are too few to leave one out"):
        padim.calibrate(model, [images(2, SHARED)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"covariance": "ledoit-wolf"}, r"covariance='ledoit-wolf' does not go with positions='shared'"),
        ({"covariance": "pooled"}, r"covariance='pooled' does not go with positions='shared'"),
        ({"covariance": "ledoit-wolf", "n_components": 4}, r"n_components=4; wanted ridge or pooled"),
        ({"covariance": "pooled", "n_components": 4}, r"prior_images='auto' does not go with positions='shared'"),
        ({"positions": "own", "n_components": 4}, r"n_components=4 does not go with positions='own'"),
        ({"n_components": 0}, r"n_components=0, wanted an integer from 1 to 256"),
        ({"ridge": "auto"}, r"ridge='auto' does not go with positions='shared'"),
        ({"positions": "few"}, r"positions='few', wanted one of own, shared"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    settings = {"positions": "shared", **settings}
    with pytest.raises(ValueError, match=said):
        padim.PadimConfig(**settings)
