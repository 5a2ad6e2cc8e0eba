"""The parts (chunks) of a PNG, checked against the file before any decoder trusts them."""

import struct
import zlib
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_PARTS = 2**20


def check_parts(stream: BinaryIO, *, pixels: bool) -> None:
    """Refuse a PNG that has a part longer than the rest of the file; the stream stays where it is.

    Decoders allocate as much as a part announces: OpenCV took 4 GiB for a file of 460 bytes.

    Args:
      stream: the file.
      pixels: whether the pixels are to be decoded; else only the parts before them are checked.

    Raises:
      ValueError: such a part, or millions of them; other files than PNG pass.
    """
    start = stream.tell()
    if stream.read(len(_SIGNATURE)) == _SIGNATURE:
        position, end = stream.tell(), stream.seek(0, 2)
        for _ in range(_MOST_PARTS):
            stream.seek(position)
            head = stream.read(8)
            if len(head) < 8 or head == b"\0\0\0\0IEND":
                break
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IDAT" and not pixels:
                break
            if position + 12 + length > end:
                raise ValueError(
                    f"truncated or damaged: its {_name(kind)} part announces {length} bytes, "
                    f"{max(end - position - 12, 0)} are left in the file"
                )
            position += 12 + length
        else:
            raise ValueError(f"damaged: it has more than {_MOST_PARTS} parts")
    stream.seek(start)


def check_sums(content: bytes) -> None:
    """Compare a PNG's checksums; Pillow skips those of the pixels.

    Raises:
      ValueError: a wrong one.
    """
    position = len(_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if zlib.crc32(memoryview(content)[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ValueError(f"damaged: wrong checksum in its {_name(kind)} part")
        if kind == b"IEND":
            return
        position = end + 4


def _name(kind: bytes) -> str:
    return repr(kind)[2:-1]
