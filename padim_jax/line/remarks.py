"""What is said of things that happen again and again: enough to know of them, and not each time."""

import time
from collections.abc import Callable


class Seldom:
    """Says of one kind of event the first, and then one every so many seconds at most, with how many there were.

    Args:
      remark: told in a sentence.
      every: seconds.
    """

    def __init__(self, remark: Callable[[str], None], every: float) -> None:
        self._remark, self._every = remark, every
        self._untold, self._told = 0, float("-inf")

    def say(self, text: str) -> None:
        """Say it, or count it, where the last word on such a thing is not long ago."""
        if time.monotonic() - self._told < self._every:
            self._untold += 1
            return
        more = f", and {self._untold} more since the last word on it" if self._untold else ""
        self._remark(f"{text}{more}")
        self._untold, self._told = 0, time.monotonic()


class Outages:
    """Says once that no frames come from a camera, once for each reason, and once that they do again.

    An outage is over once frames have come for a while without a gap, so a camera that comes and goes every other
    second has one outage and not thousands.

    Args:
      name: of the camera.
      remark: told in a sentence.
      steady: seconds that frames have to come for.
    """

    def __init__(self, name: str, remark: Callable[[str], None], steady: float) -> None:
        self._name, self._remark, self._steady = name, remark, steady
        self._reasons, self._failures, self._gaps, self._seconds = set[str](), 0, 0, 0.0
        self._gone: float | None = None  # since when no frames have come; None while they do
        self._back = 0.0  # since when they have

    def fail(self, why: str) -> None:
        """A connection has failed: it could not be made, or frames have stopped."""
        if self._gone is None:
            self._gone = time.monotonic()
            self._gaps += 1
        self._failures += 1
        if why not in self._reasons:
            self._reasons.add(why)
            self._remark(f"no frames come from {self._name} ({why}); it is tried again until they do")

    def frame(self) -> None:
        """A frame has come."""
        now = time.monotonic()
        if self._gone is not None:
            self._seconds += now - self._gone
            self._gone, self._back = None, now
        if self._gaps and now - self._back >= self._steady:
            gaps = f" in {self._gaps} gaps" if self._gaps > 1 else ""
            count = f"{self._failures} connections" if self._failures > 1 else "1 connection"
            spent = f"{self._seconds:.0f} s without any{gaps} ({count} failed)"
            self._remark(f"frames come from {self._name} again, after {spent}")
            self._reasons, self._failures, self._gaps, self._seconds = set(), 0, 0, 0.0
