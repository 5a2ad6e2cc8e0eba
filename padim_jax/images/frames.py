"""How many frames or pages a file holds, counted up to a limit."""

import struct
from typing import Any, BinaryIO

from PIL import ImageFile

MOST_COUNTED = 100


def count_frames(opened: ImageFile.ImageFile) -> int:
    """Frames or pages of an image, its pixels not decoded yet; a JPEG's preview does not count.

    At most ``MOST_COUNTED``: a GIF's or TIFF's frames have to be counted one by one, and a file may hold millions.
    """
    if opened.format not in ("GIF", "TIFF"):  # whose headers tell the number, if they can hold several at all
        return 1 if opened.format == "MPO" else min(getattr(opened, "n_frames", 1), MOST_COUNTED)
    stream: Any = opened.fp
    place = stream.tell()
    try:
        return max(1, _count_gif(stream) if opened.format == "GIF" else _count_tiff(stream))
    finally:
        stream.seek(place)


def frames_in_words(count: int) -> str:
    """A count in words, such as "12 frames"."""
    return f"{count} frames or more" if count == MOST_COUNTED else f"{count} frames"


def _count_tiff(stream: BinaryIO) -> int:
    """Directories along the chain, each once."""
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    is_big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    offset = struct.unpack_from(f"{order}Q", head, 8)[0] if is_big else struct.unpack_from(f"{order}I", head, 4)[0]
    counter, entry_size, pointer = (f"{order}Q", 20, f"{order}Q") if is_big else (f"{order}H", 12, f"{order}I")
    offsets: set[int] = set()
    while 0 < offset < 2**63 and offset not in offsets and len(offsets) < MOST_COUNTED:
        stream.seek(offset)
        count_bytes = stream.read(struct.calcsize(counter))
        if len(count_bytes) < struct.calcsize(counter):
            break
        entries = struct.unpack(counter, count_bytes)[0]
        if entries > 2**16:
            break
        stream.seek(entries * entry_size, 1)
        pointer_bytes = stream.read(struct.calcsize(pointer))
        offsets.add(offset)
        if len(pointer_bytes) < struct.calcsize(pointer):
            break
        offset = struct.unpack(pointer, pointer_bytes)[0]
    return len(offsets)


def _count_gif(stream: BinaryIO) -> int:
    """Image descriptors up to the end of the file or its trailer."""

    def skip_colours(flags: int) -> None:
        if flags & 0x80:
            stream.seek(3 << (flags & 7) + 1, 1)

    def skip_data() -> None:
        while size := stream.read(1):
            if size == b"\0":
                return
            stream.seek(size[0], 1)

    stream.seek(10)
    skip_colours(stream.read(3)[0])
    count = 0
    while count < MOST_COUNTED and (kind := stream.read(1)) and kind != b";":
        if kind == b"!":
            stream.seek(1, 1)
            skip_data()
        elif kind == b"," and len(descriptor := stream.read(9)) == 9:
            count += 1
            skip_colours(descriptor[8])
            stream.seek(1, 1)
            skip_data()
    return count
