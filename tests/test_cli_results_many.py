"""What ``padim score-many`` writes, and how it goes on after it was stopped."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import padim_jax as padim
from padim_jax.fleet import results
from padim_jax.runs.rows import Row
from padim_jax.runs.tables import write_table
from padim_jax.runs.unfinished import Unfinished
from tests.conftest import images, write_images
from tests.test_cli import rows, run
from tests.test_cli_results import COLUMNS, SEEN, SIZES, content, killed

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def factory(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models ``a`` and, not calibrated, ``b``; a table of 12 lines that ask for them and for one that is not there."""
    write_images(tmp_path / "good", images(8, SEEN))
    new = write_images(tmp_path / "new", images(5, SEEN, seed=1))
    for name, more in (("a", ()), ("b", ("--no-calibrate",))):
        assert run(capsys, "fit", tmp_path / "good", "--out", tmp_path / "models" / name, *SIZES, *more)[0] == 0
    bad = tmp_path / "new" / "bad.png"
    bad.write_text("no image")
    lines = [("a", path) for path in new] + [("b", new[0]), ("c", new[0]), ("a", bad), ("b", new[1]), ("a", new[0])]
    write_table(tmp_path / "t.csv", ("model", "path"), [*lines, ("a", tmp_path / "good" / "003.png"), ("c", new[1])])
    monkeypatch.setattr(results, "WINDOW", 5)
    return tmp_path


def score(capsys: Capture, factory: Path, out: str, *more: object) -> tuple[int, str, str]:
    command = ("score-many", factory / "models", factory / "t.csv", "--out", factory / out, "--batch-size", 4)
    return run(capsys, *command, *more)


def test_a_row_says_what_that_of_score_does(factory: Path, capsys: Capture) -> None:
    code, _, err = score(capsys, factory, "r")
    assert code == 1
    assert "1 of 9 images were among those the model was fitted on" in " ".join(err.split())
    found = rows(factory / "r" / "scores.csv")
    assert list(found[0]) == ["model", *COLUMNS]
    threshold = padim.load(factory / "models" / "a").calibration
    assert threshold is not None
    for row in found:
        calibrated = row["model"] == "a"
        assert (row["threshold"] == f"{float(threshold.threshold):.7g}") == calibrated
        assert bool(row["heatmap"]) == calibrated
        assert not calibrated or (factory / "r" / row["heatmap"]).is_file()
        assert bool(row["note"]) == row["path"].endswith("good/003.png")
    assert run(capsys, "score", factory / "models" / "a", factory / "new" / "002.png", "--out", factory / "one")[0] == 0
    (alone,) = rows(factory / "one" / "scores.csv")
    assert {key: alone[key] for key in ("row", "column", "threshold")} == {
        key: found[2][key] for key in ("row", "column", "threshold")
    }


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("how", "count"), [(killed, 0), (killed, 2), (killed, 7), (ctrl_c, 1)])
def test_a_stopped_run_goes_on_where_it_was(
    factory: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, how: Callable[[], None], count: int
) -> None:
    assert score(capsys, factory, "whole")[0] == 1
    plain, seen = Unfinished.add, [0]

    def add(self: Unfinished, name: str, row: Row) -> None:
        if seen[0] == count:
            how()
        seen[0] += 1
        plain(self, name, row)

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "add", add)
        code, _, err = score(capsys, factory, "r")
    assert code == 1
    assert ("the same command goes on from there" in err) == (how is ctrl_c)
    done = len(rows(factory / "r" / "unfinished" / "scores.csv"))
    assert done == count if how is killed else done >= 5
    code, _, err = score(capsys, factory, "r")
    assert code == 1
    assert "3 of 12 images have no score" in err
    assert ("going on: " in err) == (done > 0)
    assert content(factory / "r") == content(factory / "whole")


def test_a_model_that_changed_starts_anew(factory: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "finish", lambda self: killed())
        assert score(capsys, factory, "r")[0] == 1
    assert run(capsys, "calibrate", factory / "models" / "b", factory / "good")[0] == 0
    code, _, err = score(capsys, factory, "r")
    assert (code, "another model; starting over" in err) == (1, True)
    assert {bool(row["threshold"]) for row in rows(factory / "r" / "scores.csv")} == {True}
