"""A video file: the frames that a trigger chooses, each once."""

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from padim_jax.data.video import UnreadableVideo, announced_seconds, decode_frames
from padim_jax.line.backlog import Arrival
from padim_jax.line.judge import Photo
from padim_jax.line.seen import Seen
from padim_jax.line.sources.source import stamp_of
from padim_jax.line.sources.trigger import Trigger, shrink

_LAST = 2  # mean distances between frames that the last one may be shown for
_REORDERED = 16  # frames at most that a decoder holds back, as their order is another one than in the file (H.264)
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
        """Tell of every chosen frame, until the last that is there or until ``stop`` is set.

        Frames that have a decision are known by the file's stamp, and once the file has changed, by their pixels.

        Raises:
          UnreadableVideo: there is no frame, or the file is damaged after those that were told of; one that was changed
            meanwhile may not be written any further yet, which is said instead.
        """
        stamp, count, time, failure = stamp_of(self._path), 0, 0.0, None
        try:
            for number, (time, frame) in enumerate(self._whole(stamp)):
                if stop.is_set():
                    return
                count = number + 1
                if not self._trigger.takes(time, partial(shrink, frame)):
                    continue
                item = f"frame-{number:06}-{max(time, 0.0):.3f}s"
                if not self._seen.is_known(self.name, item, stamp, self._model):
                    pixels = frame.to_ndarray(format="rgb24")
                    if not self._is_decided(item, pixels):
                        found(Arrival(self.name, item, self._path, stamp, pixels=pixels))
        except UnreadableVideo as error:
            failure = error
        if stamp_of(self._path) != stamp:
            until = f"judged up to {time:.3f} s" if count else "no frame is judged yet"
            self._remark(f"{self._path} was changed while it was read, {until}; the same command goes on from there")
            return
        if failure is not None and count:
            raise UnreadableVideo(self._path, f"damaged after {count} frames: {failure.reason}") from failure
        if failure is not None or not count:
            raise failure or UnreadableVideo(self._path, "it holds no frames")
        if self._announced - time > _LAST * time / max(count - 1, 1) + _TOLERANCE:
            lasts = f"its header announces {self._announced:.3f} s"
            self._remark(f"{self._path}: the last of {count} frames is at {time:.3f} s, {lasts}; it may be cut short")

    def _whole(self, stamp: str) -> Iterator[tuple[float, Any]]:
        """Frames with their times, but for those at the end that decode otherwise once the rest of the file is there.

        Raises:
          UnreadableVideo: there is no frame, or the file is damaged or torn after those that were given.
        """
        last, failure = deque[tuple[float, Any]](), None
        try:
            for entry in decode_frames(self._path):
                last.append(entry)
                if len(last) > _REORDERED:
                    yield last.popleft()
        except UnreadableVideo as error:
            failure = error
        whole = [] if stamp_of(self._path) != stamp else [*takewhile(lambda entry: not entry[1].is_corrupt, last)]
        yield from whole
        if failure is not None or len(whole) < len(last):
            raise failure or UnreadableVideo(self._path, "its end is torn")

    def _is_decided(self, item: str, pixels: np.ndarray) -> bool:
        """Whether this very frame had its decision before the file changed."""
        if not self._seen.is_decided(self.name, item, None, self._model):  # most frames, which then need no digest
            return False
        digest = Photo(self.name, item, self._path, pixels=pixels).digest
        return self._seen.is_decided(self.name, item, digest, self._model)

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
