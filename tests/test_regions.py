"""Defects as regions: where they lie in the photo, and their table, whatever becomes of the run."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import padim_jax as padim
from padim_jax.artifact.ownership import mark
from padim_jax.images import mask_to_original
from padim_jax.images.geometry import seen_part
from padim_jax.runs.regions import Region, RegionSearch, find_regions, good_level, mask_above
from padim_jax.runs.rows import Row
from padim_jax.runs.score import score_files
from padim_jax.runs.tables import write_table
from padim_jax.runs.unfinished import Unfinished
from tests.conftest import images, write_images
from tests.test_cli import rows, run
from tests.test_cli_results import SEEN, content, killed
from tests.test_cli_results import SIZES as MODEL
from tests.test_geometry import CONFIGS, MODES, SIZES, config

Capture = pytest.CaptureFixture[str]
COLUMNS = ["path", "region", "left", "top", "width", "height", "area", "peak", "row", "column", "p_value"]


def rough_map(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return (10 + 40 * ndimage.gaussian_filter(noise, 2.5)).astype(np.float32)


# where regions lie


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("sizes", CONFIGS, ids=str)
def test_regions_are_those_of_the_mask_in_the_photo(mode: str, size: tuple[int, int], sizes: Any) -> None:
    settings = config(mode, sizes)
    anomaly_map = rough_map(settings.crop)
    regions = find_regions(anomaly_map, 12.0, size, settings)
    assert len(regions) > 2
    for region in regions:
        left, top, width, height = region.box
        assert 0 <= left <= region.column < left + width <= size[0]
        assert 0 <= top <= region.row < top + height <= size[1]
        assert 1 <= region.area <= width * height
    assert [region.peak for region in regions] == sorted((region.peak for region in regions), reverse=True)
    left, top, right, bottom = map(int, seen_part(size, settings).crop)
    assert regions[0].peak == anomaly_map[top:bottom, left:right].max()
    mask = mask_to_original(anomaly_map > 12, size, settings)
    if min(size[0] / settings.image[1], size[1] / settings.image[0]) >= 1:  # every cell covers a pixel
        labels = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, np.ones((3, 3)), output=labels)
        areas = np.bincount(labels.ravel())[1:]
        wanted = [
            (x.start, y.start, x.stop - x.start, y.stop - y.start, area)
            for (y, x), area in zip(ndimage.find_objects(labels), areas, strict=True)
        ]
        assert sorted((*region.box, region.area) for region in regions) == sorted(wanted)


def test_cells_that_touch_by_a_corner_are_one_region() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[1, 1], anomaly_map[2, 2], anomaly_map[2, 5] = 7, 9, 8
    settings = config("stretch", ((8, 8), (8, 8)))
    assert find_regions(anomaly_map, 5.0, (16, 24), settings) == [
        Region((2, 3, 4, 6), 12, 9.0, 7, 5),
        Region((10, 6, 2, 3), 6, 8.0, 7, 11),
    ]
    assert [region.area for region in find_regions(anomaly_map, 5.0, (16, 24), settings, min_area=7)] == [12]
    assert find_regions(anomaly_map, 9.0, (16, 24), settings) == []


def test_a_cell_between_the_pixels_of_a_small_photo_is_not_lost() -> None:
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[3, 3] = 9  # pixels have their centres in cells 2, 6, 10 …
    regions = find_regions(anomaly_map, 5.0, (16, 16), config("stretch", ((64, 64), (64, 64))))
    assert regions == [Region((0, 0, 1, 1), 1, 9.0, 0, 0)]


def test_black_borders_belong_to_no_region() -> None:
    settings = config("pad", ((64, 64), (64, 64)))
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[:32, 10], anomaly_map[2, 40] = 9, 20  # a photo of 2:1 lies in rows 16 to 48
    anomaly_map[5, 10] = 30
    assert find_regions(anomaly_map, 5.0, (128, 64), settings) == [Region((20, 0, 2, 32), 64, 9.0, 1, 21)]


def test_a_p_value_compares_a_peak_with_the_highest_of_good_images(small_model: padim.Padim, tmp_path: Path) -> None:
    model = padim.calibrate(small_model, [images(9, SEEN, seed=7)[:, 4:36, 4:52]], held_out=True, pixel_rate=0.3)
    assert model.calibration is not None
    scores = np.asarray(model.calibration.scores)
    paths = write_images(tmp_path / "new", images(3, SEEN, seed=8))
    for item in score_files(model, paths, batch_size=2, regions=RegionSearch()):
        assert item.regions is not None
        assert len(item.regions) > 1
        assert (item.regions[0].peak, item.regions[0].p_value) == (item.score, item.p_value)
        for region in item.regions:
            assert region.p_value == pytest.approx((1 + np.sum(scores >= region.peak)) / 10)
    assert {item.regions for item in score_files(model, paths, batch_size=2)} == {None}
    assert {item.regions for item in score_files(small_model, paths, batch_size=2, regions=RegionSearch())} == {None}


def test_a_map_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"find_regions: anomaly_map has shape \(3, 3\), wanted \(64, 100\)"):
        find_regions(np.zeros((3, 3)), 1.0, (400, 300), config("stretch"))


def test_a_tight_mask_is_the_full_width_at_half_maximum() -> None:
    distances = np.array([[0, 6, 9, 14, 30, 17, 7, 0, 8, 6, 0]], np.float32)
    assert mask_above(distances, 5.0).astype(int).tolist() == [[0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0]]
    # half of the way from 2 to 30 is 16; that to 8 is 5, and both cells of that region reach it
    assert mask_above(distances, 5.0, 2.0).astype(int).tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(mask_above(distances, 5.0, 20.0), mask_above(distances, 5.0, 5.0))
    settings = config("stretch", ((1, 11), (1, 11)))
    assert find_regions(distances, 5.0, (11, 1), settings, floor=2.0) == [
        Region((4, 0, 2, 1), 2, 30.0, 0, 4),
        Region((8, 0, 2, 1), 2, 8.0, 0, 8),
    ]


# their table


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models ``m`` and, not calibrated, ``bare``; 6 ``new`` images, and a table which asks twice for the first."""
    from padim_jax import cli

    folder = tmp_path_factory.mktemp("factory")
    write_images(folder / "good", images(8, SEEN))
    new = write_images(folder / "new", images(6, SEEN, seed=1))
    for name, more in (("m", ("--pixel-rate", "0.3")), ("bare", ("--no-calibrate",))):
        assert cli.main(["fit", str(folder / "good"), "--out", str(folder / "models" / name), *MODEL, *more]) == 0
    lines = [("m", new[0]), *(("m", path) for path in new), ("bare", new[0]), ("m", new[2])]
    write_table(folder / "t.csv", ("model", "path"), lines)
    return folder


