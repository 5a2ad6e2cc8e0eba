"""The images of decisions, read again from where they came."""

from pathlib import Path

from padim_jax.images import UnreadableImage
from padim_jax.images.decode import read_file
from padim_jax.line.frames import Frames
from padim_jax.line.judge import Photo
from padim_jax.line.records import Decision
from padim_jax.line.sources.camera import is_camera
from padim_jax.line.sources.lines import STANDARD_INPUT
from padim_jax.line.sources.video import frame_number


class Originals:
    """Reads images of decisions; the frames of a video in one pass, where decisions come in their order."""

    def __init__(self) -> None:
        self._frames = Frames()

    def read(self, decision: Decision) -> Photo:
        """The image that lies now where that of a decision lay; whether it is the same, its digest tells.

        Raises:
          UnreadableImage: the file is gone, or it was a camera's frame, which lies nowhere.
          UnreadableVideo: the video is gone or damaged.
          ModuleNotFoundError: a frame of a video, and PyAV is not installed.
        """
        if is_camera(decision.source):
            raise UnreadableImage(decision.item, "a camera's frame, which is kept nowhere else")
        number, source = frame_number(decision.item), Path(decision.source)
        if number is not None and source.is_file():
            return Photo(decision.source, decision.item, source, pixels=self._frames.read(source, number))
        path = Path(decision.item) if decision.source == STANDARD_INPUT else source / decision.item
        return Photo(decision.source, decision.item, path, content=read_file(path))

    def close(self) -> None:
        """Let go of a video that is still open."""
        self._frames.close()
