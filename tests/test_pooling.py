"""The covariance pooled over all positions, and the numbers chosen by leave-one-out likelihood, against refits."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import Updatable
from padim_jax.artifact.compaction import compact
from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import Solver
from padim_jax.gaussians.likelihood import left_out_log_likelihoods
from padim_jax.gaussians.pooling import Prior, pooled_covariance
from padim_jax.method.embedding import embed
from padim_jax.method.regularisation import ImageSample, choose, sample_positions, statistics_at
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fold import fit_batches
from tests.conftest import SMALL, images
from tests.test_gaussian import sample

RIDGE, PRIOR = 0.02, 7.5
POOLED = replace(SMALL, covariance="pooled", ridge=RIDGE, prior_images=PRIOR)
CHOOSING = replace(SMALL, covariance="pooled", ridge="auto", prior_images="auto")


def refit(x: np.ndarray, pooled: np.ndarray, ridge: float, prior: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (p, d), (p, d, d) of images (p, n, d), in float64."""
    x = x.astype(np.float64)
    centred = x - x.mean(axis=1, keepdims=True)
    scatter = np.einsum("pni,pnj->pij", centred, centred)
    covariance = (scatter + prior * pooled) / (x.shape[1] - 1 + prior)
    return x.mean(axis=1), covariance + ridge * np.eye(x.shape[2])


def pooled_of(x: np.ndarray) -> np.ndarray:
    return np.mean([np.cov(position, rowvar=False, ddof=1) for position in x.astype(np.float64)], axis=0)


def moments_of(x: np.ndarray) -> gaussian_moments.Moments:
    state = gaussian_moments.init(x.shape[0], x.shape[2])
    return jax.jit(gaussian_moments.update)(state, jnp.asarray(x), jnp.ones(x.shape[1]))


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.parametrize("solver", ["inverse-factor", "triangular-solve"])
def test_distances_are_those_of_the_pooled_covariance(n: int, solver: Solver) -> None:
    x, y = sample(4, n, 20, seed=1), sample(4, 3, 20, seed=2)
    mean, covariance = refit(x, pooled_of(x), RIDGE, PRIOR)
    delta = y - mean[:, None]
    expected = np.sqrt(np.einsum("pni,pij,pnj->pn", delta, np.linalg.inv(covariance), delta))
    state = moments_of(x)
    prior = Prior(pooled_covariance(state, len(x)), jnp.float32(PRIOR))
    fitted = jax.jit(factors.finalize, static_argnames="solver")(state, RIDGE, solver=solver, prior=prior)
    np.testing.assert_allclose(fitted.distances(jnp.asarray(y)), expected, rtol=1e-4)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("n", [5, 30])
def test_left_out_distances_are_those_of_refits_with_the_pooled_covariance_held(n: int, copies: int) -> None:
    x = sample(4, n, 20, seed=3)
    x[:, n - copies :] = x[:, n - 1 :]
    pooled = pooled_of(x)
    state = moments_of(x)
    prior = Prior(pooled_covariance(state, len(x)), jnp.float32(PRIOR))
    fitted = factors.finalize_whitened(state, RIDGE, prior)
    kept = np.arange(n - copies + 1)
    weights = np.where(kept == n - copies, copies, 1).astype(np.float32)
    rows = jnp.asarray(x[:, kept])
    distances = np.asarray(fitted.left_out_distances(rows, state.count, jnp.asarray(weights), RIDGE, PRIOR))
    for k in kept:
        others = np.delete(x, range(n - copies, n) if k == n - copies else [k], axis=1)
        mean, covariance = refit(others, pooled, RIDGE, PRIOR)
        delta = x[:, k] - mean
        expected = np.sqrt(np.einsum("pi,pij,pj->p", delta, np.linalg.inv(covariance), delta))
        np.testing.assert_allclose(distances[:, k], expected, rtol=1e-3)


