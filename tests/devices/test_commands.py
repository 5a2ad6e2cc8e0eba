"""Commands on several devices, against the same commands on one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.cli import main
from padim_jax.runs.engines import OneDevice
from tests.conftest import SMALL, images, write_images
from tests.datasets import write_mvtec

SIZES = (
    "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48 --sigma 1.5 --batch-size 8".split()
)
MANY = ["--devices", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two of which are copies and one of which can't be read."""
    folder = tmp_path_factory.mktemp("devices")
    write_images(folder / "good", images(21, SMALL))
    write_images(folder / "more", images(9, SMALL, seed=5))
    write_images(folder / "few", images(4, SMALL, seed=6))
    shutil.copytree(folder / "good", folder / "fitted")
    (folder / "good" / "copy.png").write_bytes((folder / "good" / "003.png").read_bytes())
    (folder / "good" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """A model of the folder's good images."""
    run("fit", folder / "good", "--out", folder / "base", "--skip-unreadable", *SIZES)
    return folder / "base"


@pytest.fixture(scope="module")
def regional(folder: Path) -> Path:
    """A model of the same images that looks only at the upper half, with a threshold set by hand."""
    upper = np.zeros((*SMALL.crop, 3), np.uint8)
    upper[: SMALL.crop[0] // 2] = 255
    (mask,) = write_images(folder / "mask", upper[None])
    run("fit", folder / "good", "--out", folder / "regional", "--skip-unreadable", "--roi", mask, *SIZES)
    run("calibrate", folder / "regional", "--threshold", "12.5")
    return folder / "regional"


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


def run_on_one_and_many(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, *words: object
) -> tuple[Path, Path]:
    """The models that a command writes on one device and on eight, where both say the same and all eight compute."""
    said = []
    for name, more in (("one", ()), ("many", MANY)):
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for method in ("init", "finalize", "hold") if more else ():
                patch.delattr(OneDevice, method)
            run(command, *words, "--out", folder / f"{command}-{name}", "--batch-size", 8, *more)
        out, err = capsys.readouterr()
        lines = out.replace(f"{command}-{name}", "model").splitlines() + err.splitlines()
        said.append([line for line in lines if "━" not in line])
    assert said[0] == said[1]
    return folder / f"{command}-many", folder / f"{command}-one"


def assert_alike(found: Path, wanted: Path, rtol: float = 1e-4) -> None:
    """The same files with the same weights, the same distances, calibration scores and sizes of files."""
    test = images(4, SMALL, seed=9)
    one, other = padim.load(found), padim.load(wanted)
    maps = padim.score(one, test).anomaly_map, padim.score(other, test).anomaly_map
    np.testing.assert_allclose(*maps, rtol=rtol, atol=0 if one.standard is None else 10 * rtol)
    assert one.calibration is not None
    assert other.calibration is not None
    np.testing.assert_allclose(one.calibration.scores, other.calibration.scores, rtol=rtol)
    assert load_updatable(found).images == pytest.approx(load_updatable(wanted).images)
    assert load_updatable(found).image_sizes == load_updatable(wanted).image_sizes


def test_a_fit_on_many_devices_tells_what_one_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for name, more in (("one", ()), ("many", MANY)):
        run("fit", folder / "good", "--out", folder / name, "--skip-unreadable", *SIZES, *more)
        said[name] = [line for line in capsys.readouterr().err.splitlines() if "━" not in line]
    assert_alike(folder / "many", folder / "one")
    assert said["many"] == said["one"]
    assert any("the parts do not lie alike" in line for line in said["one"])
    assert any("1 of 22 images are copies" in line for line in said["one"])


@pytest.mark.slow
def test_the_numbers_that_a_fit_chooses_are_those_of_one_device(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--covariance", "pooled", "--ridge", "auto", *SIZES)
    for name, more in (("pooled-one", ()), ("pooled-many", MANY)):
        run("fit", folder / "fitted", "--out", folder / name, *words, *more)
        assert "chosen by the likelihood of 21 good images, each left out" in capsys.readouterr().err
    one, many = (load_updatable(folder / name).moments.config for name in ("pooled-one", "pooled-many"))
    assert many.regularisation("test") == one.regularisation("test")
    assert_alike(folder / "pooled-many", folder / "pooled-one", rtol=1e-3)


@pytest.mark.slow
def test_the_preset_auto_chooses_what_it_chooses_on_one_device(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for name, more in (("auto-one", ()), ("auto-many", MANY)):
        run("fit", folder / "fitted", "--out", folder / name, "--preset", "auto", *SIZES, *more)
        said[name] = [
            line for line in capsys.readouterr().err.splitlines() if "defects drawn on 21 good images" in line
        ]
    assert said["auto-many"] == said["auto-one"] != []
    assert_alike(folder / "auto-many", folder / "auto-one", rtol=1e-3)


@pytest.mark.slow
def test_principal_components_are_those_of_one_device(folder: Path) -> None:
    for name, more in (("pca-one", ()), ("pca-many", MANY)):
        words = ("--projection", "principal-components", "--skip-unreadable", *SIZES, *more)
        run("fit", folder / "good", "--out", folder / name, *words)
    matrices = [np.asarray(load_updatable(folder / name).moments.projection) for name in ("pca-one", "pca-many")]
    np.testing.assert_allclose(matrices[1], matrices[0], atol=1e-3)
    assert_alike(folder / "pca-many", folder / "pca-one", rtol=1e-3)


@pytest.mark.parametrize("half_life", [pytest.param((), marks=pytest.mark.slow), ("--half-life", "10")])
def test_an_update_is_that_of_one_device(
    folder: Path, base: Path, capsys: pytest.CaptureFixture[str], half_life: tuple[str, ...]
) -> None:
    assert_alike(*run_on_one_and_many(folder, capsys, "update", base, folder / "more", *half_life), rtol=1e-3)


@pytest.mark.slow
def test_an_update_with_a_half_life_keeps_region_and_threshold_as_on_one_device(
    folder: Path, regional: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many, one = run_on_one_and_many(folder, capsys, "update", regional, folder / "few", "--half-life", "30")
    assert_alike(many, one, rtol=1e-3)
    for path in (many, one):
        model = padim.load(path)
        assert model.calibration is not None
        assert model.calibration.method == "kept"  # scores of earlier images are kept beside these
        assert float(model.calibration.threshold) == 12.5
        assert not np.asarray(padim.score(model, images(2, SMALL)).anomaly_map)[:, -4:].any()


@pytest.mark.parametrize("name", ["fitted", "more"])
def test_a_calibration_is_that_of_one_device(
    folder: Path, regional: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    many, one = run_on_one_and_many(
        folder, capsys, "calibrate", regional, folder / name, "--false-alarm-rate", "0.1", "--trust-calibration"
    )
    assert_alike(many, one)
    calibrations = [padim.load(path).calibration for path in (many, one)]
    for calibration in calibrations:
        assert calibration is not None
        assert calibration.method == ("leave-one-out" if name == "fitted" else "held-out")
    thresholds = [float(calibration.threshold) for calibration in calibrations if calibration is not None]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-4)


@pytest.mark.slow
def test_standardised_maps_are_those_of_one_device(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [folder / "standardised-many", folder / "standardised-one"]
    for model, more in zip(models, (MANY, ()), strict=True):
        words = ("--skip-unreadable", "--anomaly-map", "combined", *SIZES, *more)
        run("fit", folder / "good", "--out", model, *words)
    base = models[1]
    models += run_on_one_and_many(folder, capsys, "update", base, folder / "few")
    models += run_on_one_and_many(folder, capsys, "calibrate", base, folder / "more", "--trust-calibration")
    for many, one in zip(models[::2], models[1::2], strict=True):
        assert_alike(many, one, rtol=2e-3)
        standards = [padim.load(path).standard for path in (many, one)]
        for name in ("mean", "spread", "count", "levels", "scales"):
            np.testing.assert_allclose(*(getattr(standard, name) for standard in standards), rtol=1e-3)


def test_a_model_that_only_scores_is_calibrated_as_on_one_device(
    folder: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("compact", base, "--out", folder / "compact")
    many, one = run_on_one_and_many(folder, capsys, "calibrate", folder / "compact", folder / "more")
    scores = [np.asarray(getattr(padim.load(path).calibration, "scores", ())) for path in (many, one)]
    assert len(scores[0]) == 9
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


def test_what_is_left_of_a_model_is_that_of_one_device(
    folder: Path, regional: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (regional, folder / "few", "--calibration", folder / "more", "--trust-calibration")
    run("update", *words, "--out", folder / "grown")
    many, one = run_on_one_and_many(folder, capsys, "forget", folder / "grown", *words[1:])
    assert_alike(many, one, rtol=1e-3)
    assert load_updatable(many).images == load_updatable(regional).images


def test_scores_are_those_of_one_device(folder: Path, base: Path) -> None:
    for name, more in (("scores-one", ()), ("scores-many", MANY)):
        run("score", base, folder / "more", "--out", folder / name, "--no-heatmaps", "--batch-size", 4, *more)
    tables = [(folder / name / "scores.csv").read_text().splitlines() for name in ("scores-one", "scores-many")]
    assert len(tables[0]) == len(tables[1]) == 10
    for one, many in zip(*(table[1:] for table in tables), strict=True):
        assert one.split(",")[0] == many.split(",")[0]
        assert float(one.split(",")[1]) == pytest.approx(float(many.split(",")[1]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lite0", "lite0-pca100", "lite0-sum"])
def test_an_evaluation_is_that_of_one_device(tmp_path: Path, name: str) -> None:
    category = write_mvtec(tmp_path, "bottle", (8, 2, 3), size=64)
    records = []
    for place, more in (("one", ()), ("many", MANY)):
        words = ("--preset", name, "--image-size", 64, "--crop-size", 56)
        with pytest.MonkeyPatch.context() as patch:
            for method in ("init", "finalize") if more else ():
                patch.delattr(OneDevice, method)
            run("evaluate", category, "--out", tmp_path / place, *words, "--no-report", "--batch-size", 3, *more)
        records.append(json.loads((tmp_path / place / "results.json").read_text())["runs"])
    for one, many in zip(*records, strict=True):
        assert len(one["calibration"]["thresholds"]) == 2
        for rate in range(2):
            thresholds = [run["calibration"]["thresholds"][rate]["threshold"] for run in (one, many)]
            assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-3)
        scores = [[row["score"] for row in run["files"]["test"]] for run in (one, many)]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3)
        assert many["metrics"]["pixel"]["auroc"] == pytest.approx(one["metrics"]["pixel"]["auroc"], abs=1e-3)
