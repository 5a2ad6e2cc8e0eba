"""One fit, one score on many devices: the functions of one device under ``jax.shard_map``, on a mesh of two axes.

Along ``grid`` the positions are shared out: a device keeps and folds only its own, so the state per device falls with
the axis' length. Along ``data`` images are shared out: each row of the mesh keeps moments of its own images, which
:func:`joined` merges. Images are embedded where they lie; then the embeddings change hands once, along ``grid``, so
that each device has all of its row's images at its own positions. Factoring and distances need no other device, and
distances change hands back, so that maps are made where their images lie. A grid that does not divide evenly is
filled up with positions whose embeddings are 0; they reach no map.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians import forms, gaussian
from padim_jax.gaussians.gaussian import Moments
from padim_jax.gaussians.leave_one_out import leave_one_out
from padim_jax.method import fitting, scoring
from padim_jax.method.checks import check_backbone, check_images
from padim_jax.method.embedding import Embedding, embed
from padim_jax.method.records import Padim, PadimMoments, Scores

T = TypeVar("T")

_ROWS = PartitionSpec("data", "grid")  # (rows, positions, ...)
_SPREAD = PartitionSpec(("grid", "data"))  # (positions, ...) over all devices
_GRID = PartitionSpec("grid")  # (positions, ...), the same in every row
_IMAGES = PartitionSpec(("data", "grid"))  # (images, ...)
_SAME = PartitionSpec()
_of_rows: Any = (PartitionSpec("data"), _ROWS, _ROWS, _ROWS)
_of_all: Any = (_SAME, _SPREAD, _SPREAD, _SPREAD)
_OF_ROWS, _OF_ALL = Moments(*_of_rows), Moments(*_of_all)


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


def device_mesh(data: int = 1, grid: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of ``data`` rows of ``grid`` devices.

    Args:
      data: rows; images are shared out along them.
      grid: devices of a row; positions are shared out along them. None for as many as there are.
      devices: None for all there are, those of other processes too.

    Raises:
      ValueError: the mesh takes more devices than there are, or fewer.

    >>> dict(padim.mesh.device_mesh(1, 1).shape)
    {'data': 1, 'grid': 1}
    """
    devices = jax.devices() if devices is None else devices
    grid = len(devices) // max(1, data) if grid is None else grid
    if data < 1 or grid < 1 or data * grid != len(devices):
        raise ValueError(
            f"device_mesh: data={data} × grid={grid} is not {len(devices)}, the devices there are; choose factors of "
            "that, or pass the devices to use"
        )
    return Mesh(np.asarray(devices).reshape(data, grid), ("data", "grid"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh, tree: T) -> T:
    """The same arrays on every device of the mesh, as :func:`update` wants a backbone."""
    return jax.device_put(tree, NamedSharding(mesh, _SAME))


def init(
    mesh: Mesh,
    backbone: Backbone,
    config: PadimConfig | None = None,
    *,
    projection: Float[Array | np.ndarray, "c d"] | None = None,
) -> MeshMoments:
    """Start a fit on a mesh: :func:`padim_jax.init` with its 0.6 p·d² floats shared out along ``grid``.

    Raises:
      ValueError: as :func:`padim_jax.init`.
    """
    state = jax.eval_shape(lambda: fitting.init(backbone, config, projection=projection))
    p = _filled(mesh, state.embedding.n_positions)

    def zeros(one: Any) -> Array:
        shape, spec = ((p, *one.shape[1:]), _ROWS) if one.shape else ((), PartitionSpec("data"))
        return jnp.zeros((mesh.shape["data"], *shape), one.dtype, device=NamedSharding(mesh, spec))

    given = fitting.projection_of(state.config, state.embedding, projection)
    placed = None if given is None else replicated(mesh, given)
    return MeshMoments(jax.tree.map(zeros, state.moments), state.config, state.embedding, mesh, placed)


def update(
    backbone: Backbone,
    moments: MeshMoments,
    images: UInt8[Array | np.ndarray, "n height width 3"],
    valid: Bool[Array | np.ndarray, " n"] | None = None,
) -> MeshMoments:
    """Fold images into moments on a mesh, which are used up: :func:`padim_jax.update` on many devices.

    Args:
      backbone: the one given to :func:`init`, :func:`replicated`.
      moments: what has been accumulated so far; must not be used again.
      images: uint8 RGB of ``config.crop_size``; any n on the host, or an array of :func:`shared_out`.
      valid: which images count; None for all.

    Raises:
      TypeError, ValueError: as :func:`padim_jax.update`.
    """
    check_backbone("update", backbone, moments.embedding)
    check_images("update", images, moments.config)
    n = len(images)
    valid = np.ones(n, bool) if valid is None else valid
    if not isinstance(images, jax.Array) or len(images.sharding.device_set) != moments.mesh.size:
        images, valid = (shared_out(moments.mesh, _filled_up(moments.mesh, np.asarray(a))) for a in (images, valid))
    elif isinstance(valid, np.ndarray):
        valid = jax.device_put(valid, NamedSharding(moments.mesh, _IMAGES))
    if n == 0:
        return moments
    rows = _update(
        backbone, moments.rows, moments.projection, images, valid, embedding=moments.embedding, mesh=moments.mesh
    )
    return replace(moments, rows=rows)


def joined(moments: MeshMoments) -> PadimMoments:
    """Moments of all rows' images, positions (filled up) shared out over all devices; the rows' are used up."""
    whole = _joined(moments.rows, mesh=moments.mesh)
    return PadimMoments(whole, moments.config, moments.embedding, moments.projection)


def split(mesh: Mesh, moments: PadimMoments) -> MeshMoments:
    """Moments on a mesh, to go on from: of one device, or as :func:`joined` gives them on any mesh."""
    p = _filled(mesh, moments.embedding.n_positions)
    placed = jax.jit(
        lambda one: jax.tree.map(lambda a: _resized(a, p), one),
        out_shardings=jax.tree.map(lambda a: NamedSharding(mesh, _SPREAD if a.ndim else _SAME), moments.moments),
    )(moments.moments)
    rows = _split(placed, mesh)
    projection = None if moments.projection is None else replicated(mesh, moments.projection)
    return MeshMoments(rows, moments.config, moments.embedding, mesh, projection)


def finalize(backbone: Backbone, moments: PadimMoments, mesh: Mesh) -> MeshModel:
    """Factor moments of :func:`joined`, each device those at its own positions: :func:`padim_jax.finalize`.

    Raises:
      ValueError, FloatingPointError: as :func:`padim_jax.finalize`.
    """
    check_backbone("finalize", backbone, moments.embedding)
    fitting.check_count(moments)
    fitted = _finalize(moments.moments, moments.config.ridge, mesh)
    model = Padim(backbone, fitted, moments.count, moments.config, moments.embedding, projection=moments.projection)
    finite = jax.jit(forms.is_finite, out_shardings=NamedSharding(mesh, _SAME))(fitted)
    return MeshModel(fitting.checked(model, finite), mesh)


def place(mesh: Mesh, model: Padim) -> MeshModel:
    """A model of one device on a mesh; it scores by inverse factors, or in its low rank."""
    if isinstance(model.gaussian, gaussian.Gaussian):
        model = scoring.with_solver(model, "inverse-factor")
    p = _filled(mesh, model.embedding.n_positions)

    def put(array: Any) -> Array:
        return jax.device_put(_resized(array, p), NamedSharding(mesh, _GRID))

    rest = replicated(mesh, replace(model, gaussian=None))  # pyright: ignore[reportArgumentType]
    return MeshModel(replace(rest, gaussian=jax.tree.map(put, model.gaussian)), mesh)


def score(model: MeshModel, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
    """Score images on a mesh: :func:`padim_jax.score` on many devices; the results lie where the images do.

    Args:
      model: from :func:`place` or :func:`finalize`.
      images: as :func:`update` takes them.

    Raises:
      TypeError, ValueError: as :func:`padim_jax.score`.
    """
    check_images("score", images, model.model.config)
    n = len(images)
    if isinstance(images, jax.Array) and len(images.sharding.device_set) == model.mesh.size:
        return _score(model, images)
    placed = shared_out(model.mesh, _filled_up(model.mesh, np.asarray(images)))
    return jax.tree.map(lambda found: found[:n], _score(model, placed))


def leave_one_out_scores(model: MeshModel, images: Array, weights: Array) -> Scores:
    """Score images a model was fitted on, each by the model of all the others.

    :mod:`padim_jax.gaussians.leave_one_out` has the formula.

    Args:
      model: of inverse factors, not calibrated.
      images: of :func:`shared_out`, like the weights.
      weights: float32 (n,), that each was fitted with; 0 of those that do not count.
    """
    return _score(model, images, weights)


def restored_as(mesh: Mesh, shape: tuple[int, ...]) -> tuple[NamedSharding, tuple[int, ...]]:
    """How an array (positions, ...) of :func:`joined` lies on this mesh, whatever mesh it was on; or a scalar."""
    if not shape:
        return NamedSharding(mesh, _SAME), ()
    return NamedSharding(mesh, _SPREAD), (_filled(mesh, shape[0]), *shape[1:])


def rows_here(array: Array) -> np.ndarray:
    """Of an array laid out as images are, this process's rows."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def bytes_per_image(mesh: Mesh, embedding: Embedding) -> float:
    """Bytes of embeddings that leave a device for each image it embeds: ``4 p d (g - 1) / g`` with g devices a row.

    A score sends ``4 p (g - 1) / g`` more, the distances on their way back.
    """
    g = mesh.shape["grid"]
    return 4 * _filled(mesh, embedding.n_positions) * embedding.dimension * (g - 1) / g


def shared_out(mesh: Mesh, local: np.ndarray) -> Array:
    """One array of the rows that each process gives, as many as the others and a multiple of its devices."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, _IMAGES), local)


@jax.jit
def _score(model: MeshModel, images: Array, weights: Array | None = None) -> Scores:
    """Scores, by the models of all other images where there are ``weights``."""
    mesh, whole = model.mesh, model.model
    parts = (whole.backbone, whole.count, whole.projection, whole.calibration, whole.roi)

    def local(fitted: Any, parts: Any, images: Array, weights: Array | None) -> Scores:
        backbone, count, projection, calibration, roi = parts
        x = _exchanged(mesh, backbone, whole.embedding, images, projection)
        if weights is None:
            distances = forms.mahalanobis(fitted, x)
        else:
            own = lax.all_gather(weights, "grid", tiled=True)
            distances = leave_one_out(fitted, x, count, own, whole.config.ridge)
        back = lax.all_to_all(distances, "grid", split_axis=1, concat_axis=0, tiled=True)
        named = replace(whole, backbone=backbone, count=count, projection=projection, calibration=calibration, roi=roi)
        return scoring.judged(named, back[: whole.embedding.n_positions])

    specs = (_GRID, _SAME, _IMAGES, _IMAGES)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_IMAGES, check_vma=False)
    return run(whole.gaussian, parts, images, weights)


@functools.partial(jax.jit, static_argnames=("embedding", "mesh"), donate_argnames="rows")
def _update(
    backbone: Backbone,
    rows: Moments,
    projection: Array | None,
    images: Array,
    valid: Array,
    embedding: Embedding,
    mesh: Mesh,
) -> Moments:
    def local(backbone: Backbone, rows: Moments, projection: Array | None, images: Array, valid: Array) -> Moments:
        x = _exchanged(mesh, backbone, embedding, images, projection)
        counted = lax.all_gather(valid, "grid", tiled=True)
        return _with_row(gaussian.update(_without_row(rows), x, counted))

    specs = (_SAME, _OF_ROWS, _SAME, _IMAGES, _IMAGES)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_OF_ROWS, check_vma=False)
    return run(backbone, rows, projection, images, valid)


