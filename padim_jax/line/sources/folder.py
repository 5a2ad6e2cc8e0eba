"""A folder that image files are written to: which ones are there, and since when each has not changed."""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from padim_jax.artifact.ownership import is_ours
from padim_jax.images import UnreadableImage
from padim_jax.images.folder import SUFFIXES, describe, digest_file
from padim_jax.lazy import extra
from padim_jax.line.backlog import Arrival
from padim_jax.line.seen import Seen
from padim_jax.line.sources.source import stamp_of

SETTLE = 0.2  # seconds that a file must not have changed for
LONG_AGO = 10.0  # seconds since a file changed, after which nobody is writing it any more
POLL = 1.0  # seconds between two looks at a folder that tells nothing by itself
_TICK = 0.05  # seconds between two looks at files that are being written
_SWEEP = 30.0  # seconds between two looks at a folder that does tell, in case it did not
_RETURN = 0.2  # seconds between two looks whether a folder is back
_FREED = 10_000  # files that are gone, and remembered
_SHARE = 0.05  # of the time, at most, that looking at a folder may take


@dataclass
class _Young:
    """A file that may still be being written."""

    stamp: str
    since: float


class _Told(NamedTuple):
    """A file that was told of; the time at which anything of it was changed changes with its number's owner too."""

    stamp: str
    changed: int


