"""Who may hand on to an output: one process at a time, though several watch with the same store and output."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from padim_jax.artifact.ownership import FolderInUse, locked

_PAUSE = 0.02  # seconds


@contextmanager
def turn(store: Path, output: str, patience: float) -> Iterator[bool]:
    """Take the turn to hand on to an output what waits in a store; whether it was had within ``patience`` seconds.

    The system ends the turn of a process that dies.

    Raises:
      OSError: the lock's file, beside the store, can't be written.
    """
    name, end = f".{store.name}-{hashlib.sha256(output.encode()).hexdigest()[:16]}.lock", time.monotonic() + patience
    with ExitStack() as stack:
        is_ours = False
        while not is_ours:
            try:
                stack.enter_context(locked(store.parent, "watch", name))
                is_ours = True
            except FolderInUse:
                if time.monotonic() >= end:
                    break
                time.sleep(_PAUSE)
        yield is_ours
