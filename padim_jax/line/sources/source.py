"""What a source of images is."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from padim_jax.line.backlog import Arrival


class Source(Protocol):
    """Finds images, in a thread of its own.

    Attributes:
      name: what decisions on its images name as their source.
      lasts: whether images that were found and not judged are found again by the next run.
      is_telling: whether there are images that it has taken from where they came, and not told of yet.
    """

    name: str
    lasts: ClassVar[bool]

    @property
    def is_telling(self) -> bool: ...  # noqa: D102 - above

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of every image, until there are no more or ``stop`` is set."""

    def forget(self, arrival: Arrival) -> None:
        """Tell of this image again should it come back: it was gone when it was to be read; another thread calls it."""


def stamp_of(path: Path) -> str:
    """Device, number, size and time of change of a file, which stay when it is moved on its disk.

    Empty where it is gone.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL, which no file has
        return ""
    return f"{found.st_dev:x}-{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
