"""Frames of videos by their numbers, in one pass over a video where the numbers ascend."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from padim_jax.data.video import UnreadableVideo, decode_frames
from padim_jax.line.sources.source import stamp_of


class Frames:
    """Reads frames of videos, each by its number.

    The video stays open at the frame that was read last, so that frames which are asked for one by one, in their order,
    cost one pass. A lower number, another video, or one that was changed since begins another.
    """

    def __init__(self) -> None:
        self._pass: _Pass | None = None

    def read(self, path: Path, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """The frame of a number from 0, RGB.

        Raises:
          ModuleNotFoundError: PyAV is not installed.
          UnreadableVideo: no video, a damaged one, or one of fewer frames.
        """
        stamp = stamp_of(path)
        if self._pass is None or (self._pass.path, self._pass.stamp) != (path, stamp) or number < self._pass.number:
            self._pass = _Pass(path, stamp, decode_frames(path))
        return self._pass.until(number)

    def close(self) -> None:
        """Let go of the video, which is open from one frame to the next."""
        self._pass = None


@dataclass
class _Pass:
    """A pass over a video; ``number`` is that of ``frame``, the last one, and ``end`` says why none follows."""

    path: Path
    stamp: str
    frames: Iterator[tuple[float, Any]]
    number: int = -1
    frame: Any = None
    end: str = ""

    def until(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        while self.number < number and not self.end:
            try:
                _, self.frame = next(self.frames)
                self.number += 1
            except StopIteration:
                self.end = f"it has {self.number + 1} frames"
            except UnreadableVideo as error:
                self.end = error.reason
        if self.number < number:
            raise UnreadableVideo(self.path, f"{self.end}, wanted frame {number}, counted from 0")
        return self.frame.to_ndarray(format="rgb24")
