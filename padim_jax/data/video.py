"""Frames of video files, by PyAV (``pip install 'padim-jax[video]'``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from PIL import Image

from padim_jax.lazy import extra

_EMPTY_PACKET = 19  # bytes of the largest packet of MPEG-4 that may hold no picture (FFmpeg's MAX_NVOP_SIZE)


class UnreadableVideo(ValueError):
    """A file that can't be decoded as a video; holds its ``path``."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"can't read {path}: {reason}")


def count_frames(path: Path) -> int:
    """How many frames the video decodes to.

    The header's count is taken where the packets confirm it. Otherwise all frames are decoded, as they are where
    there are B-frames (an AVI's packet may hold two) or packets too small to hold a picture.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
      UnreadableVideo: no video, or a damaged one.
    """
    av = _import_av()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            sizes = [packet.size for packet in container.demux(stream) if packet.size]
            plain = not stream.codec_context.has_b_frames and all(size > _EMPTY_PACKET for size in sizes)
            if plain and len(sizes) == stream.frames:
                return stream.frames
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            return sum(1 for _ in container.decode(stream))
    except (av.FFmpegError, IndexError) as error:  # IndexError: no video stream
        raise UnreadableVideo(path, str(error)) from error


def read_frames(path: Path, indices: Sequence[int]) -> Iterator[Image.Image]:
    """RGB frames by number from 0; ``indices`` ascend. Decoding stops after the last.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
      UnreadableVideo: no video, a damaged one, or one of fewer frames.
    """
    av = _import_av()
    remaining = iter(indices)
    next_index = next(remaining, None)
    index = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = iter(container.decode(stream))
            while next_index is not None and (frame := next(frames, None)) is not None:
                if index == next_index:
                    yield frame.to_image()
                    next_index = next(remaining, None)
                index += 1
    except (av.FFmpegError, IndexError) as error:
        raise UnreadableVideo(path, str(error)) from error
    if next_index is not None:
        raise UnreadableVideo(path, f"it has {index} frames, wanted frame {next_index}, counted from 0")


def _import_av() -> ModuleType:
    with extra("video"):
        import av
    return av
