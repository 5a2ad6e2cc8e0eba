"""One fit, one score on many devices: the functions of one device under ``jax.shard_map``, on a mesh of two axes.

Along ``grid`` the positions are shared out: a device keeps and folds only its own, so the state per device falls with
the axis' length. Along ``data`` images are shared out: each row of the mesh keeps moments of its own images, which
:func:`joined` merges. Images are embedded where they lie; then the embeddings change hands once, along ``grid``, so
that each device has all of its row's images at its own positions. Factoring and distances need no other device, and
distances change hands back, so that maps are made where their images lie. A grid that does not divide evenly is
filled up with positions whose embeddings are 0; they reach no map. Where all cells share a Gaussian, it lies on every
device, and no embedding changes hands: :mod:`padim_jax.mesh.spreading` has both ways.
"""

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Num, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.leave_one_out import Scalar
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.pooling import Prior
from padim_jax.mesh.rows import join_rows, split_rows, with_row, without_row
from padim_jax.mesh.shardings import IMAGES, SAME, pad_rows, replicated, resize_positions, shared_out
from padim_jax.mesh.spreading import Spreading, check_components, spreading_of
from padim_jax.method import fit_checks, fitting, programs, scoring, variants
from padim_jax.method.aligned import Alignment, Patches, View, embed_aligned
from padim_jax.method.checks import check_backbone, check_images
from padim_jax.method.embedding import Embedding
from padim_jax.method.positions import arrangement_of
from padim_jax.method.records import Padim, PadimMoments, Scores
from padim_jax.method.reference import alignment_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeshMoments:
    """A fit under way on a mesh.

    Attributes:
      rows: moments of each row's images: count (rows,), the others (rows, positions, ...), positions filled up.
      config, embedding: as of :class:`padim_jax.PadimMoments`; static.
      mesh: static.
      projection, alignment: as of :class:`padim_jax.PadimMoments`.
    """

    rows: Moments
    config: PadimConfig = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})
    mesh: Mesh = field(metadata={"static": True})
    projection: Float[Array, "c d"] | None = None
    alignment: Alignment | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeshModel:
    """A model on a mesh, which :func:`score` scores with.

    Attributes:
      model: its Gaussians' arrays (positions, ...) shared out along ``grid``, positions filled up; the rest everywhere.
      mesh: static.
    """

    model: Padim
    mesh: Mesh = field(metadata={"static": True})


def init(
    mesh: Mesh,
    backbone: Backbone,
    config: PadimConfig | None = None,
    *,
    projection: Float[Array | np.ndarray, "c d"] | None = None,
    reference: Num[Array | np.ndarray, "height width 3"] | Alignment | None = None,
) -> MeshMoments:
    """Start a fit on a mesh: :func:`padim_jax.init` with its 0.6 p·d² floats shared out along ``grid``.

    Raises:
      ValueError: as :func:`padim_jax.init`; several components, which are fitted on one device.
    """
    config = PadimConfig() if config is None else config
    check_components("init", config)
    alignment = alignment_of(config, reference)
    state = jax.eval_shape(lambda: fitting.init(backbone, config, projection=projection, reference=alignment))
    spreading = spreading_of(config)
    p = spreading.length(mesh, config, state.embedding)

    def zeros(leaf: Any) -> Array:
        shape, spec = ((p, *leaf.shape[1:]), spreading.rows) if leaf.shape else ((), PartitionSpec("data"))
        return jnp.zeros((mesh.shape["data"], *shape), leaf.dtype, device=NamedSharding(mesh, spec))

    matrix = fitting.projection_of(state.config, state.embedding, projection)
    common = replicated(mesh, (matrix, alignment))
    return MeshMoments(jax.tree.map(zeros, state.moments), state.config, state.embedding, mesh, *common)


