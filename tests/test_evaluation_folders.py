"""Whose folder it is that ``padim evaluate`` writes: one writer at a time, nothing of others replaced or removed."""

import errno
import json
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import padim_jax as padim
from padim_jax import cli
from padim_jax.artifact.ownership import MARKER, is_ours, locked
from padim_jax.data import catalogue
from padim_jax.data.catalogue import Category, find_categories, prepare
from padim_jax.data.protocol import STANDARD
from padim_jax.evaluation.evaluate import evaluate
from padim_jax.evaluation.report import write_report
from padim_jax.evaluation.run import Run, place
from padim_jax.presets import preset
from tests.datasets import write_mvtec
from tests.runs import write_run
from tests.test_ownership import hold

SIZES = ("--image-size", "64", "--crop-size", "56")
SETTINGS = {"image_size": 64, "crop_size": 56}
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("data"), "bottle", (4, 2, 2), size=64)


@pytest.fixture
def command(bottle: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(out: Path) -> tuple[int, str]:
        code = cli.main(["evaluate", str(bottle), "--out", str(out), *SIZES])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Category, "build", touched)
    monkeypatch.setattr(catalogue, "prepare", touched)


@pytest.mark.usefixtures("no_work")
def test_a_second_evaluation_is_refused_at_once_and_told_who_holds_the_folder(tmp_path: Path, command: Command) -> None:
    process = hold(tmp_path / "out")
    try:
        code, told = command(tmp_path / "out")
    finally:
        process.kill()
        process.communicate()
    assert code == 1
    assert f"evaluate: {tmp_path / 'out'} is being written by process {process.pid} on " in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".padim-lock"]


def test_the_folder_is_held_while_it_is_written(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def look(builder: Any) -> None:
        held.append((tmp_path / "out" / ".padim-lock").exists())
        prepare(builder)

    monkeypatch.setattr(catalogue, "prepare", look)
    code, told = command(tmp_path / "out")
    assert (code, held) == (0, [True]), told
    assert not (tmp_path / "out" / ".padim-lock").exists()
    assert is_ours(tmp_path / "out")
    with locked(tmp_path / "out", "after"):
        pass


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["results.json", "results.csv", "files.csv"])
def test_files_of_others_are_not_replaced(tmp_path: Path, command: Command, name: str) -> None:
    (tmp_path / name).write_text('{"format": "mine"}')
    code, told = command(tmp_path)
    assert code == 1
    assert f"{tmp_path / name} already exists and was not written by padim" in told
    assert (tmp_path / name).read_text() == '{"format": "mine"}'
    assert not is_ours(tmp_path)


def test_a_folder_of_an_earlier_version_is_gone_on_with(tmp_path: Path, command: Command) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "results.json").write_text('{"format": "padim_jax results", "schema": 1, "summary": [], "runs": []}')
    (tmp_path / "results.csv").write_text("old")
    code, told = command(tmp_path)
    assert code == 0, told
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 1
    assert (tmp_path / "results.csv").read_text() != "old"


def test_a_folder_with_other_files_is_shared_but_not_claimed(tmp_path: Path, command: Command) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        code, told = command(tmp_path)
        assert code == 0, told
    assert not is_ours(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("no_work")
def test_a_full_disk_is_told_before_the_work(tmp_path: Path, command: Command) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file can be larger: stands for a full disk
    try:
        code, told = command(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert f"evaluate: can't write to {tmp_path / 'out'} (File too large); make room, or choose another --out" in told


@pytest.mark.usefixtures("no_work")
def test_a_read_only_folder_is_told_before_the_work(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.mkdir

    def mkdir(path: Path, *more: Any, **named: Any) -> None:  # root may write anywhere, so no mode would do
        if path == tmp_path / "out":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        plain(path, *more, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    code, told = command(tmp_path / "out")
    assert code == 1
    assert re.search("evaluate: can't write to .*out .Read-only file system", told)


@pytest.mark.usefixtures("no_work")
def test_a_place_that_can_hold_no_folder_is_told_before_the_work(tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").touch()
    code, told = command(tmp_path / "file" / "out")
    assert code == 1
    assert "evaluate: can't write to" in told


def planned(bottle: Path, tmp_path: Path) -> tuple[Run, Any]:
    (category,) = find_categories(bottle, tmp_path / "prepared")
    builder = category.build()
    prepare(builder)
    return Run(category, preset("lite0"), 0, STANDARD, SETTINGS), builder


def test_only_our_leftovers_of_a_killed_run_are_removed(bottle: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    run, builder = planned(bottle, tmp_path)
    folder = tmp_path / "out" / place(run, lite0, builder)
    for name in (".seed-0.new", ".seed-0.old", ".seed-0.mine"):
        (folder.parent / name).mkdir(parents=True)
        (folder.parent / name / "precious.txt").touch()
    for name in (".seed-0.new", ".seed-0.old"):
        (folder.parent / name / MARKER).touch()
    evaluate(run, lite0, builder, tmp_path / "out")
    assert sorted(path.name for path in folder.parent.iterdir()) == [".seed-0.mine", "seed-0"]
    assert (folder.parent / ".seed-0.mine" / "precious.txt").exists()
    assert is_ours(folder)


@pytest.mark.parametrize("name", ["seed-0", ".seed-0.new", ".seed-0.old"])
def test_a_strange_folder_in_the_place_of_a_run_stays_and_is_told_before_the_work(
    bottle: Path, tmp_path: Path, lite0: padim.Backbone, name: str
) -> None:
    run, builder = planned(bottle, tmp_path)
    precious = (tmp_path / "out" / place(run, lite0, builder)).parent / name / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.touch()

    def no_work(stage: str, total: int) -> Callable[[int], None]:
        raise AssertionError(stage)

    with pytest.raises(FileExistsError, match=f"{name} already exists and was not written by padim"):
        evaluate(run, lite0, builder, tmp_path / "out", progress=no_work)
    assert precious.exists()


def test_a_page_of_others_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", good=2, defective=2, pictured=0)
    page = tmp_path / "run" / "report.html"
    page.write_text("<title>mine</title>")
    assert cli.main(["report", str(tmp_path)]) == 1
    assert f"{page} was not written by padim" in capsys.readouterr().err
    assert page.read_text() == "<title>mine</title>"
    page.unlink()
    for _ in range(2):  # of ours it is
        write_report(tmp_path / "run", page)
