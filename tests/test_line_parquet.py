"""``padim results --out`` as Parquet: the same decisions as in the other tables, with types."""

import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from padim_jax.line.records import COLUMNS, Decision
from padim_jax.line.store import Store
from padim_jax.line.tables import export
from padim_jax.runs.tables import escape_bytes
from tests.test_cli import run
from tests.test_line_store import decision, many

Capture = pytest.CaptureFixture[str]
REGION = {"left": 1, "top": 2, "width": 3, "height": 4, "area": 9, "peak": 5.5, "row": 3, "column": 2, "p_value": 0.25}


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A store of five decisions, all kinds among them."""
    with Store.open(tmp_path / "line.db") as store:
        store.record([decision("a.png", verdict="good", regions=())])
        (bad,) = store.record([decision("b.png", verdict="bad", regions=(REGION, REGION | {"p_value": None}))])
        store.correct(bad.id, "good", who="Ada", note="dust, 「ほこり」")
        store.record([decision(os.fsdecode(b"\xff.png"), verdict="look", reason="=1+1")])
        store.record([decision("d.png", verdict="unreadable", score=None, p_value=None)])
        store.record([decision("e.png", verdict="bad")])
    return tmp_path / "line.db"


def as_records(path: Path) -> list[dict[str, Any]]:
    """What stands in a Parquet file, as the store's own records have it."""
    found = pq.read_table(path).to_pylist()
    for row in found:
        for name in ("time", "corrected_at"):
            value = row[name]
            row[name] = value and value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return found


def test_the_same_stands_in_it_as_in_json_lines(line: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("out.parquet", "out.jsonl"):
        for _ in range(2):  # the second replaces the first
            code, out, _ = run(capsys, "results", line, "--out", tmp_path / name)
            assert (code, out.splitlines()[-1]) == (0, f"{tmp_path / name}: 5 decisions")
    records = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    for record in records:
        record["item"], record["reason"] = escape_bytes(record["item"]), escape_bytes(record["reason"])
    assert as_records(tmp_path / "out.parquet") == records
    assert {path.name for path in tmp_path.iterdir() if "line.db" not in path.name} == {"out.parquet", "out.jsonl"}


def test_columns_have_types(line: Path, tmp_path: Path) -> None:
    with Store.open(line) as store:
        export(store.decisions(), tmp_path / "out.parquet")
        first = next(store.decisions())
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert tuple(schema.names) == COLUMNS
    assert str(schema.field("time").type) == str(schema.field("corrected_at").type) == "timestamp[ms, tz=UTC]"
    assert schema.field("sequence").type == pyarrow.int64()
    assert {str(schema.field(name).type) for name in ("score", "p_value")} == {"double"}
    assert str(schema.field("verdict").type) == "string"
    regions = schema.field("regions").type.value_type
    assert [regions.field(index).name for index in range(regions.num_fields)] == [
        *("left", "top", "width", "height", "area", "row", "column", "peak", "p_value")
    ]
    (time, *_) = pq.read_table(tmp_path / "out.parquet", columns=["time"]).column("time").to_pylist()
    assert time == datetime.fromisoformat(first.time)
    assert time.utcoffset() == datetime.now(UTC).utcoffset()


@pytest.mark.parametrize(
    ("options", "items"),
    [
        (("--verdict", "bad"), ["b.png", "e.png"]),
        (("--corrected",), ["b.png"]),
        (("--verdict", "bad", "--not-corrected"), ["e.png"]),
        (("--limit", 2), ["d.png", "e.png"]),
        (("--verdict", "bad", "--limit", 1), ["e.png"]),
        (("--model", "other", "--limit", 3), []),
        (("--model", "other"), []),
    ],
)
def test_what_is_asked_for_is_in_it(
    line: Path, tmp_path: Path, capsys: Capture, options: tuple[object, ...], items: list[str]
) -> None:
    assert run(capsys, "results", line, *options, "--out", tmp_path / "out.parquet")[0] == 0
    assert [row["item"] for row in as_records(tmp_path / "out.parquet")] == items
    assert pq.read_schema(tmp_path / "out.parquet").names == [*COLUMNS]


def test_decisions_are_written_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.line.parquet.ROWS", 10)
    written = list[int]()

    def read() -> Iterator[Decision]:
        for one in many(400):
            (draft,) = tmp_path.glob(".out.parquet.*.tmp")
            written.append(draft.stat().st_size)
            yield one

    assert export(read(), tmp_path / "out.parquet") == 400
    assert pq.read_metadata(tmp_path / "out.parquet").num_row_groups == 40
    assert 0 < written[100] < written[200] < written[399] < (tmp_path / "out.parquet").stat().st_size


def test_nothing_is_left_of_an_export_that_failed_and_what_was_there_stays(line: Path, tmp_path: Path) -> None:
    with Store.open(line) as store:
        export(store.decisions(), tmp_path / "out.parquet")
        before = (tmp_path / "out.parquet").read_bytes()

        def read() -> Iterator[Decision]:
            yield from store.decisions()
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            export(read(), tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == ["out.parquet"]


def test_nothing_else_is_replaced(line: Path, tmp_path: Path, capsys: Capture) -> None:
    pq.write_table(pyarrow.table({"a": [1]}), tmp_path / "theirs.parquet")
    (tmp_path / "text.parquet").write_text("PAR1 no more")
    for name in ("theirs.parquet", "text.parquet"):
        before = (tmp_path / name).read_bytes()
        code, _, err = run(capsys, "results", line, "--out", tmp_path / name)
        assert code == 2
        assert f"{name} already exists and is no table of decisions" in err
        assert (tmp_path / name).read_bytes() == before


def test_without_pyarrow_the_extra_is_named(
    line: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, err = run(capsys, "results", line, "--out", tmp_path / "out.parquet")
    assert code == 1
    assert "pip install 'padim-jax[parquet]'" in err
    assert not (tmp_path / "out.parquet").exists()
