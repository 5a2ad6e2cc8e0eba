"""Placements: centred or drawn, and then a function of seed, split and file name alone."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.data.protocol import STANDARD, Placement, Protocol, place_image, place_mask

CONFIG = padim.PadimConfig(image_size=(80, 90), crop_size=(64, 60))
ROTATED = Protocol("rotated")
NAMES = [f"train/good/{index:03}.png" for index in range(400)]


def test_standard_draws_nothing_and_takes_the_middle() -> None:
    assert STANDARD.draw("train", "a.png", CONFIG) is None
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    placed = place_image(Image.fromarray(pixels), None, CONFIG)
    np.testing.assert_array_equal(placed, pixels[8:72, 15:75])


def test_draws_are_uniform_within_their_ranges() -> None:
    drawn = [placement for name in NAMES if (placement := ROTATED.draw("train", name, CONFIG))]
    angles, tops, lefts = (np.array(values) for values in zip(*map(vars_of, drawn), strict=True))
    assert len(drawn) == len(NAMES)
    for values, low, high in ((angles, -10, 10), (tops, 0, 16), (lefts, 0, 30)):
        assert low <= values.min() < low + 0.06 * (high - low)
        assert high - 0.06 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * len(NAMES))


def vars_of(placement: Placement) -> tuple[float, int, int]:
    return placement.angle, placement.top, placement.left


def test_a_draw_is_pinned_and_depends_on_seed_split_and_name() -> None:
    one = ROTATED.draw("test", "bottle/test/good/000.png", CONFIG)
    assert one is not None
    assert vars_of(one) == (pytest.approx(7.357394138496794), 9, 22)
    others = [
        ROTATED.draw("train", "bottle/test/good/000.png", CONFIG),
        ROTATED.draw("test", "bottle/test/good/001.png", CONFIG),
        Protocol("rotated", seed=1).draw("test", "bottle/test/good/000.png", CONFIG),
    ]
    assert one not in others


def test_no_room_to_crop_leaves_rotation_alone() -> None:
    tight = padim.PadimConfig(image_size=64, crop_size=64)
    assert {(p.top, p.left) for name in NAMES[:20] if (p := ROTATED.draw("train", name, tight))} == {(0, 0)}


def test_rotation_is_counter_clockwise_about_the_centre_with_black_corners() -> None:
    square = padim.PadimConfig(image_size=65, crop_size=65)
    pixels = np.full((65, 65, 3), 200, np.uint8)
    pixels[30:35, 60:] = 255  # at the right; counter-clockwise takes it up
    turned = np.asarray(place_image(Image.fromarray(pixels), Placement(10.0, 0, 0), square))
    rows = np.flatnonzero((turned[:, 60] > 240).any(axis=-1))
    assert 32 - 28 * np.sin(np.radians(10)) == pytest.approx(rows.mean(), abs=1)
    assert not turned[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert turned[32, 32].tolist() == [200, 200, 200]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_interpolated_and_masks_are_not(interpolation: Any) -> None:
    config = padim.PadimConfig(image_size=64, crop_size=48, interpolation=interpolation)
    edge = np.zeros((64, 64), np.uint8)
    edge[20:44, 20:44] = 255
    placement = Placement(7.0, 3, 9)
    mask = np.asarray(place_mask(Image.fromarray(edge), placement, config))
    image = np.asarray(place_image(Image.fromarray(edge), placement, config))
    assert set(np.unique(mask)) == {0, 255}
    assert len(np.unique(image)) > 10
    method = getattr(Image.Resampling, interpolation.upper())
    np.testing.assert_array_equal(image, np.asarray(Image.fromarray(edge).rotate(7.0, method))[3:51, 9:57])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "spun"}, "name='spun', wanted one of standard, rotated"),
        ({"name": "rotated", "seed": -1}, "seed=-1, wanted an integer from 0"),
        ({"name": "rotated", "seed": 0.5}, "seed=0.5, wanted an integer from 0"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"Protocol: {words}"):
        Protocol(**fields)
