"""The image score from the commands and from functions of files: fit, score, calibrate, evaluate, many models."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.cli import main
from padim_jax.images import read_image
from padim_jax.runs import Watch, recalibrate, update_files
from tests.conftest import SMALL, images, write_images
from tests.datasets import write_mvtec
from tests.test_cli import rows
from tests.test_image_score import mean_of_highest, scores_of
from tests.test_standard_runs import SIZES, run

TOP = ("--image-score", "top-5.0%")
CONFIG = replace(SMALL, image_size=SMALL.crop_size, image_score="top-5%")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("top")
    write_images(place / "good", images(20, SMALL))
    write_images(place / "other", images(8, SMALL, seed=5))
    return place


@pytest.fixture(scope="module")
def expected(lite0: padim.Backbone) -> padim.Padim:
    """The model of the folder's good images, calibrated on arrays."""
    return padim.calibrate(padim.fit(lite0, [images(20, SMALL)], CONFIG), [images(20, SMALL)])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distance", "standardised"])
def test_a_fit_and_a_calibration_by_another_score_are_the_same(
    folder: Path, lite0: padim.Backbone, tmp_path: Path, kind: str
) -> None:
    config = replace(CONFIG, anomaly_map=kind)
    expected = padim.calibrate(padim.fit(lite0, [images(20, SMALL)], config), [images(20, SMALL)])
    run("fit", folder / "good", "--out", tmp_path / "fitted", *SIZES, "--anomaly-map", kind, *TOP)
    run("fit", folder / "good", "--out", tmp_path / "changed", *SIZES, "--anomaly-map", kind)
    run("calibrate", tmp_path / "changed", folder / "good", *TOP)
    for name in ("fitted", "changed"):
        model = padim.load(tmp_path / name)
        assert model.config == config
        np.testing.assert_allclose(scores_of(model), scores_of(expected), rtol=1e-3)
    run("score", tmp_path / "changed", folder / "other", "--out", tmp_path / "scores", "--maps", "crop")
    table, scores = rows(tmp_path / "scores" / "scores.csv"), padim.score(expected, images(8, SMALL, seed=5))
    np.testing.assert_allclose([float(row["score"]) for row in table], scores.image_score, rtol=1e-3)
    np.testing.assert_allclose([float(row["p_value"]) for row in table], np.asarray(scores.p_value), rtol=1e-5)
    for row, anomaly_map in zip(table, np.asarray(scores.anomaly_map), strict=True):  # the place is the map's maximum
        assert anomaly_map[int(row["row"]), int(row["column"])] >= 0.999 * anomaly_map.max()


def test_a_change_of_the_score_takes_images_and_is_checked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", folder / "good", "--out", tmp_path / "model", *SIZES, "--false-alarm-rate", "0.2")
    before = scores_of(padim.load(tmp_path / "model"))
    command = ["calibrate", str(tmp_path / "model")]
    for words, text in (
        (TOP, "--image-score changes what good images score; name GOOD images"),
        ((str(folder / "good"), "--image-score", "mean"), "--image-score 'mean': wanted 'max' or 'top-P%'"),
    ):
        capsys.readouterr()
        assert main([*command, *words]) == 2
        assert text in said(capsys)
    run(*command, folder / "other", *TOP)  # far below the maxima that the model had
    assert "no scores of its own images by the new image score" in said(capsys)
    model = padim.load(tmp_path / "model")
    assert model.calibration is not None
    assert model.calibration.false_alarm_rate == 0.2
    assert model.calibration.method == "held-out"
    maps = np.asarray(padim.score(model, images(8, SMALL, seed=5)).anomaly_map)
    np.testing.assert_allclose(scores_of(model), np.sort(mean_of_highest(maps, 5)), rtol=1e-4)
    run("calibrate", tmp_path / "model", "--false-alarm-rate", "0.5")
    np.testing.assert_array_equal(scores_of(padim.load(tmp_path / "model")), scores_of(model))
    run("calibrate", tmp_path / "model", folder / "good", "--image-score", "max")
    np.testing.assert_allclose(scores_of(padim.load(tmp_path / "model")), before, rtol=1e-5)
    capsys.readouterr()
    run("calibrate", tmp_path / "model", folder / "good", "--image-score", "max")
    assert "no scores of its own images" not in said(capsys)


