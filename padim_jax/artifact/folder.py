"""Folders of arrays with a manifest: written whole or not at all, nothing pickled, every file checked.

A folder holds ``model.json`` and one ``arrays-…`` folder, an Orbax checkpoint, and in it one more checkpoint for each
part of an array too large to be held twice: what is being written Orbax holds twice over. The JSON file names the
arrays that belong to it and replaces its predecessor in one rename: whatever happens during a write, the folder is the
old one or the new one. A folder takes one writer at a time, which holds its lock (:mod:`padim_jax.artifact.ownership`).
"""

import hashlib
import json
import math
import platform
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from padim_jax.artifact.arrays import (
    ArtifactError,
    checksums,
    part_folder,
    part_rows,
    restore_arrays,
    spans,
    write_arrays,
)
from padim_jax.artifact.ownership import LOCK, MARKER, is_ours, locked, mark
from weights_conversion.atomic import write_atomically

# 2: neighbourhood, covariance, projection. 3: forms, calibration, region of interest, images. 4: parts
# 5: checksum of the manifest itself
SCHEMA = 5
FORMAT = "padim_jax model"
MANIFEST = "model.json"
PREVIOUS = "previous.json"  # the manifest of what the last change replaced
_UNFINISHED = ".unfinished"  # arrays that are still being written
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}(\.unfinished)?(\.orbax-checkpoint-tmp.*)?")
_OURS = re.compile(rf"{_ARRAYS.pattern}|\.?(model|previous)\.json(\.\d+\.tmp)?")
_MOST_COMPRESSED = 64  # bytes of arrays over bytes of files, of the compressed ones of earlier versions
_DTYPES = frozenset({"float32", "int16"})


