"""Which frames of a video or a camera are judged: one every so often, or one of each part that comes to rest."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32
from PIL import Image

GRID = 32, 24  # columns and rows that a frame is averaged to, to see what moves
CHANGE = 10.0  # grey levels, of 255
STILL = 0.3  # seconds
_ADAPT = 10.0  # seconds within which light may change by as much as a motion does
_EXACT = 1e-6  # of an interval, which rounding may take away

Small = Float32[np.ndarray, "24 32 3"]


class Trigger(Protocol):
    """Looks at all frames of a stream in their order, and chooses some."""

    def takes(self, time: float, look: Callable[[], Small]) -> bool:
        """Whether to judge the frame of this time, in seconds since any moment; ``look`` gives it at :data:`GRID`."""
        ...


class Every:
    """The first frame in each interval of so many seconds, [k s, (k + 1) s); every frame where it is 0.

    Raises:
      ValueError: a negative interval.

    >>> trigger = Every(0.5)
    >>> [time for time in (0.0, 0.2, 0.6, 0.9, 1.0) if trigger.takes(time, lambda: None)]
    [0.0, 0.6, 1.0]
    """

    def __init__(self, seconds: float = 0.0) -> None:
        if not seconds >= 0:
            raise ValueError(f"Every: seconds={seconds}, wanted 0 or more")
        self._seconds, self._last = seconds, -math.inf

    def takes(self, time: float, look: Callable[[], Small]) -> bool:
        """Whether the frame is the first of its interval."""
        if self._seconds:
            interval = math.floor(time / self._seconds + _EXACT)
            if interval <= self._last:
                return False
            self._last = interval
        return True


class AtRest:
    """One frame whenever the picture comes to rest: a part has arrived and lies still.

    Frames are averaged to 32 × 24 cells of red, green and blue. Between two of them, a and b, the change is
    max |d - median(d)|, d = a - b, over cells and colours: a lamp that flickers changes all cells alike, a part that
    moves changes some. A frame that differs from the one where the rest began by more than ``change`` begins another
    rest, so that slow motion is seen too. A rest of ``still`` seconds is judged once, at its first frame after them.

    Args:
      change: in grey levels of 255, above the camera's noise and below the contrast of a part against what it lies on.
      still: seconds.
      empty: the place without a part, at :data:`GRID`; a rest that differs from it by no more than ``change`` is passed
        over, and is what empty looks like from then on, since light changes. None judges every rest.

    Raises:
      ValueError: a change that is not above 0, or a negative time.
    """

    def __init__(self, change: float = CHANGE, still: float = STILL, empty: Small | None = None) -> None:
        if not (change > 0 and still >= 0):
            raise ValueError(f"AtRest: change={change}, still={still}, wanted more than 0, and 0 or more seconds")
        self._change, self._still, self._empty = change, still, empty
        self._rest: Small | None = None
        self._since, self._last, self._is_due = 0.0, 0.0, False

    def takes(self, time: float, look: Callable[[], Small]) -> bool:
        """Whether the picture has just been at rest for long enough."""
        seen = look()
        if self._rest is None or change_between(seen, self._rest) > self._change:
            self._rest, self._since, self._is_due = seen, time, True
        elif not self._is_due:  # follows the light, slowly
            self._rest = self._rest + (seen - self._rest) * np.float32(min(1.0, max(0.0, time - self._last) / _ADAPT))
        self._last, self._since = time, min(self._since, time)
        if not self._is_due or time - self._since < self._still - _EXACT:
            return False
        self._is_due = False
        if self._empty is not None and change_between(seen, self._empty) <= self._change:
            self._empty = seen
            return False
        return True


def change_between(a: Small, b: Small) -> float:
    """The change that :class:`AtRest` looks at, in grey levels."""
    difference = a - b
    return float(np.abs(difference - np.median(difference)).max())


def shrink(frame: Any) -> Small:
    """A frame of PyAV, averaged to :data:`GRID`."""
    width, height = GRID
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    return small.to_ndarray().astype(np.float32)


def shrink_image(image: Image.Image) -> Small:
    """An image, averaged as :func:`shrink` does."""
    return np.asarray(image.convert("RGB").resize(GRID, Image.Resampling.BOX)).astype(np.float32)
