"""A video file: the frames that a trigger chooses, each once."""

import os
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from padim_jax.data.video import UnreadableVideo, announced_seconds, decode_frames
from padim_jax.line.backlog import Arrival
from padim_jax.line.seen import Seen
from padim_jax.line.sources.source import stamp_of
from padim_jax.line.sources.trigger import Trigger, shrink

_LAST = 2  # mean distances between frames that the last one may be shown for
_TOLERANCE = 0.5  # seconds by which sound may last longer
_ITEM = re.compile(r"frame-([0-9]{6,18})-[0-9]+\.[0-9]{3}s")


class Video:
    """The frames of a video file that a trigger chooses, which are the same at every start.

    Items are ``frame-NUMBER-SECONDSs``, with the number of the frame from 0 and its time since the first one.

    Args:
      path: of the file.
      seen: what needs no decision any more.
      trigger: chooses frames; it has seen none yet.
      model: name of the model whose decisions count there; None for any.
      remark: told what is worth knowing.

    Attributes:
      name: the absolute path.

    Raises:
      UnreadableVideo: no video, or one whose frames are too large.
      ModuleNotFoundError: PyAV is not installed.
    """

    lasts: ClassVar[bool] = True

    def __init__(
        self,
        path: Path,
        seen: Seen,
        trigger: Trigger,
        *,
        model: str | None = None,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name, self._announced = os.path.abspath(path), announced_seconds(path)
        self._path, self._seen, self._trigger, self._model, self._remark = path, seen, trigger, model, remark

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of every chosen frame, until the last or until ``stop`` is set.

        Raises:
          UnreadableVideo: there is no frame, or the file is damaged after those that were told of.
        """
        stamp, count, time = stamp_of(self._path), 0, 0.0
        try:
            for number, (time, frame) in enumerate(decode_frames(self._path)):
                if stop.is_set():
                    return
                count = number + 1
                if not self._trigger.takes(time, partial(shrink, frame)):
                    continue
                item = f"frame-{number:06}-{max(time, 0.0):.3f}s"
                if not self._seen.is_known(self.name, item, stamp, self._model):
                    pixels = frame.to_ndarray(format="rgb24")
                    found(Arrival(self.name, item, self._path, stamp, pixels=pixels))
        except UnreadableVideo as error:
            if not count:
                raise
            raise UnreadableVideo(self._path, f"damaged after {count} frames: {error.reason}") from error
        if not count:
            raise UnreadableVideo(self._path, "it holds no frames")
        if self._announced - time > _LAST * time / max(count - 1, 1) + _TOLERANCE:
            lasts = f"its header announces {self._announced:.3f} s"
            self._remark(f"{self._path}: the last of {count} frames is at {time:.3f} s, {lasts}; it may be cut short")
        if stamp_of(self._path) != stamp:
            self._remark(f"{self._path} was changed while it was read; the same command judges what has come to it")

    @property
    def is_telling(self) -> bool:
        """Never: what it has not told of is in the file."""
        return False

    def forget(self, arrival: Arrival) -> None:
        """A frame is in memory once it is told of."""


def frame_number(item: str) -> int | None:
    """The number of the frame that an item of :class:`Video` names; None for other items.

    >>> frame_number("frame-000123-4.100s")
    123
    """
    match = _ITEM.fullmatch(item)
    return None if match is None else int(match[1])
