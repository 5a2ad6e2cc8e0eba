"""Fits by several processes on loopback, through the command, against the fit of one."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.artifact.manifest import read_manifest
from padim_jax.cli import main
from padim_jax.runs.steps import share
from tests.conftest import SMALL, images, write_images

SETTINGS = (
    "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48 --sigma 1.5 --batch-size 3".split()
)


def run(
    count: int,
    arguments: Sequence[object],
    *,
    own: Sequence[Sequence[object]] = (),
    program: Sequence[str] = ("-m", "padim_jax.cli"),
) -> list[tuple[int, str]]:
    """Exit code and standard error of each of the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    shared = ["--coordinator", place, "--num-processes", str(count), "--process-id"]
    commands = [[*arguments, *(own[index] if own else ()), *shared, index] for index in range(count)]
    started = [
        subprocess.Popen(
            [sys.executable, *program, *map(str, command)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate(timeout=240)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def assert_alike(found: Path, wanted: Path) -> None:
    """The same files, distances to 1e-4, and the same p-values."""
    test = images(4, SMALL, seed=9)
    one, other = (padim.score(padim.load(path), test) for path in (found, wanted))
    np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=1e-4)
    assert one.p_value is not None
    assert other.p_value is not None
    np.testing.assert_allclose(one.p_value, other.p_value)
    assert load_updatable(found).images == load_updatable(wanted).images


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Folder of 19 good images and, between them, one that can't be read."""
    write_images(tmp_path / "good", images(19, SMALL))
    (tmp_path / "good" / "015b.png").write_bytes(b"no image")
    return tmp_path / "good"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("files", [1, 7, 24, 25])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_shares_are_disjoint_and_complete_step_by_step(count: int, files: int, batch_size: int) -> None:
    paths = [Path(str(index)) for index in range(files)]
    shares = [share(paths, batch_size, count, own) for own in range(count)]
    assert len({len(each) for each in shares}) == 1
    joined = [path for step in zip(*shares, strict=True) for run in step for path in run]
    assert joined == paths


@pytest.mark.slow
@pytest.mark.parametrize(("count", "more"), [(2, ["--grid", "2"]), (4, [])])
def test_processes_give_the_model_of_one(good: Path, tmp_path: Path, count: int, more: list[str]) -> None:
    command = ["fit", good, "--skip-unreadable", *SETTINGS, "--out"]
    assert main([*map(str, command), str(tmp_path / "one")]) == 0
    done = run(count, [*command, tmp_path / "many", *more])
    assert [code for code, _ in done] == [0] * count, done
    assert "015b.png" in done[0][1]
    assert_alike(tmp_path / "many", tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "many", "one"]


@pytest.mark.slow
def test_processes_standardise_maps_as_one_does(good: Path, tmp_path: Path) -> None:
    command = ["fit", good, "--skip-unreadable", "--anomaly-map", "combined", *SETTINGS, "--out"]
    assert main([*map(str, command), str(tmp_path / "one")]) == 0
    done = run(2, [*command, tmp_path / "many"])
    assert [code for code, _ in done] == [0, 0], done
    models = [padim.load(tmp_path / name) for name in ("many", "one")]
    for name in ("mean", "spread", "count"):
        np.testing.assert_allclose(*(getattr(model.standard, name) for model in models), rtol=1e-4)
    scores = [np.asarray(getattr(model.calibration, "scores", ())) for model in models]
    np.testing.assert_allclose(*scores, rtol=1e-3)
    assert len(scores[0]) == 19


@pytest.mark.slow
def test_a_failure_stops_all_in_words_and_one_process_goes_on(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(good), *SETTINGS, "--checkpoint-every", "6", "--out"]
    done = run(2, [*command, tmp_path / "many"])
    assert [code for code, _ in done] == [1, 1]
    failed = next(index for index, (_, text) in enumerate(done) if "015b.png" in text)
    assert f"because process {failed} could not go on" in done[1 - failed][1]
    assert read_manifest(tmp_path / "many.unfinished")["progress"]["done"] == 12
    # one process takes up what two have left, and says where it was not the first
    assert main([*command, str(tmp_path / "many"), "--skip-unreadable"]) == 0
    assert main([*command, str(tmp_path / "one"), "--skip-unreadable"]) == 0
    assert_alike(tmp_path / "many", tmp_path / "one")
    assert not (tmp_path / "many.unfinished").exists()
    capfd.readouterr()


DIES_SAVING = """
import os, signal, sys
from padim_jax.cli import main
from padim_jax.runs.engines import ManyDevices

plain = ManyDevices.save


def save(self, stored, folder, **how):
    if folder.name == "many" and sys.argv[-1] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, stored, folder, **how)


ManyDevices.save = save
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_dies_saving_stops_the_other_in_words(good: Path, tmp_path: Path) -> None:
    (good / "015b.png").unlink()
    command = ["fit", good, *SETTINGS, "--checkpoint-every", "6", "--no-calibrate", "--out", tmp_path / "many"]
    (left, text), (killed, _) = run(2, command, program=["-c", DIES_SAVING])
    assert (left, killed) == (1, -9)
    assert "process 0 of 2 stops, because another one has gone" in " ".join(text.split())
    assert [code for code, _ in run(2, command)] == [0, 0]
    assert len(load_updatable(tmp_path / "many").images) == 19


@pytest.mark.slow
def test_processes_that_see_different_files_refuse(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_images(other, images(3, SMALL))
    done = run(2, ["fit"], own=[[folder, *SETTINGS, "--out", tmp_path / "many"] for folder in (good, other)])
    assert [code for code, _ in done] == [1, 1]
    assert all("different files" in text for _, text in done), done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num-processes", "2"], "belong together"),
        (["--num-processes", "2", "--process-id", "2", "--coordinator", "127.0.0.1:1"], "not among 2 processes"),
        (["--devices", "64"], "this machine has"),
    ],
)
def test_wrong_use_is_said(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["fit", str(good), "--out", str(tmp_path / "m"), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
