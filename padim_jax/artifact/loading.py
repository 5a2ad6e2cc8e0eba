"""Load models of any form and of every version."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.compaction import Compacted, DeployedForm
from padim_jax.artifact.layouts import LAYOUTS, tree_bytes
from padim_jax.artifact.manifest import manifest_error, read_manifest
from padim_jax.artifact.settings import Settings, check_settings, layout_of
from padim_jax.artifact.stored import StoredArrays
from padim_jax.artifact.updatable import Updatable, is_weight
from padim_jax.backbones import Backbone, build_backbone
from padim_jax.gaussians.quantised import Quantised
from padim_jax.gaussians.worst_case import WorstCase
from padim_jax.method.aligned import Alignment
from padim_jax.method.calibration import Calibration, calibration
from padim_jax.method.embedding import Embedding
from padim_jax.method.positions import n_gaussians
from padim_jax.method.records import Padim, PadimMoments
from padim_jax.method.standard import MapStandard
from weights_conversion import unflatten

T = TypeVar("T")


def load(path: str | os.PathLike[str]) -> Padim:
    """Load a model of any form; it scores without the original weights file.

    Every file is checked against its checksum and every array against the shape its settings imply;
    nothing in the folder is executed. An updatable model is factored here.

    Raises:
      ArtifactError: no model, or one that a newer version wrote, that is incomplete, or that is damaged.

    >>> padim.save(model, folder / "model")
    >>> scores = padim.score(padim.load(folder / "model"), test_images)
    """
    return _read_folder(path, _build_model)


def load_updatable(path: str | os.PathLike[str]) -> Updatable:
    """Load a model saved by :func:`save_updatable`, from which a later fit goes on.

    Raises:
      ArtifactError: as :func:`load`; a model of a deployed form, which has no moments.

    >>> padim.save_updatable(padim.Updatable(backbone, moments), folder / "model")
    >>> stored = padim.load_updatable(folder / "model")
    >>> moments = padim.update(stored.backbone, stored.moments, good_images)
    >>> int(moments.count)
    40
    """
    return _read_folder(path, _build_updatable)


def load_quantised(path: str | os.PathLike[str]) -> Quantised | None:
    """The numbers of 16 bits that the factors of a stored model are made from; None where they have 32.

    Raises:
      ArtifactError: as :func:`load`.
    """
    return _read_folder(path, _read_quantised)


def load_worst_case(path: str | os.PathLike[str]) -> tuple[float, WorstCase] | None:
    """What compacting a stored model changes distances by: the bound of all, and the embedding of the largest change.

    Returns:
      None where it is not in a compact form, or where an earlier version, which did not say, compacted it.

    Raises:
      ArtifactError: as :func:`load`; only the manifest is read.
    """
    manifest = read_manifest(Path(path))
    found, bound = manifest.get("worst_case"), manifest.get("max_error")
    if found is None:
        return None
    try:
        deviation = np.array(found["deviation"], np.float32)
        case = WorstCase(found["position"], deviation, float(found["distance"]), float(found["error"]))
        bound = float(bound)  # pyright: ignore[reportArgumentType] - what is no number is refused
        settings = check_settings(Path(path), manifest)
        p, d = n_gaussians(settings.config, settings.embedding), settings.embedding.dimension
        if type(case.position) is not int or not 0 <= case.position < p or deviation.shape != (d,):
            raise ValueError(
                f"position {case.position!r:.80} and deviation {deviation.shape}, of {p} positions of {d} numbers"
            )
        if (
            not np.isfinite([*deviation, case.distance, case.error, bound]).all()
            or case.distance <= 0
            or case.error < 0
        ):
            raise ValueError("it is not of numbers")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ArtifactError(f"load: {path} is damaged: its worst case can't be read ({error})") from error
    return bound, case


def load_compacted(path: str | os.PathLike[str], model: Padim | None = None) -> Compacted | None:
    """A stored model as it was compacted, with its numbers of 16 bits and its bound; None where it was not.

    Args:
      path: the folder.
      model: to take the place of the stored one, where only its calibration changed and its factors did not.

    Raises:
      ArtifactError: as :func:`load`.
    """
    manifest = read_manifest(Path(path))
    bound = manifest.get("max_error")
    if bound is None:
        return None
    form = next((name for name in get_args(DeployedForm) if name == manifest.get("form")), None)
    if form is None or type(bound) not in (int, float) or not 0 <= bound < 1:
        raise ArtifactError(
            f"load: {path} is damaged (form {manifest.get('form')!r}, bound of its distances {bound!r:.80})"
        )
    worst = load_worst_case(path)
    kept = load(path) if model is None else model
    return Compacted(form, kept, load_quantised(path), bound, (), None if worst is None else worst[1])


def load_images(path: str | os.PathLike[str]) -> dict[str, float] | None:
    """Digests of the files that a stored model of any form was fitted on, each with its weight; None if not known.

    Raises:
      ArtifactError: as :func:`load`; only the manifest is read.
    """
    return _images(Path(path), read_manifest(Path(path)).get("images")) or None


def load_image_sizes(path: str | os.PathLike[str]) -> tuple[tuple[int, int], ...]:
    """(width, height) of the files that a stored model was fitted on, each once; empty where it does not know them.

    Raises:
      ArtifactError: as :func:`load`; only the manifest is read.
    """
    return check_settings(Path(path), read_manifest(Path(path))).image_sizes


def resident_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that the arrays of a model take once it is loaded, at most, without its network.

    Raises:
      ArtifactError: as :func:`load`; only the manifest is read.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    settings = check_settings(folder, manifest)
    layout, sizes = layout_of(folder, manifest, settings)
    if manifest.get("form") == "updatable":  # which is factored as it is loaded
        layout = LAYOUTS["triangle", "inverse-factor"]
    thresholds = jax.ShapeDtypeStruct((4,), np.float32)  # of a calibration, with its colours
    prepared = None
    if settings.config.align != "none":
        image = jax.ShapeDtypeStruct((*settings.config.crop, 3), np.float32)
        prepared = jax.eval_shape(lambda pixels: Alignment.to(pixels, settings.config.largest_angle).reference, image)
    return tree_bytes([layout.example(sizes), settings.common_shapes(), thresholds, prepared])


def _read_folder(path: str | os.PathLike[str], build: Callable[[Path, dict[str, Any]], T]) -> T:
    """What ``build`` makes from a model folder and its manifest; tried again where the model was replaced meanwhile."""
    folder = Path(path)
    manifest = read_manifest(folder)
    try:
        return build(folder, manifest)
    except ArtifactError:
        current = read_manifest(folder)
        if current.get("directory") == manifest.get("directory"):
            raise
    return build(folder, current)  # the model was replaced while it was read


def _build_model(folder: Path, manifest: Mapping[str, Any]) -> Padim:
    if manifest.get("form") != "updatable":
        record, backbone, common = _read_record(folder, manifest, check_settings(folder, manifest))
        return Padim(backbone, record, **common)
    stored = _build_updatable(folder, manifest)
    try:
        return stored.model(donate=True)
    except (ValueError, FloatingPointError) as error:
        raise ArtifactError(f"load: {folder} is damaged: its moments give no model ({error})") from error


def _read_quantised(folder: Path, manifest: Mapping[str, Any]) -> Quantised | None:
    layout, _ = layout_of(folder, manifest, check_settings(folder, manifest))
    if layout.dequantise is None:
        return None
    arrays = StoredArrays(folder, manifest).arrays()
    return Quantised(arrays[layout.array], arrays[f"{layout.prefix}.scale"])


def _build_updatable(folder: Path, manifest: Mapping[str, Any]) -> Updatable:
    if manifest.get("form") != "updatable":
        raise ArtifactError(
            f"load: {folder} is a deployed model, without the moments that updating needs; keep the one that fit wrote"
        )
    images, progress = _images(folder, manifest.get("images")), manifest.get("progress")
    if images is None:
        raise ArtifactError(f"load: {folder} is damaged: it has no list of images")
    if not (progress is None or isinstance(progress, dict)):
        raise ArtifactError(f"load: {folder} is damaged: its progress is {type(progress).__name__}")
    settings = check_settings(folder, manifest)
    moments, backbone, common = _read_record(folder, manifest, settings)
    state = PadimMoments(moments, common["config"], common["embedding"], common["projection"], common["alignment"])
    details = common["calibration"], common["roi"], progress, settings.image_sizes, common["standard"]
    return Updatable(backbone, state, images, *details)


def _images(folder: Path, images: Any) -> dict[str, float] | None:
    if images is None or (isinstance(images, dict) and all(is_weight(weight) for weight in images.values())):
        return images
    raise ArtifactError(f"load: {folder} is damaged: its list of images is no list")


def _read_record(folder: Path, manifest: Mapping[str, Any], settings: Settings) -> tuple[Any, Backbone, dict[str, Any]]:
    """The record that a model's form stores, its network, and what all forms store, by the fields of ``Padim``."""
    layout, sizes = layout_of(folder, manifest, settings)
    implied = settings.common_shapes() | layout.shapes(sizes)
    _check_shapes(folder, implied, settings.shapes)
    stored = StoredArrays(folder, manifest)
    _check_dtypes(folder, implied, dict(manifest.get("dtypes", {})))
    arrays = stored.arrays(but=layout.array)
    backbone = restore_backbone(folder, settings.embedding, arrays)
    for name in arrays.keys() - {layout.array}:
        _check_finite(folder, name, bool(np.isfinite(arrays[name]).all()))
    common = _restore_common(folder, settings, arrays)
    record = layout.restore(sizes, stored.parts(layout.array, arrays), arrays, common)
    _check_finite(folder, layout.array, bool(_all_finite(getattr(record, layout.field))))
    return record, backbone, common


