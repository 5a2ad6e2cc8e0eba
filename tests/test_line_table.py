"""A table that grows, cut short anywhere, loses no row that was complete and has none twice."""

from pathlib import Path

import pytest

from padim_jax.line.outputs.table import Table
from padim_jax.line.records import Decision
from padim_jax.line.store import Store


@pytest.fixture
def given(tmp_path: Path) -> list[Decision]:
    with Store.open(tmp_path / "line.db") as store:
        return store.record([Decision("s", f"{n}.png", "d", "m", "md", "good", 'a,\n"b') for n in range(3)])


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("tail", [2**22, 40])
def test_a_row_cut_short_anywhere_takes_no_other_row_along(
    tmp_path: Path, given: list[Decision], name: str, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ends = tmp_path / name, list[int]()
    table = Table(path)
    for decision in given:
        ends.append(path.stat().st_size)
        table.deliver(decision, 1)
    table.close()
    whole = path.read_bytes()
    monkeypatch.setattr("padim_jax.line.outputs.table._TAIL", tail)
    for length in range(ends[2], len(whole)):
        path.write_bytes(whole[:length])
        table = Table(path)
        assert path.read_bytes() == whole[: ends[2]]
        if tail > len(whole):
            table.deliver(given[1], 1)  # it is there already
        table.deliver(given[2], 1)
        table.close()
        assert path.read_bytes() == whole
