"""A threshold that was set by hand, and what later changes of the model make of it: it never moves without a word."""

import shutil
from pathlib import Path

import pytest

import padim_jax as padim
from tests.conftest import SMALL, images, write_images
from tests.test_cli import run

SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --batch-size 8".split()
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models a and b of 12 images each, whose thresholds were set to 40 and 50, and c, whose was not."""
    from padim_jax.cli import main

    folder = tmp_path_factory.mktemp("models")
    for index, name in enumerate("abc"):
        write_images(folder / name, images(12, SMALL, seed=index))
        assert main(["fit", str(folder / name), "--out", str(folder / f"{name}.model"), *SIZES]) == 0
    write_images(folder / "new", images(4, SMALL, seed=7))
    for name, threshold in (("a", "40"), ("b", "50")):
        assert main(["calibrate", str(folder / f"{name}.model"), "--threshold", threshold]) == 0
    return folder


def known(model: Path) -> padim.Calibration:
    found = padim.load_updatable(model).calibration
    assert found is not None
    return found


def test_an_update_keeps_it(models: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(models / "a.model", tmp_path / "m")
    code, out, err = run(capsys, "update", tmp_path / "m", models / "new")
    assert code == 0
    assert "the threshold that was set by hand, 40, stays" in err
    assert "above 40, set by hand, is anomalous" in out
    assert (float(known(tmp_path / "m").threshold), known(tmp_path / "m").threshold_source) == (40, "set")
    assert run(capsys, "calibrate", tmp_path / "m", "--false-alarm-rate", "0.1")[0] == 0
    assert known(tmp_path / "m").threshold_source == "rate"
    assert run(capsys, "undo", tmp_path / "m")[0] == 0
    assert float(known(tmp_path / "m").threshold) == 40


def test_a_merge_keeps_one_that_all_parts_have(models: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(models / "c.model", tmp_path / "c.model")
    assert run(capsys, "calibrate", tmp_path / "c.model", "--threshold", "40")[0] == 0
    assert run(capsys, "merge", models / "a.model", tmp_path / "c.model", "--out", tmp_path / "same")[0] == 0
    assert (float(known(tmp_path / "same").threshold), known(tmp_path / "same").threshold_source) == (40, "set")
    both = ("merge", models / "a.model", tmp_path / "c.model", "--out", tmp_path / "same", "--pixel-rate", "0.2")
    assert run(capsys, *both)[0] == 0
    assert (float(known(tmp_path / "same").threshold), known(tmp_path / "same").pixel_rate) == (40, 0.2)
    code, _, err = run(capsys, *both, "--false-alarm-rate", "0.3")
    assert (code, "the threshold that was set by hand, 40, gives way to" in err) == (0, True)
    assert (known(tmp_path / "same").threshold_source, known(tmp_path / "same").false_alarm_rate) == ("rate", 0.3)


@pytest.mark.parametrize("other", ["b", "c"])
def test_a_merge_says_where_they_differ(models: Path, tmp_path: Path, capsys: Capture, other: str) -> None:
    code, _, err = run(capsys, "merge", models / "a.model", models / f"{other}.model", "--out", tmp_path / "m")
    assert code == 0
    told = "40, 50" if other == "b" else "40"
    assert f"thresholds of parts were set by hand ({told}) and differ; the whole takes" in err
    assert known(tmp_path / "m").threshold_source == "rate"


def test_one_that_goes_is_told(models: Path, tmp_path: Path, capsys: Capture) -> None:
    """By an update whose images suffice for the rate, by forgetting, and by calibrating what is left."""
    told = "the threshold that was set by hand, 40,"
    changes = {
        "rate": (["update", "MODEL", models / "new", "--false-alarm-rate", "0.25"], "gives way to"),
        "others": (["update", "MODEL", models / "new", "--calibration", models / "c"], "gives way to"),
        "gone": (["forget", "MODEL", tmp_path / "few"], "goes with the calibration"),
        "anew": (["forget", "MODEL", tmp_path / "few", "--calibration", models / "c"], "gives way to"),
    }
    (tmp_path / "few").mkdir()
    shutil.copy(models / "new" / "000.png", tmp_path / "few")
    grown = shutil.copytree(models / "a.model", tmp_path / "grown")
    assert run(capsys, "update", grown, models / "new")[0] == 0
    assert run(capsys, "calibrate", grown, "--pixel-rate", "0.02")[0] == 0
    for name, (words, end) in changes.items():
        model = shutil.copytree(models / "a.model" if words[0] == "update" else grown, tmp_path / name)
        code, _, err = run(capsys, *(model if word == "MODEL" else word for word in words))
        assert code == 0, err
        assert f"{told} {end}" in err
        assert ("to have them again, calibrate with --pixel-rate 0.02" in err) == (name == "gone")
        assert ("4 scores took the place of 12" in err) == (name == "rate")
