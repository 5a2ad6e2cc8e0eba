"""Paths of images, one a line, as another program writes them to standard input."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from padim_jax.line.backlog import Arrival
from padim_jax.line.sources.source import stamp_of

STANDARD_INPUT = "-"
_CHUNK = 2**16  # bytes
_LONGEST = 2**15  # bytes of a line that are looked at; no system has files of such names, so it is unreadable


class Lines:
    """Image files that a stream names, each on a line of its own; relative ones are relative to the current folder.

    Attributes:
      is_telling: as of :class:`padim_jax.line.sources.source.Source`.

    Args:
      read: gives up to so many bytes once there are any, and none at the end. Not that of a buffered stream: a thread
        which waits in one holds its lock, without which Python can't end.
    """

    lasts: ClassVar[bool] = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.name, self.is_telling, self._read = STANDARD_INPUT, False, read

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of every file that is named, until the stream ends; when ``stop`` is set, of those that were read."""
        rest = b""
        while content := self._read(_CHUNK):
            self.is_telling = True
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                self._tell(line, found)
            rest = rest[: _LONGEST + 1]  # of a line that does not end, no more is kept
            self.is_telling = False
            if stop.is_set():
                return
        self._tell(rest, found)

    def forget(self, arrival: Arrival) -> None:
        """Nothing that a stream has named comes back by itself."""

    def _tell(self, line: bytes, found: Callable[[Arrival], None]) -> None:
        text = os.fsdecode(line.rstrip(b"\r")[:_LONGEST])
        if text.strip():
            path = Path(os.path.abspath(text))
            found(Arrival(self.name, str(path), path, stamp_of(path), time.monotonic()))