def update(
    backbone: Backbone,
    moments: MeshMoments,
    images: UInt8[Array | np.ndarray, "n height width 3"],
    valid: Bool[Array | np.ndarray, " n"] | None = None,
    *,
    half_life: float | None = None,
) -> MeshMoments:
    """Fold images into moments on a mesh, which are used up: :func:`padim_jax.update` on many devices.

    Args:
      backbone: the one given to :func:`init`, :func:`replicated`.
      moments: what has been accumulated so far; must not be used again.
      images: uint8 RGB of ``config.crop_size``; any n on the host, or an array of :func:`shared_out`.
      valid: which images count; None for all.
      half_life: as of :func:`padim_jax.update`; the last image of the last device is the newest.

    Raises:
      TypeError, ValueError: as :func:`padim_jax.update`.
    """
    half = fit_checks.half_life_array("update", half_life)
    check_backbone("update", backbone, moments.embedding)
    check_images("update", images, moments.config)
    n = len(images)
    valid = np.ones(n, bool) if valid is None else valid
    if not isinstance(images, jax.Array) or len(images.sharding.device_set) != moments.mesh.size:
        images, valid = (shared_out(moments.mesh, pad_rows(moments.mesh, np.asarray(a))) for a in (images, valid))
    elif isinstance(valid, np.ndarray):
        valid = jax.device_put(valid, NamedSharding(moments.mesh, IMAGES))
    if n == 0:
        return moments
    rows = _update(
        backbone,
        moments.rows,
        (moments.projection, moments.alignment),
        images,
        valid,
        half,
        embedding=moments.embedding,
        mesh=moments.mesh,
        config=moments.config.folded,
    )
    return replace(moments, rows=rows)


def joined(moments: MeshMoments) -> PadimMoments:
    """Moments of all rows' images, positions (filled up) shared out over all devices; the rows' are used up."""
    merged = join_rows(moments.rows, mesh=moments.mesh, spreading=spreading_of(moments.config))
    return PadimMoments(merged, moments.config, moments.embedding, moments.projection, moments.alignment)


def split(mesh: Mesh, moments: PadimMoments) -> MeshMoments:
    """Moments on a mesh, to go on from: of one device, or as :func:`joined` gives them on any mesh.

    Raises:
      ValueError: several components, which are fitted on one device.
    """
    check_components("split", moments.config)
    spreading = spreading_of(moments.config)
    p = spreading.length(mesh, moments.config, moments.embedding)
    placed = jax.jit(
        lambda tree: jax.tree.map(lambda a: resize_positions(a, p), tree),
        out_shardings=jax.tree.map(lambda a: NamedSharding(mesh, spreading.whole if a.ndim else SAME), moments.moments),
    )(moments.moments)
    rows = split_rows(placed, mesh, spreading)
    common = replicated(mesh, (moments.projection, moments.alignment))
    return MeshMoments(rows, moments.config, moments.embedding, mesh, *common)


def finalize(backbone: Backbone, moments: PadimMoments, mesh: Mesh) -> MeshModel:
    """Factor moments of :func:`joined`, each device those at its own positions: :func:`padim_jax.finalize`.

    Raises:
      ValueError, FloatingPointError: as :func:`padim_jax.finalize`.
    """
    check_backbone("finalize", backbone, moments.embedding)
    fit_checks.check_count(moments)
    ridge, _ = moments.config.regularisation("finalize")
    fitted = _finalize(
        moments.moments, ridge, fitting.pooled_prior("finalize", moments), mesh, spreading_of(moments.config)
    )
    model = fitting.model_of(backbone, fitted, moments)
    if model.coverage is not None:  # maps are made where their images lie
        everywhere = NamedSharding(mesh, SAME)
        coverage = jax.jit(lambda array: array[: moments.embedding.n_positions], out_shardings=everywhere)
        model = replace(model, coverage=coverage(model.coverage))
    finite = jax.jit(lambda gaussian: gaussian.is_finite(), out_shardings=NamedSharding(mesh, SAME))(fitted)
    return MeshModel(fit_checks.check_factors(model, finite), mesh)


