"""``padim inspect FOLDER`` says how far parts are shifted and turned, where that can be known."""

import json
from pathlib import Path

import numpy as np
import pytest

from padim_jax.inspection import inspect_folder
from padim_jax.inspection.poses import PartPoses, spread_of
from tests.conftest import write_images
from tests.test_cli import run
from tests.test_registration import SIDE, bracket, placed

STILL = np.zeros((12, 2))
TURNED = np.linspace(-80, 80, 12)
SHIFTED = np.stack([np.linspace(-8, 8, 12), np.zeros(12)], axis=1)


def spread(angles: np.ndarray, shifts: np.ndarray) -> PartPoses:
    return spread_of(placed(bracket(), angles, shifts))


@pytest.mark.slow
def test_shares_and_angles_are_those_of_the_parts() -> None:
    still = spread(np.zeros(12), STILL)
    assert (still.n_images, still.n_matching, still.not_done, still.is_clear) == (12, 12, None, False)
    assert (still.angle, still.shift) == (0, pytest.approx(0, abs=0.005))
    shifted = spread(np.zeros(12), SHIFTED)
    assert shifted.shift == pytest.approx(8 / SIDE, abs=0.01)
    assert shifted.shift_of_most == pytest.approx(np.quantile(np.abs(SHIFTED[:, 0]), 0.9) / SIDE, abs=0.01)
    assert (shifted.angle, shifted.is_clear) == (0, True)
    turned = spread(TURNED, STILL)
    middle = TURNED[5]  # or its neighbour; both are in the middle
    assert turned.angle == pytest.approx(80 - middle, abs=16)
    assert 60 < turned.angle_of_most < turned.angle
    assert turned.is_clear


@pytest.mark.slow
def test_a_part_that_turns_about_its_own_centre_is_not_shifted() -> None:
    aside = spread(TURNED, np.tile([0.0, 10.0], (12, 1)))
    assert aside.angle > 60
    assert aside.shift < 0.1  # the pose's own shift varies by 0.2; the drawing does not turn quite about its centre


@pytest.mark.slow
def test_nothing_is_said_of_images_that_do_not_match() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3)).astype(np.uint8)
    poses = spread_of(noise)
    assert poses.not_done == "the images do not match each other well enough"
    assert (poses.shift, poses.angle, poses.is_clear) == (0, 0, False)
    mixed = spread_of(np.concatenate([placed(bracket(), np.zeros(12), STILL), noise[:4]]))
    assert (mixed.n_images, mixed.n_matching, mixed.not_done) == (16, 12, None)


def test_the_command_says_it_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "turned", placed(bracket(), TURNED, STILL))
    code, out, _ = run(capsys, "inspect", tmp_path / "turned")
    assert code == 0
    assert "parts are shifted by up to" in out
    assert "hold them in a fixture before the camera, or fit with --align" in out
    write_images(tmp_path / "still", placed(bracket(), np.zeros(12), STILL))
    code, out, _ = run(capsys, "inspect", tmp_path / "still")
    assert "(90% of them within 0.0%) and not visibly turned" in out
    assert "fixture" not in out


def test_the_record_has_the_numbers_or_the_reason(tmp_path: Path) -> None:
    write_images(tmp_path / "good", placed(bracket(), np.zeros(12), STILL))
    record = json.loads(json.dumps(inspect_folder(tmp_path / "good").record()))
    assert record["poses"]["n_matching"] == 12
    assert inspect_folder(tmp_path / "good", quick=True).record()["poses"] is None
    for name, images, reason in (
        ("few", np.zeros((3, 40, 40, 3), np.uint8), "3 images of one size, wanted 10 or more"),
        ("small", np.zeros((12, 20, 40, 3), np.uint8), "images of 40×20 pixels, wanted 32 or more each way"),
    ):
        write_images(tmp_path / name, images)
        poses = inspect_folder(tmp_path / name).poses
        assert poses is not None
        assert poses.not_done == reason
