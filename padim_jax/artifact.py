"""Save and load a fitted model: one self-contained folder, nothing pickled, never half written.

A model folder holds ``model.json`` and one ``arrays-…`` folder, an Orbax checkpoint. The JSON file
names the arrays that belong to it and replaces its predecessor in one rename: whatever happens during a
save, the folder is the old model or the new one. A folder takes one writer at a time.
"""

import dataclasses
import json
import os
import platform
import re
import shutil
import uuid
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from padim_jax.backbones import backbone_parameters, build_backbone
from padim_jax.config import PadimConfig
from padim_jax.embedding import Embedding, check_embedding
from padim_jax.gaussian import Gaussian, WhitenedGaussian, is_finite
from padim_jax.padim import Padim
from weights_conversion import unflatten
from weights_conversion.atomic import write_atomically

SCHEMA = 2  # 2: neighbourhood, covariance, projection
FORMAT = "padim_jax model"
MANIFEST = "model.json"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}(\.orbax-checkpoint-tmp.*)?")
_CHUNK_BYTES = 64 * 2**20  # of one piece on disk, so that writing needs no second copy of the state


class ArtifactError(ValueError):
    """The folder is no model that can be loaded; the message names it and says why."""


def save(model: Padim, path: str | os.PathLike[str]) -> None:
    """Save ``model`` as folder ``path``, with everything that scoring needs.

    Stored: truncated backbone weights, means, factors, channels, settings, versions, and a checksum
    of every file. A model already there is replaced in one step.

    Raises:
      ArtifactError: ``path`` is a file, or a folder with something else in it.
      OSError: it can't be written; a model already there is left as it was.
    """
    folder = Path(path)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = _arrays_of(model)
    directory = f"arrays-{uuid.uuid4().hex[:16]}"
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "versions": {name: version(name) for name in ("padim-jax", "jax", "flax", "orbax-checkpoint", "numpy")}
        | {"python": platform.python_version()},
        "config": dataclasses.asdict(model.config),
        "embedding": dataclasses.asdict(model.embedding),
        "directory": directory,
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
    }
    old = {path.name for path in folder.iterdir()}
    try:
        save_args = {name: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES) for name in arrays}
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(folder.resolve() / directory, args=ocp.args.PyTreeSave(arrays, save_args))
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


def load(path: str | os.PathLike[str]) -> Padim:
    """Load a model saved by :func:`save`; it scores without the original weights file.

    Every file is checked against its checksum and every array against the shape its settings imply;
    nothing in the folder is executed.

    Raises:
      ArtifactError: no model, one written by a newer version, incomplete, or damaged.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    try:
        return _load(folder, manifest)
    except ArtifactError:
        again = _manifest(folder)
        if again.get("directory") == manifest.get("directory"):
            raise
    return _load(folder, again)  # it was replaced while being read


def _load(folder: Path, manifest: Mapping[str, Any]) -> Padim:
    try:
        config = PadimConfig(**_tuples(manifest["config"]))
        embedding = Embedding(**_tuples(manifest["embedding"]))
        check_embedding(embedding, config)
        shapes, files = dict(manifest["arrays"]), dict(manifest["files"])
        directory = str(manifest["directory"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged ({type(error).__name__}: {error})") from error
    if not re.fullmatch(r"arrays-[0-9a-f]{16}", directory):
        raise ArtifactError(f"load: {folder / MANIFEST} is damaged (directory {directory!r})")
    _check_files(folder / directory, files)
    kind, square = (WhitenedGaussian, "whitening") if "gaussian.whitening" in shapes else (Gaussian, "factor")
    _check_shapes(folder, embedding, shapes, square)
    arrays = _restore(folder / directory, shapes)
    prefix = "backbone."
    weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    try:
        backbone = build_backbone(embedding.backbone, unflatten(weights))
    except (ValueError, TypeError, LookupError) as error:  # LookupError, TypeError: paths that are no tree
        raise ArtifactError(f"load: {folder} holds other weights than its settings say: {error}") from error
    if backbone.weights_digest != embedding.weights_digest:
        raise ArtifactError(f"load: {folder} holds other backbone weights than it was fitted with")
    # taken out of the dictionary as they move, so that the host's copy of 3.8 GB goes at once
    mean, factors, count = (
        jax.device_put(arrays.pop(name)) for name in ("gaussian.mean", f"gaussian.{square}", "count")
    )
    fitted = kind(mean, factors)
    projection = jax.device_put(arrays.pop("projection")) if embedding.projected is not None else None
    finite = projection is None or bool(np.isfinite(projection).all())
    if not finite or not jax.jit(is_finite)(fitted).all():
        raise ArtifactError(f"load: {folder} is damaged: its means, factors or projection are not finite")
    return Padim(backbone, fitted, count, config, embedding, projection)


def _arrays_of(model: Padim) -> dict[str, Any]:
    fitted = {f"gaussian.{f.name}": getattr(model.gaussian, f.name) for f in dataclasses.fields(model.gaussian)}
    weights = {f"backbone.{path}": array for path, array in backbone_parameters(model.backbone).items()}
    projection = {} if model.projection is None else {"projection": model.projection}
    return {"count": model.count} | fitted | projection | weights


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


def _manifest(folder: Path) -> dict[str, Any]:
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


def _check_shapes(folder: Path, embedding: Embedding, recorded: Mapping[str, Any], square: str) -> None:
    p, d = embedding.n_positions, embedding.dimension
    wanted = {"count": [], "gaussian.mean": [p, d], f"gaussian.{square}": [p, d, d]}
    if embedding.projected is not None:
        wanted["projection"] = [len(embedding.channels), d]
    for name, shape in wanted.items():
        if recorded.get(name) != shape:
            raise ArtifactError(
                f"load: {folder} is damaged: {name} has shape {recorded.get(name)}, its settings imply {shape}"
            )
    strangers = [name for name in recorded if name not in wanted and not name.startswith("backbone.")]
    if strangers:
        raise ArtifactError(f"load: {folder} is damaged: it holds unknown arrays {', '.join(strangers)}")


def _restore(directory: Path, recorded: Mapping[str, Any]) -> dict[str, np.ndarray]:
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
    if strange := [name for name, array in restored.items() if array.dtype != np.float32]:
        raise ArtifactError(
            f"load: {directory} is damaged: {strange[0]} is {restored[strange[0]].dtype}, wanted float32"
        )
    return restored


def _read_json(path: Path) -> dict[str, Any]:
    """What ``path`` holds, or nothing where that is not a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON gives lists where the records hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
