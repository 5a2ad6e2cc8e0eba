"""The arrays that belong to a manifest: every file is checked before any is read; large arrays come in parts."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from padim_jax.artifact.arrays import ArtifactError, checksums, disk_bytes, part_folder, restore_arrays, spans
from padim_jax.artifact.manifest import MANIFEST, manifest_error

_MOST_COMPRESSED = 64  # bytes of arrays over bytes of files, in the compressed files of earlier versions
_DTYPES = frozenset({"float32", "int16"})


class StoredArrays:
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
            raise manifest_error(folder, error) from error
        if not re.fullmatch(r"arrays-[0-9a-f]{16}", directory):
            raise ArtifactError(f"load: {folder / MANIFEST} is damaged (directory {directory!r})")
        if not _DTYPES.issuperset(map(str, dtypes.values())):
            raise ArtifactError(f"load: {folder / MANIFEST} is damaged (dtypes {', '.join(map(str, dtypes.values()))})")
        for name, rows in parts.items():
            shape = shapes.get(name)
            fits = isinstance(shape, list) and min(rows, default=0) >= 1 and [sum(rows)] == shape[:1]
            if not fits or not re.fullmatch(r"[\w.-]+", name):  # it becomes a file's name below
                raise ArtifactError(f"load: {folder / MANIFEST} is damaged (parts of {name}: {rows})")
        self._directory, self._shapes, self._dtypes, self._parts = folder / directory, shapes, dtypes, parts
        _check_files(self._directory, files)
        array_bytes, file_bytes = _array_bytes(folder, shapes, dtypes), disk_bytes(self._directory)
        if array_bytes > (file_bytes if manifest["schema"] >= 5 else _MOST_COMPRESSED * file_bytes + 2**20):
            raise ArtifactError(
                f"load: {folder / MANIFEST} is damaged: it lists {array_bytes} bytes of arrays, its files "
                f"hold {file_bytes}"
            )

    def arrays(self, but: str | None = None) -> dict[str, np.ndarray]:
        """All arrays, except ``but``, if that is stored in parts: :meth:`parts` gives it."""
        whole = {name: shape for name, shape in self._shapes.items() if name not in self._parts}
        arrays = restore_arrays(self._directory, whole, self._dtypes) if whole else {}
        for name in self._parts.keys() - {but}:
            arrays[name] = np.empty(self._shapes[name], self._dtypes.get(name, "float32"))
            for (start, stop), part in zip(spans(self._parts[name]), self._read(name), strict=True):
                arrays[name][start:stop] = part
        return arrays

    def some(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Small arrays by their names; none that is stored in parts.

        Raises:
          ArtifactError: one of them is not there.
        """
        if missing := sorted({*names} - self._shapes.keys()):
            raise ArtifactError(f"load: {self._directory} has no array {missing[0]}; copy the model again")
        shapes = {name: self._shapes[name] for name in names}
        return restore_arrays(self._directory, shapes, self._dtypes, partly=True)

    def parts(self, name: str, arrays: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
        """Array ``name`` from first rows to last, in parts as it is stored; taken out of ``arrays`` if it is there."""
        return iter([arrays.pop(name)]) if name in arrays else self._read(name)

    def _read(self, name: str) -> Iterator[np.ndarray]:
        for index, rows in enumerate(self._parts[name]):
            shape = {name: [rows, *self._shapes[name][1:]]}
            yield restore_arrays(part_folder(self._directory, name, index), shape, self._dtypes)[name]


def _array_bytes(folder: Path, shapes: Mapping[str, Any], dtypes: Mapping[str, str]) -> int:
    total = 0
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise ArtifactError(f"load: {folder / MANIFEST} is damaged (array {name} has shape {shape!r})")
        total += math.prod(shape) * np.dtype(dtypes.get(name, "float32")).itemsize
    return total


def _check_files(directory: Path, recorded: Mapping[str, Any]) -> None:
    # before Orbax sees them: it fails on damaged files in ways that print long after the error
    checksums_by_path = checksums(directory)
    if missing := sorted(recorded.keys() - checksums_by_path.keys()):
        raise ArtifactError(
            f"load: {directory / missing[0]} is missing; the model was copied in part: copy it again, as a whole folder"
        )
    if changed := sorted(name for name in checksums_by_path if checksums_by_path[name] != recorded.get(name)):
        raise ArtifactError(f"load: {directory / changed[0]} is damaged (its checksum differs); copy the model again")
