"""Images that wait to be judged: no more than a limit, and what happens beyond it is chosen, not left to chance."""

import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

WhenFull = Literal["wait", "drop-oldest", "drop-newest"]
WHEN_FULL: tuple[WhenFull, ...] = get_args(WhenFull)


@dataclass(frozen=True)
class Arrival:
    """An image that has come: a file, or a frame.

    Attributes:
      source, item, stamp: as :class:`padim_jax.line.records.Decision` has them.
      path: of the file; of a frame, that of its video, or a name for messages.
      since: when it was last seen to change, in seconds by the clock that never goes back; minus infinity: long ago.
      pixels: of a frame, RGB; None for a file.
    """

    source: str
    item: str
    path: Path
    stamp: str
    since: float = field(default=float("-inf"), compare=False)
    pixels: UInt8[np.ndarray, "height width 3"] | None = field(default=None, compare=False, repr=False)


class Backlog:
    """A queue with a limit, between the thread that finds images and the one that judges them.

    Args:
      limit: most images that wait.
      when_full: what to do with one more: "wait" until there is room, drop the "oldest" that waits, or the "newest",
        which is the one more.

    Attributes:
      limit, when_full: as given.
    """

    def __init__(self, limit: int, when_full: WhenFull = "wait") -> None:
        if limit < 1:
            raise ValueError(f"Backlog: limit={limit}, wanted 1 or more images")
        if when_full not in WHEN_FULL:
            raise ValueError(f"Backlog: when_full={when_full!r}, wanted one of {', '.join(WHEN_FULL)}")
        self.limit, self.when_full = limit, when_full
        self._waiting, self._changed, self._is_closed = deque[Arrival](), threading.Condition(), False

    def put(self, arrival: Arrival) -> Arrival | None:
        """Add an image; gives the one that was dropped for it, if one was, which may be itself.

        Once the backlog is closed, that is what comes.
        """
        with self._changed:
            while len(self._waiting) >= self.limit and self.when_full == "wait" and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return arrival
            dropped = None
            if len(self._waiting) >= self.limit:
                if self.when_full == "drop-newest":
                    return arrival
                dropped = self._waiting.popleft()
            self._waiting.append(arrival)
            self._changed.notify_all()
            return dropped

    def take(self, count: int, timeout: float) -> list[Arrival]:
        """Up to ``count`` images, the oldest first; none if none comes within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed, timeout)
            taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let nothing more in; what waits can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is let in."""
        with self._changed:
            return self._is_closed

    @property
    def is_done(self) -> bool:
        """Whether nothing waits and nothing will come."""
        with self._changed:
            return self._is_closed and not self._waiting

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)
