"""Save models: with what scoring needs and nothing more, or with the moments from which a later fit goes on."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from padim_jax.artifact.arrays import ArtifactError, make_arrays
from padim_jax.artifact.compaction import Compacted
from padim_jax.artifact.folder import write
from padim_jax.artifact.layouts import LAYOUTS, form_of
from padim_jax.artifact.manifest import MANIFEST, read_json
from padim_jax.artifact.settings import check_settings
from padim_jax.artifact.updatable import Updatable, is_weight
from padim_jax.backbones import BACKBONES, backbone_parameters
from padim_jax.gaussians.quantised import Quantised
from padim_jax.method.calibration import recipe
from padim_jax.method.records import Padim, PadimMoments


def save(
    model: Padim,
    path: str | os.PathLike[str],
    *,
    image_sizes: Sequence[tuple[int, int]] = (),
    keep_previous: bool = False,
) -> None:
    """Save ``model`` as folder ``path``, with everything that scoring needs and nothing more.

    Stored: truncated backbone weights, means, the triangles of the factors (exact, d (d + 1) / 2 numbers per position),
    channels, settings, calibration, versions, and a checksum of every file. A model already there is replaced in one
    step, but one that can be updated only with ``keep_previous``. The moments are not in it: :func:`save_updatable`
    keeps those.

    Args:
      model: the model.
      path: folder to write.
      image_sizes: (width, height) of the files it was fitted on, in pixels, each once, where they are known.
      keep_previous: keep the model that is replaced, for :func:`padim_jax.artifact.folder.undo`.

    Raises:
      ArtifactError: ``path`` is a file, or a folder with something else in it, or with a model that can be updated,
        which would be lost; an array that is not finite.
      FolderInUse: another process is writing the folder.
      OSError: it can't be written; a model already there is left as it was.

    >>> padim.save(model, folder / "model")
    >>> padim.load(folder / "model").embedding.grid
    (8, 12)
    """
    form, _ = form_of(model.gaussian)
    _save_deployed(path, model, form, None, {"image_sizes": list(image_sizes)}, keep_previous)


def save_compacted(
    compacted: Compacted,
    path: str | os.PathLike[str],
    *,
    images: Mapping[str, float] | None = None,
    image_sizes: Sequence[tuple[int, int]] = (),
    keep_previous: bool = False,
) -> None:
    """Save a model in the form that :func:`padim_jax.artifact.compaction.compact` chose, with its bound.

    Args:
      compacted: the model.
      path: folder to write.
      images: digests of the files it was fitted on with their weights, as of :class:`Updatable`; None where they are
        not known. Calibrating tells by them which images it knows.
      image_sizes: as of :func:`save`.
      keep_previous: as there.

    Raises:
      ArtifactError, OSError: as :func:`save`.
    """
    record: dict[str, Any] = {"max_error": compacted.max_error, "image_sizes": list(image_sizes)}
    if images is not None:
        record["images"] = dict(images)
    if compacted.worst is not None:
        record["worst_case"] = vars(compacted.worst) | {"deviation": compacted.worst.deviation.tolist()}
    _save_deployed(path, compacted.model, compacted.form, compacted.quantised, record, keep_previous)


def save_updatable(
    updatable: Updatable, path: str | os.PathLike[str], *, attending: bool = False, keep_previous: bool = False
) -> None:
    """Save a model in the form that can be updated, merged and made to forget; :func:`load` scores with it too.

    Stored as by :func:`save`, but the moments in place of the factors (the scatter's triangle, as large as a factor's).

    Args:
      updatable: the model.
      path: folder to write.
      attending: write nothing, but take part in gathering the moments for the process that writes.
      keep_previous: keep the model that is replaced, for :func:`padim_jax.artifact.folder.undo`.

    Raises:
      ValueError: a weight among ``images`` that is not a positive number.
      ArtifactError, OSError: as :func:`save`.

    >>> padim.save_updatable(padim.Updatable(backbone, moments), folder / "model")
    """
    if invalid := [digest for digest, weight in updatable.images.items() if not is_weight(weight)]:
        raise ValueError(
            f"save: image {invalid[0]} has the weight {updatable.images[invalid[0]]!r}, wanted a number above 0; leave "
            "images of no weight out"
        )
    arrays = LAYOUTS["updatable", "inverse-factor"].arrays(updatable.moments.moments)
    if attending:
        make_arrays(arrays)
        return
    record = {"form": "updatable", "images": dict(updatable.images), "image_sizes": list(updatable.image_sizes)}
    if updatable.progress is not None:
        record["progress"] = dict(updatable.progress)
    _save(path, updatable, updatable.moments, arrays, record, keep_previous)


def _save_deployed(
    path: str | os.PathLike[str],
    model: Padim,
    form: str,
    quantised: Quantised | None,
    record: Mapping[str, Any],
    keep_previous: bool = False,
) -> None:
    stored = read_json(Path(path) / MANIFEST)
    if stored.get("form") == "updatable" and not keep_previous:
        raise ArtifactError(
            f"save: {path} holds a model that can be updated (of {len(stored.get('images', ()))} image files), which a "
            "model that only scores would replace; choose another folder, or pass keep_previous=True for padim undo"
        )
    _, solver = form_of(model.gaussian)
    arrays = LAYOUTS[form, solver].arrays(model.gaussian, quantised)
    _save(path, model, model, arrays, {"form": form, "solver": solver, **record}, keep_previous)


def _save(
    path: str | os.PathLike[str],
    model: Padim | Updatable,
    fitted: Padim | PadimMoments,
    arrays: dict[str, Any],
    record: Mapping[str, Any],
    keep_previous: bool,
) -> None:
    """Write ``arrays`` and ``record`` of a form, and what all forms store.

    Settings that loading would refuse are refused before anything is written.
    """
    if model.backbone.spec.name not in BACKBONES:
        raise ArtifactError(
            f"save: backbone {model.backbone.spec.name!r} is your own, and its code can't be stored in {path}; "
            "keep its moments as arrays instead, as the docstring of padim_jax.own_backbone shows"
        )
    arrays |= {"count": fitted.count}
    arrays |= {f"backbone.{name}": array for name, array in backbone_parameters(model.backbone).items()}
    coverage = fitted.moments.coverage if isinstance(fitted, PadimMoments) else fitted.coverage
    if fitted.alignment is not None:
        arrays |= {
            "alignment.image": fitted.alignment.image,
            "alignment.max_angle": np.float32(fitted.alignment.max_angle),
        }
        arrays["coverage"] = coverage
    if fitted.projection is not None:
        arrays["projection"] = fitted.projection
    if model.roi is not None:
        arrays["roi"] = np.asarray(model.roi, np.int16)
    if model.calibration is not None:
        scores, pixels = model.calibration.scores, model.calibration.pixels
        arrays |= {"calibration.scores": scores, "calibration.pixels": pixels}
        if fitted.alignment is not None:
            arrays["calibration.least_match"] = model.calibration.least_match
    if model.calibration is not None and model.standard is not None:
        arrays |= {
            f"calibration.map_{name}": array for name, array in vars(model.standard).items() if array is not None
        }
    manifest = {
        "config": dataclasses.asdict(fitted.config),
        "embedding": dataclasses.asdict(fitted.embedding),
        "calibration": None if model.calibration is None else recipe(model.calibration),
        **record,
    }
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    check_settings(Path(path), json.loads(json.dumps(manifest | {"arrays": shapes})), "save")
    write(Path(path), manifest, arrays, keep_previous=keep_previous)