def write(folder: Path, record: Mapping[str, Any], arrays: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Put ``record`` and ``arrays`` (float32 or int16, made or to be) in place of what ``folder`` holds, in one step.

    Args:
      folder: of the model.
      record: what the manifest says besides.
      arrays: by name.
      keep_previous: keep what is replaced, so that :func:`undo` brings it back; else that and anything kept before go.

    Raises:
      ArtifactError: ``folder`` is a file, or a folder with something else in it; an array is not finite; another
        program replaced the model meanwhile.
      FolderInUse: another process is writing it.
      OSError: it can't be written; what is there already is left as it was.
    """
    check_writable(folder)
    with locked(folder, "save"):
        check_writable(folder)
        if not (folder / MANIFEST).exists():
            mark(folder)
        before = _named(folder / MANIFEST)
        directory = f"arrays-{uuid.uuid4().hex[:16]}"
        parts = part_rows(arrays)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "versions": {name: version(name) for name in ("padim-jax", "jax", "flax", "orbax-checkpoint", "numpy")}
            | {"python": platform.python_version()},
            **record,
            "directory": directory,
            "arrays": {name: list(array.shape) for name, array in arrays.items()},
            "dtypes": {name: str(array.dtype) for name, array in arrays.items() if array.dtype != np.float32},
            "parts": parts,
        }
        try:
            manifest["files"] = write_arrays(folder / f"{directory}{_UNFINISHED}", arrays, parts)
            manifest["checksum"] = manifest_checksum(manifest)
            if _named(folder / MANIFEST) != before:
                raise ArtifactError(f"save: {folder} was replaced by another program meanwhile; nothing was written")
            (folder / f"{directory}{_UNFINISHED}").rename(folder / directory)
            if keep_previous and before is not None:
                write_atomically(folder / PREVIOUS, (folder / MANIFEST).read_bytes())
            write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
            if not keep_previous:
                (folder / PREVIOUS).unlink(missing_ok=True)
        except ArtifactError:
            raise
        except Exception as error:  # Orbax reports a full disk, say, as a ValueError of many lines
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise OSError(f"save: can't write {folder} ({reason}); a model already there is as it was") from error
        finally:
            _tidy(folder)
            if _named(folder / MANIFEST) is not None or {path.name for path in folder.iterdir()} <= {LOCK, MARKER}:
                (folder / MARKER).unlink(missing_ok=True)  # the manifest says whose it is, or there is nothing


def undo(folder: Path) -> dict[str, Any]:
    """Bring back what the last :func:`write` that kept it replaced; a second time undoes that. Gives its manifest.

    Raises:
      ArtifactError: no model, or nothing was kept.
      FolderInUse: another process is writing it.
      OSError: it can't be written.
    """
    with locked(folder, "undo"):
        now = json.dumps(read_manifest(folder), indent=1).encode()
        if not is_whole(folder, _read_json(folder / PREVIOUS)):
            raise ArtifactError(f"undo: {folder} keeps no earlier state; only update, forget and calibrate keep one")
        earlier = (folder / PREVIOUS).read_bytes()
        write_atomically(folder / MANIFEST, earlier)
        write_atomically(folder / PREVIOUS, now)
        _tidy(folder)
        return read_manifest(folder)


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a manifest's entries but for the checksum itself: against decay, not malice."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _tidy(folder: Path) -> None:
    """Remove the arrays that no manifest of a folder of ours names; the caller holds its lock."""
    manifests = [path for path in (folder / MANIFEST, folder / PREVIOUS) if path.exists()]
    named = {_named(path) for path in manifests}
    if None in named or not (manifests or is_ours(folder)):
        return  # not sure what belongs to it
    for path in folder.iterdir():
        if _ARRAYS.fullmatch(path.name) and path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _named(path: Path) -> str | None:
    """The folder of arrays that a manifest names; None where there is none that can be read."""
    found = _read_json(path).get("directory")
    return found if isinstance(found, str) else None


def disk_bytes(folder: Path) -> int:
    """Bytes of all files of a model folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_writable(folder: Path) -> None:
    """Raise ``ArtifactError`` where :func:`save` would refuse: a file, or a folder with something else in it."""
    names = _names(folder)
    if names:
        strangers = sorted(name for name in names if not _OURS.fullmatch(name))
        ours = is_ours(folder)  # asked before the next: a writer removes its mark once the manifest is there
        described = (folder / MANIFEST).exists()
        if described and _read_json(folder / MANIFEST).get("format", FORMAT) != FORMAT:
            strangers.append(MANIFEST)
        if not described and not ours:  # what looks like ours, but nothing says that it is
            strangers += sorted(names)
        if strangers:
            raise ArtifactError(
                f"save: {folder} holds other things ({strangers[0]}); choose a new folder for the model"
            )


def _names(folder: Path) -> set[str]:
    """What a model folder holds, locks and marks aside; nothing where there is none."""
    try:  # asked once: another process may make or remove the folder between two questions
        return {path.name for path in folder.iterdir()} - {LOCK, MARKER}
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise ArtifactError(f"save: {folder} is a file; a model is a folder, choose another name") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The record that :func:`write` was given, and what it added.

    Raises:
      ArtifactError: there is none, it is damaged, or a newer version wrote it.
    """
    if not folder.exists():
        raise ArtifactError(f"load: there is no model at {folder}")
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"load: {folder} is no model: it has no {MANIFEST} (a model is the folder `save` wrote)")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"load: {folder / MANIFEST} does not describe a {FORMAT}")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        versions = manifest.get("versions")
        by = versions.get("padim-jax") if isinstance(versions, dict) else "unknown"
        raise ArtifactError(
            f"load: {folder} has schema {schema!r}, this version reads up to {SCHEMA}; "
            f"it was written by padim-jax {by}: upgrade with pip install -U padim-jax"
        )
    if (schema >= 5 or "checksum" in manifest) and manifest.get("checksum") != manifest_checksum(manifest):
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged (its checksum differs); copy the model again")
    return manifest


def is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether every file that a manifest names is there; their checksums are for whoever reads them."""
    directory = folder / str(manifest.get("directory"))
    files = manifest.get("files")
    return isinstance(files, dict) and all((directory / name).is_file() for name in files)


class Stored:
    """The arrays that belong to a manifest, every file checked before any is read.

    Raises:
      ArtifactError: incomplete or damaged.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        try:
            shapes, files = dict(manifest["arrays"]), dict(manifest["files"])
            dtypes, directory = dict(manifest.get("dtypes", {})), str(manifest["directory"])
            parts = {name: [int(n) for n in rows] for name, rows in dict(manifest.get("parts", {})).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(folder, error) from error
        if not re.fullmatch(r"arrays-[0-9a-f]{16}", directory):
            raise ArtifactError(f"load: {folder / MANIFEST} is damaged (directory {directory!r})")
        if not _DTYPES.issuperset(map(str, dtypes.values())):
            raise ArtifactError(f"load: {folder / MANIFEST} is damaged (dtypes {', '.join(map(str, dtypes.values()))})")
        for name, rows in parts.items():
            known = name in shapes and re.fullmatch(r"[\w.-]+", name)  # a file's name below
            if not known or min(rows, default=0) < 1 or [sum(rows)] != shapes[name][:1]:
                raise ArtifactError(f"load: {folder / MANIFEST} is damaged (parts of {name}: {rows})")
        self._directory, self._shapes, self._dtypes, self._parts = folder / directory, shapes, dtypes, parts
        _check_files(self._directory, files)
        claimed, held = _array_bytes(folder, shapes, dtypes), disk_bytes(self._directory)
        if claimed > (held if manifest["schema"] >= 5 else _MOST_COMPRESSED * held + 2**20):
            raise ArtifactError(
                f"load: {folder / MANIFEST} is damaged: it tells of {claimed} bytes of arrays, the files hold {held}"
            )

    def arrays(self, but: str | None = None) -> dict[str, np.ndarray]:
        """All of them; ``but`` one that :meth:`parts` is to give, if it is stored in parts."""
        whole = {name: shape for name, shape in self._shapes.items() if name not in self._parts}
        found = restore_arrays(self._directory, whole, self._dtypes) if whole else {}
        for name in self._parts.keys() - {but}:
            found[name] = np.empty(self._shapes[name], self._dtypes.get(name, "float32"))
            for (start, stop), part in zip(spans(self._parts[name]), self._read(name), strict=True):
                found[name][start:stop] = part
        return found

    def parts(self, name: str, arrays: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Array ``name`` from first rows to last, in parts as it is stored; taken out of ``arrays`` if it is there."""
        return iter([arrays.pop(name)]) if name in arrays else self._read(name)

    def _read(self, name: str) -> Iterator[np.ndarray]:
        for index, rows in enumerate(self._parts[name]):
            shape = {name: [rows, *self._shapes[name][1:]]}
            yield restore_arrays(part_folder(self._directory, name, index), shape, self._dtypes)[name]


def damaged(folder: Path, error: Exception) -> ArtifactError:
    """The error of a manifest that holds nonsense."""
    return ArtifactError(f"load: {folder / MANIFEST} is damaged ({type(error).__name__}: {error})")


def _array_bytes(folder: Path, shapes: Mapping[str, Any], dtypes: Mapping[str, str]) -> int:
    total = 0
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise ArtifactError(f"load: {folder / MANIFEST} is damaged (array {name} has shape {shape!r})")
        total += math.prod(shape) * np.dtype(dtypes.get(name, "float32")).itemsize
    return total


def _check_files(directory: Path, recorded: Mapping[str, Any]) -> None:
    # before Orbax sees them: it fails on damaged files in ways that print long after the error
    found = checksums(directory)
    if missing := sorted(recorded.keys() - found.keys()):
        raise ArtifactError(
            f"load: {directory / missing[0]} is missing; the model was copied in part: copy it again, as a whole folder"
        )
    if changed := sorted(name for name in found if found[name] != recorded.get(name)):
        raise ArtifactError(f"load: {directory / changed[0]} is damaged (its checksum differs); copy the model again")


def _read_json(path: Path) -> dict[str, Any]:
    """What ``path`` holds, or nothing where that is not a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
