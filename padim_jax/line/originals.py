"""The image of a decision, read again from where it came."""

from pathlib import Path

import numpy as np

from padim_jax.data.video import read_frames
from padim_jax.images import UnreadableImage
from padim_jax.images.decode import read_file
from padim_jax.line.judge import Photo
from padim_jax.line.records import Decision
from padim_jax.line.sources.camera import is_camera
from padim_jax.line.sources.lines import STANDARD_INPUT
from padim_jax.line.sources.video import frame_number


def read_original(decision: Decision) -> Photo:
    """The image that lies now where that of a decision lay; whether it is the same, its digest tells.

    Raises:
      UnreadableImage: the file is gone, or it was a camera's frame, which lies nowhere.
      UnreadableVideo: the video is gone or damaged.
      ModuleNotFoundError: a frame of a video, and PyAV is not installed.
    """
    if is_camera(decision.source):
        raise UnreadableImage(decision.item, "a camera's frame, which is kept nowhere else")
    number = frame_number(decision.item)
    if number is not None and Path(decision.source).is_file():
        (frame,) = read_frames(Path(decision.source), [number])
        return Photo(decision.source, decision.item, Path(decision.source), pixels=np.asarray(frame))
    path = Path(decision.item) if decision.source == STANDARD_INPUT else Path(decision.source, decision.item)
    return Photo(decision.source, decision.item, path, content=read_file(path))
