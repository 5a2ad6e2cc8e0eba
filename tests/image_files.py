"""Image files written byte by byte: what Pillow reads but does not write, and what no program should write."""

import struct
import zlib

import numpy as np


def chunk(kind: bytes, body: bytes, damage: int = 0) -> bytes:
    """Part of a PNG; ``damage`` is added to its checksum."""
    checksum = (zlib.crc32(kind + body) + damage) & 0xFFFFFFFF
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png_header(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    """Signature and header chunk."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))


def png(pixels: np.ndarray, before: bytes = b"", after: bytes = b"", damage: int = 0) -> bytes:
    """PNG of uint8 or uint16 (height, width[, 1 to 4 channels]) with chunks before and after its pixels."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = png_header(pixels.shape[1], pixels.shape[0], 8 * pixels.dtype.itemsize, kind)
    return head + before + chunk(b"IDAT", data, damage) + after + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    """Body of an EXIF block that says one thing."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def tiff(
    pixels: np.ndarray, orientation: int = 1, extra: int | None = None, next_offset: int = 0, **changed: int
) -> bytes:
    """Uncompressed little-endian TIFF of any type; ``extra`` is what its fourth channel is (2: alpha).

    ``next_offset`` is where it says its next page is; ``changed`` are tags by number, as ``t256=10``.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    pages = {256: width, 257: height, 258: 8 * pixels.dtype.itemsize, 259: 1, 262: 2 if channels > 2 else 1}
    pages |= {273: 0, 274: orientation, 277: channels, 278: height, 279: pixels.nbytes}
    pages |= {} if extra is None else {338: extra}
    pages |= {339: {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]}
    end = 8 + 2 + 12 * len(pages) + 4
    repeated = {tag: struct.pack("<H", pages[tag]) * channels for tag in (258, 339) if channels > 2}
    places = {tag: end + 2 * channels * index for index, tag in enumerate(repeated)}
    pages[273] = end + sum(map(len, repeated.values()))
    pages |= {int(tag[1:]): value for tag, value in changed.items()}
    entries = b"".join(
        struct.pack("<HHII", tag, 3, channels, places[tag]) if tag in places else struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in pages.items()
    )
    directory = struct.pack("<H", len(pages)) + entries + struct.pack("<I", next_offset)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    return b"II*\0" + struct.pack("<I", 8) + directory + b"".join(repeated.values()) + data
