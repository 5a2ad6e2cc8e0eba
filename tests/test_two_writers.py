"""Two commands at once on one folder: nothing is lost, and the one that can't go on is told why."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import padim_jax as padim
from tests.conftest import SMALL, images, write_images

pytestmark = pytest.mark.slow
SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --batch-size 8".split()
ROUNDS = 30

# every array in parts, so that a writer takes many steps
WORKER = """
import contextlib, io, json, sys
from padim_jax.artifact import arrays
from padim_jax.cli import main
arrays.PART_BYTES = 20_000
answers = sys.stdout
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = main(json.loads(line))
    print(json.dumps([code, said.getvalue()]), file=answers, flush=True)
"""


class Writers:
    """Two processes that run commands at the same time."""

    def __init__(self) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(2)
        ]

    def run(self, *commands: list[Any]) -> list[tuple[int, str]]:
        """Exit code and what was said, of each."""
        for process, command in zip(self._processes, commands, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps([str(word) for word in command]) + "\n")
            process.stdin.flush()
        return [tuple(json.loads(process.stdout.readline())) for process in self._processes if process.stdout]

    def end(self) -> None:
        for process in self._processes:
            process.communicate()


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    both = Writers()
    yield both
    both.end()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, writers: Writers) -> Path:
    """Folders of images, and models of two of them."""
    folder = tmp_path_factory.mktemp("start")
    for index, name in enumerate(("first", "second", "left", "right")):
        write_images(folder / name, images(12 if index < 2 else 4, SMALL, seed=index))
    (folder / "all").mkdir()
    for name in ("first", "left", "right"):
        (folder / "all" / name).symlink_to(folder / name)
        shutil.copytree(folder / name, folder / "every" / name)
    commands = [["fit", folder / name, "--out", folder / f"{name}.model", *SIZES] for name in ("first", "second")]
    assert [code for code, _ in writers.run(*commands)] == [0, 0]
    every = ["fit", folder / "every", "--out", folder / "every.model", *SIZES]
    assert writers.run(every, ["--version"])[0][0] == 0
    (folder / "table.csv").write_text("model,good\na,first\nb,second\n")
    (folder / "part").mkdir()
    shutil.copytree(folder / "first", folder / "part" / "good")
    shutil.copytree(folder / "left", folder / "part" / "bad")
    return folder


def digests(folder: Path) -> set[str]:
    return {padim_digest(path) for path in folder.glob("*.png")}


def padim_digest(path: Path) -> str:
    from padim_jax.images.folder import digest_file

    return digest_file(path)


def rounds(writers: Writers, tmp_path: Path, prepare: Any, commands: Any, check: Any) -> None:
    """Run two commands at once, 30 times; ``check`` gets the folder and which of them succeeded."""
    told = 0
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare(folder)
        outcomes = writers.run(*commands(folder))
        succeeded = [code == 0 for code, _ in outcomes]
        assert any(succeeded), outcomes
        for code, said in outcomes:
            if code:
                assert "is being written by process" in said, said
                told += 1
        check(folder, succeeded)
        shutil.rmtree(folder)
    assert told  # they did meet


def whole(model: Path) -> padim.Padim:
    """A model that loads, in a folder with nothing else in it."""
    assert {path.name.split("-")[0] for path in model.iterdir()} <= {"model.json", "previous.json", "arrays"}
    assert len(list(model.glob("arrays-*"))) <= 2
    return padim.load(model)


def test_update(writers: Writers, start: Path, tmp_path: Path) -> None:
    def check(folder: Path, succeeded: list[bool]) -> None:
        whole(folder / "m")
        wanted = digests(start / "first")
        for name, done in zip(("left", "right"), succeeded, strict=True):
            wanted |= digests(start / name) if done else set()
        assert padim.load_updatable(folder / "m").images.keys() == wanted

    rounds(
        writers,
        tmp_path,
        lambda folder: shutil.copytree(start / "first.model", folder / "m"),
        lambda folder: [["update", folder / "m", start / name, "--batch-size", 8] for name in ("left", "right")],
        check,
    )


def test_forget(writers: Writers, start: Path, tmp_path: Path) -> None:
    def check(folder: Path, succeeded: list[bool]) -> None:
        whole(folder / "m")
        gone = [digests(start / name) for name, done in zip(("left", "right"), succeeded, strict=True) if done]
        every = digests(start / "first") | digests(start / "left") | digests(start / "right")
        assert padim.load_updatable(folder / "m").images.keys() == every - set().union(*gone)

    rounds(
        writers,
        tmp_path,
        lambda folder: shutil.copytree(start / "every.model", folder / "m"),
        lambda folder: [["forget", folder / "m", start / name, "--batch-size", 8] for name in ("left", "right")],
        check,
    )


def test_calibrate(writers: Writers, start: Path, tmp_path: Path) -> None:
    def check(folder: Path, succeeded: list[bool]) -> None:
        known = whole(folder / "m").calibration
        assert known is not None
        rates = [rate for rate, done in zip((0.3, 0.4), succeeded, strict=True) if done]
        assert known.false_alarm_rate in rates

    rounds(
        writers,
        tmp_path,
        lambda folder: shutil.copytree(start / "first.model", folder / "m"),
        lambda folder: [["calibrate", folder / "m", "--false-alarm-rate", rate] for rate in (0.3, 0.4)],
        check,
    )


def test_fit_over_a_model(writers: Writers, start: Path, tmp_path: Path) -> None:
    def check(folder: Path, succeeded: list[bool]) -> None:
        whole(folder / "m")
        done = [digests(start / name) for name, good in zip(("left", "second"), succeeded, strict=True) if good]
        assert padim.load_updatable(folder / "m").images.keys() in done

    rounds(
        writers,
        tmp_path,
        lambda folder: shutil.copytree(start / "first.model", folder / "m"),
        lambda folder: [["fit", start / name, "--out", folder / "m", *SIZES] for name in ("left", "second")],
        check,
    )


@pytest.mark.parametrize("command", ["merge", "compact"])
def test_merge_and_compact(writers: Writers, start: Path, tmp_path: Path, command: str) -> None:
    models = [start / "first.model", start / "second.model"]
    words = {"merge": [models, models[::-1]], "compact": [models[:1], models[1:]]}[command]
    rounds(
        writers,
        tmp_path,
        lambda folder: None,
        lambda folder: [[command, *given, "--out", folder / "m"] for given in words],
        lambda folder, succeeded: whole(folder / "m"),
    )


def test_fit_many(writers: Writers, start: Path, tmp_path: Path) -> None:
    rounds(
        writers,
        tmp_path,
        lambda folder: None,
        lambda folder: [["fit-many", start / "table.csv", "--out", folder / "models", *SIZES]] * 2,
        lambda folder, succeeded: [whole(folder / "models" / name) for name in "ab"],
    )


def test_score(writers: Writers, start: Path, tmp_path: Path) -> None:
    def check(folder: Path, succeeded: list[bool]) -> None:
        rows = (folder / "out" / "scores.csv").read_text().splitlines()
        assert len(rows) == 5
        assert len(list((folder / "out" / "heatmaps").glob("*.png"))) == 4

    rounds(
        writers,
        tmp_path,
        lambda folder: None,
        lambda folder: [
            ["score", start / "first.model", start / name, "--out", folder / "out"] for name in ("left", "right")
        ],
        check,
    )


def test_evaluate(writers: Writers, start: Path, tmp_path: Path) -> None:
    sizes = ("--image-size", "32x48", "--crop-size", "32x48", "--no-report")
    rounds(
        writers,
        tmp_path,
        lambda folder: None,
        lambda folder: [["evaluate", start / "part", "--out", folder / "out", *sizes]] * 2,
        lambda folder, succeeded: json.loads((folder / "out" / "results.json").read_text()),
    )
