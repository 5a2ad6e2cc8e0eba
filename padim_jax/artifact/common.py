"""What all forms of a stored model have in common: settings, backbone, calibration, region of interest."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from padim_jax.artifact.arrays import Made
from padim_jax.artifact.folder import ArtifactError, Stored, damaged, read_manifest, write
from padim_jax.backbones import BACKBONES, Backbone, backbone_parameters, build_backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians import packing
from padim_jax.method.calibration import BINS, RECIPE, Calibration, calibration, recipe
from padim_jax.method.embedding import Embedding, check_embedding
from padim_jax.method.records import Padim
from weights_conversion import unflatten

T = TypeVar("T")


@dataclass(frozen=True)
class Common:
    """What all forms have; named as in ``Padim``."""

    config: PadimConfig
    embedding: Embedding
    count: Any
    projection: Any
    calibration: Calibration | None
    roi: Any


def packed(square: Any, p: int, d: int, *, lower: bool) -> Made:
    """Triangles of p matrices (d, d), packed as they are written."""
    return Made(
        (p, d * (d + 1) // 2), np.dtype(np.float32), lambda part: packing.pack_triangle(square[part], lower=lower)
    )


def save_form(
    path: str | os.PathLike[str],
    form: str,
    fitted: Padim | Common,
    backbone: Backbone,
    arrays: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    keep_previous: bool = False,
) -> None:
    """Write a model of any form: what all forms have, and ``arrays`` and ``record`` of its own.

    What :func:`check_settings` would refuse when the model is loaded is refused here, before anything is written.

    Raises:
      ArtifactError, OSError: as :func:`padim_jax.artifact.folder.write`.
    """
    if backbone.spec.name not in BACKBONES:
        raise ArtifactError(
            f"save: backbone {backbone.spec.name!r} is your own, and its code can't be stored in {path}; keep its "
            "moments as arrays instead, as the docstring of padim_jax.own_backbone shows"
        )
    known = fitted.calibration
    common: dict[str, Any] = {"count": fitted.count}
    common |= {f"backbone.{path}": array for path, array in backbone_parameters(backbone).items()}
    if fitted.projection is not None:
        common["projection"] = fitted.projection
    if fitted.roi is not None:
        common["roi"] = np.asarray(fitted.roi, np.int16)
    if known is not None:
        common |= {"calibration.scores": known.scores, "calibration.pixels": known.pixels}
    description = {
        "form": form,
        "config": dataclasses.asdict(fitted.config),
        "embedding": dataclasses.asdict(fitted.embedding),
        "calibration": None if known is None else recipe(known),
    }
    described = description | dict(record)
    shapes = {name: list(array.shape) for name, array in (common | dict(arrays)).items()}
    check_settings(Path(path), json.loads(json.dumps(described | {"arrays": shapes})), "save")
    write(Path(path), described, common | dict(arrays), keep_previous=keep_previous)


def reading(path: str | os.PathLike[str], build: Callable[[Path, dict[str, Any]], T]) -> T:
    """What ``build`` makes of a model folder and its manifest, tried anew where the model was replaced meanwhile."""
    folder = Path(path)
    manifest = read_manifest(folder)
    try:
        return build(folder, manifest)
    except ArtifactError:
        again = read_manifest(folder)
        if again.get("directory") == manifest.get("directory"):
            raise
    return build(folder, again)  # it was replaced while being read


@dataclass(frozen=True)
class Settings:
    """What a manifest says of a model, checked."""

    config: PadimConfig
    embedding: Embedding
    rates: dict[str, Any] | None
    shapes: dict[str, Any]
    image_sizes: tuple[tuple[int, int], ...]


def check_settings(folder: Path, manifest: Mapping[str, Any], call: str = "load") -> Settings:
    """What a manifest says of a model of any form.

    Raises:
      ArtifactError: something is missing, of another type, out of bounds, or contradicts the rest.
    """
    try:
        config = PadimConfig(**_tuples(manifest["config"]))
        embedding = Embedding(**_tuples(manifest["embedding"]))
        check_embedding(embedding, config)
        known = manifest.get("calibration")
        rates = None if known is None else {name: known[name] for name in (*RECIPE, *({"threshold"} & {*known}))}
        sizes = tuple((int(width), int(height)) for width, height in manifest.get("image_sizes", ()))
        return Settings(config, embedding, rates, dict(manifest["arrays"]), sizes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if call == "save":
            raise ArtifactError(f"save: {folder} could not be loaded again ({error}); nothing was written") from error
        raise damaged(folder, error) from error


def read_common(
    folder: Path, manifest: Mapping[str, Any], settings: Settings, form: Mapping[str, list[int]], later: str
) -> tuple[Common, Backbone, Stored, dict[str, np.ndarray]]:
    """What all forms have, and the arrays that are left: those of ``form``, ``later`` not read yet if in parts."""
    config, embedding, rates, shapes = settings.config, settings.embedding, settings.rates, settings.shapes
    wanted: dict[str, list[int]] = {"count": []}
    if embedding.projected is not None:
        wanted["projection"] = [len(embedding.channels), embedding.dimension]
    if "roi" in shapes:
        wanted["roi"] = list(config.crop)
    if rates is not None:  # any number of scores
        wanted |= {"calibration.scores": [*shapes.get("calibration.scores", [])][:1], "calibration.pixels": [BINS]}
    _check_shapes(folder, wanted | dict(form), shapes)
    stored = Stored(folder, manifest)
    arrays = stored.arrays(but=later)
    backbone = _backbone(folder, embedding, arrays)
    if strange := [name for name in wanted if not np.isfinite(arrays[name]).all()]:
        raise ArtifactError(f"load: {folder} is damaged: {strange[0]} is not finite")
    calibrated = None
    if rates is not None:
        try:
            calibrated = calibration(arrays.pop("calibration.scores"), arrays.pop("calibration.pixels"), **rates)
        except (ValueError, TypeError) as error:
            raise damaged(folder, error) from error
    projection, roi = arrays.pop("projection", None), arrays.pop("roi", None)
    common = Common(
        config=config,
        embedding=embedding,
        count=jax.device_put(arrays.pop("count")),
        projection=None if projection is None else jax.device_put(projection),
        calibration=calibrated,
        roi=None if roi is None else jnp.asarray(roi != 0),
    )
    return common, backbone, stored, arrays


def _backbone(folder: Path, embedding: Embedding, arrays: dict[str, np.ndarray]) -> Backbone:
    prefix = "backbone."
    names = [name for name in arrays if name.startswith(prefix)]
    weights = {name.removeprefix(prefix): arrays.pop(name) for name in names}
    try:
        backbone = build_backbone(embedding.backbone, unflatten(weights))
    except (ValueError, TypeError, LookupError) as error:  # LookupError, TypeError: paths that are no tree
        raise ArtifactError(f"load: {folder} holds other weights than its settings say: {error}") from error
    if backbone.weights_digest != embedding.weights_digest:
        raise ArtifactError(f"load: {folder} holds other backbone weights than it was fitted with")
    return backbone


def _check_shapes(folder: Path, wanted: Mapping[str, list[int]], recorded: Mapping[str, Any]) -> None:
    for name, shape in wanted.items():
        if recorded.get(name) != shape:
            raise ArtifactError(
                f"load: {folder} is damaged: {name} has shape {recorded.get(name)}, its settings imply {shape}"
            )
    strangers = [name for name in recorded if name not in wanted and not name.startswith("backbone.")]
    if strangers:
        raise ArtifactError(f"load: {folder} is damaged: it holds unknown arrays {', '.join(strangers)}")


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON gives lists where the records hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
