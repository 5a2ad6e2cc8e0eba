"""Save and load models: one self-contained folder each, in an updatable or a deployed form."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from padim_jax import brief, forms, packing, triangle
from padim_jax.backbones import Backbone, backbone_parameters, build_backbone
from padim_jax.calibration import BINS, Calibration, calibration
from padim_jax.compaction import Compacted
from padim_jax.config import PadimConfig
from padim_jax.embedding import Embedding, check_embedding
from padim_jax.forms import LowRankGaussian, Quantised
from padim_jax.gaussian import Gaussian, Moments, Solver, WhitenedGaussian
from padim_jax.model import Padim, PadimMoments
from padim_jax.padim import DEFAULT_SOLVER, finalize
from padim_jax.shrinkage import HigherMoments
from padim_jax.storage import ArtifactError, Made, Stored, attend, damaged, read_manifest, write
from weights_conversion import unflatten

_RATES = ("method", "false_alarm_rate", "pixel_rate")


@dataclass(frozen=True)
class Updatable:
    """An updatable model as it is stored: everything a later fit goes on from.

    Attributes:
      backbone: the frozen network.
      moments: of all images so far.
      images: digests of their files (see :class:`padim_jax.data.Batch`), with the weight each was folded in with;
        empty where they were not files.
      calibration: of the model that these moments give; None where it is not calibrated.
      roi: region of interest, bool (height, width) at crop size; None for everywhere.
      progress: what an unfinished fit has to remember, or a model of what it was made from; None for nothing.
    """

    backbone: Backbone
    moments: PadimMoments
    images: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration: Calibration | None = None
    roi: Any = None
    progress: Mapping[str, Any] | None = None
    __repr__ = brief.updatable

    def model(self, *, solver: Solver = DEFAULT_SOLVER, donate: bool = False) -> Padim:
        """The model that scores; see :func:`padim_jax.finalize`."""
        fitted = finalize(self.backbone, self.moments, solver=solver, donate=donate)
        return dataclasses.replace(fitted, calibration=self.calibration, roi=self.roi)


def save(model: Padim, path: str | os.PathLike[str]) -> None:
    """Save ``model`` as folder ``path``, with everything that scoring needs and nothing more.

    Stored: truncated backbone weights, means, the triangles of the factors (exact, d (d + 1) / 2 numbers per position),
    channels, settings, calibration, versions, and a checksum of every file. A model already there is replaced in one
    step. The moments are not in it: :func:`save_updatable` keeps those.

    Raises:
      ArtifactError: ``path`` is a file, or a folder with something else in it.
      OSError: it can't be written; a model already there is left as it was.
    """
    form = "low-rank" if isinstance(model.gaussian, LowRankGaussian) else "triangle"
    _save_deployed(path, model, form, None, {})


def save_compacted(compacted: Compacted, path: str | os.PathLike[str]) -> None:
    """Save a model in the form that :func:`padim_jax.compaction.compact` chose, with its bound.

    Raises:
      ArtifactError, OSError: as :func:`save`.
    """
    record = {"max_error": compacted.max_error}
    _save_deployed(path, compacted.model, compacted.form, compacted.quantised, record)


def _save_deployed(
    path: str | os.PathLike[str], model: Padim, form: str, quantised: Quantised | None, record: Mapping[str, Any]
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
        arrays[name] = _packed(square, *fitted.mean.shape, lower=isinstance(fitted, Gaussian))
    if quantised is not None:
        arrays |= {name: quantised.values, "gaussian.scale": quantised.scale}
    _save(path, form, model, model.backbone, arrays, {"solver": solver, **record})


def save_updatable(updatable: Updatable, path: str | os.PathLike[str], *, attending: bool = False) -> None:
    """Save a model in the form that can be updated, merged and made to forget; :func:`load` scores with it too.

    Stored as by :func:`save`, but the moments in place of the factors (the scatter's triangle, as large as a factor's).

    Args:
      updatable: the model.
      path: folder to write.
      attending: write nothing, but take part in gathering the moments for the process that does.

    Raises:
      ArtifactError, OSError: as :func:`save`.
    """
    moments = updatable.moments.moments
    arrays: dict[str, Any] = {
        "moments.mean": moments.mean,
        "moments.scatter": _packed(moments.scatter, *moments.mean.shape, lower=True),
    }
    if moments.higher is not None:
        arrays |= {f"moments.{f.name}": getattr(moments.higher, f.name) for f in dataclasses.fields(HigherMoments)}
    record: dict[str, Any] = {"images": dict(updatable.images)}
    if updatable.progress is not None:
        record["progress"] = dict(updatable.progress)
    state, known = updatable.moments, updatable.calibration
    fitted = _Common(state.config, state.embedding, moments.count, state.projection, known, updatable.roi)
    if attending:
        attend(arrays)
    else:
        _save(path, "updatable", fitted, updatable.backbone, arrays, record)


def load(path: str | os.PathLike[str]) -> Padim:
    """Load a model of any form; it scores without the original weights file.

    Every file is checked against its checksum and every array against the shape its settings imply;
    nothing in the folder is executed. An updatable model is factored here.

    Raises:
      ArtifactError: no model, one written by a newer version, incomplete, or damaged.
    """
    return _reading(path, _model)


def load_updatable(path: str | os.PathLike[str]) -> Updatable:
    """Load a model saved by :func:`save_updatable`, to go on from.

    Raises:
      ArtifactError: as :func:`load`; a model of a deployed form, which has no moments.
    """
    return _reading(path, _updatable)


@dataclass(frozen=True)
class _Common:
    """What all forms have; named as in ``Padim``."""

    config: PadimConfig
    embedding: Embedding
    count: Any
    projection: Any
    calibration: Calibration | None
    roi: Any


def _packed(square: Any, p: int, d: int, *, lower: bool) -> Made:
    return Made(
        (p, d * (d + 1) // 2), np.dtype(np.float32), lambda part: packing.pack_triangle(square[part], lower=lower)
    )


def _save(
    path: str | os.PathLike[str],
    form: str,
    fitted: Padim | _Common,
    backbone: Backbone,
    arrays: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
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
        "calibration": None if known is None else {name: getattr(known, name) for name in _RATES},
    }
    write(Path(path), description | dict(record), common | dict(arrays))


def _reading(path: str | os.PathLike[str], build: Any) -> Any:
    folder = Path(path)
    manifest = read_manifest(folder)
    try:
        return build(folder, manifest)
    except ArtifactError:
        again = read_manifest(folder)
        if again.get("directory") == manifest.get("directory"):
            raise
    return build(folder, again)  # it was replaced while being read


def _model(folder: Path, manifest: Mapping[str, Any]) -> Padim:
    if manifest.get("form") == "updatable":
        stored = _updatable(folder, manifest)
        try:
            return stored.model(donate=True)
        except (ValueError, FloatingPointError) as error:
            raise ArtifactError(f"load: {folder} is damaged: its moments give no model ({error})") from error
    settings = _settings(folder, manifest)
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
    common, backbone, stored, arrays = _common(folder, manifest, settings, wanted, "gaussian.triangle")
    fitted = _gaussian(form, solver, stored, arrays)
    if not jax.jit(forms.is_finite)(fitted).all():
        raise ArtifactError(f"load: {folder} is damaged: its means or factors are not finite")
    return Padim(backbone, fitted, **{field.name: getattr(common, field.name) for field in dataclasses.fields(_Common)})


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


def _updatable(folder: Path, manifest: Mapping[str, Any]) -> Updatable:
    if manifest.get("form") != "updatable":
        raise ArtifactError(
            f"load: {folder} is a deployed model, without the moments that updating needs; keep the one that fit wrote"
        )
    settings = _settings(folder, manifest)
    p, d = settings.embedding.n_positions, settings.embedding.dimension
    wanted = {"moments.mean": [p, d], "moments.scatter": [p, d * (d + 1) // 2]}
    if settings.config.covariance == "ledoit-wolf":
        wanted |= {"moments.second": [p], "moments.third": [p, d], "moments.fourth": [p]}
    common, backbone, stored, arrays = _common(folder, manifest, settings, wanted, "moments.scatter")
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
    return Updatable(backbone, state, images, common.calibration, common.roi, progress)


@dataclass(frozen=True)
class _Settings:
    config: PadimConfig
    embedding: Embedding
    rates: dict[str, Any] | None
    shapes: dict[str, Any]


def _settings(folder: Path, manifest: Mapping[str, Any]) -> _Settings:
    try:
        config = PadimConfig(**_tuples(manifest["config"]))
        embedding = Embedding(**_tuples(manifest["embedding"]))
        check_embedding(embedding, config)
        known = manifest.get("calibration")
        rates = None if known is None else {name: known[name] for name in _RATES}
        return _Settings(config, embedding, rates, dict(manifest["arrays"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, error) from error


def _common(
    folder: Path, manifest: Mapping[str, Any], settings: _Settings, form: Mapping[str, list[int]], later: str
) -> tuple[_Common, Backbone, Stored, dict[str, np.ndarray]]:
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
    common = _Common(
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


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON gives lists where the records hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