def _restore_common(folder: Path, settings: Settings, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What all forms store, by the fields of ``Padim``; taken out of ``arrays``."""
    roi, projection = arrays.pop("roi", None), arrays.pop("projection", None)
    calibrated = _restore_calibration(folder, settings, {name: arrays.pop(name) for name in _of_calibration(settings)})
    standard = None
    if calibrated is not None and settings.config.is_standardised:
        names = [field.name for field in dataclasses.fields(MapStandard) if f"calibration.map_{field.name}" in arrays]
        maps = {name: arrays.pop(f"calibration.map_{name}") for name in names}
        for name in {"spread", "scales"} & maps.keys():
            if not (maps[name] > 0).all():
                raise ArtifactError(f"load: {folder} is damaged: calibration.map_{name} is not above 0 everywhere")
        standard = MapStandard(**jax.device_put(maps))
    image, coverage = arrays.pop("alignment.image", None), arrays.pop("coverage", None)
    alignment = None
    if image is not None:
        stored, asked = float(arrays.pop("alignment.max_angle")), settings.config.largest_angle
        if stored not in (0, np.float32(asked)):
            raise ArtifactError(f"load: {folder} is damaged: alignment.max_angle is {stored:g}")
        alignment = Alignment.to(image, asked if stored else 0.0)
    return {
        "config": settings.config,
        "embedding": settings.embedding,
        "count": jax.device_put(arrays.pop("count")),
        "projection": None if projection is None else jax.device_put(projection),
        "calibration": calibrated,
        "roi": None if roi is None else jnp.asarray(roi != 0),
        "standard": standard,
        "alignment": alignment,
        "coverage": None if coverage is None else jax.device_put(coverage),
    }


def load_calibration(folder: Path, manifest: Mapping[str, Any]) -> Calibration | None:
    """The calibration of one of the states that a model's folder keeps; None where that is not calibrated.

    Args:
      folder: of the model.
      manifest: of the state, as :func:`padim_jax.artifact.folder.read_states` gives it.

    Raises:
      ArtifactError: the state is damaged; all its files are checked.
    """
    settings, stored = check_settings(folder, manifest), StoredArrays(folder, manifest)
    names = _of_calibration(settings)
    return _restore_calibration(folder, settings, stored.some(names) if names else {})


def _of_calibration(settings: Settings) -> list[str]:
    """Names of the arrays that a calibration is stored in."""
    if settings.rates is None:
        return []
    names = ["calibration.scores", "calibration.pixels"]
    return names if settings.config.align == "none" else [*names, "calibration.least_match"]


def _restore_calibration(folder: Path, settings: Settings, arrays: Mapping[str, np.ndarray]) -> Calibration | None:
    if settings.rates is None:
        return None
    match = arrays.get("calibration.least_match")
    least = None if match is None else float(match)
    try:
        scores, pixels = arrays["calibration.scores"], arrays["calibration.pixels"]
        return calibration(scores, pixels, **settings.rates, least_match=least)
    except (ValueError, TypeError) as error:
        raise manifest_error(folder, error) from error


def restore_backbone(folder: Path, embedding: Embedding, arrays: dict[str, np.ndarray]) -> Backbone:
    """The network of a stored model, whose parameters, ``backbone.…``, are taken out of ``arrays``.

    Raises:
      ArtifactError: they are not those that the embedding was made for.
    """
    prefix = "backbone."
    names = [name for name in arrays if name.startswith(prefix)]
    weights = {name.removeprefix(prefix): arrays.pop(name) for name in names}
    try:
        backbone = build_backbone(embedding.backbone, unflatten(weights))
    except (ValueError, TypeError, LookupError) as error:  # LookupError, TypeError: paths that make no tree
        raise ArtifactError(f"load: {folder} holds other weights than its settings say: {error}") from error
    if backbone.weights_digest != embedding.weights_digest:
        raise ArtifactError(f"load: {folder} holds other backbone weights than it was fitted with")
    return backbone


def _check_shapes(folder: Path, implied: Mapping[str, jax.ShapeDtypeStruct], recorded: Mapping[str, Any]) -> None:
    for name, array in implied.items():
        if recorded.get(name) != list(array.shape):
            raise ArtifactError(
                f"load: {folder} is damaged: {name} has shape {recorded.get(name)}, its settings imply "
                f"{list(array.shape)}"
            )
    unknown = [name for name in recorded if name not in implied and not name.startswith("backbone.")]
    if unknown:
        raise ArtifactError(f"load: {folder} is damaged: it holds unknown arrays {', '.join(unknown)}")


def _check_dtypes(folder: Path, implied: Mapping[str, jax.ShapeDtypeStruct], recorded: Mapping[str, str]) -> None:
    for name, array in implied.items():
        dtype = recorded.get(name, "float32")
        if dtype != array.dtype.name:
            raise ArtifactError(f"load: {folder} is damaged: {name} is {dtype}, its form implies {array.dtype.name}")


def _check_finite(folder: Path, name: str, finite: bool) -> None:
    if not finite:
        raise ArtifactError(f"load: {folder} is damaged: {name} is not finite")


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(tree)]).all()
