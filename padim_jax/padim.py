"""PaDiM as a trio of pure functions (init, update, finalize), and scoring with what they give."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, UInt8

from padim_jax import gaussian
from padim_jax.anomaly_map import anomaly_map, image_score
from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig, differences
from padim_jax.embedding import Embedding, draw_embedding, embed
from padim_jax.gaussian import Gaussian, Moments, Solver, WhitenedGaussian
from padim_jax.projection import principal_components, semi_orthogonal

T = TypeVar("T")

# Where a choice of scoring path is not stated. On CPU at d = 100 one image takes 12 ms by the
# product with the inverse factor and 100 ms by triangular solves.
DEFAULT_SOLVER: Solver = "inverse-factor"

PROJECTION_TOLERANCE = 1e-4  # between matrices drawn from one seed by two LAPACKs, entry by entry

# jaxlib's CPU client can hang when LAPACK calls of two programs run side by side (see gaussian._chunk)
_lapack = threading.Lock()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PadimMoments:
    """A fit under way: the moments, with what they are moments of.

    Attributes:
      moments: arrays, the leaves of this pytree.
      config: the settings; static.
      embedding: the channels drawn, the grid, the weights' digest; static.
      projection: float32 (c, d), what all channels are multiplied with; None for random channels.
    """

    moments: Moments
    config: PadimConfig = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})
    projection: Float[Array, "c d"] | None = None

    @property
    def count(self) -> Float[Array, ""]:
        """Images folded in so far."""
        return self.moments.count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Padim:
    """A fitted model: everything that scoring needs.

    Attributes:
      backbone: the frozen network.
      gaussian: one N(μ, Σ) per position, as factors or as inverse factors.
      count: float32 (), images it was fitted on.
      config: the settings; static.
      embedding: channels, grid, weights' digest; static.
      projection: float32 (c, d), what all channels are multiplied with; None for random channels.
    """

    backbone: Backbone
    gaussian: Gaussian | WhitenedGaussian
    count: Float[Array, ""]
    config: PadimConfig = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})
    projection: Float[Array, "c d"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scores:
    """What the model says of n images; both in units of Mahalanobis distance, not squared.

    They are 0 or more, but that bicubic interpolation undershoots beside steep edges of a map.

    Attributes:
      image_score: float32 (n,), the maximum of each map: whether.
      anomaly_map: float32 (n, height, width) at crop size: where.
    """

    image_score: Float[Array, " n"]
    anomaly_map: Float[Array, "n height width"]


def init(
    backbone: Backbone,
    config: PadimConfig | None = None,
    *,
    projection: Float[Array | np.ndarray, "c d"] | None = None,
) -> PadimMoments:
    """Start a fit: draw the channels or the projection from ``config.seed`` and allocate the moments, p·d² floats.

    Args:
      backbone: the frozen network.
      config: the settings; None for the defaults.
      projection: the matrix W of ``config.projection="principal-components"``, which :func:`fit` finds in a
        pass of its own (:func:`padim_jax.projection.principal_components`); not to be given otherwise.

    Raises:
      ValueError: unknown tap, more channels than the taps have, or a projection that is missing, not
        called for, or of another shape.
    """
    config = PadimConfig() if config is None else config
    embedding = draw_embedding(backbone, config)
    shape = (len(embedding.channels), embedding.dimension)
    if (projection is not None) != (config.projection == "principal-components"):
        there = "missing" if projection is None else "given"
        raise ValueError(f"init: projection is {there}, with config.projection={config.projection!r}; see fit")
    if projection is not None and projection.shape != shape:
        raise ValueError(f"init: projection is {tuple(projection.shape)}, wanted {shape}: (channels, dimension)")
    if config.projection == "semi-orthogonal":
        projection = semi_orthogonal(config.seed, *shape)
    return PadimMoments(
        gaussian.init(embedding.n_positions, embedding.dimension, higher=config.covariance == "ledoit-wolf"),
        config,
        embedding,
        None if projection is None else jnp.array(projection, jnp.float32),
    )


def update(
    backbone: Backbone,
    moments: PadimMoments,
    images: UInt8[Array | np.ndarray, "n height width 3"],
    valid: Bool[Array | np.ndarray, " n"] | None = None,
) -> PadimMoments:
    """Fold images into the moments, exactly as if all had come at once (to rounding).

    Args:
      backbone: the one given to :func:`init`.
      moments: what has been accumulated so far; left untouched.
      images: uint8 RGB of ``config.crop_size``; any n, 0 too.
      valid: which images count; None for all. Padding a last batch saves a compilation.

    Raises:
      TypeError: images that are not uint8.
      ValueError: another shape, or another backbone than the moments were begun with.
    """
    _check_backbone("update", backbone, moments.embedding)
    _check_images("update", images, moments.config)
    valid = jnp.ones(len(images), bool) if valid is None else _check_valid(valid, len(images))
    return _update(backbone, moments, jnp.asarray(images), valid) if len(images) else moments


def merge(a: PadimMoments, b: PadimMoments) -> PadimMoments:
    """Moments of both samples together, as if they had been fitted as one (Chan et al. 1983).

    Raises:
      ValueError: naming every setting in which the two differ, or saying that their projections do. (Inside
        ``jit`` projections are not compared.)
    """
    found = "; ".join(filter(None, (differences(a.config, b.config), differences(a.embedding, b.embedding))))
    if found:
        raise ValueError(f"merge: the two were not fitted alike ({found}); only like moments can be merged")
    if a.projection is not None and b.projection is not None and not _is_traced(a.projection, b.projection):
        apart = float(np.abs(np.asarray(a.projection) - np.asarray(b.projection)).max())
        if not apart < PROJECTION_TOLERANCE:
            raise ValueError(f"merge: the projections differ by up to {apart:.2g}; begin both fits with the same one")
    return _merge(a, b)


def finalize(backbone: Backbone, moments: PadimMoments, *, solver: Solver = DEFAULT_SOLVER) -> Padim:
    """Turn moments into a model: ``Σ = C / (n - 1) + ε I`` and its Cholesky factor at every position.

    Works for n ≤ d too, where ε alone makes Σ definite (PaDiM section III-B). A program of your own must not
    hold two of these, or two triangular-solve scores, side by side on CPU, where jaxlib can hang then.

    Args:
      backbone: the one given to :func:`init`.
      moments: of two images or more.
      solver: how the model will score: "inverse-factor" (one product per position, prepared here) or
        "triangular-solve"; see :func:`with_solver`.

    Raises:
      ValueError: fewer than two images, or another backbone.
      FloatingPointError: naming positions whose covariance could not be factored. (Neither can be
        raised inside ``jit``, where such models hold non-finite numbers: finalize outside, or check.)
    """
    _check_solver("finalize", solver)
    _check_backbone("finalize", backbone, moments.embedding)
    _check_count(moments)
    return _finalized(backbone, moments, solver, donate=False)


def fit(
    backbone: Backbone,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    config: PadimConfig | None = None,
    *,
    solver: Solver = DEFAULT_SOLVER,
) -> Padim:
    """Fit a model on batches of good images: init, update for each, finalize.

    Memory does not depend on the number of images, and the result not on how they are batched
    (to rounding). Smaller batches are padded to the largest seen, so a ragged last one compiles nothing.

    Args:
      backbone: from :func:`load_backbone`.
      batches: uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``; n may vary. Read once, but twice
        for principal components.
      config: the settings; None for the defaults.
      solver: see :func:`finalize`.

    Raises:
      TypeError, ValueError, FloatingPointError: as the three functions it calls; fewer than two images;
        principal components asked for on batches that can be read only once.
    """
    _check_solver("fit", solver)
    config = PadimConfig() if config is None else config
    projection = None
    if config.projection == "principal-components":
        if iter(batches) is batches:
            raise ValueError("fit: principal components take two passes; give a list, or an iterable that starts anew")
        projection = principal_components(backbone, draw_embedding(backbone, config), _padded(batches, config))
    moments = init(backbone, config, projection=projection)
    for images, valid in _padded(batches, config):
        jax.block_until_ready(moments)  # one batch in flight: a fast reader must not queue up images
        moments = _update_donating(backbone, moments, images, valid)
    _check_count(moments)
    return _finalized(backbone, moments, solver, donate=True)


def score(model: Padim, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
    """Score images: a map of Mahalanobis distances each, and its maximum.

    ``M(x_p) = sqrt((x_p - μ_p)ᵀ Σ_p⁻¹ (x_p - μ_p))`` at each position p (PaDiM equation 2), upsampled to
    the crop and blurred by ``config.sigma``.

    Args:
      model: from :func:`fit`, :func:`finalize` or :func:`load`.
      images: uint8 RGB of ``config.crop_size``; any n, 0 too.

    Raises:
      TypeError: images that are not uint8.
      ValueError: another shape.
    """
    _check_images("score", images, model.config)
    if len(images) == 0:
        return Scores(jnp.zeros(0), jnp.zeros((0, *model.config.crop)))
    if isinstance(model.gaussian, Gaussian):
        return _alone(_score, model, jnp.asarray(images))
    return _score(model, jnp.asarray(images))


def with_solver(model: Padim, solver: Solver) -> Padim:
    """The same model, scoring by ``solver``; the two paths agree to rounding.

    "triangular-solve" keeps L and solves ``L z = x - μ``, vmapped over positions; "inverse-factor"
    keeps L⁻ᵀ and multiplies.

    Raises:
      ValueError: unknown solver.
    """
    _check_solver("with_solver", solver)
    return replace(model, gaussian=_alone(_with_solver, model.gaussian, solver))


def _update_pure(backbone: Backbone, state: PadimMoments, images: Array, valid: Array) -> PadimMoments:
    x = embed(backbone, state.embedding, images, state.projection)
    return replace(state, moments=gaussian.update(state.moments, x, valid))


def _factor_pure(scatter: Array, rest: Moments, ridge: float, solver: Solver) -> Gaussian | WhitenedGaussian:
    return gaussian.finalize(replace(rest, scatter=scatter), ridge, solver)


def _padded(
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]], config: PadimConfig
) -> Iterator[tuple[Array, Array]]:
    """Checked batches, each filled up to the largest so far, and which of their images count."""
    largest = 0
    for batch in batches:
        _check_images("fit", batch, config)
        if len(batch) == 0:
            continue
        largest = max(largest, len(batch))
        padding = [(0, largest - len(batch)), (0, 0), (0, 0), (0, 0)]
        yield jnp.asarray(np.pad(batch, padding) if len(batch) < largest else batch), jnp.arange(largest) < len(batch)


_update = jax.jit(_update_pure)
_update_donating = jax.jit(_update_pure, donate_argnames="state")
_factor = jax.jit(_factor_pure, static_argnames=("ridge", "solver"))
_factor_donating = jax.jit(_factor_pure, static_argnames=("ridge", "solver"), donate_argnames="scatter")
_is_finite = jax.jit(gaussian.is_finite)
_with_solver = jax.jit(gaussian.with_solver, static_argnames="solver")


def _finalized(backbone: Backbone, state: PadimMoments, solver: Solver, *, donate: bool) -> Padim:
    factor = _factor_donating if donate else _factor
    rest = replace(state.moments, scatter=jnp.zeros(0))  # apart from what may be given away
    fitted = _alone(factor, state.moments.scatter, rest, state.config.ridge, solver)
    return _checked(Padim(backbone, fitted, state.count, state.config, state.embedding, state.projection))


@jax.jit
def _merge(a: PadimMoments, b: PadimMoments) -> PadimMoments:
    return replace(a, moments=gaussian.merge(a.moments, b.moments))


@jax.jit
def _score(model: Padim, images: Array) -> Scores:
    x = embed(model.backbone, model.embedding, images, model.projection)
    distances = gaussian.mahalanobis(model.gaussian, x).T.reshape(len(images), *model.embedding.grid)
    maps = anomaly_map(distances, model.config.crop, model.config.sigma, model.config.interpolation)
    return Scores(image_score(maps), maps)


def _alone(function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)``, waited for, while no other thread is in here."""
    with _lapack:
        return jax.block_until_ready(function(*arguments))


