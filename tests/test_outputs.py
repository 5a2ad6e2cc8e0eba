"""Names and rows of results."""

from collections import Counter
from pathlib import Path

import pytest

from padim_jax.runs.outputs import Row, result_places
from padim_jax.runs.tables import cell_text, original_text
from padim_jax.runs.unfinished import Position, find_position

ROOT = Path("/data")


def places(*images: tuple[str, str], suffix: str = ".png") -> list[str]:
    found = result_places([(name, ROOT / path) for name, path in images], ROOT, suffix)
    return [found[name, ROOT / path].as_posix() for name, path in images]


def test_no_two_results_have_one_place() -> None:
    assert places(("", "a.png"), ("", "b/a.png")) == ["a.png.png", "b/a.png.png"]
    assert places(("", "a.png"), ("", "a.png.png/b.png")) == ["a.png~2.png", "a.png.png/b.png.png"]
    # the other name may be taken too, by an image or a folder
    assert places(("", "a.png~2"), ("", "a.png"), ("", "a.png.png/b"), ("", "a.png~3.png/c")) == [
        "a.png~2.png",
        "a.png~4.png",
        "a.png.png/b.png",
        "a.png~3.png/c.png",
    ]
    # of two models, of which one is called like a folder of the other's images
    assert places(("m", "x/1.png"), ("m/x", "1.png")) == ["m/x/1.png.png", "m/x/1.png~2.png"]
    long = "n" * 252 + ".png"[:3]
    assert all(len(place) <= 255 for place in places(("", long), ("", "a.png")))


@pytest.mark.parametrize(
    "row",
    [
        Row(Path("=a b.png"), 12.5, 0.25, True, 3, 4, 11.0, "heatmaps/=a b.png.png", ("one", "two")),
        Row(Path("a.png"), 12.5, None, None, 0, 0),
    ],
)
def test_a_row_reads_back(row: Row) -> None:
    assert Row.read([original_text(cell_text(cell)) for cell in row.cells]) == row


def test_a_run_goes_on_where_what_was_computed_together_begins() -> None:
    files = list("abcdefghij")
    assert find_position(files, [], []) == Position(0, 0, Counter())
    assert find_position(files, list("abcd"), [], batch=4) == Position(4, 0, Counter())
    assert find_position(files, list("abcde"), [], batch=4) == Position(4, 1, Counter())
    assert find_position(files, list("acde"), ["b", "h"], batch=4) == Position(5, 0, Counter({"h": 1}))
    assert find_position(files, list("ade"), ["b", "c"], batch=4) == Position(0, 3, Counter({"b": 1, "c": 1}))
    assert find_position(files, list("adef"), ["b", "c", "g"], window=5) == Position(5, 1, Counter({"g": 1}))
    assert find_position(files, list("abcdefghi"), ["j"], batch=4, window=4) == Position(10, 0, Counter())
    # the same file twice
    assert find_position(list("aabab"), list("aab"), [], window=2) == Position(2, 1, Counter())
