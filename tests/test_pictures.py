"""Heat maps: the photo untouched, the map over it so that a defect still shows, the threshold and the maximum marked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage, seen
from padim_jax.images.geometry import place_in_original, seen_part
from padim_jax.images.image import read_photo
from padim_jax.method.pictures import picture
from padim_jax.runs.outputs import write_heatmap
from padim_jax.runs.score import ScoredImage
from tests.image_files import png

HEAD, GAP = 20, 6
RNG = np.random.default_rng(0)
PHOTO = np.asarray(Image.fromarray(RNG.integers(0, 256, (30, 40, 3), np.uint8)).resize((400, 300)))
MAP = np.zeros((24, 32), np.float32)
MAP[4:9, 20:26] = 8
MAP[6, 22] = 10
SCALE = (2.0, 12.0)


def halves(drawn: Image.Image, size: tuple[int, int] = (400, 300)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photo, overlay and what is right of them."""
    pixels, (width, height) = np.asarray(drawn)[HEAD:], size
    left = width + GAP
    return pixels[:height, :width], pixels[:height, left : left + width], pixels[:height, left + width + GAP :]


def test_the_photo_is_untouched_and_shows_through_the_overlay() -> None:
    drawn = picture(PHOTO, MAP, SCALE, "title", threshold=7.0, summit=(81.0, 281.0))
    photo, laid, _ = halves(drawn)
    np.testing.assert_array_equal(photo, PHOTO)
    np.testing.assert_array_equal(laid[150:, :200], PHOTO[150:, :200])  # nothing there
    hot = picture(PHOTO, np.full_like(MAP, 12), SCALE, "title")
    contrast = halves(hot)[1].astype(float).std() / PHOTO.astype(float).std()
    assert 0.4 < contrast < 0.75


def test_what_lies_above_the_threshold_is_outlined_not_covered() -> None:
    plain = halves(picture(PHOTO, MAP, SCALE, "title"))[1]
    outlined = halves(picture(PHOTO, MAP, SCALE, "title", threshold=7.0))[1]
    changed = (plain != outlined).any(axis=2)
    above = np.asarray(Image.fromarray(MAP).resize((400, 300), Image.Resampling.BILINEAR)) > 7
    assert changed.any()
    assert not (changed & above).any()
    rows, columns = np.nonzero(changed)
    inner_rows, inner_columns = np.nonzero(above)
    assert rows.min() == inner_rows.min() - 2
    assert columns.max() == inner_columns.max() + 2
    np.testing.assert_array_equal(halves(picture(PHOTO, MAP, SCALE, "title", threshold=11.0))[1], plain)


@pytest.mark.parametrize("size", [(400, 300), (401, 299), (256, 192), (20, 15)])
def test_a_peak_just_above_the_threshold_is_outlined_at_any_size(size: tuple[int, int]) -> None:
    photo = np.asarray(Image.fromarray(PHOTO).resize(size))
    peak = np.full_like(MAP, 5)
    peak[13, 17] = 7.001
    plain, outlined = (picture(photo, peak, SCALE, "title", threshold=threshold) for threshold in (8.0, 7.0))
    shown = Image.fromarray(photo).size if size[0] >= 256 else (240, 180)
    changed = (halves(plain, shown)[1] != halves(outlined, shown)[1]).any(axis=2)
    place = np.argwhere(changed).mean(axis=0) / shown[::-1]
    np.testing.assert_allclose(place, (13.5 / 24, 17.5 / 32), atol=0.6 / 15)


def test_the_maximum_is_marked_beside_it() -> None:
    plain = halves(picture(PHOTO, MAP, SCALE, "title"))[1]
    marked = halves(picture(PHOTO, MAP, SCALE, "title", summit=(81.5, 281.5)))[1]
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    assert abs((rows.min() + rows.max()) / 2 - 81.5) <= 1
    assert abs((columns.min() + columns.max()) / 2 - 281.5) <= 1
    np.testing.assert_array_equal(marked[76:87, 276:287], plain[76:87, 276:287])


