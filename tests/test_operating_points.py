"""Thresholds from good images alone against refits, and what is counted at them."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.evaluation.operating_points import RATES, OperatingPoints, at_rate, leave_out, remarks
from padim_jax.images import UnreadableImage
from padim_jax.method.calibration import BINS, calibration
from padim_jax.runs.engines import OneDevice
from tests.conftest import SMALL, images

MEMBERS = tuple(replace(SMALL, taps=(tap,)) for tap in ("block2", "block4"))


@pytest.fixture(scope="module")
def members(lite0: padim.Backbone) -> list[padim.Padim]:
    return [padim.fit(lite0, [images(20, SMALL)], member) for member in MEMBERS]


@pytest.fixture(scope="module")
def engine(lite0: padim.Backbone) -> OneDevice:
    return OneDevice(lite0)


@pytest.mark.slow
def test_maps_of_members_are_summed_as_of_refits(
    engine: OneDevice, lite0: padim.Backbone, members: list[padim.Padim]
) -> None:
    pixels, wanted = images(20, SMALL), []
    for index in range(3):
        others = np.delete(pixels, index, axis=0)
        refits = [padim.fit(lite0, [others], member) for member in MEMBERS]
        maps = [np.asarray(padim.score(refit, pixels[index : index + 1]).anomaly_map) for refit in refits]
        wanted.append(float(np.sum(maps, axis=0).max()))
    (first, *_) = leave_out(engine, members, [pixels], 20).calibrations
    for value in wanted:
        assert np.isclose(np.asarray(first.scores), value, rtol=2e-3).any()
    assert len(first.scores) == 20


def test_one_member_is_calibrated_as_calibrate_does(engine: OneDevice, members: list[padim.Padim]) -> None:
    pixels = images(20, SMALL)
    points = leave_out(engine, members[:1], [pixels[:8], pixels[8:16], pixels[16:]], 8)
    for rate, found in zip(RATES, points.calibrations, strict=True):
        known = padim.calibrate(members[0], [pixels], false_alarm_rate=rate).calibration
        assert known is not None
        np.testing.assert_allclose(found.scores, known.scores, rtol=1e-5)
        np.testing.assert_allclose(found.threshold, known.threshold, rtol=1e-5)
        np.testing.assert_allclose(found.colour_scale, known.colour_scale, rtol=2**-8)


def test_batches_are_read_once_and_let_go(engine: OneDevice, members: list[padim.Padim]) -> None:
    pixels, alive, most = images(20, SMALL), list[weakref.ref[np.ndarray]](), 0

    def batches() -> Iterator[np.ndarray]:
        nonlocal most
        for start in range(0, 20, 4):
            batch = pixels[start : start + 4].copy()
            alive.append(weakref.ref(batch))
            most = max(most, sum(one() is not None for one in alive))
            yield batch
            del batch

    points = leave_out(engine, members, batches(), 4)  # an iterator, so a second reading would be empty
    assert len(points.calibrations[0].scores) == 20
    assert most <= 2


def test_without_leave_one_out_there_are_words_and_no_numbers(lite0: padim.Backbone) -> None:
    points = leave_out(OneDevice(lite0), [padim.fit(lite0, [images(2, SMALL)], SMALL)], [images(2, SMALL)], 2)
    assert points.calibrations == ()
    assert points.impossible == "2 images are too few to leave one out; fit on 3 or more"
    assert points.colour_scale is points.measure([0, 1], [1.0, 2.0]) is None
    assert points.p_values([1.0, 2.0]) == [None, None]
    record = points.record()
    assert (record["images"], record["thresholds"]) == (0, [])
    assert remarks(record) == [f"no thresholds from good images: {points.impossible}"]


def test_an_error_of_another_kind_is_none_of_these_words(engine: OneDevice, members: list[padim.Padim]) -> None:
    with pytest.raises(ValueError, match="images are smaller than the crop"):
        leave_out(engine, members, [np.zeros((1, 5, 5, 3), np.uint8)], 1)


def test_an_unreadable_image_is_no_reason_to_go_on_without(engine: OneDevice, members: list[padim.Padim]) -> None:
    def broken() -> Iterator[np.ndarray]:
        raise UnreadableImage(Path("a.png"), "damaged")
        yield

    with pytest.raises(UnreadableImage):
        leave_out(engine, members, broken(), 4)


def made(n: int) -> OperatingPoints:
    scores = np.arange(1, n + 1, dtype=np.float32)
    return OperatingPoints(tuple(calibration(scores, np.ones(BINS), "leave-one-out", rate) for rate in RATES))


def test_what_is_counted_at_each_threshold() -> None:
    points = made(199)  # the 2nd and the 10th highest: 198 and 190
    assert [float(one.threshold) for one in points.calibrations] == [198, 190]
    found = points.measure([1, 1, 1, 1, 0, 0], [198.5, 198, 191, 4, 195, 190])
    assert found == {
        "recall_at_1_percent": 0.25,  # what equals a threshold is not above it
        "false_alarms_at_1_percent": 0,
        "recall_at_5_percent": 0.75,
        "false_alarms_at_5_percent": 0.5,
    }
    assert points.p_values([300, 199, 100, 0]) == pytest.approx([1 / 200, 2 / 200, 101 / 200, 1])
    alone = points.measure([1, 1], [300, 1])
    assert alone is not None
    assert (alone["recall_at_1_percent"], alone["false_alarms_at_1_percent"]) == (0.5, None)


def test_names_of_rates() -> None:
    assert [at_rate("recall", rate) for rate in RATES] == ["recall_at_1_percent", "recall_at_5_percent"]


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (99, []),
        (98, ["98 good images are too few for a false-alarm rate of 1% (which takes 99): the threshold is their highest "]),
        (8, ["8 good images are too few for a false-alarm rate of 1% (which takes 99) and 5% (which takes 19): the "]),
    ],
)  # fmt: skip
def test_too_few_images_for_a_rate_are_said(n: int, said: list[str]) -> None:
    found = remarks(made(n).record())
    assert [text[: len(words)] for text, words in zip(found, said, strict=True)] == said
    assert n > 8 or found[0].endswith("where 11.1% are to be expected")


def test_a_run_of_an_earlier_version_says_so() -> None:
    (text,) = remarks(None)
    assert "earlier version, which did not calibrate" in text
