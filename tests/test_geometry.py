"""From original pixels to what the network sees, and back: every place lands where it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.images import UnreadableImage, check_roi_size, mask_to_original, read_image, read_roi, seen, to_original
from padim_jax.images.geometry import place
from tests.image_files import png
from tests.test_folder import write

MODES = ("stretch", "shorter-side", "pad")
SIZES = [(400, 300), (300, 400), (640, 200), (200, 640), (333, 257), (1000, 999), (64, 64)]
CONFIGS = [((64, 64), (56, 56)), ((80, 120), (64, 100)), ((120, 80), (111, 59)), ((64, 64), (64, 64))]


def config(resize: Any, sizes: tuple[tuple[int, int], tuple[int, int]] = CONFIGS[1]) -> padim.PadimConfig:
    return padim.PadimConfig(image_size=sizes[0], crop_size=sizes[1], resize=resize)


def blob(size: tuple[int, int], at: tuple[float, float], radius: tuple[float, float]) -> np.ndarray:
    """Bell of these radii around ``at`` (x, y)."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    return 250 * np.exp(-(((x - at[0]) / radius[0]) ** 2) - ((y - at[1]) / radius[1]) ** 2)


@pytest.mark.parametrize(
    ("mode", "size", "sizes"),
    [
        (mode, size, sizes)
        for mode in MODES
        for size in SIZES
        for sizes in CONFIGS
        if mode == "pad" or (size[1] >= sizes[1][0] and size[0] >= sizes[1][1])  # others are refused
    ],
    ids=str,
)
def test_a_blob_comes_back_to_its_place(tmp_path: Path, mode: str, size: tuple[int, int], sizes: Any) -> None:
    settings = config(mode, sizes)
    inside = seen(size, settings)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    at = (columns[0] + 0.4 * len(columns) + 0.3, rows[0] + 0.55 * len(rows) + 0.3)
    # several cells wide, so that its centre is well defined
    radius = (max(size[0] * 3 / sizes[1][1], 4.0), max(size[1] * 3 / sizes[1][0], 4.0))
    radius = (max(radius), max(radius)) if mode != "stretch" else radius
    drawn = np.rint(blob(size, at, radius)).astype(np.uint8)
    image = read_image(write(tmp_path, "a.png", Image.fromarray(drawn)), settings)
    back = to_original(image[..., 0].astype(np.float32), size, settings)
    assert (back.shape, back.dtype) == ((size[1], size[0]), np.float32)
    np.testing.assert_array_equal(np.isfinite(back), inside)
    weights = np.where(inside, np.maximum(back, 0), 0).astype(np.float64)
    reference = np.where(inside, drawn, 0).astype(np.float64)
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    for axis in (x, y):
        found, wanted = ((axis * weight).sum() / weight.sum() for weight in (weights, reference))
        assert abs(found - wanted) < 0.5  # pixels of the original


@pytest.mark.parametrize("mode", MODES)
def test_ramps_come_back_exactly(tmp_path: Path, mode: str) -> None:
    """Linear in x and y; resampling and bilinear lookup keep that, if pixel centres are where they should be."""
    size, settings = (
        (400, 300),
        padim.PadimConfig(
            image_size=(120, 200),
            crop_size=(100, 180),
            resize=mode,  # type: ignore[arg-type]
            value_range=(0, 65535),
        ),
    )
    y, x = np.mgrid[0:300, 0:400]
    wanted = 100 * x + 80 * y
    image = read_image(write(tmp_path, "a.png", png(wanted.astype(np.uint16))), settings)
    back = to_original(image[..., 0].astype(np.float32) * 257, size, settings)
    inside = np.flatnonzero(seen(size, settings).any(axis=1)), np.flatnonzero(seen(size, settings).any(axis=0))
    middle = np.ix_(inside[0][6:-6], inside[1][6:-6])
    error = back[middle] - wanted[middle]
    assert abs(error.mean()) < 5  # a shift of half a pixel would be 90
    assert np.abs(error).max() < 257


def test_what_the_modes_use() -> None:
    assert place((400, 300), config("stretch")).box == (0, 0, 400, 300)
    assert place((400, 300), config("shorter-side")).box == pytest.approx((0, 50 / 3, 400, 300 - 50 / 3))
    assert place((300, 400), config("shorter-side")).box == pytest.approx((0, 100, 300, 300))
    assert place((640, 200), config("shorter-side")).box == (170, 0, 470, 200)
    assert place((400, 300), config("pad")).target == (6, 0, 113, 80)
    assert place((640, 200), config("pad")).target == (0, 21, 120, 59)
    assert place((10**4, 1), config("pad")).target == (0, 39, 120, 40)


