"""A file takes no more memory or time than what it truly holds, whatever it announces."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim_jax.images import UnreadableImage
from padim_jax.images.decode import open_header, open_image
from padim_jax.images.frames import MOST_COUNTED, count_frames
from padim_jax.images.image import measure, open_mask
from padim_jax.images.survey import survey
from padim_jax.images.values import find_value_range
from tests.hostile_files import BAD
from tests.image_files import chunk, exif, png, png_header, tiff

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257


@pytest.mark.parametrize("name", ["announcing.png", "announcing-deep.png", "announcing-text.png"])
def test_every_reader_refuses_a_png_that_announces_more_than_it_has(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name][0])
    for read in (open_image, lambda path: open_mask(path, None, (56, 40))):
        with pytest.raises(UnreadableImage, match=BAD[name][1]):
            read(path)
    told: list[UnreadableImage] = []
    assert list(survey([path], told.append)) == []
    if name != "announcing.png":  # an 8-bit one whose pixels nobody has to decode for it
        assert find_value_range([path], told.append) is None
    assert {error.path for error in told} == {path}


def test_a_header_is_read_without_what_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BAD["announcing.png"][0])
    assert measure(path) == (56, 40)
    path.write_bytes(BAD["announcing-text.png"][0])
    with io.BytesIO(path.read_bytes()) as stream, pytest.raises(UnreadableImage, match="tEXt part announces"):
        open_header(path, stream)
    with pytest.raises(UnreadableImage, match="tEXt part announces"):
        measure(path)


def test_a_png_cut_at_any_byte_is_refused_or_whole(tmp_path: Path) -> None:
    """Only what comes after the pixels' checksum may be missing."""
    whole = png(PIXELS[:3, :4], after=chunk(b"tEXt", b"a\0b"))
    pixels = Image.open(io.BytesIO(whole)).tobytes()
    taken = []
    for length in range(len(whole)):
        with contextlib.suppress(UnreadableImage):
            image = open_image(tmp_path / "a.png", whole[:length])
            assert isinstance(image, Image.Image)
            assert image.tobytes() == pixels
            taken.append(length)
    assert min(taken) == whole.index(b"tEXt") - 4


def _overlapping(tags: int, size: int) -> bytes:
    """A TIFF directory, as of EXIF, whose entries are all the same ``size`` bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + index, 7, size, 8) for index in range(tags))
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4) + bytes(size)


def _hostile() -> dict[str, bytes]:
    jpeg, webp = (io.BytesIO() for _ in range(2))
    Image.fromarray(PIXELS).save(jpeg, "JPEG")
    Image.fromarray(PIXELS).save(webp, "WEBP")
    canvas = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\0\xfe\x3f\0" + webp.getvalue()[12:]
    bmp = struct.pack("<IiiHHIIiiII", 40, 80_000, 1000, 1, 8, 1, 12, 0, 0, 256, 0) + bytes(1024) + b"\0\2\xff\xff" * 3
    many = _overlapping(2000, 400_000)
    parts = [many[at : at + 65000] for at in range(0, len(many), 65000)]
    return {
        "text.png": BAD["announcing-text.png"][0],
        "pixels.png": BAD["announcing.png"][0],
        "deep.png": BAD["announcing-deep.png"][0],
        "tiny.png": png_header(9000, 9000) + chunk(b"IDAT", zlib.compress(b"x")) + chunk(b"IEND", b""),
        "exif.png": png(PIXELS, before=chunk(b"eXIf", many)),
        "exif.jpg": jpeg.getvalue()[:2]
        + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
        + jpeg.getvalue()[2:],
        "canvas.webp": b"RIFF" + struct.pack("<I", len(canvas)) + canvas,
        "runs.bmp": b"BM" + struct.pack("<IHHI", 2000, 0, 0, 1078) + bmp,
        "tags.tif": many,
        "plain.ppm": b"P3 9000 9000 65535\n" + b"1 " * 2_000_000,
        "binary.ppm": b"P6 9000 9000 65535\n" + bytes(100),
        **{
            f"{what}-{compression}-{kind}.tif": tiff(pixels, t259=compression, **changed)
            for compression in (1, 5, 8)
            for kind, pixels in (("8", PIXELS), ("16", DEEP))
            for what, changed in (
                ("count", {"t279": 0xFFFFFFF0}),
                ("tile", {"t322": 2**15, "t323": 2**15, "t324": 400, "t325": 5000}),
                ("channels", {"t277": 60000}),
            )
        },
    }


def test_no_hostile_header_takes_memory(tmp_path: Path) -> None:
    """Each in a process of its own is told what it takes beyond what the imports took; 89 megapixels are announced at most."""
    for name, content in _hostile().items():
        (tmp_path / name).write_bytes(content)
    code = """if True:
        import pathlib, resource, sys
        import cv2
        from padim_jax.images import UnreadableImage
        from padim_jax.images.decode import open_image
        from padim_jax.images.image import measure
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            before = peak()
            for read in (measure, lambda path: open_image(path, note=lambda path, text: None)):
                try:
                    read(path)
                except UnreadableImage:
                    pass
            announced = 80 * 4 if path.name == "runs.bmp" else 0
            if peak() > before + 40 + announced:
                print(path.name, peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-500:]


def _pages(count: int, more: int = 0) -> bytes:
    """A TIFF of ``count`` directories that share one image's pixels."""
    one = tiff(PIXELS, next_offset=0)
    directory = one[8 : 8 + 2 + 12 * struct.unpack_from("<H", one, 8)[0]]
    content = bytearray(one)
    link = 8 + len(directory)
    for index in range(1, count):
        content[link : link + 4] = struct.pack("<I", len(content))
        link = len(content) + len(directory)
        content += directory + struct.pack("<I", more if index == count - 1 else 0)
    return bytes(content)


def test_pages_are_not_counted_for_ever(tmp_path: Path) -> None:
    (tmp_path / "book.tif").write_bytes(_pages(60_000))
    (tmp_path / "leaflet.tif").write_bytes(_pages(3))
    with Image.open(tmp_path / "leaflet.tif") as opened:
        assert (getattr(opened, "n_frames", 1), count_frames(opened)) == (3, 3)
    notes: list[str] = []
    begin = time.perf_counter()
    for name in ("book.tif", "leaflet.tif"):
        image = open_image(tmp_path / name, note=lambda _, text: notes.append(text))
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert notes == ["first of 100 frames or more", "first of 3 frames"]
    (facts,) = survey([tmp_path / "book.tif"], lambda error: None, decode=False)
    assert facts.frames == MOST_COUNTED
    assert time.perf_counter() - begin < 3


def test_frames_are_counted_as_pillow_does(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, index, 1)) for index in range(5)]
    for count in (1, 2, 5):
        for kind, options in (
            ("GIF", {"comment": b"x" * 700}),
            ("TIFF", {}),
            ("TIFF", {"big_tiff": True}),
            ("PNG", {}),
            ("WEBP", {}),
        ):
            path = tmp_path / f"film-{count}.{kind}"
            frames[0].save(path, kind, save_all=True, append_images=frames[1:count], **options)
            with Image.open(path) as opened:
                assert count_frames(opened) == count, kind
                opened.load()
                assert getattr(opened, "n_frames", 1) == count


def test_a_turned_png_with_a_lying_tail_is_refused(tmp_path: Path) -> None:
    content = png(PIXELS, before=chunk(b"eXIf", exif(6)))[:-12] + struct.pack(">I", 2**31) + b"tEXt" + os.urandom(9)
    with pytest.raises(UnreadableImage, match="its tEXt part announces 2147483648 bytes"):
        open_image(tmp_path / "a.png", content)
