"""Per-position Gaussians: streaming moments, Cholesky factors, Mahalanobis distances.

Everything here works on positions-first arrays (p positions, n images, d channels) and is
pure. Scatters and inverse factors are kept as triangles (:mod:`padim_jax.gaussians.triangle`) and the grid is processed
in chunks, because at d = 550 one temporary as large as the state would double 2.3 GB; each chunk is
written back in place where the caller donates.
The records are spared the tests' run-time shape checks: JAX builds them with placeholders too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, no_type_check

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from padim_jax.gaussians import cholesky, shrinkage, triangle
from padim_jax.gaussians.shrinkage import HigherMoments
from padim_jax.gaussians.triangle import Triangle

T = TypeVar("T")

Solver = Literal["inverse-factor", "triangular-solve"]

CHUNK_BYTES = 64 * 2**20  # of one (positions, d, d) temporary
CPU_CHUNK_BYTES = 8 * 2**20  # of the same on CPU, where it stays in cache: an update takes half the time of 64 MB
CACHE_BYTES = 2**20  # of embeddings, what stays in a CPU's cache beside the factors they meet


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of every position; what a fit accumulates.

    Attributes:
      count: float32 (), images seen, or the sum n = Σ_k w_k of their weights; exact up to 2²⁴.
      mean: float32 (p, d), μ.
      scatter: symmetric (p, d, d), Σ_k w_k (x_k - μ)(x_k - μ)ᵀ, not divided.
      higher: what Ledoit-Wolf shrinkage needs besides; None where the covariance is not shrunk.
    """

    count: Float[Array, ""]
    mean: Float[Array, "p d"]
    scatter: Triangle
    higher: HigherMoments | None = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian:
    """N(μ, Σ) per position, as its Cholesky factor; distances by triangular solve.

    Attributes:
      mean: float32 (p, d).
      factor: float32 (p, d, d), lower triangular L with L Lᵀ = Σ.
      strength: float32 (p,), Ledoit-Wolf's ρ in Σ; None where it is not shrunk.
    """

    mean: Float[Array, "p d"]
    factor: Float[Array, "p d d"]
    strength: Float[Array, " p"] | None = None


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WhitenedGaussian:
    """N(μ, Σ) per position, as the inverse of its Cholesky factor; distances by one product.

    Attributes:
      mean: float32 (p, d).
      whitening: upper triangular (p, d, d), W = L⁻ᵀ with L Lᵀ = Σ: rows ``(x - μ) W`` are
        white. Transposed, because XLA's batched product on CPU is up to four times as fast this way round.
      strength: float32 (p,), Ledoit-Wolf's ρ in Σ; None where it is not shrunk.
    """

    mean: Float[Array, "p d"]
    whitening: Triangle
    strength: Float[Array, " p"] | None = None


def init(n_positions: int, n_channels: int, *, higher: bool = False) -> Moments:
    """Moments of no image at all; with the ``higher`` ones for Ledoit-Wolf shrinkage."""
    return Moments(
        count=jnp.zeros((), jnp.float32),
        mean=jnp.zeros((n_positions, n_channels), jnp.float32),
        scatter=triangle.zeros(n_positions, n_channels),
        higher=shrinkage.init(n_positions, n_channels) if higher else None,
    )


def update(moments: Moments, x: Float[Array, "p n d"], weights: Float[Array, " n"] | Bool[Array, " n"]) -> Moments:
    """Fold a batch in: Chan, Golub & LeVeque (1983), equation 2.1.

    With a earlier images of mean μ and a batch of b images of mean m, ``δ = m - μ``:
    ``μ' = μ + δ b/(a + b)`` and ``C' = C + Σ (x - m)(x - m)ᵀ + δ δᵀ ab/(a + b)``.
    An image of weight w counts as w images; rows of weight 0 (padding) do not count.
    """
    weights = weights.astype(x.dtype)
    added = jnp.sum(weights)
    count = moments.count + added
    share = added / jnp.maximum(count, 1)

    def fold(state: tuple[Triangle, Array], x: Array) -> tuple[Triangle, Array]:
        scatter, mean = state
        rows, shift = _added_rows(moments.count, mean, x, weights)
        return triangle.added_products(scatter, rows), mean + shift * share

    scatter, mean = map_in_place(fold, (moments.scatter, moments.mean), x)
    if moments.higher is None:
        return Moments(count, mean, scatter)
    rows, shift = _added_rows(moments.count, moments.mean, x, weights)
    step = jnp.where(moments.count > 0, shift * share, 0)  # no images have no mean to move from
    # C s by way of the new scatter: read before it is written over, the old one would be copied
    along = jnp.einsum("pnj,pj->pn", rows, step, precision=lax.Precision.HIGHEST)
    added = jnp.einsum("pnj,pn->pj", rows, along, precision=lax.Precision.HIGHEST)
    moved = shrinkage.moved(moments.higher, moments.count, step, _times(scatter, step) - added)
    own = shrinkage.of_rows(x - mean[:, None], weights)
    return Moments(count, mean, scatter, shrinkage.added(moved, own))


