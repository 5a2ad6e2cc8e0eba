"""Frames of video files, by PyAV (``pip install 'padim-jax[video]'``)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from padim_jax.lazy import extra

_EMPTY_PACKET = 19  # bytes of the largest packet of MPEG-4 that may hold no picture (FFmpeg's MAX_NVOP_SIZE)
_RATE = 25.0  # frames a second of a video that names neither times nor a rate


class UnreadableVideo(ValueError):
    """A file that can't be decoded as a video; holds its ``path`` and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"can't read {path}: {reason}")


def announced_seconds(path: Path) -> float:
    """How long the header of a video says that its frames last; 0 where it says nothing.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
      UnreadableVideo: no video, or one whose frames are too large.
    """
    av = import_av()
    try:
        with av.open(os.path.abspath(path), options=_limits()) as container:
            stream = open_stream(container)
            ticks = max(stream.duration or 0, stream.frames)  # of an AVI that was cut, the duration is a guess
            return max(float(ticks * (stream.time_base or 0)), (container.duration or 0) / av.time_base)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideo(path, in_words(error)) from error


def count_frames(path: Path) -> int:
    """How many frames the video decodes to.

    The header's count is taken where the packets confirm it. Otherwise all frames are decoded, as they are where
    there are B-frames (an AVI's packet may hold two) or packets too small to hold a picture.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
      UnreadableVideo: no video, or a damaged one.
    """
    av = import_av()
    try:
        with av.open(os.path.abspath(path), options=_limits()) as container:
            stream = open_stream(container)
            sizes = [packet.size for packet in container.demux(stream) if packet.size]
            plain = not stream.codec_context.has_b_frames and all(size > _EMPTY_PACKET for size in sizes)
            if plain and len(sizes) == stream.frames:
                return stream.frames
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideo(path, in_words(error)) from error
    return sum(1 for _ in decode_frames(path))


def decode_frames(path: Path) -> Iterator[tuple[float, Any]]:
    """All frames in the order in which they are shown, as PyAV has them, each with its time.

    Times are in seconds since the first frame, as the file has them, so frames may lie at any distance. Where it has
    none, they follow from the number of the frame and the average rate.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
      UnreadableVideo: no video; damaged, or frames too large, from some frame on.
    """
    av, start = import_av(), 0.0
    try:
        with av.open(os.path.abspath(path), options=_limits()) as container:
            stream = open_stream(container)
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or _RATE)
            for number, frame in enumerate(container.decode(stream)):
                time = number / rate if frame.time is None else float(frame.time)
                start = time if number == 0 else start
                yield time - start, frame
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideo(path, in_words(error)) from error


def read_frames(path: Path, indices: Sequence[int]) -> Iterator[Image.Image]:
    """RGB frames by number from 0; ``indices`` ascend. Decoding stops after the last.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
      UnreadableVideo: no video, a damaged one, or one of fewer frames.
    """
    remaining = iter(indices)
    next_index, count = next(remaining, None), 0
    frames = decode_frames(path)
    while next_index is not None:
        _, frame = next(frames, (0.0, None))
        if frame is None:
            raise UnreadableVideo(path, f"it has {count} frames, wanted frame {next_index}, counted from 0")
        if count == next_index:
            yield frame.to_image()
            next_index = next(remaining, None)
        count += 1


def open_stream(container: Any) -> Any:
    """The first video stream of a container of PyAV, which decodes no frame larger than images may be.

    Raises:
      ValueError: there is none, or it announces larger frames; the message does not name the container.
    """
    if not container.streams.video:
        raise ValueError("it has no video stream")
    stream, most = container.streams.video[0], Image.MAX_IMAGE_PIXELS
    if most is not None:
        pixels = (stream.width or 0) * (stream.height or 0)  # 0: FFmpeg was told not to look at larger ones
        if not 0 < pixels <= most:
            raise ValueError(f"its frames have no size, or more than {most / 1e6:.0f} megapixels; scale it down")
        stream.codec_context.options = {"max_pixels": str(most)}  # its frames may become larger on the way
    return stream


def in_words(error: Exception) -> str:
    """What an error of PyAV says, without the address, which may hold a password."""
    return str(getattr(error, "strerror", None) or error)


def import_av() -> ModuleType:
    """PyAV.

    Raises:
      ModuleNotFoundError: with the extra that brings it.
    """
    with extra("video"):
        import av
    return av


def _limits() -> dict[str, str]:
    """Options for a file: what it names is read from files alone, and looking at it takes no giant frame."""
    most = Image.MAX_IMAGE_PIXELS
    return {"protocol_whitelist": "file"} | ({} if most is None else {"max_pixels": str(most)})
