"""``padim fit --method`` and what follows: scores and verdicts as of PaDiM's models, and refusals in words."""

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax import baselines, cli
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.baselines.records import named_arrays
from padim_jax.baselines.storing import load_calibrated
from padim_jax.commands import watching as watching_module
from padim_jax.images import read_image
from padim_jax.method.calibration import conformal_p_values, pixel_colour_scale
from padim_jax.runs.baseline import Baseline
from padim_jax.runs.folds import deal
from padim_jax.runs.outputs import choose_outputs
from tests.conftest import SMALL, images, write_images

SIZES = "--tap block2 --tap block4 --image-size 32x48 --crop-size 32x48 --sigma 1.5".split()
CONFIG = padim.PadimConfig(taps=("block2", "block4"), image_size=(32, 48), crop_size=(32, 48), sigma=1.5)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("methods")
    write_images(place / "good", images(10, SMALL))
    write_images(place / "other", images(3, SMALL, seed=5))
    return place


@pytest.fixture(scope="module")
def patchcore(folder: Path) -> Path:
    words = ["fit", folder / "good", "--out", folder / "patchcore", "--method", "patchcore:share=0.3,n_neighbours=2"]
    assert cli.main([str(word) for word in (*words, *SIZES, "--false-alarm-rate", "0.2", "--pixel-rate", "0.3")]) == 0
    return folder / "patchcore"


@pytest.fixture(scope="module")
def dn2(folder: Path) -> Path:
    words = ["fit", folder / "good", "--out", folder / "dn2", "--method", "dn2", *SIZES, "--folds", "3"]
    assert cli.main([str(word) for word in words]) == 0
    return folder / "dn2"


def pixels(folder: Path) -> np.ndarray:
    return np.stack([read_image(path, CONFIG) for path in sorted(folder.iterdir())])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_a_model_is_calibrated_by_folds_and_scores_files(
    folder: Path, patchcore: Path, run: Command, lite0: padim.Backbone, tmp_path: Path
) -> None:
    found = baselines.method("patchcore")
    settings = baselines.PatchCoreSettings(CONFIG, share=0.3, n_neighbours=2)
    good, other = pixels(folder / "good"), pixels(folder / "other")
    left_out = np.concatenate(
        [
            found.score(found.fit(lite0, [np.delete(good, fold, 0)], settings), good[list(fold)]).image_score
            for fold in deal(10, 5, seed=0)
        ]
    )
    model, calibration = load_calibrated(patchcore)
    assert model.settings == settings
    assert calibration is not None
    assert (calibration.method, calibration.false_alarm_rate) == ("folds", 0.2)
    np.testing.assert_allclose(calibration.scores, np.sort(left_out), rtol=1e-3)

    code, told, _ = run("score", patchcore, folder / "other", "--out", tmp_path, "--maps", "crop", "--masks", "crop")
    assert code == 0
    assert "3 scored, 0 unreadable" in told
    expected: Any = found.score(model, other)
    table = rows(tmp_path / "scores.csv")
    np.testing.assert_allclose([float(row["score"]) for row in table], expected.image_score, rtol=1e-3)
    p_values = conformal_p_values(np.asarray(calibration.scores), np.asarray(expected.image_score))
    np.testing.assert_allclose([float(row["p_value"]) for row in table], p_values, rtol=1e-5)
    above = np.asarray(expected.image_score) > float(calibration.threshold)
    assert [row["verdict"] == "anomalous" for row in table] == above.tolist()
    assert len(list((tmp_path / "heatmaps").glob("*.png"))) == len(list((tmp_path / "maps").glob("*.tif"))) == 3
    low, high = pixel_colour_scale(calibration)
    assert (low + high) / 2 == pytest.approx(float(calibration.pixel_threshold), rel=1e-6)


def test_what_it_was_fitted_on_and_other_shapes_are_noted(
    folder: Path, dn2: Path, run: Command, tmp_path: Path
) -> None:
    shutil.copy(folder / "good" / "003.png", tmp_path / "known.png")
    wide = np.repeat(images(1, SMALL, seed=5), 3, axis=2)
    write_images(tmp_path / "wide", wide)
    code, _, told = run(
        *("score", dn2, tmp_path / "known.png", tmp_path / "wide", "--out", tmp_path / "out", "--look-rate", "0.5")
    )
    assert code == 0, told
    known, other = rows(tmp_path / "out" / "scores.csv")
    assert "was among the images the model was fitted on" in known["note"]
    assert "another aspect ratio" in other["note"]
    assert other["verdict"] in ("look", "bad")


def test_regions_are_those_of_the_maps(folder: Path, patchcore: Path, run: Command, tmp_path: Path) -> None:
    code, _, err = run("score", patchcore, folder / "other", "--out", tmp_path, "--regions", "--no-heatmaps")
    assert code == 0, err
    found = rows(tmp_path / "regions.csv")
    assert found
    assert {region["p_value"] for region in found} == {""}  # images are not scored by their maps


