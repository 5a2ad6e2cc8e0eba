"""A folder of files that no program should trip over, each with what must be said of it."""

import gzip
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.image_files import chunk, exif, png, png_header, tiff

_RNG = np.random.default_rng(5)
_PIXELS = _RNG.integers(0, 256, (40, 56, 3), np.uint8)
_DEEP = _RNG.integers(0, 65536, (40, 56, 3), np.uint16)
_FLOATS = _PIXELS[..., 0].astype(np.float32)
TRUNCATED = "truncated|broken|damaged|decod|could not|-2|bytes"


def _saved(kind: str, pixels: np.ndarray = _PIXELS, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _png_of(width: int, height: int, data: bytes = b"tiny") -> bytes:
    return png_header(width, height) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _bomb(kind: bytes) -> bytes:
    """Text of 64 MiB that takes some kilobytes."""
    text = zlib.compress(bytes(2**26), 9)
    return chunk(kind, b"t\0\0" + text if kind == b"zTXt" else b"t\0\1\0\0\0" + text)


def _announcing(content: bytes, kind: bytes, length: int) -> bytes:
    """A PNG one of whose parts says that it is longer than it is."""
    place = content.index(kind) - 4
    return content[:place] + struct.pack(">I", length) + content[place + 4 :]


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _gif(width: int, height: int, frame: tuple[int, int] | None) -> bytes:
    """Header of this size with a frame of another, or none."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    picture = b"" if frame is None else b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\0"
    return head + picture + b";"


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + b"tiny"


def _jpeg_of(width: int, height: int) -> bytes:
    whole = _saved("JPEG")
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + struct.pack(">HH", height, width) + whole[place + 4 :]


def _spotted(value: float) -> np.ndarray:
    return np.where(np.arange(40 * 56).reshape(40, 56) == 99, np.float32(value), _FLOATS)


_PNG, _JPEG, _GIF, _WEBP, _BMP = (_saved(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"))
_TIFF = tiff(_PIXELS)
_LZW = _saved("TIFF", compression="tiff_lzw")

# content by name, with a pattern of the reason that must be given
BAD: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "no image"),
    "empty.tif": (b"", "no image"),
    "one-byte.jpg": (b"\xff", "no image"),
    "text.png": (b"just text\n" * 99, "no image"),
    "zeros.bmp": (bytes(5000), "no image"),
    "noise.jpg": (_RNG.bytes(5000), "no image"),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="56" height="40"/>', "no image"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(600), "no image"),
    "page.png": (b"<!doctype html><title>404 Not Found</title>", "no image"),
    "packed.png": (gzip.compress(_PNG), "no image"),
    "archive.png": (b"PK\3\4" + bytes(200), "no image"),
    "signature.png": (_PNG[:8], "no image|truncated|damaged"),
    "cut.png": (_PNG[:2000], TRUNCATED),
    "cut.jpg": (_JPEG[:900], TRUNCATED),
    "cut.gif": (_GIF[:1200], TRUNCATED),
    "cut.webp": (_WEBP[: len(_WEBP) // 2], "no image|" + TRUNCATED),
    "cut.bmp": (_BMP[:2000], TRUNCATED),
    "cut.tif": (_TIFF[:2000], TRUNCATED),
    "cut-lzw.tif": (_LZW[: len(_LZW) // 2], "no image|" + TRUNCATED),
    "cut.ppm": (b"P6 56 40 255\n" + bytes(100), TRUNCATED),
    "cut-deep.ppm": (b"P6 56 40 65535\n" + bytes(100), TRUNCATED),
    "cut-deep.png": (png(_DEEP)[:4000], TRUNCATED),
    "cut-deep.tif": (tiff(_DEEP)[:4000], TRUNCATED),
    "checksum.png": (png(_PIXELS, damage=1), "wrong checksum in its IDAT"),
    "checksum-deep.png": (png(_DEEP, damage=1), "wrong checksum in its IDAT"),
    "checksum-header.png": (_flipped(_PNG, 30), "no image|checksum"),
    "flipped.png": (_flipped(_PNG, len(_PNG) // 2), "wrong checksum"),
    "text-bomb.png": (png(_PIXELS, before=_bomb(b"zTXt")), "unpacks to far more than it should; save it without"),
    "itxt-bomb.png": (png(_PIXELS, before=_bomb(b"iTXt")), "unpacks to far more than it should; save it without"),
    "late-bomb.png": (png(_PIXELS, after=_bomb(b"zTXt")), "unpacks to far more than it should; save it without"),
    "profile-bomb.png": (
        png(_PIXELS, before=chunk(b"iCCP", b"t\0\0" + zlib.compress(bytes(2**26)))),
        "unpacks to far more than it should; save it without",
    ),
    "announcing.png": (_announcing(_PNG, b"IDAT", 0xFF000000), "its IDAT part announces 4278190080 bytes"),
    "announcing-deep.png": (_announcing(png(_DEEP), b"IDAT", 0xFF000000), "its IDAT part announces 4278190080 bytes"),
    "announcing-text.png": (
        _announcing(png(_PIXELS, before=chunk(b"tEXt", b"a\0b")), b"tEXt", 2**31),
        "its tEXt part announces 2147483648 bytes",
    ),
    "pixel-bomb.png": (_png_of(9400, 9400, bytes(2**22)), TRUNCATED),
    "huge.png": (_png_of(10000, 10000), "it has 100 megapixels, wanted at most 89; scale it down or cut it"),
    "monstrous.png": (_png_of(2**31 - 1, 2**31 - 1), r"\d+ megapixels, wanted at most 89"),
    "huge.jpg": (_jpeg_of(65500, 65500), "4290 megapixels, wanted at most 89"),
    "tall.jpg": (_jpeg_of(1500, 65500), "98 megapixels, wanted at most 89"),
    "huge.bmp": (_bmp_header(30000, 30000), "900 megapixels"),
    "huge.gif": (_gif(65535, 65535, (56, 40)), "4295 megapixels"),
    "huge-frame.gif": (_gif(56, 40, (12000, 12000)), "144 megapixels"),
    "huge.tif": (tiff(_PIXELS, t256=60000, t257=60000), "3600 megapixels"),
    "huge.ppm": (b"P6 20000 20000 255\n" + bytes(100), "400 megapixels"),
    "wide.png": (_png_of(9000, 9000), TRUNCATED),
    "flat.png": (_png_of(0, 40), "no image|damaged|size"),
    "negative.bmp": (_bmp_header(-56, 40), "megapixels|no image"),
    "no-frames.gif": (_gif(56, 40, None), "no image|frame"),
    "dot.png": (_saved("PNG", _PIXELS[:1, :1]), "1×1 pixels, smaller than the crop of 48×32"),
    "line.png": (_saved("PNG", _PIXELS[:1]), "56×1 pixels, smaller than the crop"),
    "deep.png": (png(_DEEP), "more than 8 bits a channel, the model is for 8"),
    "deep.tif": (tiff(_DEEP), "more than 8 bits a channel, the model is for 8"),
    "nan.tif": (tiff(_spotted(np.nan)), "1 NaN and 0 infinite among 2240 values"),
    "inf.tif": (tiff(_spotted(np.inf)), "0 NaN and 1 infinite among 2240 values"),
    "doubles.tif": (tiff(_FLOATS.astype(np.float64)), "pixel type that is not supported"),
    "lost-directory.tif": (b"II*\0" + struct.pack("<I", 2**31) + bytes(100), "no image|damaged"),
    "directory-in-header.tif": (b"II*\0" + struct.pack("<I", 0) + bytes(100), "no image|damaged"),
    "cyclic.tif": (tiff(_PIXELS[:20, :20], next_offset=8), "20×20 pixels, smaller|cyclic|frames"),
    "strip-beyond.tif": (tiff(_PIXELS, t273=10**9), TRUNCATED),
    "all-tags.tif": (b"II*\0" + struct.pack("<IH", 8, 65535) + b"\xff" * 786420, "no image|damaged"),
}


def write_bad(folder: Path) -> dict[str, str]:
    """The files above, and those that are no plain files; gives the reasons' patterns by name."""
    patterns = {}
    for name, (content, pattern) in BAD.items():
        (folder / name).write_bytes(content)
        patterns[name] = pattern
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    patterns |= {"dangling.png": "No such file", "loop.png": "symbolic links|loop"}
    with (folder / "sparse.png").open("wb") as stream:
        stream.truncate(3 * 2**30)
    patterns["sparse.png"] = "3.0 GiB, wanted at most 2"
    if os.geteuid() != 0:  # whom nothing is forbidden
        (folder / "forbidden.png").write_bytes(_PNG)
        (folder / "forbidden.png").chmod(0)
        patterns["forbidden.png"] = "Permission denied"
    return patterns


def write_good(folder: Path) -> set[str]:
    """Files that look odd and are images all the same; gives their names."""
    absurd = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 400) + b"\xff\xfe\xfd" * 20
    good = {
        "good.png": _PNG,
        "jpeg-inside.png": _JPEG,
        "absurd-exif.jpg": _JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(absurd) + 2) + absurd + _JPEG[2:],
        "absurd-orientation.png": png(_PIXELS, before=chunk(b"eXIf", exif(999))),
        "film.gif": _gif_film(),
        "cyclic-of-size.tif": tiff(_PIXELS, next_offset=8),
    }
    for name, content in good.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.png").write_bytes(_PNG)
    return {*good, "folder.png/inside.png"}


def _gif_film() -> bytes:
    frames = [Image.fromarray(np.roll(_PIXELS, index, 1)) for index in range(12)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()
