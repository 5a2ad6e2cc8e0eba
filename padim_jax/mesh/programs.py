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
from jaxtyping import Array, Bool, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians import factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.leave_one_out import Scalar
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.pooling import Prior
from padim_jax.mesh.shardings import IMAGES, SAME, pad_rows, replicated, resize_positions, shared_out
from padim_jax.mesh.spreading import Spreading, check_components, spreading_of
from padim_jax.method import fitting, programs, scoring, variants
from padim_jax.method.checks import check_backbone, check_images
from padim_jax.method.embedding import Embedding, embed
from padim_jax.method.positions import arrangement_of
from padim_jax.method.records import Padim, PadimMoments, Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeshMoments:
    """A fit under way on a mesh.

    Attributes:
      rows: moments of each row's images: count (rows,), the others (rows, positions, ...), positions filled up.
      config, embedding: as of :class:`padim_jax.PadimMoments`; static.
      mesh: static.
      projection: as of :class:`padim_jax.PadimMoments`.
    """

    rows: Moments
    config: PadimConfig = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})
    mesh: Mesh = field(metadata={"static": True})
    projection: Float[Array, "c d"] | None = None


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
) -> MeshMoments:
    """Start a fit on a mesh: :func:`padim_jax.init` with its 0.6 p·d² floats shared out along ``grid``.

    Raises:
      ValueError: as :func:`padim_jax.init`; several components, which are fitted on one device.
    """
    if config is not None:
        check_components("init", config)
    state = jax.eval_shape(lambda: fitting.init(backbone, config, projection=projection))
    spreading = spreading_of(state.config)
    p = spreading.length(mesh, state.config, state.embedding)

    def zeros(leaf: Any) -> Array:
        shape, spec = ((p, *leaf.shape[1:]), spreading.rows) if leaf.shape else ((), PartitionSpec("data"))
        return jnp.zeros((mesh.shape["data"], *shape), leaf.dtype, device=NamedSharding(mesh, spec))

    matrix = fitting.projection_of(state.config, state.embedding, projection)
    replicated_matrix = None if matrix is None else replicated(mesh, matrix)
    return MeshMoments(jax.tree.map(zeros, state.moments), state.config, state.embedding, mesh, replicated_matrix)


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
    half = fitting.half_life_array("update", half_life)
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
        moments.projection,
        images,
        valid,
        half,
        embedding=moments.embedding,
        mesh=moments.mesh,
        config=moments.config.computed,
    )
    return replace(moments, rows=rows)


def joined(moments: MeshMoments) -> PadimMoments:
    """Moments of all rows' images, positions (filled up) shared out over all devices; the rows' are used up."""
    merged = _join(moments.rows, mesh=moments.mesh, spreading=spreading_of(moments.config))
    return PadimMoments(merged, moments.config, moments.embedding, moments.projection)


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
    rows = _split(placed, mesh, spreading)
    projection = None if moments.projection is None else replicated(mesh, moments.projection)
    return MeshMoments(rows, moments.config, moments.embedding, mesh, projection)


def finalize(backbone: Backbone, moments: PadimMoments, mesh: Mesh) -> MeshModel:
    """Factor moments of :func:`joined`, each device those at its own positions: :func:`padim_jax.finalize`.

    Raises:
      ValueError, FloatingPointError: as :func:`padim_jax.finalize`.
    """
    check_backbone("finalize", backbone, moments.embedding)
    fitting.check_count(moments)
    ridge, _ = moments.config.regularisation("finalize")
    fitted = _finalize(
        moments.moments, ridge, fitting.pooled_prior("finalize", moments), mesh, spreading_of(moments.config)
    )
    model = Padim(backbone, fitted, moments.count, moments.config, moments.embedding, projection=moments.projection)
    finite = jax.jit(lambda gaussian: gaussian.is_finite(), out_shardings=NamedSharding(mesh, SAME))(fitted)
    return MeshModel(fitting.check_factors(model, finite), mesh)


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
        x = spreading.collect(mesh, embed(common.backbone, padim.embedding, images, common.projection))
        return _make_scores(spreading, common, arrangement_of(padim.config).distances(fitted, x))

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
        x = spreading.collect(mesh, embed(common.backbone, padim.embedding, images, common.projection))
        arrangement, own_weights = arrangement_of(padim.config), spreading.weights_of(weights)
        distances = arrangement.left_out_distances(fitted, x, common.count, own_weights, *regularisation)
        sample = spreading.give_back(programs.some_embeddings(x, padim.embedding.n_positions))
        scores, grid = _make_scores(spreading, common, distances)
        return scores, sample, grid

    specs = (IMAGES, PartitionSpec(None, ("data", "grid")), IMAGES)
    of = (spreading.fitted, SAME, IMAGES, IMAGES, SAME)
    run = jax.shard_map(local, mesh=mesh, in_specs=of, out_specs=specs, check_vma=False)
    return run(padim.gaussian, _common_part(padim), images, weights, jax.tree.map(jnp.asarray, regularisation))