def test_methods_of_whole_images_give_scores_and_verdicts_without_maps(
    folder: Path, dn2: Path, run: Command, tmp_path: Path
) -> None:
    code, _, told = run("score", dn2, folder / "other", "--out", tmp_path / "out")
    assert code == 0
    assert "dn2 judges whole images: scores and verdicts, but no heat maps" in told
    table = rows(tmp_path / "out" / "scores.csv")
    assert {row["row"] + row["column"] + row["heatmap"] for row in table} == {""}
    assert {row["verdict"] for row in table} <= {"normal", "anomalous"}
    assert not (tmp_path / "out" / "heatmaps").exists()
    assert run("score", dn2, folder / "other", "--out", tmp_path / "out")[0] == 0  # over its own results
    for words in (("--masks", "crop"), ("--maps", "original"), ("--regions",)):
        code, _, told = run("score", dn2, folder / "other", "--out", tmp_path / "none", *words)
        assert code == 2
        assert f"{words[0]} takes maps, and dn2 judges whole images; leave it out" in told
    with pytest.raises(ValueError, match="dn2 judges whole images: it has no maps to write, and no masks"):
        choose_outputs(Baseline.load(dn2), maps="crop")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_copies_of_an_image_share_a_fold(folder: Path, run: Command, tmp_path: Path) -> None:
    shutil.copytree(folder / "good", tmp_path / "good")
    for path in sorted((tmp_path / "good").iterdir()):
        Image.open(path).save(path.with_name(f"copy-{path.name}"), compress_level=0)  # other bytes, the same pixels
    words = ("--method", "dn2:n_images=1", *SIZES, "--folds", 5)
    code, _, told = run("fit", tmp_path / "good", "--out", tmp_path / "model", *words)
    assert code == 0, told
    _, calibration = load_calibrated(tmp_path / "model")
    assert calibration is not None
    assert len(calibration.scores) == 10  # copies show nothing new
    assert float(calibration.scores[0]) > 0  # a model that knew the copy would score 0


def test_other_good_images_calibrate_in_place_of_folds(folder: Path, run: Command, tmp_path: Path) -> None:
    words = ("--method", "dn2", *SIZES, "--calibration", folder / "other")
    code, told, _ = run("fit", folder / "good", "--out", tmp_path / "model", *words)
    assert code == 0
    assert "calibrated on 3 good images (held-out)" in told
    model, calibration = load_calibrated(tmp_path / "model")
    assert calibration is not None
    expected = np.sort(baselines.method("dn2").score(model, pixels(folder / "other")).image_score)
    np.testing.assert_allclose(calibration.scores, expected, rtol=1e-3)


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_by_the_same_command(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "good", images(10, replace(SMALL, image_size=(64, 64), crop_size=(64, 64))))
    words = ("fit", tmp_path / "good", "--method", "ae:width=4,steps=30,look_every=10,batch_size=4", "--no-calibrate")
    sizes = ("--image-size", "64", "--crop-size", "64")
    code, told, err = run(*words, *sizes, "--out", tmp_path / "whole")
    assert code == 0, err
    assert "ae (arXiv 1807.02011); fitted on 10 images" in told
    assert "ae: step 30 of 30, loss" in err

    asked = iter([False])  # once the images are read; then at the tenth step
    original = watching_module.interruption

    @contextmanager
    def interrupted() -> Iterator[Callable[[], bool]]:
        with original():
            yield lambda: next(asked, True)

    with monkeypatch.context() as patch:
        patch.setattr(watching_module, "interruption", interrupted)
        code, _, err = run(*words, *sizes, "--out", tmp_path / "part")
    assert code == 1
    assert "the same command goes on from there" in err
    assert not (tmp_path / "part").exists()
    code, _, err = run(*words, *sizes, "--out", tmp_path / "part")
    assert code == 0, err
    assert not list(tmp_path.glob("part.*"))
    whole, part = (baselines.load(tmp_path / name) for name in ("whole", "part"))
    jax.tree.map(np.testing.assert_array_equal, named_arrays(whole), named_arrays(part))


def test_too_few_images_for_folds_leave_a_model_uncalibrated_and_say_why(
    folder: Path, run: Command, tmp_path: Path
) -> None:
    write_images(tmp_path / "two", images(2, SMALL))
    code, _, told = run("fit", tmp_path / "two", "--out", tmp_path / "model", "--method", "dn2", *SIZES)
    assert code == 0
    assert "p-values and verdicts (2 folds leave 1 image to fit on: dn2.fit: 1 image, wanted 2 or more" in told
    assert load_calibrated(tmp_path / "model")[1] is None
    code, _, told = run("score", tmp_path / "model", folder / "other", "--out", tmp_path / "out")
    assert code == 0
    assert rows(tmp_path / "out" / "scores.csv")[0]["p_value"] == ""


