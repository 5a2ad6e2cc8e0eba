"""Aligned images from the commands, and where alignment meets the other features."""

# what other models do not have is there
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.cli import main
from padim_jax.inspection.estimate import Files, estimate
from padim_jax.method.choosing import with_settings, without_needless_turns
from padim_jax.method.map_sample import MapSample
from padim_jax.runs.score import POOR_MATCH
from tests.conftest import write_images
from tests.datasets import write_mvtec
from tests.test_aligned import ALIGNED, GOOD, TURNED
from tests.test_cli import rows
from tests.test_registration import SIDE, bracket, placed

SIZES = f"--tap block2 --tap block4 --n-channels 12 --image-size {SIDE} --crop-size {SIDE} --sigma 1.5".split()
RIGID = (*SIZES, "--align", "rigid")
EMPTY = np.full((1, SIDE, SIDE, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts that are turned, more of them, and test images, of which the last has no part."""
    place = tmp_path_factory.mktemp("aligned")
    rng = np.random.default_rng(7)
    write_images(place / "good", GOOD)
    write_images(place / "more", placed(bracket(), rng.uniform(-180, 180, 4), rng.uniform(-4, 4, (4, 2)), noise=3.0))
    write_images(place / "test", np.concatenate([TURNED, EMPTY]))
    run("fit", place / "good", "--out", place / "model", *RIGID)
    return place


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


@pytest.mark.slow
def test_commands_fit_and_score_as_python_does(folder: Path, lite0: padim.Backbone) -> None:
    expected = padim.score(padim.calibrate(padim.fit(lite0, [GOOD], ALIGNED), [GOOD]), TURNED)
    run("score", folder / "model", folder / "test", "--out", folder / "scores", "--maps", "crop")
    table = rows(folder / "scores" / "scores.csv")
    np.testing.assert_allclose([float(row["score"]) for row in table[:2]], expected.image_score, rtol=2e-3)
    assert table[2]["verdict"] == "anomalous"
    assert [POOR_MATCH in row["note"] for row in table] == [False, False, True]


@pytest.mark.slow
def test_a_model_of_parts_that_do_not_turn_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = placed(bracket(), np.zeros(6), np.random.default_rng(1).uniform(-3, 3, (6, 2)))
    write_images(folder / "still", still)
    capsys.readouterr()
    run("fit", folder / "still", "--out", folder / "still-model", *RIGID)
    said = " ".join(capsys.readouterr().err.split())
    assert "the parts are not turned, so images are aligned by shifts alone" in said
    assert load_updatable(folder / "still-model").moments.alignment.max_angle == 0


def test_an_update_keeps_the_reference_and_forget_undoes_it(folder: Path, tmp_path: Path) -> None:
    # of so few images rounding would show, but for a large ridge
    run("fit", folder / "good", "--out", tmp_path / "model", *RIGID, "--ridge", "10")
    before = load_updatable(tmp_path / "model")
    run("update", tmp_path / "model", folder / "more", "--out", tmp_path / "more")
    after = load_updatable(tmp_path / "more")
    np.testing.assert_array_equal(after.moments.alignment.image, before.moments.alignment.image)
    assert float(after.moments.count) == len(GOOD) + 4
    assert after.calibration.least_match is not None
    run("forget", tmp_path / "more", folder / "more", "--out", tmp_path / "less")
    less = load_updatable(tmp_path / "less")
    np.testing.assert_allclose(less.moments.moments.coverage, before.moments.moments.coverage, atol=1e-4)
    np.testing.assert_allclose(less.moments.moments.mean, before.moments.moments.mean, atol=1e-3)


@pytest.mark.slow
def test_fits_of_other_images_have_other_references_and_are_not_merged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", folder / "more", "--out", tmp_path / "other", *RIGID)
    capsys.readouterr()
    assert main(["merge", str(folder / "model"), str(tmp_path / "other"), "--out", str(tmp_path / "both")]) != 0
    assert "aligned to different references" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "both").exists()


@pytest.mark.slow
def test_many_models_align_each_to_its_own_reference(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"model,good\none,{folder / 'good'}\ntwo,{folder / 'more'}\n")
    run("fit-many", tmp_path / "table.csv", "--out", tmp_path / "models", *RIGID)
    many, one = padim.load(tmp_path / "models" / "one"), padim.load(folder / "model")
    np.testing.assert_allclose(padim.score(many, TURNED).image_score, padim.score(one, TURNED).image_score, rtol=1e-3)


@pytest.mark.slow
def test_an_evaluation_aligns(tmp_path: Path) -> None:
    category = write_mvtec(tmp_path, "bottle", (8, 3, 4), size=SIDE)
    run("evaluate", category, "--out", tmp_path / "out", *RIGID, "--anomaly-map", "combined")
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert record["settings"]["members"][0]["align"] == "rigid"
    assert all(np.isfinite(row["score"]) for row in record["files"]["test"])


@pytest.mark.slow
def test_the_detector_aligns(lite0: padim.Backbone) -> None:
    detector = padim.PadimDetector(lite0, config=ALIGNED, false_alarm_rate=0.1).fit(GOOD)
    assert detector.model_.alignment is not None
    more = detector.partial_fit(placed(bracket(), np.array([80.0, -20.0, 5.0]), np.zeros((3, 2))))
    assert int(more.moments_.count) == len(GOOD) + 3
    assert detector.predict(np.concatenate([TURNED, EMPTY])).tolist()[2] == -1  # whatever it scores
    with pytest.raises(ValueError, match="aligned images take a pass over all images"):
        padim.PadimDetector(lite0, config=ALIGNED).partial_fit(GOOD)


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_its_reference(folder: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    from padim_jax.images import find_images
    from padim_jax.runs.checkpoint import Checkpoint, identity
    from padim_jax.runs.engines import OneDevice
    from padim_jax.runs.fold import fit_moments
    from padim_jax.runs.watch import Interrupted, Watch

    paths = find_images([folder / "good"]).paths
    checkpoint = Checkpoint(tmp_path / "model.unfinished", identity(lite0, ALIGNED, paths), every=4)
    calls = iter([False] * 8 + [True] * 4)  # the reference is made of four batches
    with pytest.raises(Interrupted, match="files are kept"):
        fit_moments(OneDevice(lite0), paths, ALIGNED, 4, Watch(stopped=lambda: next(calls)), checkpoint)
    fold = fit_moments(OneDevice(lite0), paths, ALIGNED, 4, Watch(), checkpoint)
    whole = load_updatable(folder / "model").moments
    np.testing.assert_allclose(fold.state.moments.coverage, whole.moments.coverage, atol=1e-4)
    np.testing.assert_allclose(fold.state.moments.mean, whole.moments.mean, atol=1e-3)


@pytest.mark.slow
def test_an_estimate_knows_aligned_models(lite0: padim.Backbone) -> None:
    found = estimate(lite0, ALIGNED, 8, GOOD[:4], Files(SIDE * SIDE))
    assert found.positions == 256
    assert all(seconds >= 0 for seconds in found.score_seconds.values())


def test_where_no_good_image_was_judged_maps_are_standardised_like_others() -> None:
    config = replace(ALIGNED, anomaly_map="combined")
    sample = MapSample(config, None)
    grids = np.random.default_rng(0).gamma(5, 1, (5, 16, 16)).astype(np.float32)
    grids[:, :4] = np.nan
    sample.add(grids)
    standard = sample.standard("test", sample.good_maps())
    assert np.isfinite(standard.mean).all()
    np.testing.assert_allclose(standard.mean[:8], np.mean(np.asarray(standard.mean)[20:]), rtol=0.05)
    assert (np.asarray(standard.spread) > 0).all()
    sample.add(np.full((1, 16, 16), np.nan, np.float32))  # nothing of it is judged
    assert all(np.isfinite(maps).all() for maps in sample.left_out(sample.good_maps()))


@pytest.mark.slow
def test_candidates_that_turn_images_are_tried_where_that_says_something() -> None:
    still = replace(ALIGNED, align="none")
    shifted = placed(bracket(), np.zeros(14), np.random.default_rng(2).uniform(-5, 5, (14, 2)))
    both = (still, ALIGNED)
    assert without_needless_turns(both, GOOD) == both
    assert without_needless_turns(both, shifted) == (still,)
    assert without_needless_turns(both, GOOD, np.ones(ALIGNED.crop, bool)) == (still,)
    assert without_needless_turns((ALIGNED,), shifted) == (ALIGNED,)
    assert with_settings(both, {"covariance": "ledoit-wolf"}) == (replace(still, covariance="ledoit-wolf"),)
    with pytest.raises(ValueError, match="does not go with covariance"):
        with_settings(both[::-1], {"covariance": "ledoit-wolf"})


@pytest.mark.slow
def test_aligned_candidates_are_compared(lite0: padim.Backbone) -> None:
    choice = padim.choose(lite0, GOOD, [replace(ALIGNED, align="none"), ALIGNED])
    assert len(choice.criteria) == 2
    assert choice.criteria[1] > choice.criteria[0]  # the parts lie at any angle
