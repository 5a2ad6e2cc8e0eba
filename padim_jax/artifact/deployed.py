"""Save models as they score and nothing more; load models of any form."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from padim_jax.artifact.common import Common, check_settings, packed, read_common, reading, save_form
from padim_jax.artifact.compaction import Compacted
from padim_jax.artifact.folder import ArtifactError, Stored, read_manifest
from padim_jax.artifact.updatable import read_updatable
from padim_jax.gaussians import forms, packing, triangle
from padim_jax.gaussians.forms import LowRankGaussian, Quantised
from padim_jax.gaussians.gaussian import Gaussian, WhitenedGaussian
from padim_jax.method.records import Padim


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
    step. The moments are not in it: :func:`save_updatable` keeps those.

    Args:
      model: the model.
      path: folder to write.
      image_sizes: (width, height) of the files it was fitted on, in pixels, each once, where they are known.
      keep_previous: keep the model that is replaced, for :func:`padim_jax.artifact.folder.undo`.

    Raises:
      ArtifactError: ``path`` is a file, or a folder with something else in it; an array that is not finite.
      FolderInUse: another process is writing the folder.
      OSError: it can't be written; a model already there is left as it was.

    >>> padim.save(model, folder / "model")
    >>> padim.load(folder / "model").embedding.grid
    (8, 12)
    """
    form = "low-rank" if isinstance(model.gaussian, LowRankGaussian) else "triangle"
    record = {"image_sizes": list(image_sizes)}
    _save_deployed(path, model, form, None, record, keep_previous)


def save_compacted(
    compacted: Compacted, path: str | os.PathLike[str], *, image_sizes: Sequence[tuple[int, int]] = ()
) -> None:
    """Save a model in the form that :func:`padim_jax.artifact.compaction.compact` chose, with its bound.

    Raises:
      ArtifactError, OSError: as :func:`save`.
    """
    record = {"max_error": compacted.max_error, "image_sizes": list(image_sizes)}
    _save_deployed(path, compacted.model, compacted.form, compacted.quantised, record)


def _save_deployed(
    path: str | os.PathLike[str],
    model: Padim,
    form: str,
    quantised: Quantised | None,
    record: Mapping[str, Any],
    keep_previous: bool = False,
) -> None:
    fitted = model.gaussian
    arrays: dict[str, Any] = {"gaussian.mean": fitted.mean}
    if fitted.strength is not None:
        arrays["gaussian.strength"] = fitted.strength
    solver = "triangular-solve" if isinstance(fitted, Gaussian) else "inverse-factor"
    name = "gaussian.basis" if isinstance(fitted, LowRankGaussian) else "gaussian.triangle"
    if isinstance(fitted, LowRankGaussian):
        arrays |= {name: fitted.basis, "gaussian.spread": fitted.spread, "gaussian.noise": fitted.noise}
    elif quantised is None:
        square = fitted.whitening if isinstance(fitted, WhitenedGaussian) else fitted.factor
        arrays[name] = packed(square, *fitted.mean.shape, lower=isinstance(fitted, Gaussian))
    if quantised is not None:
        arrays |= {name: quantised.values, "gaussian.scale": quantised.scale}
    save_form(path, form, model, model.backbone, arrays, {"solver": solver, **record}, keep_previous=keep_previous)


def load(path: str | os.PathLike[str]) -> Padim:
    """Load a model of any form; it scores without the original weights file.

    Every file is checked against its checksum and every array against the shape its settings imply;
    nothing in the folder is executed. An updatable model is factored here.

    Raises:
      ArtifactError: no model, one written by a newer version, incomplete, or damaged.

    >>> padim.save(model, folder / "model")
    >>> scores = padim.score(padim.load(folder / "model"), test_images)
    """
    return reading(path, _model)


def load_image_sizes(path: str | os.PathLike[str]) -> tuple[tuple[int, int], ...]:
    """(width, height) of the files that a stored model was fitted on, each once; empty where it does not know them.

    Raises:
      ArtifactError: as :func:`load`; only the manifest is read.
    """
    return check_settings(Path(path), read_manifest(Path(path))).image_sizes