def _exchanged(
    mesh: Mesh, backbone: Backbone, embedding: Embedding, images: Array, projection: Array | None
) -> Float[Array, "p n d"]:
    """Of the row's images, embeddings at this device's positions."""
    x = embed(backbone, embedding, images, projection)
    x = _resized(x, _filled(mesh, embedding.n_positions))
    return lax.all_to_all(x, "grid", split_axis=0, concat_axis=1, tiled=True)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="rows")
def _joined(rows: Moments, mesh: Mesh) -> Moments:
    count = mesh.shape["data"]

    def local(own: Moments) -> Moments:
        def exchanged(array: Array) -> Array:
            if array.ndim == 1:
                return lax.all_gather(array, "data", tiled=True)
            return lax.all_to_all(array, "data", split_axis=1, concat_axis=0, tiled=True)

        apart = jax.tree.map(exchanged, own)  # every row's, at fewer positions
        found = jax.tree.map(lambda array: array[0], apart)
        for row in range(1, count):
            found = gaussian.merge(found, jax.tree.map(lambda array, row=row: array[row], apart))
        return found

    return jax.shard_map(local, mesh=mesh, in_specs=(_OF_ROWS,), out_specs=_OF_ALL, check_vma=False)(rows)


@functools.partial(jax.jit, static_argnames="mesh")
def _split(moments: Moments, mesh: Mesh) -> Moments:
    """All moments to the first row, none to the others."""

    def local(own: Moments) -> Moments:
        first = lax.axis_index("data") == 0
        whole = jax.tree.map(lambda a: lax.all_gather(a, "data", tiled=True) if a.ndim else a, own)
        return _with_row(jax.tree.map(lambda a: jnp.where(first, a, 0), whole))

    return jax.shard_map(local, mesh=mesh, in_specs=(_OF_ALL,), out_specs=_OF_ROWS, check_vma=False)(moments)


