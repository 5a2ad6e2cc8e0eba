"""Finding and reading images: fixed order, nothing made up, nothing passed over in silence."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.images import UnreadableImage, find_images, load_batches, read_image
from padim_jax.images.folder import describe

CONFIG = padim.PadimConfig(image_size=(40, 56), crop_size=(32, 48))
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
CROPPED = PIXELS[4:36, 4:52]


def write(folder: Path, name: str, image: Image.Image | bytes, **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, **options)
    return path


def test_finds_recursively_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "a.png", "c/deep/x.tif", "notes.txt", ".hidden.png", "b/readme", "z.bmp"):
        write(tmp_path, name, b"")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = find_images([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == [
        "a.png", "b/1.JPG", "b/2.png", "c/deep/x.tif", "z.bmp",
    ]  # fmt: skip
    assert dict(found.ignored) == {".txt": 1, "hidden": 1, "": 1, "linked folder": 1}
    assert describe(found.ignored) == "1 without suffix, 1 .txt, 1 hidden, 1 linked folder"


def test_files_count_once_and_outright_names_are_taken(tmp_path: Path) -> None:
    a = write(tmp_path, "a.png", b"")
    odd = write(tmp_path, "odd.dat", b"")
    assert find_images([a, tmp_path, odd, a]).paths == (a, odd)
    write(tmp_path, "out/heatmaps/a.png", b"")
    assert find_images([tmp_path], exclude=tmp_path / "out").paths == (a,)


def test_paths_with_dots_count_once(tmp_path: Path) -> None:
    write(tmp_path, "good/a.png", b"")
    (tmp_path / "x").mkdir()
    assert len(find_images([tmp_path / "good", tmp_path / "x" / ".." / "good"]).paths) == 1


def test_eight_bit_ppm_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "a.ppm", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_image(path, CONFIG), CROPPED)


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no images in .*: no files at all; images end in \.bmp"):
        find_images([tmp_path])
    write(tmp_path, "a.txt", b"hello")
    write(tmp_path, "b.txt", b"hello")
    with pytest.raises(ValueError, match=r"found no images in .*: only 2 \.txt"):
        find_images([tmp_path])
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        find_images([tmp_path / "nowhere"])


def test_same_size_is_cropped_only(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_image(path, CONFIG), CROPPED)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_pillows(tmp_path: Path, interpolation) -> None:
    big = Image.fromarray(PIXELS).resize((111, 99))
    path = write(tmp_path, "a.png", big)
    config = padim.PadimConfig(image_size=(40, 56), crop_size=(32, 48), interpolation=interpolation)
    wanted = np.asarray(big.resize((56, 40), getattr(Image.Resampling, interpolation.upper())))[4:36, 4:52]
    np.testing.assert_array_equal(read_image(path, config), wanted)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK"])
def test_eight_bit_modes_are_taken(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    path = write(tmp_path, "a.tif" if mode == "CMYK" else "a.png", image)
    wanted = np.asarray(image.convert("RGB"))[4:36, 4:52]
    np.testing.assert_array_equal(read_image(path, CONFIG), wanted)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = write(tmp_path, "a.png", Image.fromarray(PIXELS[::-1, ::-1]), exif=exif)
    np.testing.assert_array_equal(read_image(path, CONFIG), CROPPED)


def _deep_colour_png(folder: Path) -> Path:
    """A 16-bit RGB PNG, which Pillow reads, clipped, but does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + b"\x12\x34" * 3 * 56 for _ in range(40))
    header = struct.pack(">IIBBBBB", 56, 40, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return write(folder, "deep.png", data)


def _truncated(folder: Path) -> Path:
    whole = write(folder, "whole.png", Image.fromarray(PIXELS))
    return write(folder, "cut.png", whole.read_bytes()[:2000])


def _animated(folder: Path) -> Path:
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])]
    return write(folder, "film.gif", frames[0], save_all=True, append_images=frames[1:])


def _transparent(folder: Path) -> Path:
    rgba = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 128, np.uint8)])
    return write(folder, "glass.png", Image.fromarray(rgba))


def _float(folder: Path) -> Path:
    return write(folder, "nan.tif", Image.fromarray(np.full((40, 56), np.nan, np.float32)))


def _sixteen_bit_grey(folder: Path) -> Path:
    return write(folder, "grey16.png", Image.fromarray(np.full((40, 56), 40000, np.uint16)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: write(t, "a.png", b""), "no image"),
        (lambda t: write(t, "a.png", b"just text"), "no image"),
        (lambda t: t / "missing.png", "No such file"),
        (_truncated, "truncated"),
        (_deep_colour_png, "more than 8 bits a channel, the model is for 8; fit on images of this depth"),
        (_sixteen_bit_grey, "more than 8 bits a channel"),
        (lambda t: write(t, "a.ppm", b"P6 56 40 65535\n" + bytes(56 * 40 * 6)), "more than 8 bits a channel"),
        (lambda t: write(t, "a.ppm", b"P6 56 40 1023\n" + bytes(56 * 40 * 6)), "more than 8 bits a channel"),
        (lambda t: write(t, "a.png", b"\x01\xda\x00\x02" + bytes(600)), "no image"),  # SGI, whose depth can't be told
        (_float, "2240 NaN and 0 infinite among 2240 values"),
        (lambda t: write(t, "f.tif", Image.fromarray(np.ones((40, 56), np.float32))), "more than 8 bits a channel"),
        (_transparent, "transparent pixels"),
        (_animated, "several frames"),
        (lambda t: write(t, "dot.png", Image.new("RGB", (1, 1))), r"1×1 pixels, smaller than the crop of 48×32"),
        (lambda t: write(t, "low.png", Image.new("RGB", (400, 31))), r"400×31 pixels, smaller than the crop"),
    ],
)
def test_unusable_files_are_named_with_the_reason(tmp_path: Path, make, words: str) -> None:
    path = make(tmp_path)
    with pytest.raises(UnreadableImage, match=words) as caught:
        read_image(path, CONFIG)
    assert caught.value.path == path
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_keep_order_and_leave_out_what_cannot_be_read(tmp_path: Path, batch_size: int) -> None:
    good = [write(tmp_path, f"{i}.png", Image.fromarray(np.roll(PIXELS, i))) for i in range(7)]
    bad = write(tmp_path, "2b.png", b"no image")
    paths = sorted([*good, bad])
    unreadable: list[UnreadableImage] = []
    batches = list(load_batches(paths, CONFIG, batch_size, unreadable.append))
    assert [path for batch in batches for path in batch.paths] == good
    assert all(len(batch.paths) == len(batch.images) == batch_size for batch in batches[:-1])
    assert all(size == (56, 40) for batch in batches for size in batch.sizes)
    found = [digest for batch in batches for digest in batch.digests]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest()[:32] for path in good]
    assert [error.path for error in unreadable] == [bad]
    for path, image in zip(good, np.concatenate([batch.images for batch in batches]), strict=True):
        np.testing.assert_array_equal(image, read_image(path, CONFIG))


def test_a_caller_may_stop_at_the_first_unreadable_file(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a.png", b"no image")]

    def stop(error: UnreadableImage) -> None:
        raise error

    with pytest.raises(UnreadableImage, match=os.fspath(paths[0])):
        list(load_batches(paths, CONFIG, 4, stop))