def _common_part(model: Padim) -> Padim:
    """What lies the same on every device."""
    return replace(model, gaussian=None)  # pyright: ignore[reportArgumentType]


def _make_scores(spreading: Spreading, common: Padim, distances: Float[Array, "q m"]) -> tuple[Scores, Array]:
    """Maps, scores and grids of the images that lie here, of the distances that were computed here."""
    local_distances = spreading.give_back(distances)
    return scoring.scores_from_distances(common, local_distances[: common.embedding.n_positions])


@functools.partial(jax.jit, static_argnames=("embedding", "mesh", "config"), donate_argnames="rows")
def _update(
    backbone: Backbone,
    rows: Moments,
    projection: Array | None,
    images: Array,
    valid: Array,
    half_life: Array | None,
    embedding: Embedding,
    mesh: Mesh,
    config: PadimConfig,
) -> Moments:
    spreading = spreading_of(config)

    def local(*arguments: Any) -> Moments:
        backbone, rows, projection, images, valid, half_life = arguments
        x = spreading.collect(mesh, embed(backbone, embedding, images, projection))
        own = _without_row(rows)
        if half_life is None:
            return _with_row(spreading.fold(config, own, x, spreading.weights_of(valid)))
        weights, factor = programs.faded_weights(lax.all_gather(valid, ("data", "grid"), tiled=True), half_life)
        first = lax.axis_index(("data", "grid")) * len(valid)
        here = spreading.weights_of(lax.dynamic_slice_in_dim(weights, first, len(valid)))
        return _with_row(spreading.fold(config, gaussian_moments.decay(own, factor), x, here))

    specs = (SAME, spreading.of_rows, SAME, IMAGES, IMAGES, SAME)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.of_rows, check_vma=False)
    return run(backbone, rows, projection, images, valid, half_life)


@functools.partial(jax.jit, static_argnames=("mesh", "spreading"), donate_argnames="rows")
def _join(rows: Moments, mesh: Mesh, spreading: Spreading) -> Moments:
    count = mesh.shape["data"]

    def local(own: Moments) -> Moments:
        def exchange(array: Array) -> Array:
            if array.ndim == 1:
                return lax.all_gather(array, "data", tiled=True)
            return spreading.of_every_row(array)

        per_row = jax.tree.map(exchange, own)  # every row's, at fewer positions
        merged = jax.tree.map(lambda array: array[0], per_row)
        for row in range(1, count):
            merged = gaussian_moments.merge(merged, jax.tree.map(lambda array, row=row: array[row], per_row))
        return merged

    specs = (spreading.of_rows,)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.of_all, check_vma=False)(rows)


@functools.partial(jax.jit, static_argnames=("mesh", "spreading"))
def _split(moments: Moments, mesh: Mesh, spreading: Spreading) -> Moments:
    """All moments to the first row, none to the others."""

    def local(own: Moments) -> Moments:
        first = lax.axis_index("data") == 0
        row = jax.tree.map(lambda a: spreading.of_row(a) if a.ndim else a, own)
        return _with_row(jax.tree.map(lambda a: jnp.where(first, a, 0), row))

    specs = (spreading.of_all,)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.of_rows, check_vma=False)(moments)


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


def _with_row(moments: Moments) -> Moments:
    return jax.tree.map(lambda array: array[None], moments)


def _without_row(rows: Moments) -> Moments:
    return jax.tree.map(lambda array: array[0], rows)
