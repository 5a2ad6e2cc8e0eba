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


class Lines:
    """Image files that a stream names, each on a line of its own; relative ones are relative to the current folder.

    Args:
      read: gives up to so many bytes once there are any, and none at the end. Not that of a buffered stream: a thread
        which waits in one holds its lock, without which Python can't end.
    """

    lasts: ClassVar[bool] = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.name, self._read = STANDARD_INPUT, read

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of every file that is named, until the stream ends."""
        rest = b""
        while content := self._read(_CHUNK):
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                self._tell(line, found)
            if stop.is_set():
                return
        self._tell(rest, found)

    def forget(self, arrival: Arrival) -> None:
        """Nothing that a stream has named comes back by itself."""

    def _tell(self, line: bytes, found: Callable[[Arrival], None]) -> None:
        text = os.fsdecode(line.rstrip(b"\r"))
        if text.strip():
            path = Path(os.path.abspath(text))
            found(Arrival(self.name, str(path), path, stamp_of(path), time.monotonic()))
