"""Folders of arrays with a manifest: written whole or not at all, nothing pickled, every file checked.

A folder holds ``model.json`` and one ``arrays-…`` folder, an Orbax checkpoint, and in it one more checkpoint for each
part of an array too large to be in memory twice, as Orbax needs what it writes. The JSON file names the
arrays that belong to it and replaces its predecessor in one rename: whatever happens during a write, the folder is the
old one or the new one. A folder takes one writer at a time, which holds its lock (:mod:`padim_jax.artifact.ownership`).
"""

import json
import platform
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from padim_jax.artifact.arrays import ArtifactError, first_line, part_rows, write_arrays
from padim_jax.artifact.manifest import (
    FORMAT,
    MANIFEST,
    SCHEMA,
    arrays_directory,
    is_whole,
    manifest_checksum,
    read_json,
    read_manifest,
)
from padim_jax.artifact.ownership import LOCK, MARKER, is_ours, locked, mark
from weights_conversion.atomic import write_atomically

PREVIOUS = "previous.json"  # the manifest of what the last change replaced
_UNFINISHED = ".unfinished"  # arrays that are still being written
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}(\.unfinished)?(\.orbax-checkpoint-tmp.*)?")
_OURS = re.compile(rf"{_ARRAYS.pattern}|\.?(model|previous)\.json(\.\d+\.tmp)?")


def write(folder: Path, record: Mapping[str, Any], arrays: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Put ``record`` and ``arrays`` (float32 or int16, made or lazy) in place of what ``folder`` holds, in one step.

    Args:
      folder: of the model.
      record: further entries of the manifest; "format" among them where it is another one than that of PaDiM's models.
      arrays: by name.
      keep_previous: keep what is replaced, so that :func:`undo` can bring it back; else what was kept before goes too.

    Raises:
      ArtifactError: ``folder`` is a file, or a folder with something else in it; an array is not finite; another
        program replaced the model meanwhile.
      FolderInUse: another process is writing it.
      OSError: it can't be written; what is there already is left as it was.
    """
    with _writable(folder, record.get("format", FORMAT)):
        replaced = arrays_directory(folder / MANIFEST)
        manifest = _describe(record, arrays)
        directory = folder / manifest["directory"]
        unfinished = directory.with_name(f"{directory.name}{_UNFINISHED}")
        manifest["files"] = write_arrays(unfinished, arrays, manifest["parts"])
        manifest["checksum"] = manifest_checksum(manifest)
        if arrays_directory(folder / MANIFEST) != replaced:
            raise ArtifactError(f"save: {folder} was replaced by another program meanwhile; nothing was written")
        unfinished.rename(directory)
        if keep_previous and replaced is not None:
            write_atomically(folder / PREVIOUS, (folder / MANIFEST).read_bytes())
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        if not keep_previous:
            (folder / PREVIOUS).unlink(missing_ok=True)


@contextmanager
def _writable(folder: Path, kind: str) -> Iterator[None]:
    """Hold the lock of a model's folder; however that ends, no arrays stay that no manifest names.

    Raises:
      ArtifactError, FolderInUse, OSError: as :func:`write`.
    """
    _names(folder)  # refuses a file, before a lock is looked for in it
    with locked(folder, "save"):
        check_writable(folder, kind)
        if not (folder / MANIFEST).exists():
            mark(folder)
        try:
            yield
        except ArtifactError:
            raise
        except Exception as error:  # Orbax reports a full disk, say, as a ValueError of many lines
            reason = first_line(error)
            raise OSError(f"save: can't write {folder} ({reason}); a model already there is as it was") from error
        finally:
            _tidy(folder)
            if arrays_directory(folder / MANIFEST) is not None or not _names(folder):
                (folder / MARKER).unlink(missing_ok=True)  # the manifest now says whose it is, or the folder is empty


def _describe(record: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of ``record`` and ``arrays``, without what is known only once the arrays are written."""
    versions = {name: version(name) for name in ("padim-jax", "jax", "flax", "orbax-checkpoint", "numpy")}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "versions": versions | {"python": platform.python_version()},
        **record,
        "directory": f"arrays-{uuid.uuid4().hex[:16]}",
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "dtypes": {name: str(array.dtype) for name, array in arrays.items() if array.dtype != np.float32},
        "parts": part_rows(arrays),
    }


def read_states(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The manifest of a model, and that of the state which :func:`undo` would bring back; None where there is none.

    Raises:
      ArtifactError: no model.
    """
    current, previous = read_manifest(folder), read_json(folder / PREVIOUS)
    # a process that ended between the two files has kept what is there already
    is_another = is_whole(folder, previous) and previous.get("directory") != current.get("directory")
    return current, previous if is_another else None


def undo(folder: Path) -> dict[str, Any]:
    """Bring back what the last :func:`write` that kept it replaced; a second call undoes that. Gives its manifest.

    Raises:
      ArtifactError: no model, or nothing was kept.
      FolderInUse: another process is writing it.
      OSError: it can't be written.
    """
    with locked(folder, "undo"):
        manifest, kept = read_states(folder)
        if kept is None:
            raise ArtifactError(
                f"undo: {folder} keeps no earlier state; padim fit, update, merge, forget and calibrate do"
            )
        current = json.dumps(manifest, indent=1).encode()
        previous = (folder / PREVIOUS).read_bytes()
        write_atomically(folder / MANIFEST, previous)
        write_atomically(folder / PREVIOUS, current)
        _tidy(folder)
        return read_manifest(folder)


def _tidy(folder: Path) -> None:
    """Remove the arrays that no manifest of a folder of ours names; the caller holds its lock."""
    manifests = [path for path in (folder / MANIFEST, folder / PREVIOUS) if path.exists()]
    directories = {arrays_directory(path) for path in manifests}
    if None in directories or not (manifests or is_ours(folder)):
        return  # not sure what belongs to it
    for path in folder.iterdir():
        if _ARRAYS.fullmatch(path.name) and path.name not in directories:
            shutil.rmtree(path, ignore_errors=True)


def check_writable(folder: Path, kind: str = FORMAT) -> None:
    """Raise ``ArtifactError`` where :func:`save` would refuse: a file, or a folder with something else in it.

    Something else is a model of another format than ``kind``, too.
    """
    names = _names(folder)
    if names:
        foreign = sorted(name for name in names if not _OURS.fullmatch(name))
        is_marked = is_ours(folder)  # asked before the manifest: a writer removes its mark once that is there
        has_manifest = (folder / MANIFEST).exists()
        if has_manifest and read_json(folder / MANIFEST).get("format", kind) != kind:
            foreign.append(MANIFEST)
        if not has_manifest and not is_marked:  # names like ours, but nothing says that they are
            foreign += sorted(names)
        if foreign:
            raise ArtifactError(f"save: {folder} holds other things ({foreign[0]}); choose a new folder for the model")


def _names(folder: Path) -> set[str]:
    """Names in a model's folder other than the lock and the mark; empty where there is no folder."""
    try:  # asked once: another process may make or remove the folder between two questions
        return {path.name for path in folder.iterdir()} - {LOCK, MARKER}
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise ArtifactError(f"save: {folder} is a file; a model is a folder, choose another name") from error
