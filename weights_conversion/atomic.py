"""Replace a file in one step."""

import contextlib
import os
import secrets
from pathlib import Path

_TRIES = 100  # attempts to find a free name


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, then rename: a crash leaves the old file or the new one, whole.

    The file beside it has a name of its own, ``.NAME.DIGITS.tmp``; no existing file is touched.
    """
    temporary, descriptor = _create_beside(path)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # makes the rename last, where the file system can; it has happened either way
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _create_beside(path: Path) -> tuple[Path, int]:
    """A new file, open to be written, with the mode that any new file gets."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    temporary = path
    for _ in range(_TRIES):
        temporary = path.with_name(f".{path.name}.{os.getpid()}{secrets.randbelow(10**8):08}.tmp")
        with contextlib.suppress(FileExistsError):
            return temporary, os.open(temporary, flags, 0o666)
    raise FileExistsError(f"no name is free beside {path} to write it under; remove files such as {temporary}")