def score(factory: Path, out: Path, command: str = "score") -> list[str]:
    what = ["m", "new"] if command == "score" else [".", "t.csv"]
    places = [str(factory / "models" / what[0]), str(factory / what[1])]
    return [command, *places, "--out", str(out), "--batch-size", "4", "--no-heatmaps", "--regions"]


def test_the_table_lists_the_regions_of_the_masks(factory: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(capsys, *score(factory, tmp_path), "--masks", "original")[0] == 0
    table, n_regions = rows(tmp_path / "regions.csv"), 0
    assert list(table[0]) == COLUMNS
    for row in rows(tmp_path / "scores.csv"):
        regions = [region for region in table if region["path"] == row["path"]]
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{Path(row['path']).name}.png"))
        assert [int(region["region"]) for region in regions] == list(range(1, len(regions) + 1))
        assert sum(int(region["area"]) for region in regions) == np.count_nonzero(mask)
        assert [regions[0][key] for key in ("peak", "row", "column", "p_value")] == [
            row[key] for key in ("score", "row", "column", "p_value")
        ]
        n_regions += len(regions)
    assert len(table) == n_regions > 6
    least = sorted(int(region["area"]) for region in table)[n_regions // 2]
    assert run(capsys, *score(factory, tmp_path), "--min-area", least)[0] == 0
    large = [region for region in table if int(region["area"]) >= least]
    assert [row["area"] for row in rows(tmp_path / "regions.csv")] == [region["area"] for region in large]


def test_tight_regions_are_those_of_tight_masks(factory: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, more in (("wide", ()), ("tight", ("--tight-masks",))):
        arguments = ("--masks", "original", "--maps", "crop", *more)
        assert run(capsys, *score(factory, tmp_path / name), *arguments)[0] == 0
    model = padim.load(factory / "models" / "m")
    assert model.calibration is not None
    threshold, floor = float(model.calibration.pixel_threshold), good_level(model.calibration)
    n_wide = n_tight = 0
    for row in rows(tmp_path / "tight" / "scores.csv"):
        name = Path(row["path"]).name
        wide, tight = (np.asarray(Image.open(tmp_path / kind / "masks" / f"{name}.png")) for kind in ("wide", "tight"))
        distances = np.asarray(Image.open(tmp_path / "tight" / "maps" / f"{name}.tif"))
        mask = mask_to_original(mask_above(distances, threshold, floor), (56, 40), model.config)
        np.testing.assert_array_equal(tight > 0, mask)
        regions = [region for region in rows(tmp_path / "tight" / "regions.csv") if region["path"] == row["path"]]
        assert sum(int(region["area"]) for region in regions) == np.count_nonzero(tight)
        assert regions[0]["peak"] == row["score"]
        n_wide, n_tight = n_wide + np.count_nonzero(wide), n_tight + np.count_nonzero(tight)
    assert 0 < n_tight < n_wide


def test_many_models_have_one_table(factory: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(capsys, *score(factory, tmp_path / "one"))[0] == 0
    code, _, err = run(capsys, *score(factory, tmp_path / "many", "score-many"))
    assert (code, "no regions of models that are not calibrated: bare" in err) == (0, True)
    alone, table = rows(tmp_path / "one" / "regions.csv"), rows(tmp_path / "many" / "regions.csv")
    assert list(table[0]) == ["model", *COLUMNS]
    assert {row.pop("model") for row in table} == {"m"}
    by_path = {path: [row for row in alone if row["path"] == path] for path in {row["path"] for row in alone}}
    paths = [row["path"] for row in rows(tmp_path / "many" / "scores.csv") if row["model"] == "m"]
    assert table == [row for path in paths for row in by_path[path]]


def test_wrong_use_is_refused(factory: Path, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, *score(factory, tmp_path)[:-1], "--min-area", 5)
    assert (code, "--min-area is of regions; add --regions" in err) == (2, True)
    for name in ("score", "score-many"):
        code, _, err = run(capsys, *score(factory, tmp_path, name)[:-1], "--tight-masks")
        assert (code, "--tight-masks is of " in err) == (2, True)
    command = score(factory, tmp_path)
    command[1] = command[1].removesuffix("m") + "bare"
    code, _, err = run(capsys, *command)
    assert (code, "--regions takes a calibrated model" in err) == (2, True)


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_table_of_the_users_own_is_left_alone(
    factory: Path, tmp_path: Path, capsys: Capture, is_marked: bool
) -> None:
    if is_marked:
        mark(tmp_path)
    (tmp_path / "regions.csv").write_text("my,own\n")
    for command in ("score", "score-many"):
        code, _, err = run(capsys, *score(factory, tmp_path, command))
        assert (code, "regions.csv already exists and was not written by padim" in err) == (2, True)
        assert run(capsys, *score(factory, tmp_path, command)[:-1])[0] == 0
        assert (tmp_path / "regions.csv").read_text() == "my,own\n"
        (tmp_path / "scores.csv").unlink()
    (tmp_path / "regions.csv").unlink()
    assert [run(capsys, *score(factory, tmp_path))[0] for _ in range(2)] == [0, 0]


# stopped and killed


@pytest.mark.parametrize("command", ["score", "score-many"])
@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_every_region_is_there_once_after_a_stop_between_the_tables(
    factory: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str, count: int
) -> None:
    plain, seen = Unfinished.add, [0]

    def add(self: Unfinished, name: str, row: Row) -> None:
        if seen[0] == count:
            killed()
        seen[0] += 1
        plain(self, name, row)

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "add", add)
        assert run(capsys, *score(factory, tmp_path / "r", command))[0] == 1
    left = rows(tmp_path / "r" / "unfinished" / "regions.csv")
    assert sum(row["region"] == "1" for row in left) == count + 1
    assert run(capsys, *score(factory, tmp_path / "r", command))[0] == 0
    assert run(capsys, *score(factory, tmp_path / "whole", command))[0] == 0
    assert content(tmp_path / "r") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "share"), [("score", 0.1), ("score", 0.99), ("score-many", 0.7)])
def test_a_process_killed_within_the_rows_of_an_image_loses_nothing(
    factory: Path, tmp_path: Path, capsys: Capture, command: str, share: float
) -> None:
    deadly = (
        "import os, signal, sys\nfrom padim_jax import cli\nfrom padim_jax.runs import growing_table\n"
        "plain, seen = growing_table.GrowingTable.add, []\n"
        "def add(self, *rows):\n"
        "    seen.append(rows)\n"
        "    if len(seen) == 12:\n"  # after three headers and two rows for each of four images
        "        line = b''.join(map(growing_table.table_line, rows))\n"
        f"        os.write(self._file.fileno(), line[:int({share} * len(line))])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    plain(self, *rows)\n"
        "growing_table.GrowingTable.add = add\ncli.main(sys.argv[1:])"
    )
    arguments = score(factory, tmp_path / "r", command)
    assert subprocess.run([sys.executable, "-c", deadly, *arguments]).returncode == -signal.SIGKILL
    assert len(rows(tmp_path / "r" / "unfinished" / "scores.csv")) == 4
    code, _, err = run(capsys, *arguments)
    assert (code, "going on: 4 of" in err) == (0, True)
    assert run(capsys, *score(factory, tmp_path / "whole", command))[0] == 0
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_killed_while_results_are_put_in_place(
    factory: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = Path.replace, tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, to: killed() if to == out / "scores.csv" else plain(self, to))
        assert run(capsys, *score(factory, out))[0] == 1
    assert (out / "regions.csv").exists()
    assert run(capsys, *score(factory, out))[0] == 0
    assert run(capsys, *score(factory, tmp_path / "whole"))[0] == 0
    assert content(out) == content(tmp_path / "whole")
