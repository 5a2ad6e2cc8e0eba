"""What ``padim score`` writes, where it refuses to, and how it goes on after it was stopped."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.ownership import MARKER, mark
from padim_jax.commands import score as commands_score
from padim_jax.runs import score as runs_score
from padim_jax.runs.rows import Row
from padim_jax.runs.tables import original_text
from tests.conftest import images, write_images
from tests.test_cli import rows, run

SIZES = (
    "--tap block2 --tap block4 --image-size 40x56 --crop-size 32x48 --n-channels 12 --sigma 1.5 --batch-size 4".split()
)
Capture = pytest.CaptureFixture[str]
SEEN = padim.PadimConfig(image_size=(40, 56), crop_size=(40, 56))
COLUMNS = ["path", "score", "p_value", "verdict", "row", "column", "threshold", "heatmap", "note"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model ``m`` of the images in ``good``, the same without a calibration ``bare``, and 11 ``new``."""
    folder = tmp_path_factory.mktemp("models")
    write_images(folder / "good", images(8, SEEN))
    write_images(folder / "new", images(11, SEEN, seed=1))
    from padim_jax import cli

    assert cli.main(["fit", str(folder / "good"), "--out", str(folder / "m"), *SIZES]) == 0
    assert cli.main(["fit", str(folder / "good"), "--out", str(folder / "bare"), *SIZES, "--no-calibrate"]) == 0
    return folder


