"""``padim results``: find, count and export what a line decided."""

import json
from pathlib import Path

import pytest

from padim_jax.line.outputs.table import Table
from padim_jax.line.records import COLUMNS
from padim_jax.line.seen import Dropped
from padim_jax.line.store import Store
from padim_jax.runs.tables import original_text
from tests.test_cli import rows, run
from tests.test_line_store import DAY, Clock, decision

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A store of five decisions, a day apart, of which one is corrected and one waits."""
    clock = Clock(1.8e9)  # 2027-01-15
    with Store.open(tmp_path / "line.db", clock=clock) as store:
        for index, verdict in enumerate(("good", "bad", "look", "bad", "unreadable")):
            numbers = {} if verdict != "unreadable" else {"score": None, "p_value": None, "reason": "cut short"}
            waits = ["webhook http://plc"] if index == 3 else []
            name = "=1.png" if index == 3 else f"{index}.png"
            (found,) = store.record([decision(name, verdict=verdict, **numbers)], outputs=lambda _, waits=waits: waits)
            if index == 1:
                store.correct(found.id, "good", who="Ada", note="dust")
            clock.now += DAY
        store.seen.drop([Dropped("/in", "x.png", "s", "the queue was full")])
    return tmp_path / "line.db"


def test_the_newest_come_first_with_counts_and_what_is_amiss(line: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "results", line, "--limit", 4)
    assert code == 0
    *shown, total = out.splitlines()
    assert [row.split()[1] for row in shown] == ["unreadable", "bad", "look", "bad,"]
    assert "(cut short)" in shown[0]
    assert "bad, corrected to good  1.png" in shown[3]
    assert "[Ada: dust]" in shown[3]
    assert total.endswith("1 good, 1 look, 2 bad, 1 unreadable")
    assert "1 decisions wait to be handed on to webhook http://plc" in err
    assert "1 images were dropped, the last one x.png: the queue was full" in err


@pytest.mark.parametrize(
    ("options", "items"),
    [
        (("--verdict", "bad"), ["1.png", "=1.png"]),
        (("--corrected",), ["1.png"]),
        (("--verdict", "bad", "--not-corrected"), ["=1.png"]),
        (("--since", "2027-01-17T00:00Z", "--until", "2027-01-18T00:00Z"), ["2.png"]),
        (("--limit", 2), ["=1.png", "4.png"]),
        (("--model", "other"), []),
        (("--source", "/in", "--verdict", "good"), ["0.png"]),
    ],
)
def test_what_is_asked_for_is_exported_in_its_order(
    line: Path, tmp_path: Path, capsys: Capture, options: tuple[object, ...], items: list[str]
) -> None:
    for name in ("out.csv", "out.jsonl"):
        for _ in range(2):  # the second replaces the first
            assert run(capsys, "results", line, *options, "--out", tmp_path / name)[0] == 0
    found = rows(tmp_path / "out.csv")
    assert [original_text(row["item"]) for row in found] == items
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    records = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["item"] for record in records] == items
    assert all(list(record) == list(COLUMNS) for record in records)
    assert sorted(path.name for path in tmp_path.iterdir() if "line.db" not in path.name) == ["out.csv", "out.jsonl"]


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (("--verdict", "bad"), "0 good, 0 look, 2 bad, 0 unreadable"),
        (("--corrected",), "0 good, 0 look, 1 bad, 0 unreadable"),
        (("--verdict", "bad", "--not-corrected"), "0 good, 0 look, 1 bad, 0 unreadable"),
        (("--since", "2027-01-17T00:00Z", "--until", "2027-01-18T00:00Z"), "0 good, 1 look, 0 bad, 0 unreadable"),
        (("--limit", 1), "1 good, 1 look, 2 bad, 1 unreadable"),  # of all, not only of those that are shown
        (("--source", "elsewhere"), "0 good, 0 look, 0 bad, 0 unreadable"),
    ],
)
def test_the_counts_are_of_what_is_asked_for(
    line: Path, capsys: Capture, options: tuple[object, ...], counts: str
) -> None:
    code, out, _ = run(capsys, "results", line, *options)
    assert code == 0
    assert out.splitlines()[-1].endswith(f": {counts}")


def test_what_waits_is_given_up_by_name(line: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "results", line, "--abandon", "webhook http://pcl")
    assert code == 2
    assert "has no output 'webhook http://pcl'; its outputs are 'webhook http://plc'" in err
    code, out, _ = run(capsys, "results", line, "--abandon", "webhook http://plc")
    assert code == 0
    assert "1 decisions that waited for webhook http://plc are given up" in out
    with Store.open(line) as store:
        assert store.outbox.waiting() == store.outbox.outputs() == []


def test_a_table_that_a_watch_adds_to_is_not_replaced(line: Path, tmp_path: Path, capsys: Capture) -> None:
    table = Table(tmp_path / "decisions.csv")
    table.close()
    before = table.path.read_bytes()
    with Store.open(line) as store:
        store.outbox.make_due(table.name)  # as a watch does
    (tmp_path / "link.csv").symlink_to(table.path)
    for name in ("decisions.csv", "link.csv"):
        code, _, err = run(capsys, "results", line, "--out", tmp_path / name)
        assert code == 2
        assert "padim watch --append adds to" in err
        assert table.path.read_bytes() == before
    assert run(capsys, "results", line, "--abandon", table.name)[0] == 0
    assert run(capsys, "results", line, "--out", table.path)[0] == 0
    assert len(rows(table.path)) == 5


def test_nothing_else_is_overwritten_and_wrong_use_is_said(line: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    code, _, err = run(capsys, "results", line, "--out", tmp_path / "mine.csv")
    assert code == 2
    assert "mine.csv already exists and is no table of decisions" in err
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    code, _, err = run(capsys, "results", line, "--out", tmp_path / "out.xlsx")
    assert code == 2
    assert "wanted .csv, .jsonl or .parquet" in err
    code, _, err = run(capsys, "results", line, "--since", "yesterday")
    assert code == 2
    assert "'yesterday' is no day or time" in err
    code, _, err = run(capsys, "results", tmp_path / "none.db")
    assert code == 1
    assert "there is no store at" in err
    assert not (tmp_path / "none.db").exists()
