"""How the caller of a long run follows it, learns what it met, and stops it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from padim_jax.images import UnreadableImage, stop_at_unreadable
from padim_jax.images.decode import Note

Advance = Callable[[int], None]  # told how many more files are done


class Interrupted(Exception):
    """A run that was asked to stop; the message says what was kept, and how to go on."""


@contextmanager
def no_progress(stage: str, total: int) -> Iterator[Advance]:
    """Show nothing of a stage."""
    yield lambda count: None


def warn(text: str) -> None:
    """Issue a remark as a Python warning."""
    warnings.warn(text, stacklevel=3)


def warn_of_file(path: Path, text: str) -> None:
    """Issue a note about a file as a Python warning."""
    warnings.warn(f"{path}: {text}", stacklevel=3)


def ignore_note(path: Path, text: str) -> None:
    """Ignore notes: another pass over the same files reports them."""


def ignore_remark(text: str) -> None:
    """Ignore remarks: another process says them, or another pass."""


def skip_unreadable(error: UnreadableImage) -> None:
    """Go on without a file that can't be read; the run lists it with the reason."""


@dataclass(frozen=True)
class Watch:
    """What a run calls while it works; by default remarks are Python warnings and the first unreadable file ends it.

    Attributes:
      progress: given a stage ("fit", "calibrate") and how many files it has; a context that gives what counts them.
      note: is told what was decided about a file (see :func:`padim_jax.images.load_batches`).
      remark: is told in a sentence what is worth knowing about the result.
      unreadable: called with each file that can't be read; where it returns, the file is left out.
      stopped: is asked after every batch whether to stop.
    """

    progress: Callable[[str, int], AbstractContextManager[Advance]] = no_progress
    note: Note = warn_of_file
    remark: Callable[[str], None] = warn
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable
    stopped: Callable[[], bool] = lambda: False