def _model(folder: Path, manifest: Mapping[str, Any]) -> Padim:
    if manifest.get("form") == "updatable":
        stored = read_updatable(folder, manifest)
        try:
            return stored.model(donate=True)
        except (ValueError, FloatingPointError) as error:
            raise ArtifactError(f"load: {folder} is damaged: its moments give no model ({error})") from error
    settings = check_settings(folder, manifest)
    shapes, p, d = settings.shapes, settings.embedding.n_positions, settings.embedding.dimension
    form, wanted = manifest.get("form"), {"gaussian.mean": [p, d]}
    solver = manifest.get("solver", "inverse-factor" if "gaussian.whitening" in shapes else "triangular-solve")
    if solver not in ("inverse-factor", "triangular-solve"):
        raise ArtifactError(f"load: {folder} is damaged (solver {solver!r})")
    if manifest["schema"] < 3:  # whole squares
        form = "square"
        wanted["gaussian.whitening" if solver == "inverse-factor" else "gaussian.factor"] = [p, d, d]
    elif settings.config.covariance == "ledoit-wolf":
        wanted["gaussian.strength"] = [p]
    if form in ("triangle", "triangle-16bit"):
        wanted["gaussian.triangle"] = [p, d * (d + 1) // 2]
    elif form in ("low-rank", "low-rank-16bit"):
        rank = [*shapes.get("gaussian.spread", [])][1:2]
        wanted |= {"gaussian.basis": [p, *rank, d], "gaussian.spread": [p, *rank], "gaussian.noise": [p]}
    elif form != "square":
        raise ArtifactError(f"load: {folder} is damaged (form {form!r})")
    if form.endswith("16bit"):
        wanted["gaussian.scale"] = wanted["gaussian.spread"] if form.startswith("low") else [p, d]
    common, backbone, stored, arrays = read_common(folder, manifest, settings, wanted, "gaussian.triangle")
    fitted = _gaussian(form, solver, stored, arrays)
    if not jax.jit(forms.is_finite)(fitted).all():
        raise ArtifactError(f"load: {folder} is damaged: its means or factors are not finite")
    return Padim(backbone, fitted, **{field.name: getattr(common, field.name) for field in dataclasses.fields(Common)})


def _gaussian(form: str, solver: str, stored: Stored, arrays: dict[str, np.ndarray]) -> forms.Form:
    """Taken out of ``arrays`` as they move to the device, so that the host's copy goes at once."""

    def take(name: str) -> Any:
        return jax.device_put(arrays.pop(f"gaussian.{name}"))

    strength = take("strength") if "gaussian.strength" in arrays else None
    scale = arrays.pop("gaussian.scale", None)
    if form.startswith("low-rank"):
        basis = arrays.pop("gaussian.basis")
        basis = basis if scale is None else forms.dequantise_basis(Quantised(basis, scale))
        return LowRankGaussian(take("mean"), jax.device_put(basis), take("spread"), take("noise"), strength)
    lower = solver == "triangular-solve"
    if form == "square":
        if lower:
            return Gaussian(take("mean"), take("factor"), strength)
        return WhitenedGaussian(take("mean"), triangle.of_square(take("whitening")), strength)
    p, d = arrays["gaussian.mean"].shape
    parts = stored.parts("gaussian.triangle", arrays)
    parts = parts if scale is None else _dequantised(parts, scale, lower)
    if not lower:
        return WhitenedGaussian(take("mean"), packing.unpack_panels(parts, p, lower=False), strength)
    factor, done = np.empty((p, d, d), np.float32), 0
    for part in parts:
        factor[done : done + len(part)] = packing.unpack_triangle(part, lower=True)
        done += len(part)
    return Gaussian(take("mean"), jax.device_put(factor), strength)


def _dequantised(parts: Iterable[np.ndarray], scale: np.ndarray, lower: bool) -> Iterator[np.ndarray]:
    done = 0
    for part in parts:
        yield forms.dequantise(Quantised(part, scale[done : done + len(part)]), lower=lower)
        done += len(part)
