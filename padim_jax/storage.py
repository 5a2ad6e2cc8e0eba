"""Folders of arrays with a manifest: written whole or not at all, nothing pickled, every file checked.

A folder holds ``model.json`` and one ``arrays-…`` folder, an Orbax checkpoint. The JSON file names the arrays that
belong to it and replaces its predecessor in one rename: whatever happens during a write, the folder is the old one or
the new one. A folder takes one writer at a time.
"""

import json
import platform
import re
import shutil
import uuid
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from weights_conversion.atomic import write_atomically

SCHEMA = 3  # 2: neighbourhood, covariance, projection. 3: forms, calibration, region of interest, images
FORMAT = "padim_jax model"
MANIFEST = "model.json"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}(\.orbax-checkpoint-tmp.*)?")
_CHUNK_BYTES = 64 * 2**20  # of one piece on disk, so that writing needs no second copy of the state
_DTYPES = frozenset({"float32", "int16"})


class ArtifactError(ValueError):
    """The folder is no model that can be loaded; the message names it and says why."""


def write(folder: Path, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Put ``record`` and ``arrays`` (float32 or int16) in place of what ``folder`` holds, in one step.

    Raises:
      ArtifactError: ``folder`` is a file, or a folder with something else in it.
      OSError: it can't be written; what is there already is left as it was.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    directory = f"arrays-{uuid.uuid4().hex[:16]}"
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "versions": {name: version(name) for name in ("padim-jax", "jax", "flax", "orbax-checkpoint", "numpy")}
        | {"python": platform.python_version()},
        **record,
        "directory": directory,
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "dtypes": {name: str(array.dtype) for name, array in arrays.items() if array.dtype != np.float32},
    }
    old = {path.name for path in folder.iterdir()}
    try:
        save_args = {name: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES) for name in arrays}
        # factors hardly compress, and sizes are told beforehand
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as checkpointer:
            checkpointer.save(folder.resolve() / directory, args=ocp.args.PyTreeSave(dict(arrays), save_args))
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


def read_arrays(folder: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that belong to ``manifest``, every file checked before it is read.

    Raises:
      ArtifactError: incomplete or damaged.
    """
    try:
        shapes, files = dict(manifest["arrays"]), dict(manifest["files"])
        dtypes, directory = dict(manifest.get("dtypes", {})), str(manifest["directory"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, error) from error
    if not re.fullmatch(r"arrays-[0-9a-f]{16}", directory):
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged (directory {directory!r})")
    if not _DTYPES.issuperset(map(str, dtypes.values())):
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged (dtypes {', '.join(map(str, dtypes.values()))})")
    _check_files(folder / directory, files)
    return _restore(folder / directory, shapes, dtypes)


def damaged(folder: Path, error: Exception) -> ArtifactError:
    """The error of a manifest that holds nonsense."""
    return ArtifactError(f"load: {folder / MANIFEST} is damaged ({type(error).__name__}: {error})")


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
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
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
