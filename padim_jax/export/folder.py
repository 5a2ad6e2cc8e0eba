"""The folder of an export: it takes the place of an earlier one in one step, and nothing of anybody's is removed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from padim_jax.artifact.ownership import MARKER, NotOurs, is_ours, locked, mark, remove
from padim_jax.export.certificate import CERTIFICATE, files_of
from padim_jax.export.runtimes import FILES
from padim_jax.export.shipped import MOST_EXAMPLES, TARGETS, strangers

_OURS = [{CERTIFICATE, MARKER, *files_of(exported, TARGETS, MOST_EXAMPLES, has_data=True)} for exported in FILES]
EXPORT_FILES = frozenset().union(*_OURS) - {MARKER}  # of exports of any format, by their names in the folder

_FOLDER = "folder"  # in the one that is unfinished


@contextmanager
def replaced(out: Path, call: str) -> Iterator[Path]:
    """A new folder that takes the place of ``out`` at the end, or is removed where something is raised.

    It lies in ``.<name>.unfinished`` beside ``out``, which is marked as ours, so that the next call removes whatever
    died there. It is marked too; who writes something else than an export takes that mark away.

    While the two change places, the earlier export lies in ``.<name>.replaced`` beside ``out``. It comes back where the
    change fails, or, after a process that died in between, at the next call.

    Args:
      out: folder to write.
      call: the call that writes it, for the messages.

    Raises:
      NotOurs: ``out``, or what would be beside it meanwhile, holds something that is not of an export.
      FolderInUse: another process is writing it.
    """
    out = Path(os.path.abspath(out))
    unfinished, earlier = (out.with_name(f".{out.name}.{state}") for state in ("unfinished", "replaced"))
    with locked(out.parent, call, f".{out.name}.padim-lock"):
        _check_ours(earlier, call)
        if earlier.exists() and not os.path.lexists(out):  # a process died between the two renames below
            earlier.rename(out)
        _check_ours(out, call)
        if os.path.lexists(unfinished) and (unfinished.is_symlink() or not is_ours(unfinished)):
            raise NotOurs(f"{call}: {unfinished} was not written by padim; move it away")
        for leftover in (unfinished, earlier):  # of a process that was killed
            remove(leftover)
        mark(unfinished)
        try:
            folder = unfinished / _FOLDER
            mark(folder)
            yield folder
            _swap(folder, out, earlier, call)
        finally:
            remove(unfinished)
        remove(earlier)


def refuse_nested(out: Path, model: Path, call: str) -> None:
    """Refuse an export in a model's folder, which could not be written any more, and one that holds the model.

    Raises:
      NotOurs: naming both.
    """
    export, folder = out.resolve(), model.resolve()
    if export == folder or folder in export.parents:
        raise NotOurs(f"{call}: {out} lies in the model {model}, which holds nothing else; choose another folder")
    if export in folder.parents:
        raise NotOurs(f"{call}: {out} holds the model {model}; choose another folder")


def _swap(folder: Path, out: Path, earlier: Path, call: str) -> None:
    _check_ours(out, call)  # again: an export takes a while, and somebody may have put something there
    if not out.exists():
        folder.rename(out)
        return
    out.rename(earlier)
    try:
        folder.rename(out)
    except BaseException:
        earlier.rename(out)
        raise


def _check_ours(folder: Path, call: str) -> None:
    """Raise ``NotOurs`` unless ``folder`` is an export with nothing else in it, is empty, or is not there."""
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    names = {path.name for path in folder.iterdir()} if is_folder else set[str]()
    if is_folder and not names:
        folder.rmdir()
        return
    if not is_folder or not is_ours(folder) or CERTIFICATE not in names:
        raise NotOurs(f"{call}: {folder} already exists and is no export of padim; choose another folder, or move it")
    if others := min((strangers(folder, ours) for ours in _OURS), key=len):
        raise NotOurs(
            f"{call}: {folder / others[0]} is not of the export in {folder}, which would be replaced; move it away, or "
            "choose another folder"
        )
