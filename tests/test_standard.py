"""Standardised maps against brute force, their false alarms, and what is stored of them."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

import padim_jax as padim
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.saving import save_compacted
from padim_jax.config import AnomalyMap
from padim_jax.method import map_sample, programs
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.calibration import Histogram
from padim_jax.method.map_sample import MapSample
from padim_jax.method.scoring import leave_one_out_scores
from padim_jax.method.standard import MapMoments, MapStandard
from padim_jax.method.variants import with_smaller_roi, with_standard
from padim_jax.runs.score import ScoredImage, find_summit
from tests.conftest import SMALL, images, rewrite_manifest

STANDARDISED = replace(SMALL, anomaly_map="standardised")
TINY = padim.PadimConfig(image_size=12, crop_size=12, sigma=1, anomaly_map="standardised")
ROI = np.zeros(SMALL.crop, bool)
ROI[5:20, 7:40] = True


def spread_of(maps: np.ndarray) -> np.ndarray:
    """The standard deviations of maps (n, q), by the number of prior images ν."""
    n, v = len(maps), maps.var(axis=0, ddof=1)
    pooled, u = v.mean(), v.var()
    between = (u - 2 * pooled**2 / (n - 1)) / (1 + 2 / (n - 1))  # of the true variances
    if between <= 0:
        return np.sqrt(np.full_like(v, pooled))
    prior = 2 * (1 + pooled**2 / between)
    return np.sqrt(((n - 1) * v + prior * pooled) / (n - 1 + prior))


def left_out_by_hand(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Each map standardised by all the others; outside the lowest value inside, or 0 where that is lower."""
    standardised = np.zeros_like(maps)
    for k in range(len(maps)):
        others = np.delete(maps[:, inside], k, axis=0)
        standardised[k, inside] = (maps[k, inside] - others.mean(axis=0)) / spread_of(others)
        standardised[k, ~inside] = min(0, standardised[k, inside].min())
    return standardised


@pytest.fixture(scope="module")
def model(lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, [images(20, SMALL)], STANDARDISED)


@pytest.fixture(scope="module")
def calibrated(model: padim.Padim) -> padim.Padim:
    return padim.calibrate(model, [images(20, SMALL)], false_alarm_rate=0.1)


def standard_of(model: padim.Padim | padim.Updatable) -> MapStandard:
    assert model.standard is not None
    return model.standard


def scores_of(model: padim.Padim | padim.Updatable) -> np.ndarray:
    assert model.calibration is not None
    return np.asarray(model.calibration.scores)


@pytest.mark.parametrize("n", [3, 4, 20])
def test_moments_without_a_map_are_those_of_the_others(n: int) -> None:
    rng = np.random.default_rng(n)
    maps = rng.normal(9, rng.uniform(0.5, 3, 50), (n, 50))
    whole = MapMoments.of(maps)
    left_out = whole.without(maps)
    for k in range(n):
        others = np.delete(maps, k, axis=0)
        np.testing.assert_allclose(left_out.mean[k], others.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(left_out.variance[k], others.var(axis=0, ddof=1), rtol=1e-9)
        np.testing.assert_allclose(left_out.spread()[k], spread_of(others), rtol=1e-9)
    merged = MapMoments.of(maps[:1]).merge(MapMoments.of(maps[1:]))
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.variance, whole.variance, rtol=1e-9)


def test_variances_are_drawn_to_their_mean_as_far_as_chance_has_them_differ() -> None:
    rng = np.random.default_rng(0)
    alike, different = np.full(20_000, 4.0), rng.uniform(1, 9, 20_000)
    for true in (alike, different):
        maps = rng.normal(0, np.sqrt(true), (10, true.size))
        error = {
            name: np.mean((variance - true) ** 2)
            for name, variance in (
                ("drawn", MapMoments.of(maps).spread() ** 2),
                ("own", maps.var(axis=0, ddof=1)),
                ("pooled", np.full(true.size, maps.var(axis=0, ddof=1).mean())),
            )
        }
        assert error["drawn"] < 0.75 * error["own"]
        assert error["drawn"] <= error["pooled"] * (1.01 if true is alike else 0.8)


