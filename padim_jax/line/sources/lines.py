"""Paths of images, one a line, as another program writes them to standard input."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ClassVar

from padim_jax.line.backlog import Arrival
from padim_jax.line.sources.source import stamp_of

STANDARD_INPUT = "-"


class Lines:
    """Image files that a stream names, each on a line of its own; relative ones are relative to the current folder.

    Args:
      stream: of bytes, since names of files need not be text.
    """

    lasts: ClassVar[bool] = False

    def __init__(self, stream: BinaryIO) -> None:
        self.name, self._stream = STANDARD_INPUT, stream

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of every file that is named, until the stream ends."""
        for line in self._stream:
            if stop.is_set():
                return
            text = os.fsdecode(line.rstrip(b"\r\n"))
            if text.strip():
                path = Path(os.path.abspath(text))
                found(Arrival(self.name, str(path), path, stamp_of(path), time.monotonic()))
