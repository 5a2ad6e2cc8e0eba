"""The compiled programs of the method, by name: fitting and scoring run them, estimates compile them for shapes alone.

Each is a pure function under ``jax.jit``. The callers check the arguments, and refuse wrong ones in words, before.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from padim_jax.backbones import Backbone
from padim_jax.gaussians import factors, moments
from padim_jax.gaussians.factors import Gaussian, Solver, WhitenedGaussian
from padim_jax.gaussians.leave_one_out import Scalar
from padim_jax.gaussians.low_rank import AnyGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.pooling import Prior, pooled_covariance
from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.method import calibration
from padim_jax.method.aligned import Alignment, Patches, View, embed_aligned, is_supported
from padim_jax.method.anomaly_map import anomaly_map, image_score
from padim_jax.method.calibration import NO_MATCH, Calibration
from padim_jax.method.embedding import Embedding
from padim_jax.method.positions import arrangement_of
from padim_jax.method.records import Padim, PadimMoments, Scores

_SOME_POSITIONS, _SOME_CHANNELS = 1024, 20  # enough to see how parts lie


def _update(
    backbone: Backbone, state: PadimMoments, images: Array, valid: Array, half_life: Array | None
) -> PadimMoments:
    patches = embed_aligned(backbone, state.embedding, images, state.projection, state.alignment)
    before, weights = state.moments, valid
    if half_life is not None:
        weights, factor = faded_weights(valid, half_life)
        before = moments.decay(before, factor)
    return replace(state, moments=arrangement_of(state.config).update(before, patches.x, weights, patches.inside))


update = jax.jit(_update)
update_donating = jax.jit(_update, donate_argnames="state")


@functools.partial(jax.jit, static_argnames="n_positions")
def pool(state: Moments, n_positions: int, prior_images: Scalar) -> Prior:
    """The pooled covariance; a program of its own, because a scatter that is read could not be written over."""
    return Prior(pooled_covariance(state, n_positions), jnp.asarray(prior_images, jnp.float32))


def _factor(
    scatter: SymmetricMatrix, others: Moments, ridge: Scalar, solver: Solver, prior: Prior | None
) -> Gaussian | WhitenedGaussian:
    return factors.finalize(replace(others, scatter=scatter), ridge, solver, prior)


factor = jax.jit(_factor, static_argnames="solver")
factor_donating = jax.jit(_factor, static_argnames="solver", donate_argnames="scatter")


@jax.jit
def merge(a: PadimMoments, b: PadimMoments) -> PadimMoments:
    """Moments of both samples together."""
    return replace(a, moments=moments.merge(a.moments, b.moments))


@jax.jit
def forget(state: PadimMoments, gone: PadimMoments) -> PadimMoments:
    """Moments of the images that are not in ``gone``."""
    return replace(state, moments=moments.forget(state.moments, gone.moments))


@jax.jit
def rounding_left(before: Moments, after: Moments, ridge: Scalar, prior: Prior | None) -> Float[Array, " p"]:
    """Relative error that forgetting may have left in distances, per position."""
    return moments.rounding_left(before, after, factors.finalize_whitened(after, ridge, prior).whitening)


@functools.partial(jax.jit, static_argnames="embedding")
def embed_at(
    backbone: Backbone,
    embedding: Embedding,
    images: Array,
    projection: Array | None,
    alignment: Alignment | None,
    positions: Array,
) -> Float[Array, "q n d"]:
    """Embeddings of images at some positions."""
    return embed_aligned(backbone, embedding, images, projection, alignment).x[positions]


@functools.partial(jax.jit, static_argnames="n_positions")
def statistics_at(state: Moments, positions: Array, n_positions: int) -> tuple[Array, Array, Array]:
    """Means and scatters at some positions, and the covariance pooled over all."""
    return state.mean[positions], state.scatter[positions].square(), pooled_covariance(state, n_positions)


@jax.jit
def diagonal(scatter: SymmetricMatrix) -> Float[Array, "p d"]:
    """The diagonals."""
    return scatter.diagonal()


@jax.jit
def is_finite(gaussian: AnyGaussian) -> Bool[Array, " p"]:
    """Per position, whether the Gaussian holds finite numbers only."""
    return gaussian.is_finite()


@functools.partial(jax.jit, static_argnames="solver")
def with_solver(gaussian: AnyGaussian, solver: Solver) -> AnyGaussian:
    """The same distributions in the form that ``solver`` scores with."""
    return gaussian.with_solver(solver)


@jax.jit
def score(model: Padim, images: Array) -> tuple[Scores, Float[Array, "n h w"]]:
    """Maps and image scores, and the distances that they follow from."""
    patches = embed_aligned(model.backbone, model.embedding, images, model.projection, model.alignment)
    x, arrangement = patches.x, arrangement_of(model.config)
    view = None if model.coverage is None else view_of(model, patches, jnp.zeros(len(images)))
    if images.dtype == jnp.uint8:
        return scores_of(model, arrangement.distances(model.gaussian, x), view)
    # the gradient of a square root at 0 is infinite, and times the 0 of pixels that don't matter it is not a number
    at_kink = arrangement.at_kink(model.gaussian, x)
    distances = arrangement.distances(model.gaussian, jnp.where(at_kink[..., None], x + 1, x))
    return scores_of(model, jnp.where(at_kink, 0, distances), view)


@jax.jit
def leave_one_out(
    model: Padim, images: Array, weights: Array, ridge: Scalar, prior_images: Scalar
) -> tuple[Scores, Array, Array, Array]:
    """Scores by the models of all others, Σ w (x - μ), which is 0 over all images, some embeddings, and the grid."""
    patches = embed_aligned(model.backbone, model.embedding, images, model.projection, model.alignment)
    x, arrangement = patches.x, arrangement_of(model.config)
    of_positions, count, view = weights, model.count, None
    if model.coverage is not None:
        of_positions, count, view = patches.weights(weights), model.coverage, view_of(model, patches, weights)
    distances = arrangement.left_out_distances(model.gaussian, x, count, of_positions, ridge, prior_images)
    shift = arrangement.deviations(model.gaussian, x, of_positions)
    scores, grid = scores_of(model, distances, view)
    return scores, shift, some_embeddings(x, len(x)), grid


@jax.jit
def verdicts(reference: Calibration, scores: Scores) -> Scores:
    """The same scores with p-values and verdicts."""
    return judge(reference, scores)


def judge(reference: Calibration, scores: Scores) -> Scores:
    """As :func:`verdicts`; scores of NumPy stay on the host."""
    p = calibration.p_values(reference, scores.image_score)
    return replace(scores, p_value=p, anomalous=calibration.is_anomalous(reference, scores.image_score, scores.match))


def faded_weights(valid: Bool[Array, " n"], half_life: Float[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Weights ``2^(-age / H)`` of a batch's images in order, and the factor that earlier ones fade by meanwhile."""
    counts = valid.astype(jnp.float32)
    total = jnp.sum(counts)
    return counts * jnp.exp2((jnp.cumsum(counts) - total) / half_life), jnp.exp2(-total / half_life)


