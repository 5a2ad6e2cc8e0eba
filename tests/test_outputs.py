"""Names and rows of results, and the outputs that write themselves."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.runs.outputs import LateHeatmaps, Masks, choose_outputs
from padim_jax.runs.places import result_places
from padim_jax.runs.result_folder import score_into
from padim_jax.runs.rows import Row
from padim_jax.runs.score import FittedOn
from padim_jax.runs.tables import cell_text, original_text
from padim_jax.runs.unfinished import Position, Unfinished, find_position
from padim_jax.runs.watch import Interrupted, Watch
from tests.conftest import SMALL, images, write_images

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


NOTHING_KNOWN = FittedOn(frozenset(), ())


def test_outputs_of_a_model_without_a_calibration_wait_for_their_colours_and_have_no_masks(
    small_model: padim.Padim, tmp_path: Path
) -> None:
    outputs = choose_outputs(small_model, maps="crop")
    assert [output.folder for output in outputs] == ["heatmaps", "maps"]
    assert isinstance(outputs[0], LateHeatmaps)
    with pytest.raises(ValueError, match="masks take a calibrated model"):
        choose_outputs(small_model, masks="crop")
    paths = write_images(tmp_path / "new", images(3, SMALL, seed=5))
    results = Unfinished(tmp_path / "r", {}, ["heatmaps", "maps"])
    score_into(results, small_model, paths, outputs, fitted_on=NOTHING_KNOWN)
    assert [row.path for _, row in results.rows] == paths
    for _, row in results.rows:
        assert (tmp_path / "r" / row.heatmap).is_file()
        assert np.asarray(Image.open(tmp_path / "r" / "maps" / f"{row.path.name}.tif")).max() == pytest.approx(
            row.score
        )
    assert sorted(path.name for path in (tmp_path / "r").iterdir() if path.name[0] != ".") == [
        "heatmaps", "maps", "scores.csv",
    ]  # fmt: skip


def test_a_watch_stops_a_run_which_goes_on_from_there(small_model: padim.Padim, tmp_path: Path) -> None:
    calibrated = padim.calibrate(small_model, [images(6, SMALL, seed=6)], held_out=True)
    outputs = choose_outputs(calibrated, heatmaps=False, masks="original")
    assert isinstance(outputs[0], Masks)
    paths = write_images(tmp_path / "new", images(5, SMALL, seed=5))
    remarks: list[str] = []
    for stop in (True, False):
        unfinished = Unfinished(tmp_path / "r", {"files": "these"}, ["masks"])
        watch = Watch(stopped=lambda: stop, remark=remarks.append)  # noqa: B023 - used up at once
        arguments = (unfinished, calibrated, paths, outputs)
        if stop:
            with pytest.raises(Interrupted, match="2 of 5 images are done"):
                score_into(*arguments, fitted_on=NOTHING_KNOWN, batch_size=2, watch=watch)
            unfinished.close()
        else:
            score_into(*arguments, fitted_on=NOTHING_KNOWN, batch_size=2, watch=watch)
            assert len(unfinished.rows) == len(list((tmp_path / "r" / "masks").glob("*.png"))) == 5
    assert remarks == [f"going on: 2 of 5 images are done already, in {tmp_path / 'r' / 'unfinished'}"]
