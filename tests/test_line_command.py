"""``padim watch`` as a user meets it: what it says, how it exits, what it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from padim_jax.artifact.manifest import manifest_checksum
from tests.conftest import write_images
from tests.line_parts import fit_model, parts
from tests.test_cli import rows, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("line") / "bracket")


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera"


def test_the_command_says_what_it_decides_and_ends_with_a_summary(
    model: Path, camera: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_images(camera, np.concatenate([parts(3, seed=5), parts(1, seed=6, defect=True)]))
    command = ("watch", camera, "--model", model, "--store", tmp_path / "l.db", "--look-rate", 0.2, "--batch-size", 4)
    code, out, err = run(capsys, *command, "--once", "--append", tmp_path / "a.csv", "--bad-folder", tmp_path / "bad")
    assert code == 0
    *shown, total = out.splitlines()
    assert len(shown) == len(rows(tmp_path / "a.csv")) == 4
    assert "  bad " in shown[3]
    assert "0 unreadable" in total
    assert "ready: " in err
    (camera / "broken.png").touch()
    os.utime(camera / "broken.png", (1e9, 1e9))  # for long
    code, out, err = run(capsys, *command, "--once", "--quiet")
    assert code == 1
    assert "1 images could not be read or were dropped" in err
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--look-rate", 0.03), 2, "look_rate=0.03, wanted more than what is called bad"),
        (("--append", "a.txt"), 2, "wanted .csv or .jsonl"),
        (("--webhook", "ftp://x"), 2, "is no address such as https://host/path"),
        (("--opcua", "opc.tcp://plc"), 2, "names no node as opc.tcp://host:4840/?node=ns=2;s=Padim does"),
        (("--false-alarm-rate", 0.5), 2, "wanted more than false_alarm_rate=0.5"),
    ],
)
def test_wrong_use_is_said_before_anything_is_judged(
    model: Path, camera: Path, tmp_path: Path, capsys: Capture, options: tuple[object, ...], code: int, said: str
) -> None:
    command = ("watch", camera, "--model", model, "--store", tmp_path / "l.db", "--look-rate", 0.2, "--once")
    found, _, err = run(capsys, *command, *options)
    assert found == code
    assert said in err
    found, _, err = run(capsys, "watch", tmp_path / "none", *command[2:])
    assert (found, "there is no folder" in err) == (1, True)


def test_two_outputs_of_one_name_are_refused(model: Path, camera: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ("watch", camera, "--model", model, "--store", tmp_path / "l.db", "--look-rate", 0.2, "--once")
    hooks = ("--webhook", "http://ada:pw@plc/a", "--webhook", "http://plc/a")
    code, _, err = run(capsys, *command, *hooks)
    assert code == 2
    assert "webhook http://plc/a is named 2 times as an output" in err


def test_a_model_of_another_method_is_refused_in_words(tmp_path: Path, camera: Path, capsys: Capture) -> None:
    (tmp_path / "m").mkdir()
    manifest = {"format": "padim_jax baseline", "schema": 7, "method": "patchcore"}
    (tmp_path / "m" / "model.json").write_text(json.dumps({**manifest, "checksum": manifest_checksum(manifest)}))
    code, _, err = run(capsys, "watch", camera, "--model", tmp_path / "m", "--store", tmp_path / "l.db", "--once")
    assert code == 1
    assert "is a model of patchcore, not of PaDiM" in err
    assert not (tmp_path / "l.db").exists()


def test_a_model_without_a_calibration_judges_nothing(tmp_path: Path, camera: Path, capsys: Capture) -> None:
    fit_model(tmp_path / "m", calibrated=False)
    code, _, err = run(capsys, "watch", camera, "--model", tmp_path / "m", "--store", tmp_path / "l.db", "--once")
    assert code == 2
    assert "not calibrated" in err
