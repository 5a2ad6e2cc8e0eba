"""Tables that hold any file name: each reads back, none breaks a row or runs as a formula."""

import csv
import os
from pathlib import Path

import pytest

from padim_jax.runs.tables import cell_text, original_text, read_lines, table_line, write_table

NAMES = [
    "plain.png",
    "carriage\rreturn.png",
    "line\nfeed.png",
    'a "quoted", one.png',
    "=1+1.png",
    "+1.png",
    "-1.png",
    "@sum.png",
    "\ttab.png",
    "\rfirst.png",
    "'=already.png",
    "'plain apostrophe.png",
    "Grüße.png",
    os.fsdecode(b"latin\xe9.png"),
    os.fsdecode(b"=both\xff\\x41.png"),
    "back\\slash.png",
    "literal\\xff.png",
    "\\\\xe9 twice.png",
]


def test_any_name_reads_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ("path", "reason"), [(Path(name), name) for name in NAMES])
    content = (tmp_path / "t.csv").read_bytes()
    content.decode("utf-8")  # strictly
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        header, *found = csv.reader(stream, strict=True)
    assert header == ["path", "reason"]
    assert [[original_text(cell) for cell in row] for row in found] == [[name, name] for name in NAMES]
    assert read_lines(content) == ([header, *found], len(content))


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_formula_or_no_text(name: str) -> None:
    cell = cell_text(name)
    assert cell[0] not in "=+-@\t\r\n"
    assert cell.encode().decode() == cell


def test_plain_names_and_numbers_stay_as_they_are() -> None:
    assert (
        table_line((Path("a b/ü.png"), "back\\slash", -1.5, 3, None, "")) == "a b/ü.png,back\\slash,-1.5,3,,\n".encode()
    )
    assert cell_text(os.fsdecode(b"latin\xe9.png")) == "latin\\xe9.png"
    assert cell_text("=1+1") == "'=1+1"
    assert [cell_text(text) for text in ("-1.98", "-2e-05", "-1+1", "-1.5.png")] == [
        "-1.98",
        "-2e-05",
        "'-1+1",
        "'-1.5.png",
    ]
    assert original_text("-1.98") == "-1.98"


def test_a_row_that_was_cut_short_is_not_read() -> None:
    whole = table_line(("path", "score")) + table_line(("two\nlines.png", "1"))
    for cut in range(len(whole)):
        rows, size = read_lines(whole[:cut])
        assert (rows, size) == (([["path", "score"]], 11) if cut >= 11 else ([], 0))
    assert read_lines(whole + b'"x')[1] == len(whole)
    with pytest.raises(ValueError, match="not a CSV table"):
        read_lines(b'"a"b\n"c"\n')