@pytest.mark.parametrize("roi", [None, ROI], ids=["everywhere", "region"])
def test_calibration_is_that_of_maps_standardised_by_hand(model: padim.Padim, roi: np.ndarray | None) -> None:
    good, inside = images(20, SMALL), np.ones(SMALL.crop, bool) if roi is None else roi
    region = padim.with_roi(model, roi)
    calibrated = padim.calibrate(region, [good[:7], good[7:8], good[8:]], false_alarm_rate=0.1)
    (distances,) = (np.asarray(part.anomaly_map, np.float64) for part in leave_one_out_scores(region, [good]))
    standard, known = standard_of(calibrated), calibrated.calibration
    np.testing.assert_allclose(np.asarray(standard.mean)[inside], distances[:, inside].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(standard.spread)[inside], spread_of(distances[:, inside]), rtol=1e-4)
    assert (np.asarray(standard.mean)[~inside] == 0).all()
    assert (np.asarray(standard.spread)[~inside] == 1).all()
    assert float(standard.count) == 20
    expected = left_out_by_hand(distances, inside)
    np.testing.assert_allclose(scores_of(calibrated), np.sort(expected.max(axis=(1, 2))), rtol=1e-4)
    histogram = Histogram()
    histogram.add(expected[:, inside])
    assert known is not None
    pixels = np.asarray(known.pixels, np.float64)
    assert pixels.sum() == 20 * inside.sum()
    assert np.abs(np.cumsum(pixels) - np.cumsum(histogram.counts)).max() <= 20  # those at the edge of a bin
    low, high = np.asarray(known.colour_scale)
    assert low < float(known.threshold) < high


@pytest.mark.slow
def test_scores_are_distances_by_the_standard(calibrated: padim.Padim) -> None:
    new = images(4, SMALL, seed=5)
    standard, distances = standard_of(calibrated), padim.score(with_standard(calibrated, None), new)
    expected = (np.asarray(distances.anomaly_map) - np.asarray(standard.mean)) / np.asarray(standard.spread)
    scores = padim.score(calibrated, new)
    np.testing.assert_allclose(scores.anomaly_map, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scores.image_score, np.asarray(scores.anomaly_map).max(axis=(1, 2)))
    assert scores.p_value is not None
    assert float(np.asarray(scores.anomaly_map).min()) < 0
    floats = (new / 255).astype(np.float32)
    gradient = jax.grad(lambda x: padim.score(calibrated, x).image_score.sum())(jnp.asarray(floats))
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()


def test_held_out_images_are_standardised_each_by_the_others(model: padim.Padim) -> None:
    others = images(9, SMALL, seed=3)
    calibrated = padim.calibrate(model, [others[:5], others[5:]], held_out=True)
    maps = np.asarray(padim.score(with_standard(model, None), others).anomaly_map, np.float64)
    np.testing.assert_allclose(standard_of(calibrated).mean, maps.mean(axis=0), rtol=1e-5)
    expected = left_out_by_hand(maps, np.ones(SMALL.crop, bool)).max(axis=(1, 2))
    np.testing.assert_allclose(scores_of(calibrated), np.sort(expected), rtol=1e-4)
    with pytest.raises(ValueError, match=r"^calibrate: 2 images, wanted 3 or more, whose maps others are standardised"):
        padim.calibrate(model, [others[:2]], held_out=True)


def test_a_model_that_is_not_calibrated_is_refused_in_words(model: padim.Padim, calibrated: padim.Padim) -> None:
    for uncalibrated in (model, padim.with_roi(calibrated, ROI)):
        with pytest.raises(ValueError, match=r"^score: the model's maps are to be standardised .*; calibrate it first"):
            padim.score(uncalibrated, images(1, SMALL))
    assert padim.with_roi(calibrated, ROI).standard is None


def test_a_smaller_region_keeps_the_standard(calibrated: padim.Padim) -> None:
    smaller, new = with_smaller_roi(calibrated, ROI), images(2, SMALL, seed=5)
    maps, whole = (np.asarray(padim.score(one, new).anomaly_map) for one in (smaller, calibrated))
    for each in maps:
        assert (each[~ROI] == min(0, each[ROI].min())).all()
    np.testing.assert_allclose(maps[:, 12, 20:28], whole[:, 12, 20:28], rtol=1e-3, atol=1e-3)


def test_the_maximum_lies_inside_of_the_region_however_low_it_is(calibrated: padim.Padim) -> None:
    standard, new = standard_of(calibrated), images(3, SMALL, seed=5)
    high = replace(standard, mean=standard.mean + 100)  # images are far below it everywhere
    region = replace(with_smaller_roi(calibrated, ROI), standard=high)
    scores = padim.score(region, new)
    maps = np.asarray(scores.anomaly_map)
    assert (maps[:, ROI] < 0).all()
    np.testing.assert_array_equal(scores.image_score, maps[:, ROI].max(axis=1))
    distances, grid = programs.score(with_standard(region, None), jnp.asarray(new))
    sample = MapSample(SMALL, ROI)
    sample.add(np.asarray(grid))
    np.testing.assert_allclose(next(iter(sample.by(high))), maps, rtol=1e-3, atol=1e-3)
    assert (np.asarray(distances.anomaly_map)[:, ~ROI] == 0).all()
    for each in maps:
        summit = ScoredImage(Path("x"), float(each.max()), None, None, new[0], each, (48, 32), "")
        row, column = find_summit(summit, replace(SMALL, image_size=SMALL.crop_size))
        assert ROI[row, column]


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_maps_that_never_vary_give_finite_numbers(level: float) -> None:
    sample = MapSample(TINY, None)
    sample.add(np.full((5, 3, 3), level, np.float32))
    for maps in sample.left_out(sample.good_maps()):
        np.testing.assert_allclose(maps, 0, atol=1e-3)
    standard = sample.standard("test", sample.good_maps())
    np.testing.assert_allclose(standard.spread, 1e-3 * level or 1, rtol=1e-5)
    assert np.isfinite(standard.apply(jnp.full((1, 12, 12), 99.0))).all()


