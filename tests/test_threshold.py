"""A threshold that a person sets: its verdicts, what is said of it, and that it lasts."""

import csv
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

import padim_jax as padim
from padim_jax import cli
from padim_jax.method.calibration import BINS, at_rates, at_threshold, calibration, p_values
from tests.conftest import SMALL, images

SCORES = np.arange(1, 21, dtype=np.float32)


@pytest.fixture(scope="module")
def calibrated(lite0: padim.Backbone) -> padim.Padim:
    return padim.calibrate(padim.fit(lite0, [images(20, SMALL)], SMALL), [images(20, SMALL)], false_alarm_rate=0.1)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    printed, told = capsys.readouterr()
    return code, printed, told


def middle(model: padim.Padim) -> float:
    """A threshold with half of the good images above it."""
    assert model.calibration is not None
    return float(np.median(model.calibration.scores))


def test_verdicts_follow_it_and_p_values_do_not(calibrated: padim.Padim) -> None:
    changed = padim.with_threshold(calibrated, middle(calibrated))
    new = images(6, SMALL, seed=5)
    before, after = padim.score(calibrated, new), padim.score(changed, new)
    np.testing.assert_array_equal(after.p_value, before.p_value)
    np.testing.assert_array_equal(after.anomalous, np.asarray(after.image_score) > middle(calibrated))
    assert changed.calibration is not None
    assert changed.calibration.threshold_source == "set"
    low, high = np.asarray(changed.calibration.colour_scale, np.float64)
    assert (low + high) / 2 == pytest.approx(middle(calibrated))


@pytest.mark.parametrize(("threshold", "above"), [(0.5, 20), (15, 5), (20, 0), (99, 0)])
def test_the_rate_to_expect_is_counted(threshold: float, above: int) -> None:
    known = at_threshold(calibration(SCORES, np.ones(BINS), "held-out", 0.05), threshold)
    assert known.attained_rate == pytest.approx((above + 1) / 21)
    wanted = binomtest(above, 20).proportion_ci(0.95)
    assert known.interval() == pytest.approx((wanted.low, wanted.high))
    assert known.images_wanted == 1
    assert (known.false_alarm_rate, known.pixel_rate) == (0.05, 0.001)


