"""The range that a fit fixes for images of more than 8 bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.images import UnreadableImage, find_value_range
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fold import fit_moments
from padim_jax.runs.watch import Watch
from tests.image_files import png, tiff
from tests.test_cli import SIZES, rows, run
from tests.test_folder import write

SIZE = (40, 56)


def grey(*values: float, kind: Any = np.uint16) -> np.ndarray:
    """Image that holds these values, repeated."""
    return np.resize(np.array(values, kind), SIZE)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        ([grey(3, 4000), grey(17, 4095)], (0, 4095)),
        ([grey(0, 4096)], (0, 8191)),
        ([grey(0)], (0, 255)),
        ([grey(255)], (0, 255)),
        ([grey(256)], (0, 511)),
        ([grey(65535)], (0, 65535)),
        ([grey(65536, kind=np.uint32)], (0, 131071)),
        ([grey(2**32 - 1, kind=np.uint32)], (0, 2**32 - 1)),
        ([grey(-40, 300, kind=np.int16)], (-512, 511)),
        ([grey(-512, 0, kind=np.int16), grey(0, 511, kind=np.int32)], (-512, 511)),
        ([grey(-513, kind=np.int32)], (-1024, 1023)),
        ([grey(2, 4, kind=np.float32), grey(3, 12, kind=np.float32)], (1, 13)),
        ([grey(-3, kind=np.float32)], (-3.3, -2.7)),
        ([grey(0, kind=np.float32)], (-0.1, 0.1)),
    ],
)
def test_range(tmp_path: Path, images: list[np.ndarray], wanted: tuple[float, float]) -> None:
    paths = [write(tmp_path, f"{index}.tif", tiff(image)) for index, image in enumerate(images)]
    found = find_value_range(paths)
    assert found == pytest.approx(wanted)
    assert padim.PadimConfig(value_range=found).value_range == found


def test_eight_bits_are_told_by_headers_alone(tmp_path: Path) -> None:
    headers = [write(tmp_path, f"{index}.png", png(np.zeros((*SIZE, 3), np.uint8))[:60]) for index in range(30)]
    told: list[int] = []
    assert find_value_range(headers, advance=told.append) is None
    assert sum(told) == 30


def test_a_mix_is_refused_with_one_of_each(tmp_path: Path) -> None:
    eight = [write(tmp_path, f"a{index}.png", png(np.zeros(SIZE, np.uint8))) for index in range(3)]
    deep = [write(tmp_path, f"b{index}.png", png(grey(9))) for index in range(2)]
    words = r"several kinds: 3 of 8 bits a channel \(.*a0\.png\); 2 of integers of more bits \(.*b0\.png\); a model is for one"
    with pytest.raises(ValueError, match=words):
        find_value_range([*eight, *deep])
    floats = write(tmp_path, "c.tif", tiff(grey(9, kind=np.float32)))
    with pytest.raises(ValueError, match=r"1 of floats \(.*c\.tif\); 2 of integers"):
        find_value_range([*deep, floats])


def test_what_cannot_be_read_or_seen_does_not_count(tmp_path: Path) -> None:
    hidden = np.dstack([grey(60000)] * 3 + [grey(0)])
    hidden[:20] = (1000, 1000, 1000, 65535)
    paths = [
        write(tmp_path, "a.png", b"no image"),
        write(tmp_path, "b.png", png(grey(60000))[:60]),
        write(tmp_path, "c.png", png(hidden)),
        write(tmp_path, "d.png", png(np.dstack([grey(60000), grey(0)]))),
        write(tmp_path, "e.tif", tiff(grey(np.nan, 5, kind=np.float32))),
    ]
    refused: list[UnreadableImage] = []
    assert find_value_range(paths, refused.append) == (0, 1023)
    assert [error.path.name for error in refused] == ["a.png", "b.png", "e.tif"]
    assert find_value_range(paths[:1]) is None


@pytest.mark.slow
def test_command_fixes_the_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    good = tmp_path / "good"
    for index in range(5):
        write(good, f"{index}.png", png(rng.integers(0, 4000, SIZE, np.uint16)))
    code, _, err = run(capsys, "fit", good, "--out", tmp_path / "m", *SIZES)
    assert (code, "images of more than 8 bits: this model takes values from 0 (black) to 4095 (white)" in err) == (
        0,
        True,
    ), err
    assert padim.load(tmp_path / "m").config.value_range == (0, 4095)
    write(good, "bright.png", png(grey(5000)))
    code, _, err = run(capsys, "score", tmp_path / "m", good, "--out", tmp_path / "out")
    assert (code, len(rows(tmp_path / "out" / "scores.csv"))) == (1, 5)
    assert "bright.png: 100 % of its values lie outside the range fixed at fit, 0 to 4095 (the highest is 5000)" in err
    given = ("--value-range", 0, 5000, "--resize", "pad")
    code, _, err = run(capsys, "fit", good, "--out", tmp_path / "wide", *SIZES, *given)
    assert (code, "of more than 8 bits" in err) == (0, False), err
    config = padim.load(tmp_path / "wide").config
    assert (config.value_range, config.resize) == ((0, 5000), "pad")
    write(good, "eight.png", png(np.zeros(SIZE, np.uint8)))
    code, _, err = run(capsys, "fit", good, "--out", tmp_path / "mixed", *SIZES)
    assert (code, "the images are of several kinds: 1 of 8 bits" in err) == (1, True), err
    code, _, err = run(capsys, "fit", good, "--out", tmp_path / "n", *SIZES, "--value-range", 5, 5)
    assert (code, "--value-range (5.0, 5.0): wanted (low, high)" in err) == (2, True), err


@pytest.mark.slow
def test_two_passes_note_once(lite0: padim.Backbone, good_dir: Path) -> None:
    film = [Image.fromarray(np.full((*SIZE, 3), 90 * index, np.uint8)) for index in range(2)]
    write(good_dir, "film.gif", film[0], save_all=True, append_images=film[1:])
    config = padim.PadimConfig(n_channels=4, image_size=SIZE, crop_size=(32, 48), projection="principal-components")
    notes: list[tuple[str, str]] = []
    paths = sorted(good_dir.glob("*.*"))
    watch = Watch(note=lambda path, text: notes.append((path.name, text)))
    fit_moments(OneDevice(lite0), paths, config, 4, watch)
    assert notes == [("film.gif", "first of 2 frames")]
    with pytest.warns(UserWarning, match="first of 2 frames"):  # where nobody else is told
        fit_moments(OneDevice(lite0), paths, config, 4, Watch())