class Folder:
    """The image files in a folder and those below it, each once as it is whole.

    A file is told of once its size and its time of change have not changed for a while. One that is changed later is
    told of again. Files that ``seen`` knows are passed over, and those that were only moved within the folder. A file
    system gives the number of a file that is gone to the next one: bytes are compared where a file seems to have been
    moved, and where one was deleted while it was watched. Hidden files, links to folders, and folders that padim writes
    results to are passed over too, and with a word those that can't be read.

    Args:
      path: of the folder.
      seen: what needs no decision any more.
      model: name of the model whose decisions count there; None for any.
      settle: seconds that a file must not have changed for.
      poll: look for new files every so many seconds, as on a network drive, of whose changes a system is not told.
        None to be told by the system, for which the package watchfiles is needed.
      once: tell of what lies there, and end.
      remark: told what is worth knowing.

    Attributes:
      name: the absolute path.

    Raises:
      FileNotFoundError, NotADirectoryError: no such folder.
      ValueError: a folder of results.
      ModuleNotFoundError: watchfiles is not installed.
    """

    lasts: ClassVar[bool] = True

    def __init__(
        self,
        path: Path,
        seen: Seen,
        *,
        model: str | None = None,
        settle: float = SETTLE,
        poll: float | None = None,
        once: bool = False,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not path.exists():
            raise FileNotFoundError(f"watch: there is no folder {path}")
        if not path.is_dir():
            raise NotADirectoryError(f"watch: {path} is a file, wanted a folder, or - for paths on standard input")
        if is_ours(path):
            raise ValueError(f"watch: {path} holds results that padim wrote; name the folder of the images themselves")
        self.root, self.name = path, os.path.abspath(path)
        self._model, self._checked = model, ""  # until where the store has been asked what it need not remember
        self._seen, self._settle, self._poll, self._once, self._remark = seen, settle, poll, once, remark
        self._young, self._told, self._moved, self._is_gone = dict[str, _Young](), dict[str, _Told](), 0, False
        self._freed = dict[str, None]()  # stamps of files that are gone, which others may get; the newest
        self._unreadable = set[str]()  # folders, at the last look
        self._lost = deque[str]()  # paths of files that were gone when they were to be read
        if poll is None and not once:
            with extra("line"):
                import watchfiles  # noqa: F401 - is it there?

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of every file, until ``stop`` is set."""
        changes = self._changes(stop)
        self._sweep(note=True)
        while not stop.is_set():
            self._tell(found, stop)
            if self._once and not self._young:
                return
            for path in next(changes):
                self._look(path)

    @property
    def is_telling(self) -> bool:
        """Never: what it has not told of lies in the folder."""
        return False

    def forget(self, arrival: Arrival) -> None:
        """Tell of this file again should it come back."""
        self._lost.append(str(arrival.path))

    def _changes(self, stop: threading.Event) -> Iterator[list[str]]:
        """Files that may have changed, again and again; an empty list at least every tick while files are young."""
        if self._poll is not None or self._once:
            yield from self._polled(stop)
        else:
            yield from self._told_by_system(stop)

    def _polled(self, stop: threading.Event) -> Iterator[list[str]]:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if not self._once and now >= due:
                self._sweep()
                due = time.monotonic() + max(self._poll or POLL, (time.monotonic() - now) / _SHARE)
            stop.wait(_TICK if self._young else min(0.2, self._poll or POLL))
            yield list(self._young)

    def _told_by_system(self, stop: threading.Event) -> Iterator[list[str]]:
        with extra("line"):
            import watchfiles

        options = {"step": 20, "debounce": 100, "rust_timeout": 100, "yield_on_timeout": True, "watch_filter": None}
        while not stop.is_set():
            identity, due = _identity(self.root), time.monotonic()  # what was written before the system began to tell
            try:  # is found by a first look
                with closing(watchfiles.watch(self.root, stop_event=stop, raise_interrupt=False, **options)) as told:
                    for changes in told:
                        if _identity(self.root) != identity or self._is_deleted(changes, watchfiles.Change.deleted):
                            break  # the system goes on telling of the folder that is not there any more
                        now = time.monotonic()
                        if now >= due:
                            self._sweep()
                            due = time.monotonic() + max(_SWEEP, (time.monotonic() - now) / _SHARE)
                        paths = [Path(path) for change, path in changes if change != watchfiles.Change.deleted]
                        yield [*(name for path in paths for name in self._told_of(path)), *self._young]
            except PermissionError:  # it tells of nothing where there is one folder that can't be read
                self._remark(f"the system tells of no changes in {self.root}, which is looked at every {POLL:g} s")
                yield from self._polled(stop)
            except OSError:
                if _identity(self.root) is not None:
                    raise
            if not stop.is_set():
                yield from self._awaited(stop)
        while True:  # stopped
            yield []

    def _told_of(self, path: Path) -> Iterable[str]:
        """Files that may have changed where the system tells of a path; it follows links to folders, a sweep does not.

        What lies below a link lies elsewhere, or is in the folder twice.
        """
        inner = Path(os.path.relpath(path, self.root)).parents[:-1]  # without the folder itself, which may be a link
        if any((self.root / parent).is_symlink() for parent in inner):
            return ()
        try:
            is_folder = path.is_dir()
        except OSError:  # nor can what is in it be read
            return ()
        if is_folder:
            return () if path.is_symlink() else _files(path)
        return (str(path),)

    def _is_deleted(self, changes: Iterable[tuple[object, str]], deleted: object) -> bool:
        """Whether the folder itself was deleted, whose number another that is made anew may get."""
        return any(change == deleted and os.path.abspath(path) == self.name for change, path in changes)

    def _awaited(self, stop: threading.Event) -> Iterator[list[str]]:
        """Wait until a folder that was removed, moved or replaced is there, which is watched from then on."""
        self._note_whether_gone(_identity(self.root) is None)
        if not self._is_gone:
            self._remark(f"{self.root} was replaced by another folder, which is watched from now on")
        while self._is_gone and not stop.is_set():
            yield list(self._young)
            stop.wait(_RETURN)
            self._note_whether_gone(_identity(self.root) is None)

    def _note_whether_gone(self, is_gone: bool) -> None:
        was_gone, self._is_gone = self._is_gone, is_gone
        if was_gone != is_gone:
            self._remark(f"{self.root} is {'gone; waiting for it to come back' if is_gone else 'back'}")

    def _sweep(self, *, note: bool = False) -> None:
        """Look at all files that are there."""
        while self._lost:
            self._told.pop(self._lost.popleft(), None)
        self._note_whether_gone(_identity(self.root) is None)
        if self._is_gone:
            return
        ignored, there, unreadable = Counter[str](), set[str](), set[str]()
        for path in _files(self.root, ignored, unreadable):
            self._look(path)
            there.add(path)
        self._say_unreadable(unreadable)
        for path in self._told.keys() - there:
            self._free(self._told.pop(path).stamp)
        if there:  # in an empty folder, a drive may be missing that comes back
            self._forget_gone(all_of_them=note)
        if note and ignored:
            self._remark(f"ignored other files in {self.root}: {describe(ignored)}")

    def _free(self, stamp: str) -> None:
        """Note that a file is gone, whose number another may get."""
        self._freed[stamp] = None
        if len(self._freed) > _FREED:
            del self._freed[next(iter(self._freed))]

    def _say_unreadable(self, folders: set[str]) -> None:
        """Say of folders that can't be read, once as long as they can't."""
        new, self._unreadable = sorted(folders - self._unreadable), folders
        if new:
            more = f", as are {len(new) - 1} others" if new[1:] else ""
            self._remark(f"{new[0]} can't be read by this user, and is passed over until it can be{more}")

    def _forget_gone(self, *, all_of_them: bool) -> None:
        """Let the store forget what retention has deleted of files that are gone, all or some at a time."""

        def is_there(item: str) -> bool:
            try:
                (self.root / item).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError:  # in a folder that can't be read, nobody knows
                return True
            return True

        if all_of_them:
            self._seen.forget_gone(self.name, is_there)
        else:
            _, self._checked = self._seen.forget_some(self.name, is_there, self._checked)

    def _look(self, path: str) -> None:
        """Note how a file is now."""
        name = os.path.relpath(path, self.root)
        path = str(self.root / name)  # the system tells of absolute ones, whatever the root is named
        if not _is_image(path) or any(part.startswith(".") for part in Path(name).parts):
            return
        stamp = stamp_of(Path(path))
        known, told = self._young.get(path), self._told.get(path)
        is_told = told is not None and told.stamp == stamp
        if told is not None and is_told and told.changed != _times(path)[1]:  # touched, or another with its number
            self._free(stamp)
            is_told = False
        if not stamp or is_told:
            self._young.pop(path, None)
        elif known is None or known.stamp != stamp:
            self._young[path] = _Young(stamp, _changed_at(path, is_new=known is None))

    def _tell(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of the files that have not changed for long enough, the oldest first."""
        now = time.monotonic()
        settled = [(path, young) for path, young in self._young.items() if now - young.since >= self._settle]
        for path, young in sorted(settled, key=lambda entry: (_times(entry[0])[0], entry[0])):
            if stop.is_set():
                return
            del self._young[path]
            self._told[path] = _Told(young.stamp, _times(path)[1])
            item = Path(os.path.relpath(path, self.root)).as_posix()
            if any(_is_passed_over(self.root / folder) for folder in Path(item).parents):
                continue
            if self._is_known(item, young.stamp) or self._is_moved(item, young.stamp):
                continue
            found(Arrival(self.name, item, Path(path), young.stamp, young.since))

    def _is_known(self, item: str, stamp: str) -> bool:
        """Whether a file needs no decision."""
        if not self._seen.is_known(self.name, item, stamp, self._model):
            return False
        if stamp not in self._freed:
            return True
        digest = self._digest(item)
        return digest is not None and self._seen.is_decided(self.name, item, digest, self._model)

    def _is_moved(self, item: str, stamp: str) -> bool:
        """Whether a file was decided under another name, which it has no longer."""
        key = self.name, item, stamp, self._model
        earlier = self._seen.earlier_items(*key)
        if not earlier or any(stamp_of(self.root / other) == stamp for other in earlier):
            return False
        digest = self._digest(item)
        same = [] if digest is None else self._seen.earlier_items(*key, digest)
        self._moved += bool(same)
        if same and self._moved == 1:
            self._remark(f"{item} was decided as {same[0]} before it was moved; files are decided once")
        return bool(same)

    def _digest(self, item: str) -> str | None:
        """Digest of a file; None where it can't be read, of which who judges it will tell."""
        try:
            return digest_file(self.root / item)
        except UnreadableImage:
            return None


def _files(
    folder: str | Path, ignored: Counter[str] | None = None, unreadable: set[str] | None = None
) -> Iterator[str]:
    """Image files below a folder; what else there is counts in ``ignored`` by suffix.

    A folder that can't be read is added to ``unreadable``; what is in it comes once it can be.
    """
    ignored, unreadable = Counter() if ignored is None else ignored, set() if unreadable is None else unreadable
    open_folders = [str(folder)]
    while open_folders:
        path = open_folders.pop()
        try:
            entries = [] if is_ours(Path(path)) else sorted(os.scandir(path), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError:
            unreadable.add(path)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):
                open_folders.append(entry.path)
            elif _is_image(entry.path) and entry.is_file():
                yield entry.path
            else:
                ignored[Path(entry.name).suffix.lower()] += 1


def _is_passed_over(folder: Path) -> bool:
    """Whether a folder holds results, or can't be read."""
    try:
        return is_ours(folder)
    except OSError:
        return True


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in SUFFIXES


def _identity(folder: Path) -> tuple[int, int] | None:
    """What a folder is known by, whatever its name; None where it is gone."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _times(path: str) -> tuple[int, int]:
    """When the content of a file changed, and when anything of it did, in nanoseconds; 0 where it is gone."""
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ctime_ns


def _changed_at(path: str, *, is_new: bool) -> float:
    """When a file changed, by the clock that never goes back: just now, unless it is old by its own account."""
    age = time.time() - _times(path)[0] / 1e9
    return float("-inf") if is_new and age > LONG_AGO else time.monotonic()