def place(mesh: Mesh, model: Padim) -> MeshModel:
    """A model of one device on a mesh; it scores by inverse factors, or in its low rank."""
    if model.gaussian.solver == "triangular-solve":
        model = variants.with_solver(model, "inverse-factor")
    spreading = spreading_of(model.config)
    p = spreading.length(mesh, model.config, model.embedding)

    def put(array: Any) -> Array:
        return jax.device_put(resize_positions(array, p), NamedSharding(mesh, spreading.fitted))

    common = replicated(mesh, replace(model, gaussian=None))  # pyright: ignore[reportArgumentType]
    return MeshModel(replace(common, gaussian=jax.tree.map(put, model.gaussian)), mesh)


def score(model: MeshModel, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
    """Score images on a mesh: :func:`padim_jax.score` on many devices; the results lie where the images do.

    Args:
      model: from :func:`place` or :func:`finalize`.
      images: as :func:`update` takes them.

    Raises:
      TypeError, ValueError: as :func:`padim_jax.score`.
    """
    return score_with_grid(model, images)[0]


def score_with_grid(
    model: MeshModel, images: UInt8[Array | np.ndarray, "n height width 3"]
) -> tuple[Scores, Float[Array, "n h w"]]:
    """Score as :func:`score`, and give the distances on their grid, 0 outside of the region of interest."""
    check_images("score", images, model.model.config)
    scoring.check_standard("score", model.model)
    n = len(images)
    if isinstance(images, jax.Array) and len(images.sharding.device_set) == model.mesh.size:
        return _score(model, images)
    placed = shared_out(model.mesh, pad_rows(model.mesh, np.asarray(images)))
    return jax.tree.map(lambda leaf: leaf[:n], _score(model, placed))


def leave_one_out_scores(model: MeshModel, images: Array, weights: Array) -> Scores:
    """Score images a model was fitted on, each by the model of all the others.

    :mod:`padim_jax.gaussians.leave_one_out` has the formula.

    Args:
      model: of inverse factors, not calibrated.
      images: of :func:`shared_out`, like the weights.
      weights: float32 (n,), that each was fitted with; 0 of those that do not count.
    """
    return score_left_out(model, images, weights)[0]


def score_left_out(
    model: MeshModel, images: Array, weights: Array
) -> tuple[Scores, Float[Array, "q n k"], Float[Array, "n h w"]]:
    """Score as :func:`leave_one_out_scores`, and give embeddings at some positions, of some channels, and the grid.

    Positions that a grid was filled up with are among the embeddings, as 0, behind the others of their device.
    """
    return _leave_out(model, images, weights, model.model.config.regularisation("leave_one_out_scores"))


@jax.jit
def _score(model: MeshModel, images: Array) -> tuple[Scores, Array]:
    mesh, padim = model.mesh, model.model

    spreading = spreading_of(padim.config)

    def local(fitted: Any, common: Padim, images: Array) -> tuple[Scores, Array]:
        patches = _embed(common, images)
        view = None if common.coverage is None else programs.view_of(common, patches, jnp.zeros(len(images)))
        distances = arrangement_of(padim.config).distances(fitted, spreading.collect(mesh, patches.x))
        return _make_scores(spreading, common, distances, view)

    specs = (spreading.fitted, SAME, IMAGES)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=IMAGES, check_vma=False)
    return run(padim.gaussian, _common_part(padim), images)


