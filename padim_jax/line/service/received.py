"""Files that somebody sends, on disk while something is computed of them.

A folder beside the store, marked as padim's and locked while it is used. What a service that was killed has left there
is removed by the next one.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from padim_jax.artifact.ownership import LOCK, FolderInUse, claim, is_ours, locked, remove_files

_NAME = re.compile(r"[0-9]+\.photo")  # no part of a request is part of a path


class Received:
    """A folder of received files, which is emptied now and after each use.

    Args:
      folder: to keep them in; it is made at the first use.

    Raises:
      OSError: what an earlier service has left in it can't be removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if is_ours(folder):
            with suppress(FolderInUse), locked(folder, "serve"):  # in use: another service's, which removes them
                remove_files(self._folder, _NAME)

    @contextmanager
    def files(self, contents: Sequence[bytes]) -> Iterator[list[Path]]:
        """Files with these contents, in their order, until the end.

        Raises:
          FolderInUse: another process has files there now.
          NotOurs: a folder with something else in it.
          OSError: they can't be written.
        """
        with locked(self._folder, "serve"):
            claim(self._folder, [path.name for path in self._folder.iterdir() if path.name != LOCK], "serve")
            try:
                remove_files(self._folder, _NAME)
                paths = [self._folder / f"{index}.photo" for index in range(len(contents))]
                for path, content in zip(paths, contents, strict=True):
                    path.write_bytes(content)
                yield paths
            finally:
                remove_files(self._folder, _NAME)
