"""Standardised maps from the commands: fit, score, evaluate, many models, the inspection, and the detector."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import padim_jax as padim
from padim_jax.cli import main
from padim_jax.evaluation.operating_points import leave_out
from padim_jax.fleet import Journal, Terms, fit_many
from padim_jax.fleet.serving import Fleet
from padim_jax.fleet.tables import Job
from padim_jax.images import read_image
from padim_jax.images.survey import survey
from padim_jax.inspection.suspects import leave_one_out
from padim_jax.method.scoring import NoLeaveOneOut, calibration_scores
from padim_jax.method.variants import with_standard
from padim_jax.runs import Watch
from padim_jax.runs.engines import OneDevice
from tests.conftest import SMALL, images, write_images
from tests.datasets import write_mvtec
from tests.test_cli import rows
from tests.test_operating_points import MEMBERS

SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --sigma 1.5".split()
STANDARDISED = ("--anomaly-map", "combined")
CONFIG = replace(SMALL, image_size=SMALL.crop_size, anomaly_map="combined")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("standard")
    write_images(place / "good", images(20, SMALL))
    write_images(place / "other", images(4, SMALL, seed=5))
    return place


@pytest.fixture(scope="module")
def model(lite0: padim.Backbone) -> padim.Padim:
    """A model of the folder's good images, not calibrated."""
    return padim.fit(lite0, [images(20, SMALL)], CONFIG)


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Path:
    """A model of the same images, as the command fits it."""
    run("fit", folder / "good", "--out", folder / "model", *SIZES, *STANDARDISED)
    return folder / "model"