def test_grids_beyond_the_budget_come_back_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = np.random.default_rng(0).gamma(9, 1, (11, 3, 3)).astype(np.float32)
    expected = np.asarray(anomaly_map(jnp.asarray(grids), (12, 12), 1.0, "bilinear"))
    for budget in (10**6, 200, 0):
        monkeypatch.setattr(map_sample, "_BUDGET", budget)
        sample = MapSample(TINY, None)
        for start in range(0, 11, 4):
            sample.add(grids[start : start + 4])
        for _ in range(2):  # as often as wanted
            np.testing.assert_allclose(np.concatenate(list(sample.by(None))), expected, rtol=1e-5)


@pytest.mark.parametrize("anomaly_map", ["standardised", "combined"])
def test_false_alarms_are_as_rare_as_asked_for(anomaly_map: AnomalyMap) -> None:
    config = replace(TINY, anomaly_map=anomaly_map)
    rng = np.random.default_rng(1)
    level, spread = rng.uniform(5, 15, (3, 3)), rng.uniform(0.3, 3, (3, 3))
    n, rank, trials = 19, 2, 1500  # the second highest of 19: a rate of 2 / 20
    alarms = {"without its share": 0, "with its share": 0}
    for _ in range(trials):
        grids = (level * rng.gamma(100, 0.01, (n + 1, 1, 1)) + spread * rng.normal(size=(n + 1, 3, 3))).astype(
            np.float32
        )
        sample, new = MapSample(config, None), MapSample(config, None)
        sample.add(grids[:n])
        new.add(grids[n:])
        good = sample.good_maps()
        standard = sample.standard("test", good)
        (score,) = next(new.by(standard)).max(axis=(1, 2))
        for name, maps in (("without its share", sample.left_out(good)), ("with its share", sample.by(standard))):
            alarms[name] += score > np.sort(next(iter(maps)).max(axis=(1, 2)))[-rank]
    low, high = binom.ppf([0.005, 0.995], trials, rank / (n + 1))
    assert low <= alarms["without its share"] <= high
    assert alarms["with its share"] > high


@pytest.mark.slow
def test_false_alarms_of_held_out_splits_are_as_rare_as_asked_for(model: padim.Padim) -> None:
    n, trials = 9, 250
    alarms = 0
    for seed in range(trials):
        drawn = images(n + 1, SMALL, seed=1000 + seed)
        split = padim.calibrate(model, [drawn[:n]], held_out=True, false_alarm_rate=0.2)
        alarms += int(np.asarray(padim.score(split, drawn[n:]).anomalous).sum())
    low, high = binom.ppf([0.005, 0.995], trials, 0.2)
    assert low <= alarms <= high


def test_models_are_stored_with_their_standard(calibrated: padim.Padim, tmp_path: Path) -> None:
    test, expected = images(3, SMALL, seed=9), padim.score(calibrated, images(3, SMALL, seed=9))
    padim.save(calibrated, tmp_path / "exact")
    save_compacted(compact(calibrated, 0.001), tmp_path / "small")
    for name, rtol in (("exact", 1e-6), ("small", 1e-3)):
        loaded = padim.load(tmp_path / name)
        for array in ("mean", "spread", "count"):
            np.testing.assert_array_equal(getattr(loaded.standard, array), getattr(calibrated.standard, array))
        np.testing.assert_allclose(padim.score(loaded, test).image_score, expected.image_score, rtol=20 * rtol)
    for standard in (calibrated.standard, None):
        padim.save(replace(calibrated, calibration=None, standard=standard), tmp_path / "bare")
        with pytest.raises(ValueError, match="calibrate it first"):
            padim.score(padim.load(tmp_path / "bare"), test)
    rewrite_manifest(tmp_path / "bare", calibration={"method": "kept", "false_alarm_rate": 0.1, "pixel_rate": 0.1})
    with pytest.raises(padim.ArtifactError, match="damaged"):
        padim.load(tmp_path / "bare")
    broken = replace(standard_of(calibrated), spread=jnp.zeros(SMALL.crop))
    padim.save(replace(calibrated, standard=broken), tmp_path / "flat")
    with pytest.raises(padim.ArtifactError, match="map_spread is not above 0 everywhere"):
        padim.load(tmp_path / "flat")
