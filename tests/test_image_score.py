"""What an image scores: the maximum of its map, or the mean of its highest pixels, by hand and wherever it is used."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

import padim_jax as padim
from padim_jax import mesh as meshes
from padim_jax.evaluation.operating_points import leave_out
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.scoring import calibration_scores, leave_one_out_scores
from padim_jax.method.variants import with_smaller_roi
from padim_jax.runs import merge_models
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.outputs import choose_outputs
from padim_jax.runs.regions import RegionSearch, find_regions
from padim_jax.runs.result_folder import score_into
from padim_jax.runs.score import score_files
from padim_jax.runs.unfinished import Unfinished
from padim_jax.runs.watch import Interrupted, Watch
from tests.conftest import SMALL, images, write_images
from tests.test_operating_points import MEMBERS
from tests.test_outputs import NOTHING_KNOWN

TOP = replace(SMALL, image_score="top-5%")
ROI = np.zeros(SMALL.crop, bool)
ROI[5:20, 7:40] = True
on_device = jax.jit(image_score, static_argnums=1)


def mean_of_highest(maps: np.ndarray, percent: Fraction | int, roi: np.ndarray | None = None) -> np.ndarray:
    """The scores of maps, in float64, with k in exact fractions."""
    values = np.sort(maps.astype(np.float64)[:, np.ones(maps.shape[1:], bool) if roi is None else roi])
    k = max(1, round(Fraction(percent) * values.shape[1] / 100))
    return values[:, values.shape[1] - k :].mean(axis=1)


@pytest.fixture(scope="module")
def model(lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, [images(20, SMALL)], TOP)


@pytest.fixture(scope="module")
def calibrated(model: padim.Padim) -> padim.Padim:
    return padim.calibrate(model, [images(20, SMALL)], false_alarm_rate=0.1)


def scores_of(model: padim.Padim | padim.Updatable) -> np.ndarray:
    assert model.calibration is not None
    return np.asarray(model.calibration.scores)


# one number of a map


@pytest.mark.parametrize("percent", [Fraction(1, 10**6), Fraction(1), Fraction(5), Fraction(375, 10), Fraction(100)])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (31, 47)], ids=str)
def test_device_and_host_agree_to_the_last_bit_and_with_the_mean_by_hand(
    size: tuple[int, int], percent: Fraction
) -> None:
    rng, share = np.random.default_rng(size[0]), float(percent) / 100
    for share_inside in (0.02, 0.5, 1.0):
        maps = rng.normal(3, 4, (4, *size)).astype(np.float32)
        maps[1] = np.rint(maps[1])  # with ties
        roi = rng.random(size) < share_inside
        roi.flat[rng.integers(roi.size)] = True
        for inside in (None, roi):
            host = image_score(maps, share, inside)
            device = on_device(jnp.asarray(maps), share, None if inside is None else jnp.asarray(inside))
            assert isinstance(host, np.ndarray)
            assert host.dtype == device.dtype == np.float32
            np.testing.assert_array_equal(host, device)
            np.testing.assert_allclose(host, mean_of_highest(maps, percent, inside), rtol=2e-6, atol=1e-6)
            assert (host <= np.nextafter(maps.max(axis=(1, 2)), np.inf, dtype=np.float32)).all()


def test_what_is_not_a_number_and_no_maps_are_passed_on() -> None:
    maps = np.ones((2, 20, 30), np.float32)
    maps[1, 3, 4] = np.nan
    for found in (image_score(maps, 0.1), on_device(jnp.asarray(maps), 0.1)):
        assert np.isfinite(found).tolist() == [True, False]
    assert image_score(maps[:0], 0.1).shape == on_device(jnp.asarray(maps[:0]), 0.1).shape == (0,)


def test_the_maximum_is_the_program_that_it_was() -> None:
    maps = jnp.zeros((2, 20, 30))
    assert str(jax.make_jaxpr(image_score)(maps)) == str(jax.make_jaxpr(lambda m: jnp.max(m, axis=(1, 2)))(maps))


def test_the_setting_is_stored_in_one_form_and_checked() -> None:
    assert {padim.PadimConfig(image_score=text).image_score for text in ("top-1%", "top-1.0%", "top-01%")} == {"top-1%"}
    assert padim.PadimConfig(image_score="top-0.25%").top_share == 0.0025
    assert padim.PadimConfig(image_score="top-1e-7%").image_score == "top-1e-07%"
    assert padim.PadimConfig(image_score="top-1e-07%").top_share == pytest.approx(1e-9)
    assert padim.PadimConfig().top_share is None
    for wrong in ("top", "top-%", "top-0%", "top-101%", "top--1%", "top-nan%", "top-1", "mean", " top-1%", 1, None):
        with pytest.raises(ValueError, match=r"PadimConfig: image_score=.*, wanted 'max' or 'top-P%'"):
            padim.PadimConfig(image_score=wrong)  # type: ignore[arg-type]


# scores and calibrations


@pytest.mark.parametrize("roi", [None, ROI], ids=["everywhere", "region"])
@pytest.mark.parametrize("kind", ["distance", "standardised"])
def test_scores_and_calibration_are_means_by_hand(model: padim.Padim, roi: np.ndarray | None, kind: str) -> None:
    good, new = images(20, SMALL), images(3, SMALL, seed=5)
    asked = padim.with_roi(replace(model, config=replace(TOP, anomaly_map=kind)), roi)
    calibrated = padim.calibrate(asked, [good[:7], good[7:]])
    scores = padim.score(calibrated, new)
    maps = np.asarray(scores.anomaly_map)
    np.testing.assert_allclose(scores.image_score, mean_of_highest(maps, 5, roi), rtol=1e-5)
    np.testing.assert_array_equal(scores.image_score, image_score(maps, 0.05, roi))
    assert (np.asarray(scores.image_score) < maps.max(axis=(1, 2))).all()
    (left_out,) = leave_one_out_scores(asked, [good])
    distances = np.asarray(left_out.anomaly_map, np.float64)
    if kind == "distance":
        np.testing.assert_array_equal(np.sort(calibration_scores(asked, [good])), np.sort(left_out.image_score))
        np.testing.assert_allclose(scores_of(calibrated), np.sort(mean_of_highest(distances, 5, roi)), rtol=1e-4)
        return
    from tests.test_standard import left_out_by_hand

    standardised = left_out_by_hand(distances, np.ones(SMALL.crop, bool) if roi is None else roi)
    np.testing.assert_allclose(scores_of(calibrated), np.sort(mean_of_highest(standardised, 5, roi)), rtol=1e-4)


@pytest.mark.slow
def test_scores_have_gradients(calibrated: padim.Padim) -> None:
    for one in (calibrated, padim.with_roi(calibrated, ROI)):
        floats = jnp.asarray((images(2, SMALL, seed=5) / 255).astype(np.float32))
        gradient = jax.grad(lambda x, one=one: padim.score(one, x).image_score.sum())(floats)
        assert np.isfinite(gradient).all()
        assert (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()


def test_a_fit_uses_the_programs_of_the_maximum(lite0: padim.Backbone, compilations: list[str]) -> None:
    for config in (SMALL, TOP, replace(TOP, image_score="top-2%")):
        padim.fit(lite0, [images(20, SMALL)], config)
        before, compilations[:] = len(compilations), []
    assert before == 0


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_asked_for(model: padim.Padim) -> None:
    n, trials, alarms = 19, 120, 0
    for seed in range(trials):
        drawn = images(n + 8, SMALL, seed=1000 + seed)
        split = padim.calibrate(model, [drawn[:n]], held_out=True, false_alarm_rate=0.05)
        alarms += int(np.asarray(padim.score(split, drawn[n : n + 1]).anomalous).sum())
    low, high = binom.ppf([0.005, 0.995], trials, 0.05)
    assert low <= alarms <= high


def test_a_smaller_region_is_refused_where_a_mean_may_be_larger_there(
    model: padim.Padim, calibrated: padim.Padim
) -> None:
    new = images(8, SMALL, seed=5)
    inside = padim.score(padim.with_roi(calibrated, ROI), new).image_score
    assert (np.asarray(inside) > np.asarray(padim.score(calibrated, new).image_score)).any()  # as a maximum never is
    with pytest.raises(
        ValueError, match=r"^with_smaller_roi: image_score='top-5%': the mean may be larger over a part"
    ):
        with_smaller_roi(calibrated, ROI)
    assert with_smaller_roi(model, ROI).roi is not None  # not calibrated
    region = padim.calibrate(padim.with_roi(model, ROI), [images(20, SMALL)])
    for same in (with_smaller_roi(calibrated, np.ones(SMALL.crop, bool)), with_smaller_roi(region, ~ROI | ROI)):
        assert same.calibration is not None
    with pytest.raises(ValueError, match="over a part"):
        with_smaller_roi(region, np.tri(*SMALL.crop, dtype=bool))


# regions


def test_a_region_is_compared_by_what_the_image_would_score_with_it_alone() -> None:
    config = replace(TOP, image_size=SMALL.crop_size, image_score="top-10%")
    anomaly_map = np.random.default_rng(0).uniform(1, 2, SMALL.crop).astype(np.float32)
    anomaly_map[2:5, 3:9], anomaly_map[20:22, 30:33], anomaly_map[30, 1] = 9, 30, 6
    places = [(slice(20, 22), slice(30, 33)), (slice(2, 5), slice(3, 9)), (slice(30, 31), slice(1, 2))]
    for roi in (None, np.tri(*SMALL.crop, k=30, dtype=bool)):
        alone = []
        for place in places:
            rest = np.where(anomaly_map > 5, anomaly_map[... if roi is None else roi].min(), anomaly_map)
            rest[place] = anomaly_map[place]
            alone.append(mean_of_highest(rest[None], 10, roi)[0])
        looked_at = anomaly_map if roi is None else np.where(roi, anomaly_map, 0)
        whole = float(image_score(looked_at[None], 0.1, roi)[0])
        reference = fake_calibration([*(value - 1e-4 for value in alone), whole, whole + 1])
        found = find_regions(looked_at, 5.0, (48, 32), config, calibration=reference, roi=roi)
        assert [region.peak for region in found] == [30, 9, 6][: len(found)]
        for region, value in zip(found, alone, strict=False):
            assert value < whole
            assert region.p_value == pytest.approx((1 + np.sum(np.asarray(reference.scores) >= value)) / 6)
        assert len({region.p_value for region in found}) > 1
    only = np.where(anomaly_map > 8.5, 1, anomaly_map)
    whole = float(image_score(only[None], 0.1)[0])
    (region,) = find_regions(only, 5.0, (48, 32), config, calibration=fake_calibration([whole, whole + 1]))
    assert region.p_value == 1  # of the only region it is the image's, not that of its peak


def fake_calibration(scores: list[float]) -> padim.Calibration:
    from padim_jax.method.calibration import BINS, calibration

    return calibration(np.asarray(scores), np.ones(BINS), "held-out")


def test_regions_of_files_have_no_smaller_p_values_than_their_images(model: padim.Padim, tmp_path: Path) -> None:
    region = padim.calibrate(padim.with_roi(model, ROI), [images(20, SMALL)], pixel_rate=0.3)
    paths = write_images(tmp_path / "new", images(4, replace(SMALL, crop_size=(40, 56)), seed=8))
    for one in (region, padim.calibrate(model, [images(20, SMALL)], pixel_rate=0.3)):
        for item in score_files(one, paths, batch_size=2, regions=RegionSearch()):
            assert item.regions
            assert item.p_value is not None
            assert all(found.p_value is not None and found.p_value >= item.p_value for found in item.regions)
            if len(item.regions) == 1:
                assert item.regions[0].p_value == item.p_value


# models on disk, files, several models and devices


def test_models_are_stored_with_it_and_others_are_not_merged(
    lite0: padim.Backbone, calibrated: padim.Padim, tmp_path: Path
) -> None:
    padim.save(calibrated, tmp_path / "model")
    loaded, new = padim.load(tmp_path / "model"), images(2, SMALL, seed=9)
    assert loaded.config.image_score == "top-5%"
    np.testing.assert_array_equal(padim.score(loaded, new).image_score, padim.score(calibrated, new).image_score)
    parts = [
        padim.Updatable(lite0, padim.update(lite0, padim.init(lite0, config), images(4, SMALL)))
        for config in (TOP, SMALL)
    ]
    with pytest.raises(ValueError, match=r"not fitted alike \(image_score: 'top-5%' against 'max'\)"):
        merge_models(parts)


def test_a_run_that_was_stopped_scores_kept_maps_as_before(model: padim.Padim, tmp_path: Path) -> None:
    region = padim.with_roi(model, ROI)
    paths = write_images(tmp_path / "new", images(4, SMALL, seed=5))
    for name, stops in (("whole", [False]), ("stopped", [True, False])):
        for stop in stops:
            unfinished = Unfinished(tmp_path / name, {}, ["heatmaps"])
            watch = Watch(stopped=lambda: stop, remark=lambda text: None)  # noqa: B023 - used up at once
            try:
                score_into(
                    unfinished,
                    region,
                    paths,
                    choose_outputs(region),
                    fitted_on=NOTHING_KNOWN,
                    batch_size=2,
                    watch=watch,
                )
            except Interrupted:
                unfinished.close()
    content = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "heatmaps").iterdir() if path.suffix == ".png"}
        for name in ("whole", "stopped")
    ]
    assert content[0] == content[1]
    assert len(content[0]) == 4


@pytest.mark.slow
def test_maps_of_members_are_summed_before_they_are_scored(lite0: padim.Backbone) -> None:
    pixels, configs = images(9, SMALL), [replace(member, image_score="top-5%") for member in MEMBERS]
    models = [padim.fit(lite0, [pixels], config) for config in configs]
    (points, *_) = leave_out(OneDevice(lite0), models, [pixels], 9).calibrations
    maps = sum(
        np.asarray(part.anomaly_map, np.float64) for model in models for part in leave_one_out_scores(model, [pixels])
    )
    assert isinstance(maps, np.ndarray)
    np.testing.assert_allclose(points.scores, np.sort(mean_of_highest(maps, 5)), rtol=1e-4)


@pytest.mark.slow
def test_a_mesh_scores_as_one_device_does(calibrated: padim.Padim) -> None:
    new = images(3, SMALL, seed=9)
    for one in (calibrated, padim.with_roi(calibrated, ROI)):
        scores = meshes.score(meshes.place(meshes.device_mesh(1), one), new)
        np.testing.assert_allclose(scores.image_score, padim.score(one, new).image_score, rtol=1e-5)