def _added_rows(
    count: Float[Array, ""], mean: Float[Array, "p d"], x: Float[Array, "p n d"], weights: Float[Array, " n"]
) -> tuple[Float[Array, "p m d"], Float[Array, "p d"]]:
    """Rows r of which ``C' = C + Σ r rᵀ``, the last of them the rank-one term; and ``δ``."""
    added = jnp.sum(weights)
    weight = weights[None, :, None]
    batch_mean = jnp.sum(x * weight, axis=1) / jnp.maximum(added, 1)
    shift = batch_mean - mean
    pulled = shift * jnp.sqrt(count * added / jnp.maximum(count + added, 1))
    return jnp.concatenate([(x - batch_mean[:, None]) * jnp.sqrt(weight), pulled[:, None]], axis=1), shift


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both samples together, by the formula of :func:`update`."""
    shift = b.mean - a.mean
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    scaled = shift * jnp.sqrt(a.count * share)

    def fold(scatter: Triangle, other: Triangle, scaled: Array) -> Triangle:
        return jax.tree.map(jnp.add, triangle.added_products(scatter, scaled[:, None]), other)

    mean = a.mean + shift * share
    higher = None
    if a.higher is not None and b.higher is not None:
        step_a, step_b = shift * share, -shift * (1 - share)
        higher = shrinkage.added(
            shrinkage.moved(a.higher, a.count, step_a, _times(a.scatter, step_a)),
            shrinkage.moved(b.higher, b.count, step_b, _times(b.scatter, step_b)),
        )
    return Moments(count, mean, map_in_place(fold, a.scatter, b.scatter, scaled), higher)


def decay(moments: Moments, factor: Float[Array, ""]) -> Moments:
    """Moments in which every image counts ``factor`` times as much as before."""
    higher = None if moments.higher is None else jax.tree.map(lambda value: value * factor, moments.higher)
    scatter = jax.tree.map(lambda panel: panel * factor, moments.scatter)
    return Moments(moments.count * factor, moments.mean, scatter, higher)


def forget(moments: Moments, gone: Moments) -> Moments:
    """Moments of the images that are not in ``gone``: :func:`merge` undone.

    With n images of mean μ, b of them gone, those of mean m, ``s = (μ - m) b/(n - b)``: ``μ' = μ + s`` and
    ``C' = C - C_gone - s sᵀ (n - b) n/b``. Digits are lost where C' is much smaller than C.
    """
    left = moments.count - gone.count
    shift = (moments.mean - gone.mean) * (gone.count / left)
    scaled = shift * jnp.sqrt(left * moments.count / gone.count)

    def fold(scatter: Triangle, other: Triangle, scaled: Array) -> Triangle:
        return jax.tree.map(jnp.subtract, scatter, triangle.added_products(other, scaled[:, None]))

    mean = moments.mean + shift
    higher = None
    if moments.higher is not None and gone.higher is not None:
        away = mean - gone.mean
        mine = shrinkage.moved(moments.higher, moments.count, shift, _times(moments.scatter, shift))
        other = shrinkage.moved(gone.higher, gone.count, away, _times(gone.scatter, away))
        higher = jax.tree.map(jnp.subtract, mine, other)
    return Moments(left, mean, map_in_place(fold, moments.scatter, gone.scatter, scaled), higher)


def rounding_left(before: Moments, after: Moments, fitted: WhitenedGaussian) -> Float[Array, " p"]:
    """About the relative error that :func:`forget` may have left in distances, per position.

    ``2⁻²⁴ (c + 2 m sqrt(n c)) / (n' - 1) · max diag Σ'⁻¹``: the rounding of the scatter before, with c its largest
    diagonal entry and m the largest mean, which stays when the images that made it large are gone, against the
    smallest variance of what is left.
    """
    largest = jnp.max(triangle.diagonal(before.scatter), axis=-1)
    offset = jnp.max(jnp.abs(before.mean), axis=-1)
    rounding = (largest + 2 * offset * jnp.sqrt(before.count * largest)) * 2.0**-24
    squares = jax.tree.map(jnp.square, fitted.whitening)
    precision = jnp.max(triangle.rows_times_transposed(jnp.ones_like(before.mean)[:, None], squares), axis=(1, 2))
    return rounding / (after.count - 1) * precision


def finalize(moments: Moments, ridge: float, solver: Solver) -> Gaussian | WhitenedGaussian:
    """Factor ``Σ = S + ridge · I``, ``S = C / (n - 1)`` (PaDiM equation 1) at every position.

    Where the higher moments were kept, ``(1 - ρ) S + ρ (tr S / d) I`` takes the place of S, with ρ by
    :func:`padim_jax.gaussians.shrinkage.coefficient`; the ridge stays, for positions that never change.
    Non-finite factors mean failure (fewer than two images, a scatter that is no such thing);
    inside ``jit`` that can't be raised, so callers on the host look.
    """

    def covariance_of(scatter: Triangle, *strength: Array) -> Array:
        covariance = scatter.symmetric() / jnp.where(moments.count > 1, moments.count - 1, jnp.nan)
        if strength:
            covariance = shrinkage.shrunk(covariance, strength[0])
        return covariance + ridge * jnp.eye(scatter.side, dtype=covariance.dtype)[None]

    def factorise(*of: Any) -> Array:
        return cholesky.factor(covariance_of(*of))

    def whitened(*of: Any) -> Triangle:
        return triangle.of_square(cholesky.inverse_factor(covariance_of(*of)).mT)

    strength = shrinkage_strength(moments)
    shrinking = () if strength is None else (strength,)
    if solver == "triangular-solve":
        return Gaussian(moments.mean, map_chunks(factorise, moments.scatter, *shrinking), strength)
    return WhitenedGaussian(moments.mean, map_in_place(whitened, moments.scatter, *shrinking), strength)


def shrinkage_strength(moments: Moments) -> Float[Array, " p"] | None:
    """Ledoit-Wolf's ρ (:func:`padim_jax.gaussians.shrinkage.coefficient`); None without the higher moments."""
    if moments.higher is None:
        return None
    return map_chunks(
        lambda scatter, fourth: shrinkage.coefficient(scatter.symmetric(), fourth, moments.count),
        moments.scatter,
        moments.higher.fourth,
    )


def with_solver(gaussian: Gaussian | WhitenedGaussian, solver: Solver) -> Gaussian | WhitenedGaussian:
    """The same distribution in the form ``solver`` scores with."""
    if solver == "inverse-factor" and isinstance(gaussian, Gaussian):

        def whitened(factor: Array) -> Triangle:
            return triangle.of_square(inverse_transpose(factor, lower=True))

        return WhitenedGaussian(gaussian.mean, map_chunks(whitened, gaussian.factor), gaussian.strength)
    if solver == "triangular-solve" and isinstance(gaussian, WhitenedGaussian):

        def factorised(whitening: Triangle) -> Array:
            return inverse_transpose(whitening.square(), lower=False)

        return Gaussian(gaussian.mean, map_chunks(factorised, gaussian.whitening), gaussian.strength)
    return gaussian


def mahalanobis(gaussian: Gaussian | WhitenedGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
    """Mahalanobis distance, not squared: ``M = sqrt((x - μ)ᵀ Σ⁻¹ (x - μ)) = ‖L⁻¹ (x - μ)‖`` (PaDiM equation 2).

    A :class:`Gaussian` solves ``L z = x - μ`` at every position, a :class:`WhitenedGaussian`
    multiplies by W; the two agree to rounding.
    """
    if isinstance(gaussian, Gaussian):

        def solve(factor: Array, centred: Array) -> Array:
            z = jax.vmap(_solve)(factor, centred)
            return jnp.sqrt(jnp.sum(z**2, axis=-1))

        return map_chunks(solve, gaussian.factor, x - gaussian.mean[:, None])
    return _whitened_norms(x, gaussian.mean, gaussian.whitening)


def _whitened_norms(x: Float[Array, "p n d"], mean: Float[Array, "p d"], whitening: Triangle) -> Float[Array, "p n"]:
    """``‖Wᵀ (x - μ)‖``; on CPU in chunks of positions whose rows stay in its cache between subtracting and multiplying.

    Measured at d = 100: 16 images in 17 instead of 35 ms, 64 in 46 instead of 144; below some 8 MB of x there is
    nothing to gain.
    """

    def norms(x: Array, mean: Array, whitening: Triangle) -> Array:
        return jnp.sqrt(triangle.squared_norms(x - mean[:, None], whitening))

    chunk = divisor(len(x), CACHE_BYTES // max(1, x[0].size * x.dtype.itemsize))
    if x.size * x.dtype.itemsize <= 8 * CACHE_BYTES or chunk < 16:
        return norms(x, mean, whitening)
    return in_cache(norms, chunk, x, mean, whitening)


def in_cache(function: Callable[..., Array], chunk: int, *arrays: Any) -> Array:
    """``function(*arrays)``, positions first; on CPU as many positions at a time as ``chunk``, a divisor of theirs."""
    p = len(jax.tree.leaves(arrays)[0])

    def in_chunks(*arrays: Any) -> Array:
        def step(index: Array) -> Array:
            def part(array: Array) -> Array:
                return lax.dynamic_slice_in_dim(array, index * chunk, chunk)

            return function(*jax.tree.map(part, arrays))

        found = lax.map(step, jnp.arange(p // chunk))
        return found.reshape(p, *found.shape[2:])

    return function(*arrays) if chunk == p else lax.platform_dependent(*arrays, cpu=in_chunks, default=function)


def whiten(gaussian: WhitenedGaussian, centred: Float[Array, "p n d"]) -> Float[Array, "p n d"]:
    """Rows ``z = Wᵀ δ`` of rows ``δ = x - μ``: ``‖z‖² = δᵀ Σ⁻¹ δ``."""
    return triangle.rows_times(centred, gaussian.whitening)


def is_finite(gaussian: Gaussian | WhitenedGaussian) -> Bool[Array, " p"]:
    """Per position, whether mean and factor hold finite numbers only."""
    found = jnp.isfinite(gaussian.mean).all(axis=-1)
    for array in (gaussian.factor,) if isinstance(gaussian, Gaussian) else gaussian.whitening.panels:
        found &= jnp.isfinite(array).all(axis=(-2, -1))
    return found


def _solve(factor: Float[Array, "d d"], centred: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows z with ``L z = x - μ``, written for rows: ``Z Lᵀ = X``."""
    return lax.linalg.triangular_solve(factor, centred, left_side=False, lower=True, transpose_a=True)


def inverse_transpose(triangle: Float[Array, "p d d"], *, lower: bool) -> Float[Array, "p d d"]:
    """L⁻ᵀ of L, and back: the inverse transpose of L⁻ᵀ is L."""
    identity = jnp.broadcast_to(jnp.eye(triangle.shape[-1], dtype=triangle.dtype), triangle.shape)
    return lax.linalg.triangular_solve(triangle, identity, left_side=True, lower=lower, transpose_a=True)


def _times(scatter: Triangle, s: Float[Array, "p d"]) -> Float[Array, "p d"]:
    """``C s``, in chunks, because XLA copies the parts of the panels that it multiplies by."""
    return map_chunks(triangle.symmetric_times, scatter, s)


def _chunk(target: Any, most: int) -> int:
    """Positions per chunk: the largest divisor of p whose (chunk, d, d) stays within ``most`` bytes.

    A divisor, so that no remainder is left: jaxlib's CPU client (seen with 0.10.2) can hang for good when two
    LAPACK calls of one program run side by side, which a loop and its remainder do.
    """
    matrices = target[0] if isinstance(target, tuple) else target
    side = matrices.side if isinstance(matrices, Triangle) else matrices.shape[-1]
    size = jax.tree.leaves(matrices)[0].dtype.itemsize * side * side
    return divisor(len(matrices), most // max(1, size))


def divisor(total: int, most: int) -> int:
    """The largest divisor of ``total`` that is not above ``most``; 1 at least."""
    return next((n for n in range(min(most, total), 0, -1) if total % n == 0), 1)


def _by_chunks(run: Callable[..., T], target: Any, others: tuple[Any, ...]) -> T:
    """``run(chunk, target, *others)`` with as many positions to a chunk as suit the platform."""
    usual, cpu = _chunk(target, CHUNK_BYTES), _chunk(target, min(CHUNK_BYTES, CPU_CHUNK_BYTES))
    if usual == cpu:
        return run(usual, target, *others)
    return lax.platform_dependent(target, *others, cpu=partial(run, cpu), default=partial(run, usual))


def map_in_place(function: Callable[..., T], target: T, *others: Any) -> T:
    """``function(target, *others)`` chunk by chunk over positions, each chunk written over its input.

    The target is matrices (p, d, d), or a tuple of which they are the first.
    """

    def run(chunk: int, target: T, *others: Any) -> T:
        total = len(jax.tree.leaves(target)[0])
        if chunk == total:
            return function(target, *others)

        def step(index: Array, target: T) -> T:
            def part(array: Array) -> Array:
                return lax.dynamic_slice_in_dim(array, index * chunk, chunk)

            def write(array: Array, update: Array) -> Array:
                return lax.dynamic_update_slice_in_dim(array, update, index * chunk, axis=0)

            return jax.tree.map(write, target, function(*jax.tree.map(part, (target, *others))))

        return lax.fori_loop(0, total // chunk, step, target)

    return _by_chunks(run, target, others)


def map_chunks(function: Callable[..., T], target: Float[Array, "p d d"] | Triangle, *others: Any) -> T:
    """``function(target, *others)``, arrays or a pytree of them, chunk by chunk."""

    def run(chunk: int, target: Float[Array, "p d d"] | Triangle, *others: Any) -> T:
        if chunk == len(target):
            return function(target, *others)
        split = jax.tree.map(lambda array: array.reshape(-1, chunk, *array.shape[1:]), (target, *others))
        out = lax.map(lambda arrays: function(*arrays), split)
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), out)

    return _by_chunks(run, target, others)
