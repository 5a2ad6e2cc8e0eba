"""Fitted models on disk: folders as those of PaDiM's models, of a format of their own."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.folder import write
from padim_jax.artifact.loading import restore_backbone
from padim_jax.artifact.manifest import manifest_error, read_manifest
from padim_jax.artifact.stored import StoredArrays
from padim_jax.backbones import BACKBONES, backbone_parameters
from padim_jax.baselines.features import embedding_of
from padim_jax.baselines.manifest import FORMAT
from padim_jax.baselines.records import BackboneModel, FittedModel, TrainedModel, named_arrays
from padim_jax.baselines.registry import Method, method
from padim_jax.baselines.settings import BaselineSettings
from padim_jax.config import PadimConfig
from padim_jax.method.calibration import RECIPE, Calibration, recipe
from padim_jax.method.calibration import calibration as restore_calibration
from padim_jax.method.embedding import Embedding

# what a program or a record says of settings and arrays that don't fit one another
_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def save(
    model: FittedModel[Any],
    path: str | os.PathLike[str],
    calibration: Calibration | None = None,
    files: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Save a model of any method as folder ``path``, with its networks; one of the same kind there is replaced.

    It is written whole or not at all, as checked arrays and JSON (:mod:`padim_jax.artifact.folder`).

    Args:
      model: any.
      path: of the folder.
      calibration: what good images score, for p-values and verdicts (:func:`load_calibrated` gives it back).
      files: (width, height) of the files that it was fitted on, by their digests, which
        :func:`padim_jax.baselines.manifest.files_of` gives back.

    Raises:
      ArtifactError: a network of the user's own, whose code can't be stored; ``path`` is a file, or a folder with
        something else in it; an array that is not finite.
      FolderInUse: another process is writing the folder.
      OSError: it can't be written; a model already there is left as it was.
    """
    record = {"format": FORMAT, "method": model.settings.method, "settings": dataclasses.asdict(model.settings)}
    arrays = {f"model.{name}": np.asarray(array) for name, array in named_arrays(model).items()}
    if isinstance(model, BackboneModel):
        if model.backbone.spec.name not in BACKBONES:
            raise ArtifactError(
                f"save: backbone {model.backbone.spec.name!r} is your own, and its code can't be stored in {path}; "
                "keep the images, and fit anew"
            )
        arrays |= {f"backbone.{name}": array for name, array in backbone_parameters(model.backbone).items()}
        record["embedding"] = dataclasses.asdict(model.embedding)
    record["images"] = dict(files or {})
    record["calibration"] = None if calibration is None else recipe(calibration)
    if calibration is not None:
        arrays |= {"calibration.scores": np.asarray(calibration.scores)}
        arrays |= {"calibration.pixels": np.asarray(calibration.pixels)}
    write(Path(path), json.loads(json.dumps(record)), arrays)


def load(path: str | os.PathLike[str]) -> FittedModel[Any]:
    """Load a model that :func:`save` wrote; it scores without the weights file, and nothing in the folder is executed.

    Raises:
      ArtifactError: no model of these methods, or one that a newer version wrote, that is incomplete, or damaged.
    """
    return load_calibrated(path)[0]


def load_calibrated(path: str | os.PathLike[str]) -> tuple[FittedModel[Any], Calibration | None]:
    """As :func:`load`, with the calibration that the model was saved with, or None."""
    folder = Path(path)
    manifest = read_manifest(folder, FORMAT)
    try:
        found = method(manifest["method"])
        settings = _settings(found, manifest["settings"])
        embedding = _embedding(manifest["embedding"]) if found.uses_backbone else None
    except _MISFITS as error:
        raise manifest_error(folder, error) from error
    arrays = StoredArrays(folder, manifest).arrays()
    _check_numbers(folder, arrays)
    network: dict[str, Any] = {}
    if embedding is not None:
        network = {"backbone": restore_backbone(folder, embedding, arrays), "embedding": embedding}
    try:
        calibration = _calibration(manifest.get("calibration"), arrays)
        if embedding is not None:
            drawn = embedding_of(network["backbone"], settings.config, embedding.taps, embedding.neighbourhood)
            if drawn != embedding:
                raise ValueError(f"embedding {embedding} is not that of its settings")
        parts = _parts(found, arrays)
        model = found.model(settings=settings, **network, **jax.device_put(parts))
        if isinstance(model, TrainedModel) and (len(model.history) == 0 or model.history.shape[1:] not in ((2,), (3,))):
            raise ValueError(f"the history is {model.history.shape}")  # no program uses it
        # arrays that don't fit one another, or the settings, make no program
        jax.eval_shape(found.score, model, jax.ShapeDtypeStruct((1, *settings.config.crop, 3), np.uint8))
    except _MISFITS as error:
        raise manifest_error(folder, error) from error
    return model, calibration


def _check_numbers(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ``ArtifactError`` where an array is not of finite float32 numbers, as all are that :func:`save` writes."""
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ArtifactError(f"load: {folder} is damaged: {name} is {array.dtype}, wanted float32")
        if not np.isfinite(array).all():
            raise ArtifactError(f"load: {folder} is damaged: {name} is not finite")


def _calibration(stored: Any, arrays: dict[str, np.ndarray]) -> Calibration | None:
    """The calibration in ``arrays``, which are taken out of them."""
    if stored is None:
        return None
    rates = {name: stored[name] for name in (*RECIPE, *({"threshold"} & {*stored}))}
    return restore_calibration(arrays.pop("calibration.scores"), arrays.pop("calibration.pixels"), **rates)


def _settings(found: Method, stored: Mapping[str, Any]) -> BaselineSettings:
    own = {name: value for name, value in stored.items() if name != "config"}
    return found.settings(config=PadimConfig(**stored["config"]), **own)


def _embedding(stored: Mapping[str, Any]) -> Embedding:
    values: dict[str, Any] = {name: _hashable(value) for name, value in stored.items()}
    return Embedding(**values)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _parts(found: Method, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of a model by name: an array, several that are numbered, or several by path."""
    fields = {entry.name for entry in dataclasses.fields(found.model)} - {"backbone", "settings", "embedding"}
    parts: dict[str, Any] = {}
    for name in sorted(arrays, key=_in_numbers):
        match = re.fullmatch(r"model\.([a-z]\w*)(?:\.(?:(\d+)|([a-z][\w.]*)))?", name)
        if match is None or match[1] not in fields:
            raise ValueError(f"unknown array {name}")
        if match[2]:
            parts[match[1]] = (*parts.get(match[1], ()), arrays[name])
        elif match[3]:
            parts[match[1]] = {**parts.get(match[1], {}), match[3]: arrays[name]}
        else:
            parts[match[1]] = arrays[name]
    if missing := sorted(fields - parts.keys()):
        raise ValueError(f"no array {missing[0]}")
    return parts


def _in_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbered arrays by their numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