@pytest.mark.slow
def test_commands_fit_and_score_as_python_does(
    folder: Path, fitted: Path, model: padim.Padim, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = padim.score(padim.calibrate(model, [images(20, SMALL)]), images(4, SMALL, seed=5))
    run("score", folder / "model", folder / "other", "--out", folder / "scores", "--maps", "crop", "--masks", "crop")
    table = rows(folder / "scores" / "scores.csv")
    np.testing.assert_allclose([float(row["score"]) for row in table], expected.image_score, rtol=1e-3)
    np.testing.assert_allclose([float(row["p_value"]) for row in table], np.asarray(expected.p_value), rtol=1e-5)
    run("calibrate", folder / "model", "--threshold", "7", "--out", folder / "by-hand")
    assert padim.load(folder / "by-hand").standard is not None
    run("fit", folder / "good", "--out", folder / "bare", *SIZES, *STANDARDISED, "--no-calibrate")
    before = {path: path.read_bytes() for path in (folder / "scores").rglob("*") if path.is_file()}
    for out in ("none", "scores"):
        capsys.readouterr()
        assert main(["score", str(folder / "bare"), str(folder / "other"), "--out", str(folder / out)]) == 1
        err = " ".join(capsys.readouterr().err.split())
        assert "calibrate it first" in err
        assert "kept" not in err  # no run was begun
    assert not list(folder.glob("none*"))
    assert {path: path.read_bytes() for path in (folder / "scores").rglob("*") if path.is_file()} == before
    (folder / "table.csv").write_text(f"model,path\nmodel,{folder / 'other'}\nbare,{folder / 'other'}\n")
    words = ["score-many", folder, folder / "table.csv", "--out", folder.parent / f"{folder.name}-many"]
    assert main(list(map(str, words))) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "by bare: score: the model's maps are to be standardised" in err
    assert "calibrate it first (and 3 more for that)" in err
    assert "4 of 8 images have no score" in err


@pytest.mark.slow
def test_an_evaluation_standardises_and_its_thresholds_are_those_of_a_calibration(
    tmp_path: Path, lite0: padim.Backbone
) -> None:
    category = write_mvtec(tmp_path, "bottle", (8, 3, 4), size=64)
    config = padim.PadimConfig(image_size=64, crop_size=56, anomaly_map="combined")
    run("evaluate", category, "--out", tmp_path / "out", "--image-size", 64, "--crop-size", 56, *STANDARDISED)
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    good = np.stack([read_image(path, config) for path in sorted((category / "train" / "good").iterdir())])
    by_hand = padim.calibrate(padim.fit(lite0, [good], config), [good], false_alarm_rate=0.05)
    assert by_hand.calibration is not None
    threshold = record["calibration"]["thresholds"][1]["threshold"]
    assert threshold == pytest.approx(float(by_hand.calibration.threshold), rel=1e-3)
    tests = np.stack([read_image(category / row["file"], config) for row in record["files"]["test"]])
    scores = [row["score"] for row in record["files"]["test"]]
    np.testing.assert_allclose(scores, padim.score(by_hand, tests).image_score, rtol=2e-3)


def test_a_merge_that_calibrates_takes_the_rates_of_its_parts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, more in (("bare", ("--no-calibrate",)), ("rated", ("--false-alarm-rate", "0.2", "--pixel-rate", "0.1"))):
        run("fit", folder / "good", "--out", tmp_path / name, *SIZES, *STANDARDISED, *more)
    run("merge", tmp_path / "bare", tmp_path / "rated", "--out", tmp_path / "both")
    assert "the merged model is not calibrated: padim calibrate MODEL" in " ".join(capsys.readouterr().err.split())
    assert padim.load(tmp_path / "both").calibration is None
    words = ("--calibration", folder / "other", "--out", tmp_path / "both")
    run("merge", tmp_path / "bare", tmp_path / "rated", *words)
    merged = padim.load(tmp_path / "both").calibration
    assert merged is not None
    assert (merged.false_alarm_rate, merged.pixel_rate) == (0.2, 0.1)


def test_an_evaluation_names_the_run_that_has_too_few_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    category = write_mvtec(tmp_path, "bottle", (2, 3, 4), size=64)
    words = ("evaluate", category, "--out", tmp_path / "out", "--image-size", 64, "--crop-size", 56, *STANDARDISED)
    assert main(list(map(str, words))) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "bottle with the preset lite0 and seed 0 can't be scored by standardised maps: 2 images are too few" in err


@pytest.mark.slow
def test_maps_of_members_are_standardised_before_they_are_summed(lite0: padim.Backbone) -> None:
    pixels, configs = images(9, SMALL), [replace(member, anomaly_map="combined") for member in MEMBERS]
    models = [padim.fit(lite0, [pixels], config) for config in configs]
    points = leave_out(OneDevice(lite0), models, [pixels[:4], pixels[4:]], 8)
    for fitted, standard in zip(models, points.standards, strict=True):
        calibrated = padim.calibrate(fitted, [pixels]).standard
        assert standard is not None
        assert calibrated is not None
        np.testing.assert_allclose(standard.spread, calibrated.spread, rtol=1e-4)
    alone = leave_out(OneDevice(lite0), models[:1], [pixels], 9).calibrations[0]
    np.testing.assert_allclose(alone.scores, np.sort(calibration_scores(models[0], [pixels])), rtol=1e-4)
    assert (np.asarray(points.calibrations[0].scores) > np.asarray(alone.scores)).all()
    with pytest.raises(NoLeaveOneOut, match="2 images are too few to leave one out"):
        leave_out(OneDevice(lite0), [padim.fit(lite0, [pixels[:2]], configs[0])], [pixels[:2]], 2)


def test_many_models_are_fitted_and_serve_as_one_is(
    folder: Path, lite0: padim.Backbone, model: padim.Padim, tmp_path: Path
) -> None:
    jobs, terms = [Job("a", folder / "good")], Terms(CONFIG, batch_size=8)
    (outcome,) = fit_many(lite0, jobs, terms, tmp_path, Journal(tmp_path))
    expected = padim.score(padim.calibrate(model, [images(20, SMALL)]), images(4, SMALL, seed=5))
    served = [scores for _, scores in Fleet(tmp_path, 2**30).score(("a", image) for image in images(4, SMALL, seed=5))]
    assert outcome.status == "fitted"
    np.testing.assert_allclose([float(s.image_score[0]) for s in served], expected.image_score, rtol=1e-3)


def test_the_inspection_compares_distances(folder: Path, fitted: Path) -> None:
    paths = [path for name in ("good", "other") for path in sorted((folder / name).iterdir())]
    facts = list(survey(paths, lambda error: None))
    stored = padim.load_updatable(fitted)
    plain = replace(stored, moments=replace(stored.moments, config=replace(CONFIG, anomaly_map="distance")))
    scores = [
        [suspect.score for suspect in leave_one_out(facts, each, "m", batch_size=8, watch=Watch()).suspects]
        for each in (stored, replace(plain, standard=None))
    ]
    assert len(scores[0]) == 24
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_the_detector_says_of_its_own_images_what_they_score_among_the_others(
    model: padim.Padim, lite0: padim.Backbone
) -> None:
    good = images(20, SMALL)
    detector = padim.PadimDetector(lite0, config=CONFIG, false_alarm_rate=0.2, batch_size=8)
    expected = calibration_scores(model, [good])
    np.testing.assert_array_equal(detector.fit_predict(good) == -1, expected > np.sort(expected)[-4])
    np.testing.assert_allclose(
        detector.score_samples(images(4, SMALL, seed=5)),
        -np.asarray(padim.score(padim.calibrate(model, [good]), images(4, SMALL, seed=5)).image_score),
        rtol=1e-3,
    )
    detector.partial_fit(good[:1])
    for call in (detector.score_samples, detector.predict):
        with pytest.raises(NotFittedError, match=r"standardised by the images of the last call .* fewer than 3; call"):
            call(good)
    assert len(detector.partial_fit(good[:3]).predict(good)) == 20
    new = padim.PadimDetector(lite0, config=CONFIG)
    for count in (1, 2, 3):
        new.partial_fit(good[:count])
    assert np.isfinite(new.offset_)
    distances = padim.score(with_standard(model, None), good[:1]).image_score
    assert not np.isclose(float(distances[0]), expected[0])