def content(out: Path) -> dict[str, bytes]:
    """Every file of a folder of results."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def score(capsys: Capture, models: Path, out: Path, *more: object, model: str = "m") -> tuple[int, str, str]:
    return run(capsys, "score", models / model, models / "new", "--out", out, "--batch-size", 4, *more)


# what a row says


def test_a_row_says_where_and_by_which_threshold(models: Path, tmp_path: Path, capsys: Capture) -> None:
    assert score(capsys, models, tmp_path / "r", "--maps", "original")[0] == 0
    known = padim.load(models / "m").calibration
    assert known is not None
    found = rows(tmp_path / "r" / "scores.csv")
    assert list(found[0]) == COLUMNS
    for row in found:
        name = Path(row["path"]).name
        distances = np.asarray(Image.open(tmp_path / "r" / "maps" / f"{name}.tif"))
        assert distances[int(row["row"]), int(row["column"])] == pytest.approx(float(row["score"]), rel=1e-5)
        assert np.nanmax(distances) == pytest.approx(float(row["score"]), rel=1e-5)
        assert float(row["threshold"]) == pytest.approx(float(known.threshold), rel=1e-6)
        assert (row["heatmap"], row["note"]) == (f"heatmaps/{name}.png", "")
        assert (tmp_path / "r" / row["heatmap"]).is_file()
    assert score(capsys, models, tmp_path / "r", "--no-heatmaps", model="bare")[0] == 0
    assert {(row["threshold"], row["heatmap"]) for row in rows(tmp_path / "r" / "scores.csv")} == {("", "")}


def test_images_that_were_fitted_on_are_named(models: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(models / "new", tmp_path / "all")
    for index in range(4):
        shutil.copy(models / "good" / f"00{index}.png", tmp_path / "all" / f"seen{index}.png")
    command = ("score", models / "m", tmp_path / "all", "--out", tmp_path / "r")
    code, _, err = run(capsys, *command)
    assert code == 0
    assert "4 of 15 images were among those the model was fitted on" in " ".join(err.split())
    assert "seen0.png" in err
    assert "seen3.png" not in err  # the first few
    for row in rows(tmp_path / "r" / "scores.csv"):
        assert row["note"] == "was among the images the model was fitted on" * Path(row["path"]).name.startswith("seen")
    assert run(capsys, "compact", models / "m", "--out", tmp_path / "small", "--max-error", "0.01")[0] == 0
    code, _, err = run(capsys, "score", tmp_path / "small", *command[2:])
    assert code == 0
    assert "fitted on" not in err  # a deployed model does not know
    assert {row["note"] for row in rows(tmp_path / "r" / "scores.csv")} == {""}


def test_any_name_comes_through(models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["=1+1.png", "two\r.png", os.fsdecode(b"latin\xe9.png"), "+.png", "a,b.png"]
    (tmp_path / "new").mkdir()
    for name in names:
        shutil.copy(models / "new" / "000.png", tmp_path / "new" / name)
    (tmp_path / "new" / "-bad\r.png").write_text("no image")
    monkeypatch.chdir(tmp_path / "new")
    code, _, err = run(
        capsys, "score", models / "m", *(f"./{name}" for name in names), "--out", tmp_path / "r", "--debug"
    )
    assert code == 0, err
    assert sorted(original_text(row["path"]) for row in rows(tmp_path / "r" / "scores.csv")) == sorted(names)
    code, _, _ = run(capsys, "score", models / "m", ".", "--out", tmp_path / "r")
    assert code == 1
    assert [original_text(row["path"]) for row in rows(tmp_path / "r" / "unreadable.csv")] == ["-bad\r.png"]


# where it refuses to write


def test_a_folder_of_the_name_of_a_heat_map(models: Path, tmp_path: Path, capsys: Capture) -> None:
    for place in ("a.png", "a.png.png/b.png", "a.png.tif/c.png"):
        (tmp_path / "new" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(models / "new" / "000.png", tmp_path / "new" / place)
    out = tmp_path / "r"
    assert run(capsys, "score", models / "m", tmp_path / "new", "--out", out, "--maps", "crop")[0] == 0
    found = {
        Path(row["path"]).relative_to(tmp_path / "new").as_posix(): row["heatmap"] for row in rows(out / "scores.csv")
    }
    assert found == {
        "a.png": "heatmaps/a.png~2.png",
        "a.png.png/b.png": "heatmaps/a.png.png/b.png.png",
        "a.png.tif/c.png": "heatmaps/a.png.tif/c.png.png",
    }
    assert all((out / place).is_file() for place in found.values())
    assert (out / "maps" / "a.png~2.tif").is_file()


@pytest.mark.parametrize(("model", "out"), [("m", "m"), ("m", "m/results"), ("deep/m", "deep"), ("m", "link/results")])
def test_results_and_models_are_kept_apart(models: Path, tmp_path: Path, capsys: Capture, model: str, out: str) -> None:
    shutil.copytree(models / "m", tmp_path / model)
    (tmp_path / "link").symlink_to(tmp_path / "m")
    before = content(tmp_path)
    code, _, err = run(capsys, "score", tmp_path / model, models / "new", "--out", tmp_path / out)
    assert (code, "choose another" in err) == (2, True)
    (tmp_path / "t.csv").write_text(f"model,path\nm,{models / 'new'}\n")
    code, _, err = run(capsys, "score-many", tmp_path / model, tmp_path / "t.csv", "--out", tmp_path / out)
    assert (code, "choose another" in err) == (2, True)
    (tmp_path / "t.csv").unlink()
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scores.csv", "my,own\n"),
        ("scores.csv", "path,score\n"),
        ("unreadable.csv", "reason\n"),
        ("unfinished/precious", "mine"),
    ],
)
def test_tables_that_are_not_ours_are_left_alone(
    models: Path, tmp_path: Path, capsys: Capture, name: str, text: str
) -> None:
    (tmp_path / "r" / name).parent.mkdir(parents=True)
    (tmp_path / "r" / name).write_text(text)
    (tmp_path / "t.csv").write_text(f"model,path\nm,{models / 'new'}\n")
    for command in (
        ("score", models / "m", models / "new"),
        ("score-many", models / "m", tmp_path / "t.csv"),
    ):
        code, _, err = run(capsys, *command, "--out", tmp_path / "r")
        assert (code, "already exists and was not written by padim; move it away, or choose another --out" in err) == (
            2,
            True,
        )
    assert content(tmp_path / "r") == {name: text.encode()}


@pytest.mark.parametrize("first", ["path,score,p_value,verdict\n", "model,path,score,p_value,verdict\n"])
def test_results_of_earlier_versions_are_replaced(models: Path, tmp_path: Path, capsys: Capture, first: str) -> None:
    out = tmp_path / "r"
    mark(out / "heatmaps")
    (out / "heatmaps" / "old.png").touch()
    (out / "scores.csv").write_text(first)
    (out / "unreadable.csv").write_text(("model," if first.startswith("model") else "") + "path,reason\n")
    assert score(capsys, models, out)[0] == 0
    assert len(rows(out / "scores.csv")) == 11
    assert not (out / "unreadable.csv").exists()
    assert not (out / "heatmaps" / "old.png").exists()


def test_what_killed_runs_of_earlier_versions_left_is_removed(models: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "r"
    mark(out / ".heatmaps.123")
    (out / ".maps.124").mkdir()
    (out / ".maps.124" / "precious").touch()
    mark(out / ".others.1")
    assert score(capsys, models, out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == [
        ".maps.124",
        ".others.1",
        "heatmaps",
        "scores.csv",
    ]
    assert (out / ".maps.124" / "precious").exists()


def test_one_run_at_a_time(models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from padim_jax.artifact.ownership import locked\n"
        "with locked(Path(sys.argv[1]), 'hold'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "r")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    monkeypatch.setattr(commands_score, "load", lambda path: pytest.fail("work was done before"))
    (tmp_path / "t.csv").write_text(f"model,path\nm,{models / 'new'}\n")
    for code, _, err in (
        score(capsys, models, tmp_path / "r"),
        run(capsys, "score-many", models, tmp_path / "t.csv", "--out", tmp_path / "r"),
    ):
        assert code == 1
        assert f"is being written by process {process.pid}" in err
    process.kill()
    process.communicate()


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands_score, "load", lambda path: pytest.fail("work was done before"))
    (tmp_path / "file").touch()
    code, _, err = score(capsys, models, tmp_path / "file" / "r")
    assert (code, "can't write to" in err or "Not a directory" in err) == (1, True)


# on a full disk, stopped, killed


@pytest.mark.slow
def test_a_full_disk_takes_one_line_and_the_command_goes_on(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = (
        "import resource, sys\nfrom padim_jax import cli\nfrom padim_jax.runs import outputs\nplain = outputs.write_heatmap\n"
        "def write(target, *more, **named):\n"
        "    if target.name == '006.png.png': resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "    plain(target, *more, **named)\n"
        "outputs.write_heatmap = write\nsys.exit(cli.main(sys.argv[1:]))"
    )
    command = ["score", str(models / "m"), str(models / "new"), "--out", str(tmp_path / "r"), "--batch-size", "4"]
    done = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("score ")]
    assert len(errors) == 1, done.stderr
    assert "score: can't write to" in errors[0]
    assert "(File too large)" in errors[0]
    assert not (tmp_path / "r" / "scores.csv").exists()
    assert 1 <= len(rows(tmp_path / "r" / "unfinished" / "scores.csv")) <= 6
    code, _, err = run(capsys, *command)
    assert (code, "going on: " in err) == (0, True)
    assert score(capsys, models, tmp_path / "whole")[0] == 0
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int, how: Callable[[], None]) -> None:
    """Stop a run when it takes down the result after so many."""
    plain, seen = commands_score.Unfinished.add, [0]

    def add(self: commands_score.Unfinished, name: str, row: Row) -> None:
        if seen[0] == count:
            how()
        seen[0] += 1
        plain(self, name, row)

    monkeypatch.setattr(commands_score.Unfinished, "add", add)


def killed() -> None:
    raise KeyboardInterrupt


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("model", "more"), [("m", ("--masks", "original", "--maps", "crop")), ("bare", ())])
@pytest.mark.parametrize(("how", "count", "kept"), [(ctrl_c, 1, 8), (killed, 6, 6), (killed, 10, 10)])
def test_a_stopped_run_goes_on_where_it_was(
    models: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    more: tuple[str, ...],
    how: Callable[[], None],
    count: int,
    kept: int,
) -> None:
    shutil.copytree(models / "new", tmp_path / "new")
    (tmp_path / "new" / "002b.png").write_text("no image")
    (tmp_path / "new" / "009b.png").write_text("no image")
    command = ("score", models / model, tmp_path / "new", "--batch-size", 4, *more, "--out")
    assert run(capsys, *command, tmp_path / "whole")[0] == 1
    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        stop_after(patch, count, how)
        code, _, err = run(capsys, *command, out)
    assert code == 1
    if how is ctrl_c:
        assert "interrupted; " in err
        assert "the same command goes on from there" in err
    assert not (out / "scores.csv").exists()
    whole = (tmp_path / "whole" / "scores.csv").read_bytes()
    part = (out / "unfinished" / "scores.csv").read_bytes()
    assert whole.startswith(part)
    done = len(rows(out / "unfinished" / "scores.csv"))
    assert done == kept if how is killed else done in (4, 8)  # the batch under way is finished
    with (out / "unfinished" / "scores.csv").open("ab") as stream:
        stream.write(b'"/cut sho')  # as a power cut leaves it
    asked: list[Path] = []
    plain = runs_score.load_batches
    with monkeypatch.context() as patch:
        patch.setattr(runs_score, "load_batches", lambda paths, *a: (asked.extend(paths), plain(paths, *a))[1])
        code, _, err = run(capsys, *command, out)
    assert code == 1  # of the files that can't be read
    assert "going on: " in err
    assert "2 of 13 files could not be read" in err
    passed = done - done % 4
    assert [path.name for path in asked if "b" not in path.name] == [f"{i:03}.png" for i in range(passed, 11)]
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_process_loses_nothing(models: Path, tmp_path: Path, capsys: Capture) -> None:
    deadly = (
        "import os, signal, sys\nfrom padim_jax import cli\nfrom padim_jax.runs.unfinished import Unfinished\n"
        "plain, seen = Unfinished.add, []\n"
        "def add(self, *result):\n"
        "    plain(self, *result); seen.append(result)\n"
        "    if len(seen) == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Unfinished.add = add\ncli.main(sys.argv[1:])"
    )
    command = ["score", str(models / "m"), str(models / "new"), "--out", str(tmp_path / "r"), "--batch-size", "4"]
    done = subprocess.run([sys.executable, "-c", deadly, *command], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    code, _, err = run(capsys, *command)
    assert (code, "going on: 5 of 11 images are done already" in err) == (0, True)
    assert score(capsys, models, tmp_path / "whole")[0] == 0
    assert content(tmp_path / "r") == content(tmp_path / "whole")


@pytest.mark.parametrize("what", ["options", "model", "images"])
def test_unfinished_results_of_another_run_are_not_gone_on_from(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shutil.copytree(models / "new", tmp_path / "new")
    shutil.copytree(models / "m", tmp_path / "m")
    command: list[object] = ["score", tmp_path / "m", tmp_path / "new", "--out", tmp_path / "r", "--batch-size", 4]
    with monkeypatch.context() as patch:
        stop_after(patch, 6, killed)
        assert run(capsys, *command)[0] == 1
    if what == "options":
        command += ["--colour-range", 1, 2]
    elif what == "model":
        assert run(capsys, "calibrate", tmp_path / "m", "--false-alarm-rate", "0.3")[0] == 0
    else:
        os.utime(tmp_path / "new" / "000.png", (1, 1))
    code, _, err = run(capsys, *command)
    assert (code, f"other {what}; starting over" in err or f"another {what}; starting over" in err) == (0, True)
    assert run(capsys, *command[:4], tmp_path / "whole", *command[5:])[0] == 0
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_killed_while_results_are_put_in_place(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = Path.replace, tmp_path / "r"
    assert score(capsys, models, out, "--no-heatmaps")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, to: killed() if to == out / "scores.csv" else plain(self, to))
        assert score(capsys, models, out)[0] == 1
    assert (out / "heatmaps" / MARKER).exists()
    assert score(capsys, models, out)[0] == 0
    assert score(capsys, models, tmp_path / "whole")[0] == 0
    assert content(out) == content(tmp_path / "whole")


def test_a_finished_run_starts_anew(models: Path, tmp_path: Path, capsys: Capture) -> None:
    for _ in range(2):
        code, _, err = score(capsys, models, tmp_path / "r")
        assert (code, "going on" in err) == (0, False)


def test_the_rest_is_computed_as_in_the_whole_run(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = runs_score.fill_up
    monkeypatch.setattr(runs_score, "fill_up", lambda batch, size: (sizes.append(size), plain(batch, size))[1])
    model, paths = padim.load(models / "m"), sorted((models / "new").iterdir())
    assert len(list(runs_score.score_files(model, paths[8:9], batch_size=4, total=9))) == 1
    assert sizes == [4]
