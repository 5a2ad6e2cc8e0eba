"""Folders of arrays with a manifest: written whole or not at all, nothing pickled, every file checked.

A folder holds ``model.json`` and one ``arrays-…`` folder, an Orbax checkpoint, and in it one more checkpoint for each
part of an array too large to be held twice: what is being written Orbax holds twice over. The JSON file names the
arrays that belong to it and replaces its predecessor in one rename: whatever happens during a write, the folder is the
old one or the new one. A folder takes one writer at a time.
"""

import itertools
import json
import math
import platform
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from weights_conversion.atomic import write_atomically

# 2: neighbourhood, covariance, projection. 3: forms, calibration, region of interest, images. 4: parts
SCHEMA = 4
FORMAT = "padim_jax model"
MANIFEST = "model.json"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}(\.orbax-checkpoint-tmp.*)?")
PART_BYTES = 128 * 2**20  # an array beyond that is written and read in parts of its first axis
_DTYPES = frozenset({"float32", "int16"})


class ArtifactError(ValueError):
    """The folder is no model that can be loaded; the message names it and says why."""


@dataclass(frozen=True)
class Made:
    """An array that is made as it is written, part by part.

    Attributes:
      shape, dtype: of the whole.
      make: gives the rows of one slice.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[slice], np.ndarray]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.make(rows)


def write(folder: Path, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Put ``record`` and ``arrays`` (float32 or int16, made or to be) in place of what ``folder`` holds, in one step.

    Raises:
      ArtifactError: ``folder`` is a file, or a folder with something else in it.
      OSError: it can't be written; what is there already is left as it was.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    directory = f"arrays-{uuid.uuid4().hex[:16]}"
    parts = _parts(arrays)
    manifest = {
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
    old = {path.name for path in folder.iterdir()}
    try:
        whole = {name: array for name, array in arrays.items() if name not in parts}
        made = {name: np.asarray(array[:] if isinstance(array, Made) else array) for name, array in whole.items()}
        # factors hardly compress, and sizes are told beforehand
        alone = _alone()
        handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            if made:  # Orbax refuses nothing at all
                checkpointer.save(folder.resolve() / directory, args=ocp.args.PyTreeSave(made))
            del made
            for name, rows in parts.items():
                for index, (start, stop) in enumerate(_spans(rows)):
                    part = np.asarray(arrays[name][start:stop])
                    target = _part(folder.resolve() / directory, name, index)
                    checkpointer.save(target, args=ocp.args.PyTreeSave({name: part}))
        manifest["files"] = _checksums(folder / directory)
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    except Exception as error:  # Orbax reports a full disk, say, as a ValueError of many lines
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(f"save: can't write {folder} ({reason}); a model already there is as it was") from error
    finally:
        # what the manifest does not name is of no use: the old arrays, or the new ones if it was not reached
        named = _read_json(folder / MANIFEST).get("directory")
        sure = named is not None or not (folder / MANIFEST).exists()
        for path in folder.iterdir() if sure else ():
            if _ARRAYS.fullmatch(path.name) and path.name != named and (path.name in old or directory in path.name):
                shutil.rmtree(path, ignore_errors=True)


def attend(arrays: Mapping[str, Any]) -> None:
    """Make the arrays in the order in which :func:`write` does, where another process writes and all must make them."""
    parts = _parts(arrays)
    for name, array in arrays.items():
        if name not in parts and isinstance(array, Made):
            array[:]
    for name, rows in parts.items():
        for start, stop in _spans(rows):
            arrays[name][start:stop]


def disk_bytes(folder: Path) -> int:
    """Bytes of all files of a model folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_writable(folder: Path) -> None:
    """Raise ``ArtifactError`` where :func:`save` would refuse: a file, or a folder with something else in it."""
    if folder.is_dir():
        ours = re.compile(rf"{_ARRAYS.pattern}|\.?model\.json(\.\d+\.tmp)?")
        strangers = [path.name for path in sorted(folder.iterdir()) if not ours.fullmatch(path.name)]
        if (folder / MANIFEST).exists() and _read_json(folder / MANIFEST).get("format", FORMAT) != FORMAT:
            strangers.append(MANIFEST)
        if strangers:
            raise ArtifactError(
                f"save: {folder} holds other things ({strangers[0]}); choose a new folder for the model"
            )
    elif folder.exists():
        raise ArtifactError(f"save: {folder} is a file; a model is a folder, choose another name")


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
    return manifest


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

    def arrays(self, but: str | None = None) -> dict[str, np.ndarray]:
        """All of them; ``but`` one that :meth:`parts` is to give, if it is stored in parts."""
        whole = {name: shape for name, shape in self._shapes.items() if name not in self._parts}
        found = _restore(self._directory, whole, self._dtypes) if whole else {}
        for name in self._parts.keys() - {but}:
            found[name] = np.empty(self._shapes[name], self._dtypes.get(name, "float32"))
            for (start, stop), part in zip(_spans(self._parts[name]), self._read(name), strict=True):
                found[name][start:stop] = part
        return found

    def parts(self, name: str, arrays: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Array ``name`` from first rows to last, in parts as it is stored; taken out of ``arrays`` if it is there."""
        return iter([arrays.pop(name)]) if name in arrays else self._read(name)

    def _read(self, name: str) -> Iterator[np.ndarray]:
        for index, rows in enumerate(self._parts[name]):
            shape = {name: [rows, *self._shapes[name][1:]]}
            yield _restore(_part(self._directory, name, index), shape, self._dtypes)[name]


def damaged(folder: Path, error: Exception) -> ArtifactError:
    """The error of a manifest that holds nonsense."""
    return ArtifactError(f"load: {folder / MANIFEST} is damaged ({type(error).__name__}: {error})")


def _alone() -> ocp.options.MultiprocessingOptions:
    """For checkpoints of one process' arrays: it waits for no other."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process-{own}"
    )