@pytest.mark.parametrize("copies", [1, 3])
def test_log_likelihoods_are_those_of_refits(copies: int) -> None:
    n = 9
    x = sample(3, n, 6, seed=4).astype(np.float64)
    x[:, n - copies :] = x[:, n - 1 :]
    pooled = pooled_of(x)
    centred = x - x.mean(axis=1, keepdims=True)
    scatter = np.einsum("pni,pnj->pij", centred, centred)
    kept = np.arange(n - copies + 1)
    weights = np.where(kept == n - copies, copies, 1.0)
    ridges, priors = (0.01, 0.5), (0.0, 4.0)
    values = left_out_log_likelihoods(x[:, kept], x.mean(axis=1), scatter, n, weights, pooled, ridges, priors)
    for v, prior in enumerate(priors):
        for e, ridge in enumerate(ridges):
            expected = np.zeros((3, len(kept)))
            for k in kept:
                others = np.delete(x, range(n - copies, n) if k == n - copies else [k], axis=1)
                mean, covariance = refit(others, pooled, ridge, prior)
                delta = x[:, k] - mean
                squared = np.einsum("pi,pij,pj->p", delta, np.linalg.inv(covariance), delta)
                expected[:, k] = -(squared + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2
            np.testing.assert_allclose(values[v, e], expected.mean(axis=1), rtol=1e-7)


def test_a_mesh_may_fill_up_with_positions_that_hold_nothing() -> None:
    x = sample(4, 8, 20, seed=5)
    padded = moments_of(np.concatenate([x, np.zeros_like(x[:2])]))
    np.testing.assert_allclose(pooled_covariance(padded, 4), pooled_of(x), rtol=1e-4, atol=1e-5)


def test_many_prior_images_give_all_positions_one_covariance_and_none_leave_them_alone(lite0: padim.Backbone) -> None:
    good = images(8, SMALL)
    one = padim.fit(lite0, [good], replace(POOLED, prior_images=1e7))
    first, last = (padim.parameters_at(one, 0, 0), padim.parameters_at(one, 7, 11))
    np.testing.assert_allclose(first.covariance, last.covariance, rtol=1e-3, atol=1e-4)
    assert np.abs(np.asarray(first.mean) - np.asarray(last.mean)).max() > 0.1
    alone = padim.fit(lite0, [good], replace(POOLED, prior_images=0))
    plain = padim.fit(lite0, [good], replace(SMALL, ridge=RIDGE))
    test = images(2, SMALL, seed=7)
    np.testing.assert_allclose(padim.score(alone, test).image_score, padim.score(plain, test).image_score, rtol=1e-4)


def test_merge_and_forget_are_fits_of_what_remains(lite0: padim.Backbone) -> None:
    good, test = images(12, SMALL), images(2, SMALL, seed=7)
    halves = [padim.update(lite0, padim.init(lite0, POOLED), half) for half in (good[:8], good[8:])]
    whole = padim.merge(*halves)
    for moments, expected in ((whole, good), (padim.forget(whole, halves[1]), good[:8])):
        scores = padim.score(padim.finalize(lite0, moments), test).image_score
        refitted = padim.score(padim.fit(lite0, [expected], POOLED), test).image_score
        np.testing.assert_allclose(scores, refitted, rtol=1e-3)


def test_a_saved_model_scores_and_calibrates_as_before(lite0: padim.Backbone, tmp_path: Path) -> None:
    good, test = images(12, SMALL), images(2, SMALL, seed=7)
    moments = padim.update(lite0, padim.init(lite0, POOLED), good)
    model = padim.calibrate(padim.finalize(lite0, moments), good)
    padim.save_updatable(Updatable(lite0, moments, {}), tmp_path / "updatable")
    padim.save(model, tmp_path / "deployed")
    for loaded in (padim.load(tmp_path / "updatable"), padim.load(tmp_path / "deployed")):
        again = padim.calibrate(loaded, good)
        assert again.calibration is not None
        assert model.calibration is not None
        np.testing.assert_allclose(again.calibration.scores, model.calibration.scores, rtol=1e-4)
        np.testing.assert_allclose(
            padim.score(loaded, test).image_score, padim.score(model, test).image_score, rtol=1e-4
        )


def test_the_pooled_covariance_is_never_compacted_to_low_rank(lite0: padim.Backbone) -> None:
    moments = padim.update(lite0, padim.init(lite0, POOLED), images(4, SMALL))
    small = compact(padim.finalize(lite0, moments), 0.5, moments=moments.moments, rank=3)
    assert {form for form, _, _ in small.tried} == {"triangle-16bit"}


@pytest.mark.slow
def test_what_is_chosen_is_the_most_likely_of_all_numbers(lite0: padim.Backbone) -> None:
    good = images(12, SMALL)
    moments = padim.update(lite0, padim.init(lite0, CHOOSING), good)
    chosen = padim.regularise(lite0, moments, [good[:5], good[5:]])
    ridge, prior = chosen.config.regularisation("test")
    positions = sample_positions(moments.embedding)
    x = np.asarray(embed(lite0, moments.embedding, jnp.asarray(good)), np.float64)
    everywhere = pooled_of(x)

    def likelihood(ridge: float, prior: float) -> float:
        values = []
        for k in range(len(good)):
            mean, covariance = refit(np.delete(x[positions], k, axis=1), everywhere, ridge, prior)
            delta = x[positions, k] - mean
            squared = np.einsum("pi,pij,pj->p", delta, np.linalg.inv(covariance), delta)
            values.append(-(squared + np.linalg.slogdet(covariance)[1]) / 2)
        return float(np.mean(values))

    best = likelihood(ridge, prior)
    for factor in (0.3, 3.2):
        assert likelihood(ridge * factor, prior) < best
    for other in (0, 3, 10, 30, 100, 300, 1000):
        assert likelihood(ridge, other) < best + 1e-6


def test_numbers_that_are_given_stay(lite0: padim.Backbone) -> None:
    good = images(12, SMALL)
    for config in (replace(CHOOSING, ridge=0.7), replace(CHOOSING, prior_images=5)):
        chosen = padim.fit(lite0, [good], config).config
        assert "auto" not in chosen.regularisation("test")
        assert (chosen.ridge, chosen.prior_images).count({True: 0.7, False: 5.0}[config.ridge == 0.7]) == 1


def test_batches_and_copies_of_the_fit_do_not_change_what_is_chosen(lite0: padim.Backbone) -> None:
    good = images(12, SMALL)
    whole = padim.fit(lite0, [good], CHOOSING)
    assert padim.fit(lite0, (good[i : i + 5] for i in range(0, 12, 5)), CHOOSING).config == whole.config
    model = fit_batches(OneDevice(lite0), lambda: iter([good[:7], good[7:]]), CHOOSING, 16)
    assert model.config == whole.config


def test_identical_images_take_the_default_ridge(lite0: padim.Backbone) -> None:
    good = np.repeat(images(1, SMALL), 5, axis=0)
    assert padim.fit(lite0, [good], CHOOSING).config.ridge == 0.01


def test_the_detector_chooses_too(lite0: padim.Backbone) -> None:
    good = images(12, SMALL)
    detector = padim.PadimDetector(lite0, config=CHOOSING).fit(good)
    assert detector.model_ is not None
    assert detector.model_.config == padim.fit(lite0, [good], CHOOSING).config
    detector.partial_fit(images(4, SMALL, seed=5))
    assert (int(detector.moments_.count), detector.moments_.config) == (16, CHOOSING)
    assert np.isfinite(detector.score_samples(images(2, SMALL, seed=7))).all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_two_images_take_numbers_that_suit_few_and_three_choose(lite0: padim.Backbone, n: int) -> None:
    good = images(n, SMALL)
    moments = padim.update(lite0, padim.init(lite0, CHOOSING), good)
    positions = sample_positions(moments.embedding)
    x = np.asarray(embed(lite0, moments.embedding, jnp.asarray(good)))[positions]
    chosen = choose(CHOOSING, statistics_at(moments, positions), x, np.ones(n))
    assert (chosen.log_likelihood is None) == (n == 2)
    assert chosen.describe().startswith("2 images are too few") == (n == 2)
    assert np.isfinite(padim.score(padim.fit(lite0, [good], CHOOSING), images(1, SMALL, seed=7)).image_score).all()


def test_images_that_never_change_are_fitted_all_the_same(lite0: padim.Backbone) -> None:
    black = np.zeros((4, *SMALL.crop, 3), np.uint8)
    model = padim.fit(lite0, [black], CHOOSING)
    assert np.isfinite(padim.score(model, images(1, SMALL)).image_score).all()


def test_moments_whose_numbers_are_yet_to_be_chosen_are_refused_in_words(lite0: padim.Backbone) -> None:
    moments = padim.update(lite0, padim.init(lite0, CHOOSING), images(4, SMALL))
    with pytest.raises(ValueError, match=r"^finalize: ridge='auto' and prior_images='auto' are yet to be chosen; give"):
        padim.finalize(lite0, moments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": "auto", "covariance": "ledoit-wolf"}, "ridge='auto' does not go with covariance='ledoit-wolf'"),
        ({"prior_images": 3}, "prior_images=3.0 does not go with covariance='ridge'; it is for 'pooled'"),
        ({"prior_images": -1, "covariance": "pooled"}, "prior_images=-1.0, wanted a number of images, 0 or more, or"),
        ({"ridge": "automatic"}, "ridge='automatic', wanted a positive number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^PadimConfig: {message}"):
        replace(SMALL, **changes)


@pytest.mark.slow
def test_a_sample_is_evenly_spread_whatever_the_batches() -> None:
    numbers = np.broadcast_to(np.arange(1000, dtype=np.int64)[:, None, None, None], (1000, 1, 1, 3))
    numbers = numbers.repeat(2, axis=0)  # each has a copy
    kept = []
    for size in (7, 2000):
        images_kept = ImageSample(CHOOSING)
        for _ in images_kept.watch(numbers[start : start + size] for start in range(0, 2000, size)):
            pass
        assert set(images_kept.weights) == {2.0}
        kept.append(np.concatenate(list(images_kept.batches()))[:, 0, 0, 0])
    np.testing.assert_array_equal(kept[0], kept[1])
    assert 128 <= len(kept[0]) < 256
    assert set(np.diff(kept[0])) == {4}