@jax.jit
def _leave_out(
    model: MeshModel, images: Array, weights: Array, regularisation: tuple[Scalar, Scalar]
) -> tuple[Scores, Array, Array]:
    mesh, padim = model.mesh, model.model
    spreading = spreading_of(padim.config)

    def local(
        fitted: Any, common: Padim, images: Array, weights: Array, regularisation: tuple[Array, Array]
    ) -> tuple[Scores, Array, Array]:
        patches, arrangement = _embed(common, images), arrangement_of(padim.config)
        x, count, own_weights, view = spreading.collect(mesh, patches.x), common.count, None, None
        if common.coverage is None:
            own_weights = spreading.weights_of(weights)
        else:
            view = programs.view_of(common, patches, weights)
            own_weights = spreading.collect(mesh, patches.weights(weights))
            count = spreading.own_positions(mesh, common.coverage)
        distances = arrangement.left_out_distances(fitted, x, count, own_weights, *regularisation)
        sample = spreading.give_back(programs.some_embeddings(x, padim.embedding.n_positions))
        scores, grid = _make_scores(spreading, common, distances, view)
        return scores, sample, grid

    specs = (IMAGES, PartitionSpec(None, ("data", "grid")), IMAGES)
    of = (spreading.fitted, SAME, IMAGES, IMAGES, SAME)
    run = jax.shard_map(local, mesh=mesh, in_specs=of, out_specs=specs, check_vma=False)
    return run(padim.gaussian, _common_part(padim), images, weights, jax.tree.map(jnp.asarray, regularisation))


def _common_part(model: Padim) -> Padim:
    """What lies the same on every device."""
    return replace(model, gaussian=None)  # pyright: ignore[reportArgumentType]


def _embed(common: Padim, images: Array) -> Patches:
    return embed_aligned(common.backbone, common.embedding, images, common.projection, common.alignment)


def _make_scores(
    spreading: Spreading, common: Padim, distances: Float[Array, "q m"], view: View | None
) -> tuple[Scores, Array]:
    """Maps, scores and grids of the images that lie here, of the distances that were computed here."""
    local_distances = spreading.give_back(distances)
    return scoring.scores_from_distances(common, local_distances[: common.embedding.n_positions], view)


@functools.partial(jax.jit, static_argnames=("embedding", "mesh", "config"), donate_argnames="rows")
def _update(
    backbone: Backbone,
    rows: Moments,
    common: tuple[Array | None, Alignment | None],
    images: Array,
    valid: Array,
    half_life: Array | None,
    embedding: Embedding,
    mesh: Mesh,
    config: PadimConfig,
) -> Moments:
    spreading = spreading_of(config)

    def local(*arguments: Any) -> Moments:
        backbone, rows, common, images, valid, half_life = arguments
        patches = embed_aligned(backbone, embedding, images, *common)
        x, own = spreading.collect(mesh, patches.x), without_row(rows)
        inside = None if patches.inside is None else spreading.collect(mesh, patches.inside)
        if half_life is None:
            return with_row(spreading.fold(config, own, x, spreading.weights_of(valid), inside))
        weights, factor = programs.faded_weights(lax.all_gather(valid, ("data", "grid"), tiled=True), half_life)
        first = lax.axis_index(("data", "grid")) * len(valid)
        here = spreading.weights_of(lax.dynamic_slice_in_dim(weights, first, len(valid)))
        return with_row(spreading.fold(config, gaussian_moments.decay(own, factor), x, here, inside))

    specs = (SAME, spreading.of_rows, SAME, IMAGES, IMAGES, SAME)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.of_rows, check_vma=False)
    return run(backbone, rows, common, images, valid, half_life)


@functools.partial(jax.jit, static_argnames=("mesh", "spreading"))
def _finalize(
    moments: Moments, ridge: Scalar, prior: Prior | None, mesh: Mesh, spreading: Spreading
) -> factors.WhitenedGaussian:
    def local(own: Moments, ridge: Array, prior: Prior | None) -> Any:
        return factors.finalize(own, ridge, "inverse-factor", prior)

    specs = (spreading.of_all, SAME, SAME)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.whole, check_vma=False)
    fitted = run(moments, jnp.asarray(ridge), prior)
    return lax.with_sharding_constraint(fitted, NamedSharding(mesh, spreading.fitted))