def _parts(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """Rows of the parts of those arrays that are written in several."""
    return {name: rows for name, array in arrays.items() if len(rows := _part_rows(array.shape, array.dtype)) > 1}


def _part_rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[int]:
    """Rows of each part that an array is written in."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= PART_BYTES:
        return [shape[0]] if shape else [1]
    rows = max(1, shape[0] * PART_BYTES // size)
    return [min(rows, shape[0] - start) for start in range(0, shape[0], rows)]


def _spans(rows: list[int]) -> list[tuple[int, int]]:
    """Start and stop of parts of so many rows."""
    stops = list(itertools.accumulate(rows))
    return list(zip([0, *stops], stops, strict=False))


def _part(directory: Path, name: str, index: int) -> Path:
    return directory / f"{name}.part-{index:05}"


def _checksums(directory: Path) -> dict[str, int]:
    """CRC-32 of every file below ``directory``, by relative path: against decay and partial copies, not malice."""
    found: dict[str, int] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        checksum = 0
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
        found[path.relative_to(directory).as_posix()] = checksum
    return found


def _check_files(directory: Path, recorded: Mapping[str, Any]) -> None:
    # before Orbax sees them: it fails on damaged files in ways that print long after the error
    found = _checksums(directory)
    if missing := sorted(recorded.keys() - found.keys()):
        raise ArtifactError(
            f"load: {directory / missing[0]} is missing; the model was copied in part: copy it again, as a whole folder"
        )
    if changed := sorted(name for name in found if found[name] != recorded.get(name)):
        raise ArtifactError(f"load: {directory / changed[0]} is damaged (its checksum differs); copy the model again")


def _restore(directory: Path, recorded: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    try:
        alone = _alone()
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            stored = checkpointer.metadata(directory.resolve()).item_metadata.tree
            for name, shape in recorded.items():
                if name not in stored or list(stored[name].shape) != shape:
                    raise ValueError(f"array {name} is missing or has another shape than recorded")
            arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in recorded}
            restored = checkpointer.restore(
                directory.resolve(),
                args=ocp.args.PyTreeRestore(item=dict.fromkeys(recorded, 0), restore_args=arguments),
            )
    except Exception as error:  # a damaged checkpoint can fail anywhere in Orbax and TensorStore
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"load: {directory} is damaged ({reason}); restore the model from a copy") from error
    wanted = {name: dtypes.get(name, "float32") for name in restored}
    if strange := [name for name, array in restored.items() if array.dtype != wanted[name]]:
        found, right = restored[strange[0]].dtype, wanted[strange[0]]
        raise ArtifactError(f"load: {directory} is damaged: {strange[0]} is {found}, wanted {right}")
    return restored


def _read_json(path: Path) -> dict[str, Any]:
    """What ``path`` holds, or nothing where that is not a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