@functools.partial(jax.jit, static_argnames=("ridge", "mesh"))
def _finalize(moments: Moments, ridge: float, mesh: Mesh) -> gaussian.WhitenedGaussian:
    def local(own: Moments) -> Any:
        return gaussian.finalize(own, ridge, "inverse-factor")

    fitted = jax.shard_map(local, mesh=mesh, in_specs=(_OF_ALL,), out_specs=_SPREAD, check_vma=False)(moments)
    return lax.with_sharding_constraint(fitted, NamedSharding(mesh, _GRID))


def _with_row(moments: Moments) -> Moments:
    return jax.tree.map(lambda array: array[None], moments)


def _without_row(rows: Moments) -> Moments:
    return jax.tree.map(lambda array: array[0], rows)


def _filled(mesh: Mesh, n: int) -> int:
    """n, or as many more as devices share out evenly."""
    return -(-n // mesh.size) * mesh.size


def _filled_up(mesh: Mesh, array: np.ndarray) -> np.ndarray:
    """Rows of 0 behind the others, so that this process's devices share them out evenly."""
    here = len(mesh.local_devices)
    short = -len(array) % here
    return np.pad(array, [(0, short), *[(0, 0)] * (array.ndim - 1)]) if short else array


def _resized(array: Any, p: int) -> Any:
    """Positions filled up with 0 to p, or those beyond p, which were filled up, left out."""
    if not array.ndim or len(array) == p:
        return array
    return array[:p] if len(array) > p else jnp.pad(array, [(0, p - len(array)), *[(0, 0)] * (array.ndim - 1)])
