"""PaDiM's fit as pure functions over an immutable record: init, update, merge, forget, finalize."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import Solver
from padim_jax.gaussians.low_rank import AnyGaussian
from padim_jax.gaussians.pooling import Prior
from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.method import programs
from padim_jax.method.aligned import Alignment, is_supported
from padim_jax.method.alike import check_alike
from padim_jax.method.centres import centres_of
from padim_jax.method.checks import check_backbone, check_images, check_solver, is_traced, pad_batches
from padim_jax.method.embedding import Embedding, draw_embedding
from padim_jax.method.fit_checks import check_count, check_factors, check_valid, half_life_array
from padim_jax.method.positions import n_gaussians
from padim_jax.method.projection import principal_components, semi_orthogonal
from padim_jax.method.records import Padim, PadimMoments
from padim_jax.method.reference import alignment_of, find_alignment
from padim_jax.method.regularisation import ImageSample, regularise

# where none is named: on CPU at d = 100, one image takes 5 ms by the product with the inverse factor and 100 ms by
# triangular solves
DEFAULT_SOLVER: Solver = "inverse-factor"

_LARGEST_ERROR = 2e-3  # relative, of a distance: as much rounding as forgetting may leave


def init(
    backbone: Backbone,
    config: PadimConfig | None = None,
    *,
    projection: Float[Array | np.ndarray, "c d"] | None = None,
    reference: Num[Array | np.ndarray, "height width 3"] | Alignment | None = None,
    centres: Float[Array | np.ndarray, "k d"] | None = None,
) -> PadimMoments:
    """Start a fit: draw the channels or the projection from ``config.seed`` and allocate the moments, 0.6 p·d² floats.

    Args:
      backbone: the frozen network.
      config: the settings; None for the defaults.
      projection: the matrix W of ``config.projection="principal-components"``, which :func:`fit` finds in a
        separate pass (:func:`padim_jax.method.projection.principal_components`); None for other projections.
      reference: RGB from 0 to 255 of ``config.crop_size``, what images are registered to where ``config.align`` asks
        for that, which :func:`fit` makes of its images (:func:`padim_jax.method.registration.find_reference`), or the
        alignment of other moments; None elsewhere.
      centres: of the components, with ``config.n_components`` above 1, which :func:`fit` finds in a separate pass too
        (:func:`padim_jax.method.centres.centres_of`); None otherwise.

    Raises:
      ValueError: an unknown tap, more channels than the taps have, or a projection, a reference or centres that are
        missing, are not called for, or have another shape.

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
    if (centres is not None) != (config.n_components > 1):
        fault = "are missing" if centres is None else "are given"
        raise ValueError(f"init: centres {fault}, with config.n_components={config.n_components}; see fit")
    size = (n_gaussians(config, embedding), embedding.dimension)
    if centres is not None and centres.shape != size:
        raise ValueError(f"init: centres are {tuple(centres.shape)}, wanted {size}: (components, dimension)")
    return PadimMoments(
        gaussian_moments.init(
            *size,
            higher=config.covariance == "ledoit-wolf",
            covered=config.align != "none",
            centres=None if centres is None else jnp.array(centres, jnp.float32),
        ),
        config,
        embedding,
        projection_of(config, embedding, projection),
        alignment_of(config, reference),
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
    valid = jnp.ones(len(images), bool) if valid is None else check_valid(valid, len(images))
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
    check_alike("merge", a, b)
    return programs.merge(a, b)


def forget(moments: PadimMoments, gone: PadimMoments) -> PadimMoments:
    """Moments as if the images of ``gone`` had never been folded in: :func:`merge` undone.

    ``gone`` are moments of images that were folded in with weight 1: ``update`` of a fresh ``init``. Subtraction loses
    digits; it is refused where distances could change by more than two thousandths
    (:func:`padim_jax.gaussians.moments.rounding_left`), as when few of many images are left.

    Raises:
      ValueError: moments that were not fitted alike (as :func:`merge`), none to forget, fewer than two images left,
        or moments that cannot be part of these. (Inside ``jit`` only the settings are compared.)
      FloatingPointError: too many digits lost; fit anew on the images to keep.

    >>> other = padim.update(backbone, padim.init(backbone, config), good_images[::-1])
    >>> int(padim.forget(padim.merge(moments, other), other).count)
    20
    """
    check_alike("forget", moments, gone)
    if is_traced(moments.count, gone.count):
        return programs.forget(moments, gone)
    n_left = float(moments.count) - float(gone.count)
    if not gone.count > 0:
        raise ValueError("forget: no images to forget; fold them into fresh moments first (init, update)")
    if n_left < 2:
        raise ValueError(f"forget: {n_left:g} of {float(moments.count):g} images would be left; a fit needs 2 or more")
    after = programs.forget(moments, gone)
    if (components := after.moments.components) is not None:
        least = float(jnp.min(components.shares)) * moments.embedding.n_positions
        if least < 1:  # patches of an image of weight 1
            raise ValueError(
                "forget: a component would be left without patches; fit anew on the images to keep, or with fewer "
                f"components (now {moments.config.n_components})"
            )
    before, later = (np.asarray(programs.diagonal(state.moments.scatter)) for state in (moments, after))
    if not (later >= -1e-5 * before.max(axis=-1, keepdims=True)).all():
        raise ValueError("forget: the moments hold less variance than the images to forget; those were never folded in")
    ridge, _ = moments.config.regularisation("forget")
    error = np.asarray(programs.rounding_left(moments.moments, after.moments, ridge, pooled_prior("forget", after)))
    if after.moments.coverage is not None:  # positions that are not judged are no worse for it
        error = error[np.asarray(is_supported(after.moments.coverage[:, None], after.count[None])[:, 0])]
    if not error.max(initial=0) <= _LARGEST_ERROR:  # NaN where the covariance is no longer definite
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
    return check_factors(model_of(backbone, fitted, moments))


def model_of(backbone: Backbone, fitted: AnyGaussian, moments: PadimMoments) -> Padim:
    """The model of Gaussians that were factored from moments."""
    return Padim(
        backbone,
        fitted,
        moments.count,
        moments.config,
        moments.embedding,
        projection=moments.projection,
        alignment=moments.alignment,
        coverage=moments.moments.coverage,
    )


def fit(
    backbone: Backbone,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    config: PadimConfig | None = None,
    *,
    solver: Solver = DEFAULT_SOLVER,
    alignment: Alignment | None = None,
) -> Padim:
    """Fit a model on batches of good images: init, update for each, finalize.

    Memory does not depend on the number of images, and the result not on how they are batched
    (to rounding). Smaller batches are padded to the largest seen, so a ragged last one compiles nothing.

    Args:
      backbone: from :func:`load_backbone`.
      batches: uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``; n may vary. Read once, but twice
        for principal components, once more for several components, and where images are to be aligned.
      config: the settings; None for the defaults.
      solver: see :func:`finalize`.
      alignment: what images are registered to, of another model; None to make a reference of these, where they are to
        be aligned.

    Raises:
      TypeError, ValueError, FloatingPointError: as the three functions it calls; fewer than two images;
        principal components, several components, or aligned images asked for on batches that can be read only once.
    """
    check_solver("fit", solver)
    config = PadimConfig() if config is None else config
    moments, sample = begin("fit", backbone, batches, config, alignment), ImageSample(config)
    for updated in accumulate(backbone, moments, sample.watch(batches)):
        moments = updated
    moments = regularise(backbone, moments, sample.batches(), sample.weights)
    return finalize(backbone, moments, solver=solver, donate=True)


def begin(
    call: str,
    backbone: Backbone,
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]],
    config: PadimConfig,
    alignment: Alignment | None = None,
) -> PadimMoments:
    """Start a fit as :func:`init` does, with what ``config`` has found in passes of their own over the batches.

    Raises:
      TypeError, ValueError: as :func:`fit`, naming ``call``.
    """
    if config.found_first is not None and iter(batches) is batches:
        passes = "three" if config.passes == 3 else "two"
        raise ValueError(
            f"{call}: {config.found_first} take {passes} passes; give a list, or an iterable that starts anew"
        )
    embedding, projection, centres = draw_embedding(backbone, config), None, None
    if config.projection == "principal-components":
        projection = principal_components(backbone, embedding, pad_batches(call, batches, config))
    if config.n_components > 1:
        matrix = projection_of(config, embedding, projection)
        centres = centres_of(backbone, embedding, matrix, pad_batches(call, batches, config), config)
    reference = find_alignment(batches, config) if alignment is None else alignment
    return init(backbone, config, projection=projection, reference=reference, centres=centres)


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
    updated = programs.update_donating(backbone, replace(moments, config=config.folded), images, valid, half)
    return replace(jax.block_until_ready(updated), config=config)


def pooled_prior(call: str, moments: PadimMoments) -> Prior | None:
    """The covariance pooled over all positions or components, and as how many images it counts; None without.

    Raises:
      ValueError: naming ``call``, where that number is yet to be chosen.
    """
    if moments.config.covariance != "pooled":
        return None
    _, prior_images = moments.config.regularisation(call)
    # components hold the cells of every image together, positions those of their own place each
    n_positions = moments.embedding.n_positions if moments.moments.components is None else 1
    return programs.pool(moments.moments, n_positions, prior_images)
