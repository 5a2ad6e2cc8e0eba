"""Models that can be updated, merged and made to forget: the moments, and what they are moments of."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from padim_jax.artifact.arrays import attend
from padim_jax.artifact.common import Common, check_settings, packed, read_common, reading, save_form
from padim_jax.artifact.folder import ArtifactError
from padim_jax.backbones import Backbone
from padim_jax.gaussians import packing
from padim_jax.gaussians.gaussian import Moments, Solver
from padim_jax.gaussians.shrinkage import HigherMoments
from padim_jax.method import brief
from padim_jax.method.calibration import Calibration
from padim_jax.method.fitting import DEFAULT_SOLVER, finalize
from padim_jax.method.records import Padim, PadimMoments


@dataclass(frozen=True)
class Updatable:
    """An updatable model as it is stored: everything a later fit goes on from.

    Attributes:
      backbone: the frozen network.
      moments: of all images so far.
      images: digests of their files (see :class:`padim_jax.images.Batch`), with the weight each was folded in with;
        empty where they were not files.
      calibration: of the model that these moments give; None where it is not calibrated.
      roi: region of interest, bool (height, width) at crop size; None for everywhere.
      progress: what an unfinished fit has to remember, or a model of what it was made from; None for nothing.
      image_sizes: (width, height) of the images' files in pixels, each once; empty where they are not known.

    >>> updatable = padim.Updatable(backbone, moments)
    >>> padim.score(updatable.model(), test_images).image_score.shape
    (2,)
    """

    backbone: Backbone
    moments: PadimMoments
    images: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration: Calibration | None = None
    roi: Any = None
    progress: Mapping[str, Any] | None = None
    image_sizes: tuple[tuple[int, int], ...] = ()
    __repr__ = brief.updatable

    def model(self, *, solver: Solver = DEFAULT_SOLVER, donate: bool = False) -> Padim:
        """The model that scores; see :func:`padim_jax.finalize`."""
        fitted = finalize(self.backbone, self.moments, solver=solver, donate=donate)
        return dataclasses.replace(fitted, calibration=self.calibration, roi=self.roi)


def lived_on(progress: Mapping[str, Any] | None, how: str) -> dict[str, Any]:
    """What a model remembers of what it was made from, with the word that it is not any more as it was fitted."""
    known = dict(progress or {})
    return known | {"since": [*known.get("since", ()), how]}


def save_updatable(
    updatable: Updatable, path: str | os.PathLike[str], *, attending: bool = False, keep_previous: bool = False
) -> None:
    """Save a model in the form that can be updated, merged and made to forget; :func:`load` scores with it too.

    Stored as by :func:`save`, but the moments in place of the factors (the scatter's triangle, as large as a factor's).

    Args:
      updatable: the model.
      path: folder to write.
      attending: write nothing, but take part in gathering the moments for the process that does.
      keep_previous: keep the model that is replaced, for :func:`padim_jax.artifact.folder.undo`.

    Raises:
      ValueError: a weight among ``images`` that is not a positive number.
      ArtifactError, OSError: as :func:`save`.

    >>> padim.save_updatable(padim.Updatable(backbone, moments), folder / "model")
    """
    if strange := [digest for digest, weight in updatable.images.items() if not _is_weight(weight)]:
        raise ValueError(
            f"save: image {strange[0]} has the weight {updatable.images[strange[0]]!r}, wanted a number above 0; leave "
            "images of no weight out"
        )
    moments = updatable.moments.moments
    arrays: dict[str, Any] = {
        "moments.mean": moments.mean,
        "moments.scatter": packed(moments.scatter, *moments.mean.shape, lower=True),
    }
    if moments.higher is not None:
        arrays |= {f"moments.{f.name}": getattr(moments.higher, f.name) for f in dataclasses.fields(HigherMoments)}
    record: dict[str, Any] = {"images": dict(updatable.images), "image_sizes": list(updatable.image_sizes)}
    if updatable.progress is not None:
        record["progress"] = dict(updatable.progress)
    state, known = updatable.moments, updatable.calibration
    fitted = Common(state.config, state.embedding, moments.count, state.projection, known, updatable.roi)
    if attending:
        attend(arrays)
    else:
        save_form(path, "updatable", fitted, updatable.backbone, arrays, record, keep_previous=keep_previous)


def load_updatable(path: str | os.PathLike[str]) -> Updatable:
    """Load a model saved by :func:`save_updatable`, to go on from.

    Raises:
      ArtifactError: as :func:`load`; a model of a deployed form, which has no moments.

    >>> padim.save_updatable(padim.Updatable(backbone, moments), folder / "model")
    >>> stored = padim.load_updatable(folder / "model")
    >>> moments = padim.update(stored.backbone, stored.moments, good_images)
    >>> int(moments.count)
    40
    """
    return reading(path, read_updatable)


def read_updatable(folder: Path, manifest: Mapping[str, Any]) -> Updatable:
    """An updatable model from its folder.

    Raises:
      ArtifactError: as :func:`load_updatable`.
    """
    if manifest.get("form") != "updatable":
        raise ArtifactError(
            f"load: {folder} is a deployed model, without the moments that updating needs; keep the one that fit wrote"
        )
    settings = check_settings(folder, manifest)
    p, d = settings.embedding.n_positions, settings.embedding.dimension
    wanted = {"moments.mean": [p, d], "moments.scatter": [p, d * (d + 1) // 2]}
    if settings.config.covariance == "ledoit-wolf":
        wanted |= {"moments.second": [p], "moments.third": [p, d], "moments.fourth": [p]}
    common, backbone, stored, arrays = read_common(folder, manifest, settings, wanted, "moments.scatter")
    scatter = packing.unpack_panels(stored.parts("moments.scatter", arrays), p, lower=True)
    finite = {name: bool(np.isfinite(arrays[name]).all()) for name in wanted if name != "moments.scatter"}
    finite["moments.scatter"] = all(jnp.isfinite(panel).all() for panel in scatter.panels)
    if strange := [name for name, good in finite.items() if not good]:
        raise ArtifactError(f"load: {folder} is damaged: {strange[0]} is not finite")
    images, progress = manifest.get("images"), manifest.get("progress")
    if not isinstance(images, dict) or not all(_is_weight(weight) for weight in images.values()):
        raise ArtifactError(f"load: {folder} is damaged: its list of images is no list")
    if not (progress is None or isinstance(progress, dict)):
        raise ArtifactError(f"load: {folder} is damaged: its progress is {type(progress).__name__}")
    higher = [jax.device_put(arrays.pop(name)) for name in list(wanted)[2:]]
    moments = Moments(
        common.count,
        jax.device_put(arrays.pop("moments.mean")),
        scatter,
        HigherMoments(*higher) if higher else None,
    )
    state = PadimMoments(moments, common.config, common.embedding, common.projection)
    return Updatable(backbone, state, images, common.calibration, common.roi, progress, settings.image_sizes)


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
