"""Folders that this package writes: one writer at a time, and nothing removed that is not marked as its own."""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

LOCK = ".padim-lock"  # in a folder that is being written; it says by whom
MARKER = ".written-by-padim"  # in a folder of ours, which may be replaced or removed
_TRIES = 20  # of creating a folder that another process removes as empty at the same time, or of reading who holds it
_PAUSE = 0.02  # seconds


class FolderInUse(OSError):
    """Another process is writing the folder; the message says which one."""


class NotOurs(FileExistsError, ValueError):
    """Something that padim did not write is where results would go; the message names it."""


@contextmanager
def locked(folder: Path, call: str, name: str = LOCK) -> Iterator[None]:
    """Hold the lock of ``folder``, which is created if need be; no other process can hold it at the same time.

    The operating system releases the lock when its holder dies, so a stale one never blocks. A thread that holds it may
    take it again. A folder that was created for the lock and is still empty at the end is removed.

    Args:
      folder: to be written.
      call: the call that wants to write, for the messages.
      name: of the lock's file; another one where several writers, each of its own part, may write at a time.

    Raises:
      FolderInUse: another process, or another thread of this one, holds the lock.
      OSError: the folder can't be written.
    """
    lock, created = _acquire(folder, call, name)
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # the outermost; removed while held, so that nobody locks a nameless file
            with contextlib.suppress(OSError):
                (folder / name).unlink()
            if created:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        lock.release()


def mark(folder: Path) -> None:
    """Mark ``folder`` as ours; it is created if need be.

    Raises:
      FileExistsError: a folder without the mark that holds something already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_ours(folder):
        if any(path.name != LOCK for path in folder.iterdir()):
            raise FileExistsError(f"{folder} already exists and was not written by padim; move it away or rename it")
        (folder / MARKER).touch()


def claim(
    folder: Path, names: Iterable[str], call: str, *, earlier: Callable[[Path], bool] = lambda path: False
) -> None:
    """Make sure that results may be written to ``folder``, as :func:`check_claim` does, and mark a new one as ours.

    Raises:
      NotOurs: as :func:`check_claim`.
    """
    check_claim(folder, names, call, earlier=earlier)
    if not folder.exists() or all(path.name == LOCK for path in folder.iterdir()):
        mark(folder)


def check_claim(
    folder: Path,
    names: Iterable[str],
    call: str,
    *,
    folders: Iterable[str] = (),
    earlier: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Make sure that results written to ``folder`` replace nothing that is not ours.

    Args:
      folder: of the results; need not be there.
      names: names of what is written in it, which is ours where ``folder`` carries our mark.
      call: the call that wants to write, for the message.
      folders: names of folders in it that are replaced whole, each of which must carry the mark itself.
      earlier: whether a path of these names is the work of an earlier version, which left no mark.

    Raises:
      NotOurs: naming the first that is there and not ours.
    """
    replaced = [folder / name for name in folders]
    foreign = [path for path in replaced if os.path.lexists(path) and (path.is_symlink() or not is_ours(path))]
    if not is_ours(folder):
        paths = [folder / name for name in names]
        foreign += [path for path in paths if os.path.lexists(path) and not earlier(path)]
    if foreign:
        raise NotOurs(
            f"{call}: {foreign[0]} already exists and was not written by padim; move it away, or choose another --out"
        )


def is_ours(folder: Path) -> bool:
    """Whether ``folder`` carries the mark of :func:`mark`."""
    return (folder / MARKER).is_file()


def remove(folder: Path) -> None:
    """Remove ``folder`` with all that is in it, if it carries our mark; leave it alone if it does not."""
    if not folder.is_symlink() and is_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)


def remove_files(folder: Path, name: re.Pattern[str]) -> None:
    """Remove the files in ``folder`` whose whole names match, no links and no folders; the caller holds its lock."""
    for path in list(folder.iterdir()):
        if name.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


def _acquire(folder: Path, call: str, name: str) -> tuple[filelock.BaseFileLock, bool]:
    created = False
    for _ in range(_TRIES):
        try:
            created = not folder.exists() or created
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder.resolve() / name, is_singleton=True)  # one, however the path is spelled
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise FolderInUse(
                f"{call}: {folder} is being written by {_holder(folder / name)}; try again once it is done"
            ) from None
        except FileNotFoundError:  # removed between the two steps
            continue
        except FileExistsError:
            raise OSError(f"{call}: {folder} is a file, wanted a folder; choose another name") from None
        except OSError as error:
            raise OSError(f"{call}: can't write to {folder} ({error.strerror or error})") from error
        if lock.lock_counter == 1:
            holder = {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "command": shlex.join(sys.argv),
                "since": time.time(),
            }
            with contextlib.suppress(OSError):  # a full disk must not keep anybody from tidying up
                (folder / name).write_text(json.dumps(holder), encoding="utf-8", errors="backslashreplace")
        return lock, created
    raise OSError(f"{call}: {folder} is removed again and again by another process")


def _holder(lock: Path) -> str:
    """The process that holds a lock, in words."""
    for _ in range(_TRIES):
        try:
            holder = json.loads(lock.read_text(encoding="utf-8"))
            since = time.strftime("%H:%M:%S", time.localtime(float(holder["since"])))
            return f"process {int(holder['process'])} on {holder['host']!s} since {since} ({holder['command']!s:.200})"
        except (OSError, ValueError, TypeError, KeyError):  # not written yet, or gone just now
            time.sleep(_PAUSE)
    return "another process"