@pytest.mark.parametrize(("threshold", "row"), [(7.0, 150), (12.0, 0), (2.0, 299)])
def test_the_threshold_is_a_line_on_the_colour_scale(threshold: float, row: int) -> None:
    bar = halves(picture(PHOTO, MAP, SCALE, "title", threshold=threshold))[2][:, :14]
    assert (bar[row] == 255).all()
    assert [index for index in range(300) if (bar[index] == 255).all()] == [row]
    outside = halves(picture(PHOTO, MAP, SCALE, "title", threshold=13.0))[2][:, :14]
    assert not (outside == 255).all(axis=(1, 2)).any()


def test_small_photos_are_shown_larger() -> None:
    small = PHOTO[:48, :64]
    photo, _, _ = halves(picture(small, MAP, SCALE, "title", threshold=7.0, summit=(5.5, 5.5)), (256, 192))
    np.testing.assert_array_equal(photo, small.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (64, 64)])
@pytest.mark.parametrize("resize", ["stretch", "shorter-side", "pad"])
@pytest.mark.parametrize("crop_size", [(28, 40), (24, 32)])
def test_the_part_shown_is_what_the_crop_sees(size: tuple[int, int], resize: str, crop_size: tuple[int, int]) -> None:
    config = PadimConfig(image_size=(28, 40), crop_size=crop_size, resize=resize)  # type: ignore[arg-type]
    part, inside = seen_part(size, config), seen(size, config)
    rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    left, top, right, bottom = part.original
    assert (abs(left - columns[0]) <= 0.5, abs(right - 1 - columns[-1]) <= 0.5) == (True, True)
    assert (abs(top - rows[0]) <= 0.5, abs(bottom - 1 - rows[-1]) <= 0.5) == (True, True)
    x0, y0, x1, y1 = part.crop
    assert x0 >= 0
    assert y1 <= crop_size[0]
    found = place_in_original((y0 + y1) / 2, (x0 + x1) / 2, size, config)
    assert abs(found[0] - (top + bottom) / 2) <= 1
    assert abs(found[1] - (left + right) / 2) <= 1


def test_photos_are_shown_as_they_are_or_shrunk(tmp_path: Path) -> None:
    pixels = np.asarray(Image.fromarray(PHOTO).resize((96, 64)))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    config = PadimConfig(image_size=(32, 32), crop_size=(24, 24))
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png", config, 768), pixels[8:56, 12:84])
    assert read_photo(tmp_path / "a.png", config, 36).shape == (24, 36, 3)
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UnreadableImage, match="no image"):
        read_photo(tmp_path / "bad.png", config, 36)


def test_deep_photos_are_shown_as_the_network_saw_them(tmp_path: Path) -> None:
    config = PadimConfig(image_size=(32, 32), crop_size=(32, 32), value_range=(0, 4095))
    values = RNG.integers(0, 4096, (40, 48)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(png(values))
    photo = read_photo(tmp_path / "deep.png", config, 768)
    np.testing.assert_array_equal(photo, np.rint(values / 4095 * 255).astype(np.uint8)[..., None].repeat(3, axis=2))
    with pytest.raises(UnreadableImage, match="more than 8 bits"):
        read_photo(tmp_path / "deep.png", PadimConfig(image_size=(32, 32), crop_size=(32, 32)), 768)


def test_a_heat_map_shows_the_photo_and_says_where_it_cannot(tmp_path: Path) -> None:
    config = PadimConfig(image_size=(28, 40), crop_size=(24, 32))
    Image.fromarray(PHOTO).resize((1000, 800)).save(tmp_path / "a.png")
    seen_by_network = np.zeros((24, 32, 3), np.uint8)
    item = ScoredImage(tmp_path / "a.png", 10.0, 0.01, True, seen_by_network, MAP, (1000, 800))
    notes: list[tuple[Path, str]] = []

    def draw() -> Image.Image:
        write_heatmap(tmp_path / "h.png", item, SCALE, config=config, threshold=7.0, note=lambda *n: notes.append(n))
        return Image.open(tmp_path / "h.png")

    photo, _, _ = halves(draw(), (768, 658))
    np.testing.assert_array_equal(photo, read_photo(tmp_path / "a.png", config, 768))
    assert not notes
    (tmp_path / "a.png").unlink()
    photo, _, _ = halves(draw(), (256, 192))
    assert not photo.any()
    ((path, text),) = notes
    assert (path, "its heat map shows what the network saw" in text) == (tmp_path / "a.png", True)