def _check_images(call: str, images: Array | np.ndarray, config: PadimConfig) -> None:
    dtype = getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8:
        raise TypeError(f"{call}: images must be a uint8 array of RGB (0 to 255), got {dtype}; convert them first")
    if images.ndim != 4 or images.shape[1:] != (*config.crop, 3):
        wanted = ", ".join(map(str, ("n", *config.crop, 3)))
        smaller = images.ndim == 4 and any(a < b for a, b in zip(images.shape[1:3], config.crop, strict=True))
        hint = "smaller than the crop: " if smaller else ""
        raise ValueError(
            f"{call}: images are {hint}{tuple(images.shape)}, wanted ({wanted}) by crop_size={config.crop}; "
            "resize and crop them first (padim_jax.data does), or set crop_size"
        )


def _check_valid(valid: Array | np.ndarray, n: int) -> Array:
    if valid.shape != (n,) or valid.dtype != bool:
        raise ValueError(f"update: valid is {valid.dtype} {valid.shape}, wanted bool ({n},), one for each image")
    return jnp.asarray(valid)


def _check_backbone(call: str, backbone: Backbone, embedding: Embedding) -> None:
    if (backbone.spec.name, backbone.weights_digest) != (embedding.backbone, embedding.weights_digest):
        raise ValueError(
            f"{call}: backbone {backbone.spec.name} (weights {backbone.weights_digest[:8]}) is not the one the moments "
            f"were begun with, {embedding.backbone} (weights {embedding.weights_digest[:8]})"
        )


def _check_solver(call: str, solver: str) -> None:
    if solver not in get_args(Solver):
        raise ValueError(f"{call}: solver={solver!r}, wanted one of {', '.join(get_args(Solver))}")


def _is_traced(*arrays: Array) -> bool:
    return any(isinstance(array, Tracer) for array in arrays)


def _check_count(moments: PadimMoments) -> None:
    if not _is_traced(moments.count) and moments.count < 2:
        raise ValueError(
            f"finalize: {int(moments.count)} images give no covariance (its divisor is n - 1); fit on 2 or more"
        )


def _checked(model: Padim) -> Padim:
    if _is_traced(model.count):
        return model
    good = np.asarray(_is_finite(model.gaussian))
    if not good.all():
        width = model.embedding.grid[1]
        cells = ", ".join(f"({p // width}, {p % width})" for p in np.flatnonzero(~good)[:5])
        raise FloatingPointError(
            f"finalize: the covariance could not be factored at {int((~good).sum())} of {good.size} positions, "
            f"(row, column) {cells}; raise ridge (now {model.config.ridge}) or look for odd images"
        )
    return model