def test_the_images_of_the_fit_do_not_calibrate_it_again(folder: Path, run: Command, tmp_path: Path) -> None:
    words = ("--method", "dn2", *SIZES, "--calibration", folder / "good")
    code, _, told = run("fit", folder / "good", "--out", tmp_path / "model", *words)
    assert code == 1
    assert "some of the images to calibrate on are among those fitted on" in told
    assert not (tmp_path / "model").exists()


def test_no_blur_is_no_blur(folder: Path, run: Command, tmp_path: Path) -> None:
    words = ("--method", "dfm", *SIZES[4:-2], "--sigma", "0", "--no-calibrate")
    code, _, told = run("fit", folder / "good", "--out", tmp_path / "model", *words)
    assert code == 0
    assert baselines.load(tmp_path / "model").config.sigma == 0
    assert "fit again without --no-calibrate" in told
    code, _, told = run("score", tmp_path / "model", folder / "other", "--out", tmp_path / "out")
    assert code == 0
    assert "not calibrated: no heat maps" in told
    assert "fit it again, without --no-calibrate" in told
    assert not (tmp_path / "out" / "heatmaps").exists()


def test_a_folder_that_holds_defects_too_is_warned_of(folder: Path, run: Command, tmp_path: Path) -> None:
    shutil.copytree(folder / "good", tmp_path / "set" / "train" / "good")
    shutil.copytree(folder / "other", tmp_path / "set" / "test" / "bad")
    words = ("--method", "dn2", *SIZES, "--no-calibrate")
    code, _, told = run("fit", tmp_path / "set", "--out", tmp_path / "model", *words)
    assert code == 0
    assert "warning: the model learns the images in" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tap", "block2", "--method", "ae"), "--tap is of PaDiM, and ae does not have it"),
        (("--backbone", "resnet18", "--method", "ae"), "--backbone is of PaDiM, and ae does not have it"),
        (("--ridge", "0.1"), "--ridge is of PaDiM, and dn2 does not have it"),
        (("--checkpoint-every", "5"), "--checkpoint-every is of PaDiM, and dn2 does not have it"),
        (("--trust-calibration",), "--trust-calibration is of PaDiM, and dn2 does not have it"),
        (("--devices", "1"), "--devices is of PaDiM, and dn2 does not have it"),
    ],
)
def test_options_of_padim_are_refused(
    folder: Path, run: Command, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, _, told = run(
        "fit",
        folder / "good",
        "--out",
        tmp_path / "model",
        *words,
        *(() if "--method" in words else ("--method", "dn2")),
    )
    assert code == 2
    assert message in told
    assert not (tmp_path / "model").exists()


def test_what_models_of_methods_cannot_do_is_refused_in_words(
    folder: Path, dn2: Path, run: Command, tmp_path: Path
) -> None:
    keeps = "it keeps one vector of every image; fit it anew on the images that are to count"
    new = ("--out", tmp_path / "new")
    for words, reason in (
        (("update", dn2, folder / "other"), keeps),
        (("forget", dn2, folder / "other"), keeps),
        (("merge", dn2, dn2, *new), keeps),
        (("compact", dn2, *new), "it keeps one vector of every image, and has no smaller form"),
        (("calibrate", dn2, folder / "other"), "padim score takes it"),
        (("export", dn2, *new), "padim score takes it"),
        (("inspect", dn2), "padim score takes it"),
    ):
        code, _, told = run(*words)
        assert code == 1, words
        assert f"{words[0]}: {dn2} is a model of dn2, not of PaDiM; {reason}".replace("  ", " ") in told
    code, _, told = run("score", dn2, folder / "other", "--out", tmp_path / "out", "--devices", "1")
    assert code == 2
    assert "--devices is of models of PaDiM, and this is one of dn2" in told


def test_a_fit_of_padim_does_not_replace_a_model_of_a_method(folder: Path, dn2: Path, run: Command) -> None:
    code, _, told = run("fit", folder / "good", "--out", dn2, *SIZES, "--n-channels", 12)
    assert code == 1
    assert "holds other things" in told
    assert isinstance(baselines.load(dn2), baselines.FittedModel)


def test_a_damaged_calibration_is_refused(dn2: Path, tmp_path: Path) -> None:
    import json

    from padim_jax.artifact.manifest import MANIFEST, manifest_checksum

    shutil.copytree(dn2, tmp_path / "model")
    path = tmp_path / "model" / MANIFEST
    manifest = json.loads(path.read_text())
    for broken in ({}, {"method": "folds"}, {**manifest["calibration"], "false_alarm_rate": 7}, "folds"):
        changed = {**manifest, "calibration": broken}
        changed["checksum"] = manifest_checksum(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match="damaged"):
            load_calibrated(tmp_path / "model")
