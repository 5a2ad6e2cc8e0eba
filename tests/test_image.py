"""Pixels come out of files exactly, whatever their depth; notes tell what was decided."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.images import UnreadableImage, load_batches, read_image
from padim_jax.images.decode import DeepImage, open_image
from padim_jax.images.image import measure
from tests.image_files import chunk, exif, png, tiff
from tests.test_folder import write

RNG = np.random.default_rng(0)
SIZE = (40, 56)
DEEP = padim.PadimConfig(image_size=SIZE, crop_size=SIZE, value_range=(0, 65535))
COLOUR = RNG.integers(0, 65536, (*SIZE, 3), np.uint16)
GREY = COLOUR[..., 0]
EIGHT = (COLOUR >> 8).astype(np.uint8)


def opened(path: Path, note: Any = None) -> DeepImage:
    image = open_image(path, note=note)
    assert isinstance(image, DeepImage)
    return image


def pnm(pixels: np.ndarray, largest: int, plain: bool = False) -> bytes:
    kind = b"P" + str((2 if pixels.ndim == 2 else 3) + (0 if plain else 3)).encode()
    head = kind + f"\n# a remark\n{pixels.shape[1]} {pixels.shape[0]}\n{largest}\n".encode()
    if plain:
        return head + b"\n".join(b"%d" % value for value in pixels.ravel())
    return head + pixels.astype(">u2").tobytes()


def pillow_tiff(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


FILES = {
    "grey.png": (png(GREY), GREY),
    "colour.png": (png(COLOUR), COLOUR),
    "opaque.png": (png(np.dstack([COLOUR, np.full(SIZE, 65535, np.uint16)])), COLOUR),
    "grey-opaque.png": (png(np.dstack([GREY, np.full(SIZE, 65535, np.uint16)])), np.dstack([GREY] * 3)),
    "grey.tif": (tiff(GREY), GREY),
    "colour.tif": (tiff(COLOUR), COLOUR),
    "opaque.tif": (tiff(np.dstack([COLOUR, np.full(SIZE, 65535, np.uint16)]), extra=2), COLOUR),
    "unused.tif": (tiff(np.dstack([COLOUR, GREY]), extra=0), COLOUR),
    "signed16.tif": (tiff(GREY.view(np.int16)), GREY.view(np.int16).astype(np.int32)),
    "unsigned32.tif": (tiff(GREY.astype(np.uint32) * 65535 + 7), GREY.astype(np.uint32) * 65535 + 7),
    "signed32.tif": (tiff(GREY.astype(np.int32) * 32767 - 9), GREY.astype(np.int32) * 32767 - 9),
    "float.tif": (tiff(GREY.astype(np.float32) / 7), GREY.astype(np.float32) / 7),
    "compressed.tif": (pillow_tiff(GREY), GREY),
    "grey.pgm": (pnm(GREY, 65535), GREY),
    "twelve.pgm": (pnm(GREY >> 4, 4095), GREY >> 4),
    "plain.pgm": (pnm(GREY >> 4, 4095, plain=True), GREY >> 4),
    "colour.ppm": (pnm(COLOUR, 65535), COLOUR),
    "ten.ppm": (pnm(COLOUR >> 6, 1023), COLOUR >> 6),
    "plain.ppm": (pnm(COLOUR, 65535, plain=True), COLOUR),
}


@pytest.mark.parametrize("name", FILES)
def test_deep_values_are_exact(tmp_path: Path, name: str) -> None:
    content, wanted = FILES[name]
    options = {"compression": "tiff_adobe_deflate"} if isinstance(content, Image.Image) else {}
    image = opened(write(tmp_path, name, content, **options))
    found = image.values if wanted.ndim == 3 else image.values[..., 0]
    np.testing.assert_array_equal(found, wanted)
    assert (found.dtype, image.alpha, image.size) == (wanted.dtype, None, (56, 40))


@pytest.mark.parametrize("make", [png, tiff, lambda pixels: pnm(pixels, 65535)], ids=["png", "tiff", "ppm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_low_byte_counts(tmp_path: Path, make: Any, channels: int) -> None:
    """All values share their high byte; a narrow range spreads the low one over black to white."""
    low = EIGHT[..., 0] if channels == 1 else EIGHT
    path = write(tmp_path, "a.png", make(low.astype(np.uint16) + np.uint16(0x1200)))
    narrow = padim.PadimConfig(image_size=SIZE, crop_size=SIZE, value_range=(0x1200, 0x12FF))
    wanted = np.dstack([low] * 3) if channels == 1 else low
    np.testing.assert_array_equal(read_image(path, narrow), wanted)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_values_are_resized_before_they_are_rounded(tmp_path: Path, interpolation: Any) -> None:
    path = write(tmp_path, "a.tif", tiff(COLOUR))
    config = padim.PadimConfig(
        image_size=(20, 30), crop_size=(20, 30), value_range=(-1e5, 1e5), interpolation=interpolation
    )
    method = getattr(Image.Resampling, interpolation.upper())
    mapped = (255 * (COLOUR.astype(np.float64) + 1e5) / 2e5).astype(np.float32)
    planes = [Image.fromarray(mapped[..., channel]).resize((30, 20), method) for channel in range(3)]
    np.testing.assert_array_equal(
        read_image(path, config), np.rint(np.dstack([np.asarray(plane) for plane in planes])).astype(np.uint8)
    )


def test_overshoot_of_cubics_is_clamped(tmp_path: Path) -> None:
    steps = np.where(np.arange(56) % 8 < 4, 0, 65535).astype(np.uint16) * np.ones((40, 1), np.uint16)
    path = write(tmp_path, "a.png", png(steps))
    config = padim.PadimConfig(image_size=(80, 120), crop_size=SIZE, value_range=(0, 65535), interpolation="bicubic")
    found = read_image(path, config)
    assert (found.min(), found.max()) == (0, 255)
    assert not (found[:, 1:].astype(int) - found[:, :-1]).__abs__().max() > 200  # no wrapping round


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["grey.png", "colour.png", "grey.tif", "colour.tif", "eight.png", "eight.tif"])
def test_orientation(tmp_path: Path, orientation: int, name: str) -> None:
    pixels = EIGHT if name.startswith("eight") else GREY if name.startswith("grey") else COLOUR
    turns = {  # what to do to the stored pixels, as the EXIF standard has it
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
    }  # fmt: skip
    if name.endswith("png"):
        path = write(tmp_path, name, png(pixels, before=chunk(b"eXIf", exif(orientation))))
    else:
        path = write(tmp_path, name, tiff(pixels, orientation))
    image = open_image(path)
    found = np.asarray(image) if isinstance(image, Image.Image) else image.values
    wanted = turns[orientation](pixels)
    np.testing.assert_array_equal(found, wanted if wanted.ndim == 3 else wanted[..., None])
    assert measure(path) == image.size


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(EIGHT).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: png(GREY), r"of its values lie outside the range fixed at fit, 0 to 4095 \(the highest is 65[45]\d\d\)"),
        (lambda: tiff(np.full(SIZE, -5.5, np.float32)), r"100 % of its values .* \(the lowest is -5\.5\); fit with a wider"),
        (lambda: png(EIGHT), r"8 bits a channel, the model is for values from 0 to 4095; give it as it came"),
        (lambda: tiff(np.where(GREY % 100 == 0, np.nan, GREY).astype(np.float32)), r"it holds \d+ NaN and 0 infinite among 2240"),
        (lambda: tiff(np.full(SIZE, np.inf, np.float32)), "it holds 0 NaN and 2240 infinite among 2240 values"),
        (lambda: pnm(GREY, 4095), r"it holds the value 65\d\d\d, its header says at most 4095"),
        (lambda: pnm(GREY, 65535)[:-1], "truncated"),
        (lambda: png(COLOUR)[:-200], "truncated"),
        (lambda: jpeg()[:170], "the file was cut short"),
        (lambda: tiff(COLOUR)[:-20], "truncated"),
        (lambda: tiff(np.dstack([COLOUR, GREY]), extra=1), "more than 8 bits a channel in the mode RGBa"),
        (lambda: tiff(EIGHT[..., 0].view(np.int8)), "signed 8-bit values"),
        (lambda: tiff(GREY.astype(np.float64)), "of a format or pixel type that is not supported"),
    ],
)  # fmt: skip
def test_refused_in_words(tmp_path: Path, make: Any, words: str) -> None:
    config = padim.PadimConfig(image_size=SIZE, crop_size=SIZE, value_range=(0, 4095))
    with pytest.raises(UnreadableImage, match=words):
        read_image(write(tmp_path, "a.tif", make()), config)


def test_share_outside_the_range(tmp_path: Path) -> None:
    pixels = np.zeros(SIZE, np.uint16)
    pixels[0, :28] = 5000
    config = padim.PadimConfig(image_size=SIZE, crop_size=SIZE, value_range=(0, 4095))
    with pytest.raises(UnreadableImage, match=r"^can't read .*: 1.25 % of its values .*highest is 5000"):
        read_image(write(tmp_path, "a.png", png(pixels)), config)


def test_deep_files_need_a_range(tmp_path: Path) -> None:
    eight = padim.PadimConfig(image_size=SIZE, crop_size=SIZE)
    with pytest.raises(UnreadableImage, match="more than 8 bits a channel, the model is for 8; fit on images of this"):
        read_image(write(tmp_path, "a.png", png(COLOUR)), eight)


def _film(folder: Path) -> Path:
    frames = [Image.fromarray(np.roll(EIGHT, index, 1)).convert("P") for index in range(3)]
    return write(folder, "b-film.gif", frames[0], save_all=True, append_images=frames[1:])


def test_notes_come_in_file_order(tmp_path: Path) -> None:
    config = padim.PadimConfig(image_size=SIZE, crop_size=SIZE)
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[:, :20] = 0
    alpha[:, 20:30] = 128
    glass = write(tmp_path, "a-glass.png", Image.fromarray(np.dstack([EIGHT, alpha])))
    plain = write(tmp_path, "c.png", Image.fromarray(EIGHT))
    paths = [glass, _film(tmp_path), plain]
    notes: list[tuple[Path, str]] = []
    (batch,) = load_batches(paths, config, 4, note=lambda path, text: notes.append((path, text)))
    assert batch.paths == paths
    assert notes == [(glass, "transparent pixels laid on black"), (paths[1], "first of 3 frames")]
    wanted = np.rint(EIGHT * (alpha[..., None] / 255))
    np.testing.assert_allclose(batch.images[0], wanted, atol=1)
    np.testing.assert_array_equal(batch.images[1], np.asarray(Image.fromarray(EIGHT).convert("P").convert("RGB")))
    refused: list[UnreadableImage] = []
    (alone,) = load_batches(paths, config, 4, refused.append)
    assert alone.paths == [plain]
    assert ["transparent" in refused[0].reason, "several frames" in refused[1].reason] == [True, True]


@pytest.mark.parametrize("make", ["png", "tiff", "key", "grey key"])
def test_deep_transparency_is_laid_on_black(tmp_path: Path, make: str) -> None:
    """Black is the low end of the range, and values that nobody can see may lie outside it."""
    alpha = np.full(SIZE, 65535, np.uint16)
    alpha[:4] = 0
    values = np.where(alpha[..., None] > 0, np.uint16(2000), np.uint16(9)) * np.ones(3, np.uint16)
    rgba = np.dstack([values, alpha])
    content = {
        "png": lambda: png(rgba),
        "tiff": lambda: tiff(rgba, extra=2),
        "key": lambda: png(values, before=chunk(b"tRNS", bytes([0, 9] * 3))),
        "grey key": lambda: png(values[..., 0], before=chunk(b"tRNS", bytes([0, 9]))),
    }[make]()
    path = write(tmp_path, "a.png", content)
    config = padim.PadimConfig(image_size=SIZE, crop_size=SIZE, value_range=(1000, 2000))
    notes: list[str] = []
    found = read_image(path, config, note=lambda _, text: notes.append(text))
    assert notes == ["transparent pixels laid on black"]
    np.testing.assert_array_equal(
        found, np.where(alpha[..., None] > 0, np.uint8(255), np.uint8(0)) * np.ones(3, np.uint8)
    )
    with pytest.raises(UnreadableImage, match="transparent pixels"):
        read_image(path, config)


def test_palette_transparency(tmp_path: Path) -> None:
    config = padim.PadimConfig(image_size=SIZE, crop_size=SIZE)
    palette = Image.fromarray(EIGHT).quantize(16)
    index = np.asarray(palette)
    path = write(tmp_path, "a.png", palette, transparency=3)
    notes: list[str] = []
    found = read_image(path, config, note=lambda _, text: notes.append(text))
    np.testing.assert_array_equal(
        found, np.where(index[..., None] == 3, np.uint8(0), np.asarray(palette.convert("RGB")))
    )
    assert notes == ["transparent pixels laid on black"]