def test_pad_is_black_around_and_shorter_side_keeps_circles(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", png(np.full((200, 640, 3), 255, np.uint8)))
    image = read_image(path, config("pad", ((80, 120), (80, 120))))
    np.testing.assert_array_equal(image[..., 0].any(axis=1), (np.arange(80) >= 21) & (np.arange(80) < 59))
    y, x = np.mgrid[0:200, 0:640] + 0.5
    disc = np.where((x - 320) ** 2 + (y - 100) ** 2 < 60**2, np.uint8(255), np.uint8(0))
    path = write(tmp_path, "b.png", png(disc))
    for mode in ("shorter-side", "pad"):
        found = read_image(path, config(mode, ((80, 120), (80, 120))))[..., 0] > 127
        assert abs(found.any(axis=0).sum() - found.any(axis=1).sum()) <= 1


def test_shorter_side_is_one_resampling(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 640, 3), np.uint8)
    wanted = Image.fromarray(pixels).resize((120, 80), Image.Resampling.BILINEAR, (170, 0, 470, 200))
    found = read_image(write(tmp_path, "a.png", png(pixels)), config("shorter-side", ((80, 120), (80, 120))))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_too_small_images(tmp_path: Path, mode: str) -> None:
    narrow = write(tmp_path, "a.png", png(np.zeros((300, 60, 3), np.uint8)))
    if mode == "pad":  # it fits inside, scaled down
        assert read_image(narrow, config(mode)).shape == (64, 100, 3)
    else:
        with pytest.raises(UnreadableImage, match=r"60×300 pixels, smaller than the crop of 100×64"):
            read_image(narrow, config(mode))
    with pytest.raises(UnreadableImage, match=r"60×63 pixels, smaller than the crop of 100×64"):
        read_image(write(tmp_path, "b.png", png(np.zeros((63, 60, 3), np.uint8))), config(mode))


@pytest.mark.parametrize("mode", MODES)
def test_masks_go_there_and_back(tmp_path: Path, mode: str) -> None:
    size, settings = (600, 420), config(mode)
    drawn = np.zeros((420, 600), np.uint8)
    drawn[180:260, 250:420] = 1  # of 255: any value counts
    roi = read_roi(write(tmp_path, "roi.png", png(drawn)), settings, size)
    assert (roi.shape, roi.dtype) == ((64, 100), bool)
    back = mask_to_original(roi, size, settings)
    assert not back[~seen(size, settings)].any()
    rows, columns = np.flatnonzero(back.any(axis=1)), np.flatnonzero(back.any(axis=0))
    cell = 420 / 64
    found = np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1])
    np.testing.assert_allclose(found, [180, 260, 250, 420], atol=cell / 2 + 1)
    assert not mask_to_original(np.zeros((64, 100), bool), size, settings).any()


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"to_original: anomaly_map has shape \(5, 5\), wanted \(64, 100\)"):
        to_original(np.zeros((5, 5), np.float32), (400, 300), config("stretch"))
    with pytest.raises(ValueError, match=r"mask_to_original: mask has shape \(100, 64\), wanted \(64, 100\)"):
        mask_to_original(np.zeros((100, 64), bool), (400, 300), config("stretch"))


@pytest.mark.parametrize("pixels", [
    np.array([[[0, 0, 9]]], np.uint8), np.array([[[1]]], np.uint8), np.array([[[1]]], np.uint16), np.array([[[0, 1, 0]]], np.uint16)
], ids=str)  # fmt: skip
def test_any_channel_counts_in_a_region(tmp_path: Path, pixels: np.ndarray) -> None:
    drawn = np.zeros((300, 400, pixels.shape[2]), pixels.dtype)
    drawn[:, :200] = pixels
    roi = read_roi(write(tmp_path, "roi.png", png(drawn)), config("stretch"))
    np.testing.assert_array_equal(roi, np.ones((64, 1), bool) & (np.arange(100) < 50))


def test_regions_that_are_no_use(tmp_path: Path) -> None:
    settings = config("stretch")
    with pytest.raises(ValueError, match=r"roi\.png leaves nothing to look at: it is 0 throughout"):
        read_roi(write(tmp_path, "roi.png", png(np.zeros((300, 400), np.uint8))), settings)
    corner = np.zeros((300, 400), np.uint8)
    corner[:5, :5] = 255
    with pytest.raises(ValueError, match="leaves nothing to look at: what it marks lies outside the crop"):
        read_roi(write(tmp_path, "roi.png", png(corner)), settings)
    with pytest.raises(UnreadableImage, match="no image"):
        read_roi(write(tmp_path, "text.png", b"text"), settings)
    with pytest.raises(ValueError, match="the region of interest has 400×300 pixels, the images have 300×400"):
        read_roi(tmp_path / "roi.png", settings, (300, 400))
    check_roi_size((4, 3), (4, 3))
