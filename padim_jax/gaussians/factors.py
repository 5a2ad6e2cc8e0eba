"""Gaussians at p positions as Cholesky factors: factored from moments, two ways to score, distances of both.

Everything here works on positions-first arrays (p positions, n images, d channels), is pure, and goes chunk by chunk
(:mod:`padim_jax.gaussians.chunks`). Inverse factors are kept as triangles (:mod:`padim_jax.gaussians.triangle`).
The records are spared the tests' run-time shape checks: JAX builds them with placeholders too.
"""

from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from padim_jax.gaussians import cholesky, shrinkage, triangle
from padim_jax.gaussians.chunks import divisor, in_cache, map_chunks, map_in_place
from padim_jax.gaussians.moments import Moments, shrinkage_strength
from padim_jax.gaussians.triangle import Triangle

Solver = Literal["inverse-factor", "triangular-solve"]

CACHE_BYTES = 2**20  # of embeddings, what stays in a CPU's cache beside the factors they meet


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
