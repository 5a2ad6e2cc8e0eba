"""PaDiM's fit as pure functions over an immutable record: init, update, merge, forget, finalize."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig, differences
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import Solver
from padim_jax.gaussians.pooling import Prior
from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.method import programs
from padim_jax.method.checks import check_backbone, check_images, check_solver, is_traced, pad_batches
from padim_jax.method.embedding import Embedding, draw_embedding
from padim_jax.method.projection import principal_components, semi_orthogonal
from padim_jax.method.records import Padim, PadimMoments
from padim_jax.method.regularisation import ImageSample, regularise

# where none is named: on CPU at d = 100, one image takes 5 ms by the product with the inverse factor and 100 ms by
# triangular solves
DEFAULT_SOLVER: Solver = "inverse-factor"

PROJECTION_TOLERANCE = 1e-4  # between matrices drawn from one seed by two LAPACKs, entry by entry
_LARGEST_ERROR = 1e-3  # relative, of a distance: as much rounding as forgetting may leave


def init(
    backbone: Backbone,
    config: PadimConfig | None = None,
    *,
    projection: Float[Array | np.ndarray, "c d"] | None = None,
) -> PadimMoments:
    """Start a fit: draw the channels or the projection from ``config.seed`` and allocate the moments, 0.6 p·d² floats.

    Args:
      backbone: the frozen network.
      config: the settings; None for the defaults.
      projection: the matrix W of ``config.projection="principal-components"``, which :func:`fit` finds in a
        separate pass (:func:`padim_jax.method.projection.principal_components`); None for other projections.

    Raises:
      ValueError: an unknown tap, more channels than the taps have, or a projection that is missing, is not
        called for, or has another shape.

    >>> moments = padim.init(backbone, config)
    >>> int(moments.count), len(moments.embedding.channels)
    (0, 12)
    """
    config = PadimConfig() if config is None else config
    embedding = draw_embedding(backbone, config)
    shape = (len(embedding.channels), embedding.dimension)
    if (projection is not None) != (config.projection == "principal-components"):
        fault = "missing" if projection is None else "given"
        raise ValueError(f"init: projection is {fault}, with config.projection={config.projection!r}; see fit")
    if projection is not None and projection.shape != shape:
        raise ValueError(f"init: projection is {tuple(projection.shape)}, wanted {shape}: (channels, dimension)")
    return PadimMoments(
        gaussian_moments.init(embedding.n_positions, embedding.dimension, higher=config.covariance == "ledoit-wolf"),
        config,
        embedding,
        projection_of(config, embedding, projection),
    )


def projection_of(
    config: PadimConfig, embedding: Embedding, projection: Float[Array | np.ndarray, "c d"] | None
) -> Float[Array, "c d"] | None:
    """The projection matrix of a fit: drawn from the seed, given, or None."""
    if config.projection == "semi-orthogonal":
        projection = semi_orthogonal(config.seed, len(embedding.channels), embedding.dimension)
    return None if projection is None else jnp.array(projection, jnp.float32)


def update(
    backbone: Backbone,
    moments: PadimMoments,
    images: UInt8[Array | np.ndarray, "n height width 3"],
    valid: Bool[Array | np.ndarray, " n"] | None = None,
    *,
    half_life: float | None = None,
) -> PadimMoments:
    """Fold images into the moments, exactly as if all had come at once (to rounding).

    With a half-life H an image counts ``2^(-age / H)``, its age the number of images that came after it, and n is the
    sum of these weights wherever it occurs.

    Args:
      backbone: the one given to :func:`init`.
      moments: what has been accumulated so far; left untouched.
      images: uint8 RGB of ``config.crop_size``; any n, 0 too.
      valid: which images count; None for all. Padding a last batch saves a compilation.
      half_life: in images; None for equal weights.

    Raises:
      TypeError: images that are not uint8.
      ValueError: another shape, another backbone than the moments were begun with, or a half-life that is no
        positive number.

    >>> moments = padim.update(backbone, padim.init(backbone, config), good_images)
    >>> int(moments.count)
    20
    """
    check_backbone("update", backbone, moments.embedding)
    check_images("update", images, moments.config)
    valid = jnp.ones(len(images), bool) if valid is None else _check_valid(valid, len(images))
    half = half_life_array("update", half_life)
    return programs.update(backbone, moments, jnp.asarray(images), valid, half) if len(images) else moments


def merge(a: PadimMoments, b: PadimMoments) -> PadimMoments:
    """Moments of both samples together, as if they had been fitted as one (Chan et al. 1983).

    Raises:
      ValueError: naming every setting in which the two differ, or saying that their projections do. (Inside
        ``jit`` projections are not compared.)

    >>> other = padim.update(backbone, padim.init(backbone, config), good_images[::-1])
    >>> int(padim.merge(moments, other).count)
    40
    """
    _check_alike("merge", a, b)
    return programs.merge(a, b)


def forget(moments: PadimMoments, gone: PadimMoments) -> PadimMoments:
    """Moments as if the images of ``gone`` had never been folded in: :func:`merge` undone.

    ``gone`` are moments of images that were folded in with weight 1: ``update`` of a fresh ``init``. Subtraction loses
    digits; it is refused where distances could change by more than a thousandth
    (:func:`padim_jax.gaussians.moments.rounding_left`), as when few of many images are left.

    Raises:
      ValueError: moments that were not fitted alike (as :func:`merge`), none to forget, fewer than two images left,
        or moments that cannot be part of these. (Inside ``jit`` only the settings are compared.)
      FloatingPointError: too many digits lost; fit anew on the images to keep.

    >>> other = padim.update(backbone, padim.init(backbone, config), good_images[::-1])
    >>> int(padim.forget(padim.merge(moments, other), other).count)
    20
    """
    _check_alike("forget", moments, gone)
    if is_traced(moments.count, gone.count):
        return programs.forget(moments, gone)
    n_left = float(moments.count) - float(gone.count)
    if not gone.count > 0:
        raise ValueError("forget: no images to forget; fold them into fresh moments first (init, update)")
    if n_left < 2:
        raise ValueError(f"forget: {n_left:g} of {float(moments.count):g} images would be left; a fit needs 2 or more")
    after = programs.forget(moments, gone)
    before, later = (np.asarray(programs.diagonal(state.moments.scatter)) for state in (moments, after))
    if not (later >= -1e-5 * before.max(axis=-1, keepdims=True)).all():
        raise ValueError("forget: the moments hold less variance than the images to forget; those were never folded in")
    ridge, _ = moments.config.regularisation("forget")
    error = programs.rounding_left(moments.moments, after.moments, ridge, pooled_prior("forget", after)).max()
    if not error <= _LARGEST_ERROR:  # NaN where the covariance is no longer definite
        raise FloatingPointError(
            f"forget: {n_left:g} of {float(moments.count):g} images would be left, and what rounding leaves of the "
            "others would show in distances; fit anew on the images to keep"
        )
    return after


def finalize(
    backbone: Backbone, moments: PadimMoments, *, solver: Solver = DEFAULT_SOLVER, donate: bool = False
) -> Padim:
    """Turn moments into a model: ``Σ = C / (n - 1) + ε I`` and its Cholesky factor at every position.

    ``config.covariance`` says what else Σ may be.

    Works for n ≤ d too, where ε alone makes Σ definite (PaDiM section III-B).

    Args:
      backbone: the one given to :func:`init`.
      moments: of two images or more.
      solver: how the model will score: "inverse-factor" (one product per position, prepared here) or
        "triangular-solve"; see :func:`with_solver`.
      donate: use the moments up, which saves the room of a second state; it does nothing for "triangular-solve".

    Raises:
      ValueError: fewer than two images, another backbone, or a ridge that is yet to be chosen.
      FloatingPointError: naming positions whose covariance could not be factored. (Neither can be
        raised inside ``jit``, where such models hold non-finite numbers: finalize outside, or check.)

    >>> model = padim.finalize(backbone, moments)
    >>> padim.score(model, test_images).image_score.shape
    (2,)
    """
    check_solver("finalize", solver)
    check_backbone("finalize", backbone, moments.embedding)
    check_count(moments)
    # only panels fit into the scatter's room, and only the scatter is given away
    factor = programs.factor_donating if donate and solver == "inverse-factor" else programs.factor
    others = replace(moments.moments, scatter=SymmetricMatrix(()))
    ridge, _ = moments.config.regularisation("finalize")
    fitted = factor(moments.moments.scatter, others, ridge, solver, pooled_prior("finalize", moments))
    return check_factors(
        Padim(backbone, fitted, moments.count, moments.config, moments.embedding, projection=moments.projection)
    )


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
    check_solver("fit", solver)
    config = PadimConfig() if config is None else config
    projection = None
    if config.projection == "principal-components":
        if iter(batches) is batches:
            raise ValueError("fit: principal components take two passes; give a list, or an iterable that starts anew")
        projection = principal_components(
            backbone, draw_embedding(backbone, config), pad_batches("fit", batches, config)
        )
    moments, sample = init(backbone, config, projection=projection), ImageSample(config)
    for updated in accumulate(backbone, moments, sample.watch(batches)):
        moments = updated
    moments = regularise(backbone, moments, sample.batches(), sample.weights)
    return finalize(backbone, moments, solver=solver, donate=True)


def accumulate(
    backbone: Backbone,
    moments: PadimMoments,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    *,
    half_life: float | None = None,
) -> Iterator[PadimMoments]:
    """Fold batches in one after the other, in place: :func:`update` without a copy of the state.

    Args:
      backbone: the one given to :func:`init`.
      moments: to start from; used up.
      batches: uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``; n may vary.
      half_life: as for :func:`update`.

    Yields:
      The moments after each batch, good until the next is asked for.

    Raises:
      TypeError, ValueError: as :func:`update`.

    >>> [int(moments.count) for moments in padim.accumulate(backbone, padim.init(backbone, config), [good_images] * 2)]
    [20, 40]
    """
    for images, valid in pad_batches("fit", batches, moments.config):
        moments = update_in_place(backbone, moments, images, valid, half_life=half_life)
        yield moments


def update_in_place(
    backbone: Backbone,
    moments: PadimMoments,
    images: UInt8[Array | np.ndarray, "n height width 3"],
    valid: Bool[Array | np.ndarray, " n"],
    *,
    half_life: float | None = None,
) -> PadimMoments:
    """:func:`update` of moments that are used up, and waited for: a fast reader must not queue up images.

    Raises:
      TypeError, ValueError: as :func:`update`.
    """
    check_backbone("fit", backbone, moments.embedding)
    half, config = half_life_array("fit", half_life), moments.config
    images, valid = jnp.asarray(images), jnp.asarray(valid)
    computed = replace(config.computed, image_score="max")  # what an image scores changes no fit
    updated = programs.update_donating(backbone, replace(moments, config=computed), images, valid, half)
    return replace(jax.block_until_ready(updated), config=config)


def _check_alike(call: str, a: PadimMoments, b: PadimMoments) -> None:
    difference = "; ".join(filter(None, (differences(a.config, b.config), differences(a.embedding, b.embedding))))
    if difference:
        raise ValueError(f"{call}: the two were not fitted alike ({difference}); only like moments can be combined")
    if a.projection is not None and b.projection is not None and not is_traced(a.projection, b.projection):
        gap = float(np.abs(np.asarray(a.projection) - np.asarray(b.projection)).max())
        if not gap < PROJECTION_TOLERANCE:
            raise ValueError(f"{call}: the projections differ by up to {gap:.2g}; begin both fits with the same one")


def pooled_prior(call: str, moments: PadimMoments) -> Prior | None:
    """The covariance pooled over all positions, as many images as it counts as; None where it is not pooled.

    Raises:
      ValueError: naming ``call``, where that number is yet to be chosen.
    """
    if moments.config.covariance != "pooled":
        return None
    _, prior_images = moments.config.regularisation(call)
    return programs.pool(moments.moments, moments.embedding.n_positions, prior_images)


def half_life_array(call: str, images: float | None) -> Array | None:
    """A half-life for compiled code; ``ValueError`` naming ``call`` where it is no positive number of images."""
    if images is None:
        return None
    if not 0 < images < np.inf:
        raise ValueError(f"{call}: half_life={images!r}, wanted a positive number of images, or None")
    return jnp.asarray(images, jnp.float32)


def _check_valid(valid: Array | np.ndarray, n: int) -> Array:
    if valid.shape != (n,) or valid.dtype != bool:
        raise ValueError(f"update: valid is {valid.dtype} {valid.shape}, wanted bool ({n},), one for each image")
    return jnp.asarray(valid)


def check_count(moments: PadimMoments) -> None:
    """Raise ``ValueError`` where there are too few images for a covariance."""
    if not is_traced(moments.count) and moments.count < 2:
        raise ValueError(
            f"finalize: {int(moments.count)} images give no covariance (its divisor is n - 1); fit on 2 or more"
        )


def check_factors(model: Padim, finite: Bool[Array, " p"] | None = None) -> Padim:
    """The model; ``FloatingPointError`` names positions that could not be factored, which are not ``finite``."""
    if is_traced(model.count):
        return model
    valid = np.asarray(programs.is_finite(model.gaussian) if finite is None else finite)
    if not valid.all():
        width = model.embedding.grid[1]
        cells = ", ".join(f"({p // width}, {p % width})" for p in np.flatnonzero(~valid)[:5])
        raise FloatingPointError(
            f"finalize: the covariance could not be factored at {int((~valid).sum())} of {valid.size} positions, "
            f"(row, column) {cells}; raise ridge (now {model.config.ridge}) or look for odd images"
        )
    return model