def test_rates_take_it_back(calibrated: padim.Padim) -> None:
    assert calibrated.calibration is not None
    known = at_threshold(calibrated.calibration, 3.0, 0.01)
    back = at_rates(known, 0.1, 0.001)
    assert (back.threshold_source, known.threshold_source, known.pixel_rate) == ("rate", "set", 0.01)
    np.testing.assert_array_equal(back.threshold, calibrated.calibration.threshold)


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan"), float("inf"), 1e39, 1e-60])
def test_what_is_no_distance_is_refused(calibrated: padim.Padim, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold=.*, wanted a positive finite number, in units of the scores"):
        padim.with_threshold(calibrated, threshold)


def test_a_model_without_scores_of_good_images_takes_none(
    small_model: padim.Padim, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="with_threshold: the model is not calibrated; calibrate it first"):
        padim.with_threshold(small_model, 3.0)
    padim.save(small_model, tmp_path / "model")
    code, _, told = command(capsys, "calibrate", tmp_path / "model", "--threshold", 3)
    assert (code, "is not calibrated; name good images to calibrate it on" in told) == (2, True)


def test_it_is_a_setting_not_a_number_of_the_pytree(calibrated: padim.Padim) -> None:
    known = calibrated.calibration
    changed = padim.with_threshold(calibrated, 3.0).calibration
    assert len(jax.tree.leaves(known)) == len(jax.tree.leaves(changed))
    assert jax.tree.structure(known) != jax.tree.structure(changed)


@pytest.mark.parametrize("updatable", [True, False])
def test_it_is_saved_and_loaded(
    lite0: padim.Backbone, calibrated: padim.Padim, tmp_path: Path, updatable: bool
) -> None:
    changed = padim.with_threshold(calibrated, 3.3)
    if updatable:
        moments = padim.update(lite0, padim.init(lite0, SMALL), images(20, SMALL))
        padim.save_updatable(padim.Updatable(lite0, moments, calibration=changed.calibration), tmp_path / "model")
    else:
        padim.save(changed, tmp_path / "model")
    known = padim.load(tmp_path / "model").calibration
    assert known is not None
    assert (known.threshold_source, float(known.threshold)) == ("set", float(np.float32(3.3)))
    assert changed.calibration is not None
    np.testing.assert_array_equal(known.colour_scale, changed.calibration.colour_scale)
    stored = json.loads((tmp_path / "model" / "model.json").read_text())
    assert stored["calibration"]["threshold"] == float(np.float32(3.3))
    padim.save(calibrated, tmp_path / "rate")
    assert "threshold" not in json.loads((tmp_path / "rate" / "model.json").read_text())["calibration"]


@pytest.mark.parametrize("threshold", [-1, "3", [3], True])
def test_a_damaged_one_is_told(calibrated: padim.Padim, tmp_path: Path, threshold: object) -> None:
    padim.save(calibrated, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    stored = json.loads(path.read_text())
    stored["calibration"]["threshold"] = threshold
    path.write_text(json.dumps(stored))
    with pytest.raises(padim.ArtifactError):
        padim.load(tmp_path / "model")


def test_it_is_told_wherever_a_threshold_is_told(
    calibrated: padim.Padim, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    padim.save(calibrated, model)
    code, printed, _ = command(capsys, "calibrate", model, "--threshold", "0.125")
    assert code == 0
    assert (
        "above 0.125, set by hand, is anomalous; false alarms 100.00% expected, 83.16% to 100.00% with 95% c" in printed
    )
    _, printed, _ = command(capsys, "inspect", model)
    assert "above 0.125, set by hand, is anomalous" in printed
    assert "asked for" not in printed
    _, printed, _ = command(capsys, "inspect", model, "--json")
    assert json.loads(printed)["calibration"]["threshold_source"] == "set"
    code, printed, told = command(capsys, "score", model, good_dir, "--out", tmp_path / "out", "--no-heatmaps")
    assert code == 0
    assert "6 anomalous" in printed
    assert "the threshold, 0.125, was set by hand (padim calibrate --threshold)" in told
    with (tmp_path / "out" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert calibrated.calibration is not None
    scores = np.array([float(row["score"]) for row in rows], np.float32)
    wanted = p_values(calibrated.calibration, jnp.asarray(scores))  # which no threshold changes
    np.testing.assert_allclose([float(row["p_value"]) for row in rows], wanted, rtol=1e-5)
    _, printed, _ = command(capsys, "calibrate", model, "--false-alarm-rate", "0.125")
    assert re.search(r"false alarms \d+\.\d\d% expected, 12\.50% asked for, \d", printed)


def test_only_another_rate_or_threshold_takes_it_away(
    calibrated: padim.Padim, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    padim.save(calibrated, model)

    def kept(*arguments: object) -> tuple[str, float, float]:
        code, _, told = command(capsys, "calibrate", model, *arguments)
        assert code == 0, told
        known = padim.load(model).calibration
        assert known is not None
        return known.threshold_source, float(known.threshold), known.pixel_rate

    assert kept("--threshold", 2.5) == ("set", 2.5, 0.001)
    assert kept("--pixel-rate", 0.01) == ("set", 2.5, 0.01)
    assert kept() == ("set", 2.5, 0.01)
    assert kept("--threshold", 3, "--pixel-rate", 0.1) == ("set", 3, 0.1)
    assert kept("--false-alarm-rate", 0.1)[0] == "rate"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--false-alarm-rate", 0.1), "--threshold is set by hand; GOOD images and --false-alarm-rate would find another"),
        (("GOOD",), "--threshold is set by hand; GOOD images"),
        (("--threshold", "nan"), "wanted a positive finite number"),
    ],
)  # fmt: skip
def test_wrong_use(
    calibrated: padim.Padim, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments, said: str
) -> None:
    padim.save(calibrated, tmp_path / "model")
    given = [good_dir if argument == "GOOD" else argument for argument in arguments]
    code, _, told = command(capsys, "calibrate", tmp_path / "model", "--threshold", 3, *given)
    assert code == 2
    assert said in told


def test_a_new_calibration_says_that_it_goes(
    calibrated: padim.Padim, good_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    padim.save(padim.with_threshold(calibrated, 3.0), tmp_path / "model")
    code, _, told = command(capsys, "calibrate", tmp_path / "model", good_dir)
    assert code == 0, told
    assert "warning: the threshold that was set by hand, 3, gives way to " in told
    known = padim.load(tmp_path / "model").calibration
    assert known is not None
    assert known.threshold_source == "rate"
