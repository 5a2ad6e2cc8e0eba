"""What a folder of images may not hold: padim's own pictures, of which no command learns, and defects."""

import shutil
from pathlib import Path

import pytest

from tests.test_cli import SIZES, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model_dir(good_dir: Path, tmp_path: Path, capsys: Capture) -> Path:
    """A calibrated model of ``good_dir``."""
    assert run(capsys, "fit", good_dir, "--out", tmp_path / "good.padim", *SIZES)[0] == 0
    return tmp_path / "good.padim"


@pytest.mark.slow
def test_padims_own_pictures_are_no_images_to_learn_from(
    model_dir: Path, good_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    here = shutil.copytree(good_dir, tmp_path / "here")
    assert run(capsys, "inspect", here, "--model", model_dir, "--out", here / "looked")[0] == 0
    assert run(capsys, "score", model_dir, here, "--out", here / "result")[0] == 0
    heatmaps = len(list((here / "result").rglob("*.png")))
    assert heatmaps
    code, printed, told = run(capsys, "fit", here, "--out", tmp_path / "model", "--no-calibrate", *SIZES)
    assert code == 0
    assert f"fitted on {len(list(good_dir.rglob('*.png')))} images" in printed
    passed_over = f"1 in {here / 'looked'}, where results go, {heatmaps} in {here / 'result'}, where results go"
    assert f"ignored other files: {passed_over}" in told
    code, _, told = run(capsys, "score", model_dir, here / "result" / "heatmaps", "--out", tmp_path / "out")
    assert (code, "heatmaps holds results that padim wrote; name the folder of the images" in told) == (1, True)


@pytest.mark.parametrize("command", ["score {model} {other}", "inspect {other}", "inspect {model}"])
def test_results_never_go_among_images(
    command: str, model_dir: Path, good_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    here, other = (shutil.copytree(good_dir, tmp_path / name) for name in ("here", "other"))
    before = sorted(here.iterdir())
    arguments = command.format(model=model_dir, other=other).split()
    code, _, told = run(capsys, *arguments, "--out", here)
    assert (code, f"--out {here} holds images" in told) == (2, True)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("has_train", [True, False])
def test_a_fit_warns_of_folders_that_may_not_be_good(
    has_train: bool, good_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(good_dir, data / ("train/good" if has_train else "monday"))
    shutil.copytree(good_dir, data / "test" / "bad")
    shutil.copytree(good_dir, data / "NG")
    told = run(capsys, "fit", data, "--out", tmp_path / "m", "--no-calibrate", *SIZES)[2]
    better = f"give {data / 'train/good'} instead" if has_train else "give a folder of good images alone"
    warnings = [line for line in told.splitlines() if line.startswith("warning: the model learns")]
    assert warnings == [
        f"warning: the model learns the images in {folder} as good ones; if they are not, {better}"
        for folder in (data / "NG", data / "test")
    ]
    assert "warning: the model learns" not in run(capsys, "fit", good_dir, "--out", tmp_path / "m", *SIZES)[2]
