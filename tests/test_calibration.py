"""p-values, thresholds and intervals against their definitions; what calibrate accepts and refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import padim_jax as padim
from padim_jax.method import calibration as module
from padim_jax.method.calibration import (
    BINS,
    Histogram,
    at_rates,
    calibration,
    conformal_p_values,
    is_anomalous,
    p_values,
)
from tests.conftest import SMALL, images

PIXELS = np.ones(BINS)


@settings(deadline=None)  # the first call of a shape compiles
@given(
    scores=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    new=st.lists(st.integers(-2, 23), min_size=1, max_size=10),
    rate=st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9]),
)
def test_p_values_and_verdicts_follow_their_definitions(scores: list[int], new: list[int], rate: float) -> None:
    known = calibration(np.array(scores, np.float32), PIXELS, "held-out", rate)
    found = np.asarray(p_values(known, jnp.array(new, jnp.float32)))
    n = len(scores)
    np.testing.assert_allclose(found, [(1 + sum(s >= value for s in scores)) / (n + 1) for value in new], rtol=1e-6)
    verdicts = np.asarray(is_anomalous(known, jnp.array(new, jnp.float32)))
    if n >= known.images_wanted:
        np.testing.assert_array_equal(verdicts, found <= rate + 1e-6)
        assert known.attained_rate <= rate + 1e-9
    else:
        np.testing.assert_array_equal(verdicts, np.array(new) > max(scores))
        assert known.attained_rate == pytest.approx(1 / (n + 1))


@pytest.mark.parametrize(("rate", "wanted"), [(0.01, 99), (0.05, 19), (0.5, 1), (0.3, 3)])
def test_images_wanted(rate: float, wanted: int) -> None:
    enough, fewer = (
        calibration(np.arange(n, dtype=np.float32), PIXELS, "held-out", rate) for n in (wanted, wanted - 1 or 1)
    )
    assert enough.images_wanted == wanted
    assert enough.attained_rate <= rate + 1e-9
    assert wanted == 1 or fewer.attained_rate > rate


def test_the_interval_holds_the_rate_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        known = calibration(rng.random(99).astype(np.float32), PIXELS, "held-out", 0.05)
        low, high = known.interval(0.9)
        inside += low <= 1 - float(known.threshold) <= high  # uniform scores: the true rate is what lies beyond
    assert binom.ppf(0.001, 1000, 0.9) <= inside <= binom.ppf(0.999, 1000, 0.9)


def test_one_rule_gives_p_values_on_the_host_on_the_device_and_among_themselves() -> None:
    known, new = (
        calibration(np.array([3, 1, 2, 2, 5], np.float32), PIXELS, "held-out"),
        np.array([0, 2, 2.5, 5, 9], np.float32),
    )
    on_host, verdicts = p_values(known, new), is_anomalous(known, new)
    assert isinstance(on_host, np.ndarray)
    assert isinstance(verdicts, np.ndarray)
    assert on_host.dtype == np.float32
    np.testing.assert_allclose(on_host, p_values(known, jnp.asarray(new)), rtol=1e-6)
    np.testing.assert_array_equal(verdicts, np.asarray(is_anomalous(known, jnp.asarray(new))))
    scores = np.sort(np.array([3, 1, 2, 2, 5], np.float64))
    each = [conformal_p_values(np.delete(scores, i), scores[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(conformal_p_values(scores, scores, among=True), each)


def test_held_out_p_values_are_exact() -> None:
    rng, of_one = np.random.default_rng(1), jax.jit(p_values)
    below = 0
    for _ in range(2000):
        drawn = rng.exponential(size=20).astype(np.float32)
        below += float(of_one(calibration(drawn[:-1], PIXELS, "held-out"), jnp.asarray(drawn[-1:]))[0]) <= 0.1 + 1e-6
    assert binom.ppf(0.001, 2000, 0.1) <= below <= binom.ppf(0.999, 2000, 0.1)


def test_histograms_give_quantiles_to_their_bin() -> None:
    values = np.random.default_rng(0).lognormal(2, 1, (7, 50, 60)).astype(np.float32)
    whole, parts = Histogram(), [Histogram() for _ in values]
    whole.add(values)
    for part, one in zip(parts, values, strict=True):
        part.add(one)
    np.testing.assert_array_equal(whole.counts, np.sum([part.counts for part in parts], axis=0))
    for rate in (0.5, 0.1, 0.001):
        known = calibration(np.ones(9), whole.counts, "held-out", pixel_rate=rate)
        edge = float(known.pixel_threshold)
        assert (values > edge).mean() <= rate
        assert (values > edge * (1 - 2.0**-8)).mean() > rate  # no more careful than a bin is wide
    outside = Histogram()
    outside.add(np.array([-0.5, 0, 1e-9, 1e30], np.float32))
    assert (outside.counts[0], outside.counts[-1], outside.counts.sum()) == (3, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"false_alarm_rate": 0}, "false_alarm_rate=0, wanted a number above 0 and below 1"),
        ({"false_alarm_rate": 1.5}, "false_alarm_rate=1.5"),
        ({"pixel_rate": float("nan")}, "pixel_rate=nan"),
        ({"scores": np.array([1, np.nan])}, "finite scores"),
        ({"scores": np.zeros(0)}, "at least one good image"),
    ],
)
def test_nonsense_is_refused(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        calibration(**({"scores": np.ones(3), "pixels": PIXELS, "method": "held-out"} | arguments))


@pytest.fixture(scope="module")
def calibrated(lite0: padim.Backbone) -> padim.Padim:
    return padim.calibrate(padim.fit(lite0, [images(20, SMALL)], SMALL), [images(20, SMALL)], false_alarm_rate=0.1)


def test_scores_carry_p_values_and_verdicts(calibrated: padim.Padim) -> None:
    known = calibrated.calibration
    assert known is not None
    assert known.method == "leave-one-out"
    new = np.concatenate([images(4, SMALL, seed=5), np.full((1, *SMALL.crop, 3), 255, np.uint8)])
    scores = padim.score(calibrated, new)
    assert scores.p_value is not None
    assert scores.anomalous is not None
    np.testing.assert_allclose(scores.p_value, p_values(known, scores.image_score))
    np.testing.assert_array_equal(scores.anomalous, np.asarray(scores.image_score) > float(known.threshold))
    inside = jax.jit(padim.score)(calibrated, new)
    np.testing.assert_allclose(inside.p_value, scores.p_value)
    low, high = np.asarray(known.colour_scale)
    assert low < float(known.threshold) < high
    empty = padim.score(calibrated, new[:0])
    assert empty.p_value is not None
    assert empty.p_value.shape == (0,)


def test_nothing_depends_on_batches_or_order(lite0: padim.Backbone, calibrated: padim.Padim) -> None:
    pixels = images(20, SMALL)[::-1]
    model = replace(calibrated, calibration=None)
    again = padim.calibrate(model, [pixels[:7], pixels[7:8], pixels[8:]], false_alarm_rate=0.1)
    assert again.calibration is not None
    assert calibrated.calibration is not None
    np.testing.assert_allclose(again.calibration.scores, calibrated.calibration.scores, rtol=1e-5)
    np.testing.assert_allclose(again.calibration.pixel_threshold, calibrated.calibration.pixel_threshold, rtol=2**-8)


def test_held_out_images_are_scored_as_they_are(calibrated: padim.Padim) -> None:
    others = images(9, SMALL, seed=3)
    model = padim.calibrate(calibrated, [others], held_out=True)
    assert model.calibration is not None
    assert model.calibration.method == "held-out"
    np.testing.assert_allclose(
        model.calibration.scores, np.sort(padim.score(calibrated, others).image_score), rtol=1e-5
    )


def test_some_of_the_images_are_enough_when_said(calibrated: padim.Padim) -> None:
    assert calibrated.calibration is not None
    part = padim.calibrate(calibrated, [images(20, SMALL)[:6]], partial=True).calibration
    assert part is not None
    assert len(part.scores) == 6
    assert (
        np.isclose(np.asarray(part.scores)[:, None], np.asarray(calibrated.calibration.scores), rtol=1e-5)
        .any(axis=1)
        .all()
    )


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([images(20, SMALL)[:6]], "6 images, wanted the 20"),
        ([images(20, SMALL), images(20, SMALL)[:1]], "21 images, wanted the 20"),
        (
            [images(20, SMALL, seed=7)],
            r"the image at index 0 is not among the 20 images the model was fitted on.*held_out=True",
        ),
        ([], "0 images"),
        ([np.zeros((1, 5, 5, 3), np.uint8)], "calibrate: images are smaller than the crop"),
    ],
)
def test_other_images_than_those_fitted_on_are_refused(calibrated: padim.Padim, batches, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        padim.calibrate(calibrated, batches)


def test_two_images_are_too_few(lite0: padim.Backbone) -> None:
    with pytest.raises(ValueError, match="2 images are too few to leave one out"):
        padim.calibrate(padim.fit(lite0, [images(2, SMALL)], SMALL), [images(2, SMALL)])


def test_rates_can_be_changed_afterwards(calibrated: padim.Padim) -> None:
    known = calibrated.calibration
    assert known is not None
    changed = at_rates(known, 0.5, 0.01)
    assert float(changed.threshold) == pytest.approx(np.sort(known.scores)[-10])
    assert float(changed.pixel_threshold) < float(known.pixel_threshold)
    np.testing.assert_array_equal(changed.scores, known.scores)


def test_region_of_interest(calibrated: padim.Padim) -> None:
    roi = np.zeros(SMALL.crop, bool)
    roi[:16, :24] = True
    model = padim.with_roi(calibrated, roi)
    assert model.calibration is None
    new = images(3, SMALL, seed=4)
    whole, part = padim.score(calibrated, new), padim.score(model, new)
    found = np.asarray(part.anomaly_map)
    assert (found[:, ~roi] == 0).all()
    np.testing.assert_allclose(part.image_score, found[:, :16, :24].max(axis=(1, 2)))
    # well inside, nothing changes
    np.testing.assert_allclose(found[:, :8, :12], np.asarray(whole.anomaly_map)[:, :8, :12], rtol=1e-4)
    # what happens outside does not shine in through the blur
    loud = new.copy()
    loud[:, 31:, 47:] = 255 - loud[:, 31:, 47:]
    assert padim.calibrate(model, [images(20, SMALL)]).calibration is not None
    for wrong, words in ((roi[:5], "wanted bool"), (roi.astype(int), "wanted bool"), (~roi & roi, "is empty")):
        with pytest.raises(ValueError, match=words):
            padim.with_roi(calibrated, wrong)


def test_a_broken_score_is_anomalous_not_normal() -> None:
    known = module.calibration(np.arange(20, dtype=np.float32), PIXELS, "held-out", 0.05)
    assert bool(is_anomalous(known, jnp.array([jnp.nan], jnp.float32))[0])


def test_colours_rise_where_maps_are_as_good_as_constant() -> None:
    histogram, level = Histogram(), np.float32(2.2655)
    histogram.add(np.full((9, 8, 8), level))
    known = calibration(np.full(9, level), histogram.counts, "leave-one-out")
    low, high = np.asarray(known.colour_scale, np.float64)
    assert low < level < high
    assert (low + high) / 2 == pytest.approx(level)