def some_embeddings(x: Float[Array, "p n d"], n_positions: int) -> Float[Array, "q n k"]:
    """Embeddings at some of a grid's ``n_positions`` and of some channels: enough to see how the parts lie."""
    d = x.shape[-1]
    return x[:: -(-n_positions // _SOME_POSITIONS)][..., np.linspace(0, d - 1, min(d, _SOME_CHANNELS)).astype(int)]


def _lowest(maps: Float[Array, "n height width"], inside: Bool[Array, "#n height width"]) -> Float[Array, "n 1 1"]:
    """What standardised maps are where they are not judged: at most 0, and no higher than anywhere ``inside``."""
    return jnp.minimum(0, jnp.min(jnp.where(inside, maps, jnp.inf), axis=(1, 2), keepdims=True))


def view_of(model: Padim, patches: Patches, weights: Float[Array, " n"]) -> View:
    """Where maps of aligned images are judged, by a model that was fitted on them with these weights, without them."""
    assert model.coverage is not None and patches.inside is not None and patches.poses is not None  # noqa: PT018
    coverage = model.coverage[:, None] - patches.weights(weights)
    return View(patches.inside & is_supported(coverage, model.count - weights), patches.poses)


def scores_of(
    model: Padim, distances: Float[Array, "p n"], view: View | None = None
) -> tuple[Scores, Float[Array, "n h w"]]:
    """Maps and image scores, and the distances on their grid, 0 outside of the region of interest.

    A part of programs, not one itself. The grid of aligned images lies as the reference does, not a number where it is
    not judged; their maps lie as the images do, and their scores are of the maps before they were brought back.
    """
    grid = distances.T.reshape(-1, *model.embedding.grid)
    if model.roi is not None:
        rows, columns = (
            np.arange(pixels) * cells // pixels
            for pixels, cells in zip(model.config.crop, model.embedding.grid, strict=True)
        )
        cells = jnp.zeros(model.embedding.grid, bool).at[rows[:, None], columns[None]].max(model.roi)
        grid = jnp.where(cells[None], grid, 0)
    inside = None if model.roi is None else model.roi[None]
    if view is None:
        maps = anomaly_map(grid, model.config.crop, model.config.sigma, model.config.interpolation)
    else:
        maps, is_judged = view.maps(grid, model.config)
        grid = jnp.where(view.judged.T.reshape(grid.shape), grid, jnp.nan)
        inside = is_judged if inside is None else is_judged & inside
    if model.standard is not None:
        maps = model.standard.apply(maps)
    outside = jnp.zeros((len(maps), 1, 1))
    if inside is not None:
        outside = outside if model.standard is None else _lowest(maps, inside)
        maps = jnp.where(inside, maps, outside)
    values: Any = image_score(maps, model.config.top_share, model.roi)
    if view is None or inside is None:
        return Scores(values, maps), grid
    # of an image that is judged nowhere nothing is known, which must not pass for good
    match = jnp.where(inside.any(axis=(1, 2)), view.poses.quality, NO_MATCH)
    return Scores(values, view.bring_back(maps, outside), match=match, poses=view.poses), grid