def test_too_few_images_leave_a_model_as_it_was(folder: Path, lite0: padim.Backbone) -> None:
    moments = padim.update(lite0, padim.init(lite0, SMALL), images(2, SMALL))
    stored = padim.Updatable(lite0, moments, dict.fromkeys(map(str, range(2)), 1.0))
    remarks: list[str] = []
    watch = Watch(remark=remarks.append)
    assert recalibrate(stored, fitted=[*folder.glob("good/*")][:2], image_score="top-5%", watch=watch) is stored
    assert remarks[0].startswith("not calibrated: leaving one image out takes 3 or more")


def test_an_update_goes_on_with_the_score(folder: Path, lite0: padim.Backbone, expected: padim.Padim) -> None:
    moments = padim.update(lite0, padim.init(lite0, CONFIG), images(20, SMALL))
    stored = padim.Updatable(lite0, moments, dict.fromkeys(map(str, range(20)), 1.0), expected.calibration)
    updated = update_files(stored, sorted((folder / "other").iterdir()), watch=Watch(remark=lambda text: None)).model
    known = scores_of(updated)
    assert len(known) == 28  # those of before are kept beside
    for score in scores_of(expected):
        assert np.isclose(known, score).any()
    assert updated.moments.config.image_score == "top-5%"


def test_a_smaller_region_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    padim_roi = np.zeros((*SMALL.crop, 3), np.uint8)
    padim_roi[:16] = 255
    (mask,) = write_images(tmp_path / "masks", padim_roi[None])
    run("fit", folder / "good", "--out", tmp_path / "model", *SIZES, *TOP)
    capsys.readouterr()
    command = ["score", str(tmp_path / "model"), str(folder / "other"), "--out", str(tmp_path / "r")]
    assert main([*command, "--roi", str(mask)]) == 1
    assert "the mean may be larger over a part" in said(capsys)
    assert not (tmp_path / "r" / "scores.csv").exists()
    run("fit", folder / "good", "--out", tmp_path / "model", *SIZES, *TOP, "--roi", mask)
    run(*command, "--roi", mask)  # it is no smaller
    maps = np.asarray(padim.score(padim.load(tmp_path / "model"), images(8, SMALL, seed=5)).anomaly_map)
    wanted = mean_of_highest(maps, 5, padim_roi[..., 0] > 0)
    np.testing.assert_allclose([float(row["score"]) for row in rows(tmp_path / "r" / "scores.csv")], wanted, rtol=1e-4)


@pytest.mark.slow
def test_an_evaluation_scores_as_a_model_does(tmp_path: Path, lite0: padim.Backbone) -> None:
    category = write_mvtec(tmp_path, "bottle", (8, 3, 4), size=64)
    config = padim.PadimConfig(image_size=64, crop_size=56, image_score="top-5%")
    sizes = ("--image-size", 64, "--crop-size", 56)
    run("evaluate", category, "--out", tmp_path / "out", *sizes, "--image-score", "max", *TOP)
    by_score = {
        record["settings"]["members"][0]["image_score"]: record
        for record in json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    }
    assert by_score.keys() == {"max", "top-5%"}
    good = np.stack([read_image(path, config) for path in sorted((category / "train" / "good").iterdir())])
    by_hand = padim.calibrate(padim.fit(lite0, [good], config), [good], false_alarm_rate=0.05)
    assert by_hand.calibration is not None
    record = by_score["top-5%"]
    threshold = record["calibration"]["thresholds"][1]["threshold"]
    assert threshold == pytest.approx(float(by_hand.calibration.threshold), rel=1e-3)
    tests = np.stack([read_image(category / row["file"], config) for row in record["files"]["test"]])
    for name, scores in (("top-5%", padim.score(by_hand, tests).image_score), ("max", None)):
        found = [row["score"] for row in by_score[name]["files"]["test"]]
        wanted = np.asarray(padim.score(by_hand, tests).anomaly_map).max(axis=(1, 2)) if scores is None else scores
        np.testing.assert_allclose(found, wanted, rtol=2e-3)
