"""A threshold that hangs on one image says on which."""

from pathlib import Path

import numpy as np
import pytest

from padim_jax.runs.lone_image import lone_image
from tests.conftest import SMALL, images, write_images
from tests.test_cli import run

SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48".split()
Capture = pytest.CaptureFixture[str]


def write(folder: Path, odd: bool, seed: int = 0) -> Path:
    """21 images, 002 and 005 with the pixels of 000, and where there is an ``odd`` one, 013."""
    pixels = images(21, SMALL, seed=seed)
    pixels[[2, 5]] = pixels[0]
    if odd:
        pixels[13, 8:24, 12:36] = 255
    write_images(folder, pixels)
    for name in ("002", "005"):  # other files of the same pixels
        with (folder / f"{name}.png").open("ab") as stream:
            stream.write(name.encode())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--devices", "1")])
def test_the_image_that_alone_sets_the_threshold_is_named(
    tmp_path: Path, capsys: Capture, more: tuple[str, ...]
) -> None:
    odd, model = write(tmp_path / "odd", odd=True), tmp_path / "m"
    for command in (("fit", odd, "--out", model, *SIZES), ("calibrate", model, odd)):
        told = run(capsys, *command, "--batch-size", 4, *more)[2]
        assert f"is the score of one image, {odd / '013.png'} (next lower: " in told
        assert "look at it with padim inspect" in told
    few = write(tmp_path / "few", odd=True, seed=1)
    assert "is the score of one image" not in run(capsys, "update", model, few, *more)[2]  # kept scores count, too
    told = run(capsys, "fit", odd, "--out", model, *SIZES, "--false-alarm-rate", 0.11)[2]  # the second highest score
    assert "is the score of one image" not in told


@pytest.mark.slow
@pytest.mark.parametrize("place", ["inside", "held out"])
def test_no_image_is_named_where_none_is_far_above(tmp_path: Path, capsys: Capture, place: str) -> None:
    good, odd = write(tmp_path / "good", odd=False), write(tmp_path / "odd", odd=True, seed=1)
    held_out = () if place == "inside" else ("--calibration", odd, "--trust-calibration")
    code, _, told = run(capsys, "fit", good, "--out", tmp_path / "m", *SIZES, *held_out)
    assert (code, "is the score of one image" in told) == (0, False)


def test_a_score_that_two_images_share_hangs_on_neither() -> None:
    paths = [Path(name) for name in "abcd"]
    scores = np.array([2, 9, 3, 1], np.float32)
    assert "the threshold, 9, is the score of one image, b (next lower: 3)" in lone_image(scores, paths, 9)[0]
    assert lone_image(np.array([2, 9, 9, 1], np.float32), paths, 9) == []
    assert lone_image(np.array([2, 3.5, 3, 1], np.float32), paths, 3.5) == []
