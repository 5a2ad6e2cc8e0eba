"""Gaussians at p positions as Cholesky factors: factored from moments, two ways to score, distances of both.

Everything here works on positions-first arrays (p positions, n images, d channels), is pure, and goes chunk by chunk
(:mod:`padim_jax.gaussians.chunks`). Inverse factors are kept as triangles (:mod:`padim_jax.gaussians.triangle`).
The records are spared the tests' run-time shape checks: JAX builds them with placeholders too.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from padim_jax.gaussians import cholesky, shrinkage
from padim_jax.gaussians.chunks import largest_divisor, map_chunks, map_in_cache, map_in_place
from padim_jax.gaussians.components import Components
from padim_jax.gaussians.leave_one_out import Scalar, leave_one_out
from padim_jax.gaussians.moments import Moments, shrinkage_strength
from padim_jax.gaussians.pooling import Prior
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix

Solver = Literal["inverse-factor", "triangular-solve"]
Positions = Int[np.ndarray, " k"]

CACHE_BYTES = 2**20  # of embeddings: they stay in a CPU's cache beside the factors
HOST_CHUNK_BYTES = 64 * 2**20  # of float64 squares on the host
POWER_ITERATIONS = 50


class WholeFactors(ABC):
    """What Gaussians with a factor of full rank have in common."""

    no_leave_one_out: ClassVar[str] = ""
    mean: Any

    @abstractmethod
    def with_solver(self, solver: Solver) -> Any:
        """The same distribution in the form that ``solver`` scores with."""

    @abstractmethod
    def lower_factors(self, positions: Positions) -> Float[np.ndarray, "k d d"]:
        """On the host and in float64, lower triangular L with ``L Lᵀ = Σ`` at some positions."""

    def left_out_distances(
        self,
        x: Float[Array, "p n d"],
        count: Float[Array, ""] | Float[Array, " p"],
        weights: Float[Array, " n"] | Float[Array, "p n"],
        ridge: Scalar,
        prior_images: Scalar = 0,
    ) -> Float[Array, "p n"]:
        """Distances of images from the Gaussian of all the others; :func:`leave_one_out` has formula and arguments."""
        whitened = self.with_solver("inverse-factor")
        factors = whitened.mean, whitened.whitening
        return leave_one_out(*factors, x, count, weights, ridge, whitened.strength, prior_images)

    @property
    def condition_cost(self) -> int:
        """About how many operations one of :meth:`condition_numbers` takes."""
        return self.mean.shape[1] ** 3

    def condition_numbers(self, positions: Positions) -> Float[np.ndarray, " k"]:
        """``λ_max / λ_min`` of Σ at some positions, in float64, chunk by chunk."""
        chunk = max(1, HOST_CHUNK_BYTES // (8 * self.mean.shape[1] ** 2))
        numbers = [np.zeros(0)]
        for start in range(0, len(positions), chunk):
            factors = self.lower_factors(positions[start : start + chunk])
            eigenvalues = np.linalg.eigvalsh(factors @ factors.swapaxes(1, 2))
            numbers.append(eigenvalues[:, -1] / eigenvalues[:, 0])
        return np.concatenate(numbers)


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian(WholeFactors):
    """N(μ, Σ) per position, as its Cholesky factor; distances by triangular solve.

    Attributes:
      mean: float32 (p, d).
      factor: float32 (p, d, d), lower triangular L with L Lᵀ = Σ.
      strength: float32 (p,), Ledoit-Wolf's ρ in Σ; None where it is not shrunk.
      components: as of :class:`padim_jax.gaussians.moments.Moments`.
    """

    solver: ClassVar[Solver] = "triangular-solve"

    mean: Float[Array, "p d"]
    factor: Float[Array, "p d d"]
    strength: Float[Array, " p"] | None = None
    components: Components | None = None

    def distances(self, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """Mahalanobis distances, not squared: ``M = sqrt((x - μ)ᵀ Σ⁻¹ (x - μ)) = ‖L⁻¹ (x - μ)‖`` (PaDiM equation 2)."""

        def solve(factor: Array, centred: Array) -> Array:
            z = jax.vmap(_solve)(factor, centred)
            return jnp.sqrt(jnp.sum(z**2, axis=-1))

        return map_chunks(solve, self.factor, x - self.mean[:, None])

    def is_finite(self) -> Bool[Array, " p"]:
        """Per position, whether mean and factor hold finite numbers only."""
        return jnp.isfinite(self.mean).all(axis=-1) & jnp.isfinite(self.factor).all(axis=(-2, -1))

    def with_solver(self, solver: Solver) -> "Gaussian | WhitenedGaussian":
        """The same distribution in the form that ``solver`` scores with."""

        def whiten(factor: Array) -> TriangularMatrix:
            return TriangularMatrix.from_square(inverse_transpose(factor, lower=True))

        if solver == self.solver:
            return self
        return WhitenedGaussian(self.mean, map_chunks(whiten, self.factor), self.strength, self.components)

    def lower_factors(self, positions: Positions) -> Float[np.ndarray, "k d d"]:
        """On the host and in float64, lower triangular L with ``L Lᵀ = Σ`` at some positions."""
        return np.asarray(self.factor[positions], np.float64)

    def log_determinants(self) -> Float[np.ndarray, " p"]:
        """``log det Σ = 2 Σ_i log L_ii``, in float64."""
        return 2 * np.log(np.asarray(jnp.diagonal(self.factor, axis1=1, axis2=2), np.float64)).sum(axis=1)

    def leading_directions(self) -> Float[Array, "p d"]:
        """Unit eigenvectors of Σ's largest eigenvalues, by power iteration."""
        return _leading_directions(self.factor)


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WhitenedGaussian(WholeFactors):
    """N(μ, Σ) per position, as the inverse of its Cholesky factor; distances by one product.

    Its methods are those of :class:`Gaussian`, and agree with them to rounding.

    Attributes:
      mean: float32 (p, d).
      whitening: upper triangular (p, d, d), W = L⁻ᵀ with L Lᵀ = Σ: rows ``(x - μ) W`` are
        white. Transposed, because XLA's batched product on CPU is up to four times as fast this way round.
      strength: float32 (p,), Ledoit-Wolf's ρ in Σ; None where it is not shrunk.
      components: as of :class:`padim_jax.gaussians.moments.Moments`.
    """

    solver: ClassVar[Solver] = "inverse-factor"

    mean: Float[Array, "p d"]
    whitening: TriangularMatrix
    strength: Float[Array, " p"] | None = None
    components: Components | None = None

    def distances(self, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """Mahalanobis distances, not squared: ``M = ‖Wᵀ (x - μ)‖``.

        On CPU in chunks of positions whose rows stay in its cache between subtracting and multiplying. Measured at
        d = 100: 16 images in 17 instead of 35 ms, 64 in 46 instead of 144; below about 8 MB of x there is nothing
        to gain.
        """

        def norms(x: Array, mean: Array, whitening: TriangularMatrix) -> Array:
            return jnp.sqrt(whitening.squared_norms(x - mean[:, None]))

        chunk = largest_divisor(len(x), CACHE_BYTES // max(1, x[0].size * x.dtype.itemsize))
        if x.size * x.dtype.itemsize <= 8 * CACHE_BYTES or chunk < 16:
            return norms(x, self.mean, self.whitening)
        return map_in_cache(norms, chunk, x, self.mean, self.whitening)

    def is_finite(self) -> Bool[Array, " p"]:
        """Per position, whether mean and whitening hold finite numbers only."""
        finite = [jnp.isfinite(panel).all(axis=(-2, -1)) for panel in self.whitening.panels]
        return functools.reduce(jnp.logical_and, finite, jnp.isfinite(self.mean).all(axis=-1))

    def with_solver(self, solver: Solver) -> "Gaussian | WhitenedGaussian":
        """The same distribution in the form that ``solver`` scores with."""

        def factorise(whitening: TriangularMatrix) -> Array:
            return inverse_transpose(whitening.square(), lower=False)

        if solver == self.solver:
            return self
        return Gaussian(self.mean, map_chunks(factorise, self.whitening), self.strength, self.components)

    def lower_factors(self, positions: Positions) -> Float[np.ndarray, "k d d"]:
        """On the host and in float64, lower triangular ``L = W⁻ᵀ`` with ``L Lᵀ = Σ`` at some positions."""
        return np.linalg.inv(np.asarray(self.whitening[positions].square(), np.float64)).swapaxes(1, 2)

    def log_determinants(self) -> Float[np.ndarray, " p"]:
        """``log det Σ = -2 Σ_i log W_ii``, in float64."""
        return -2 * np.log(np.asarray(self.whitening.diagonal(), np.float64)).sum(axis=1)

    def leading_directions(self) -> Float[Array, "p d"]:
        """Unit eigenvectors of Σ's largest eigenvalues, by way of the squares L, twice as large as this."""
        return self.with_solver("triangular-solve").leading_directions()


def finalize(
    moments: Moments, ridge: Scalar, solver: Solver, prior: Prior | None = None
) -> Gaussian | WhitenedGaussian:
    """Factor ``Σ = S + ridge · I``, ``S = C / (n - 1)`` (PaDiM equation 1) at every position.

    Where the higher moments were kept, ``(1 - ρ) S + ρ (tr S / d) I`` takes the place of S, with ρ by
    :func:`padim_jax.gaussians.shrinkage.coefficient`; with a prior, ``(C + ν T) / (n - 1 + ν)`` does. The ridge stays,
    for positions that never change. Of a component that holds the share π of all patches, ``π (n - 1)`` replaces n - 1.
    Non-finite factors mean failure (fewer than two images, a scatter that is not positive semidefinite); inside ``jit``
    that can't be raised, so callers on the host check.
    """
    if solver == "inverse-factor":
        return finalize_whitened(moments, ridge, prior)

    def factorise(*operands: Any) -> Array:
        return cholesky.factor(_covariance(ridge, prior, *operands))

    strength = shrinkage_strength(moments)
    strengths = () if strength is None else (strength,)
    factor = map_chunks(factorise, moments.scatter, moments.divisor, *strengths)
    return Gaussian(moments.mean, factor, strength, moments.components)


def finalize_whitened(moments: Moments, ridge: Scalar, prior: Prior | None = None) -> WhitenedGaussian:
    """:func:`finalize` for "inverse-factor"; where the scatter is donated, the whitening takes its room."""

    def whiten(*operands: Any) -> SymmetricMatrix:  # symmetric by name only: a loop keeps the type that it writes over
        whitening = cholesky.inverse_factor(_covariance(ridge, prior, *operands)).mT
        return SymmetricMatrix(TriangularMatrix.from_square(whitening).panels)

    strength = shrinkage_strength(moments)
    strengths = () if strength is None else (strength,)
    panels = map_in_place(whiten, moments.scatter, moments.divisor, *strengths).panels
    return WhitenedGaussian(moments.mean, TriangularMatrix(panels), strength, moments.components)


def _covariance(
    ridge: Scalar, prior: Prior | None, scatter: SymmetricMatrix, divisor: Float[Array, " p"], *strength: Array
) -> Float[Array, "p d d"]:
    divisor = divisor[:, None, None]
    if prior is None:
        covariance = scatter.square() / jnp.where(divisor == 0, 1, divisor)  # of an empty component: a scatter of 0
    else:
        total = divisor + prior.images
        covariance = (scatter.square() + prior.images * prior.covariance[None]) / jnp.where(total == 0, 1, total)
    if strength:
        covariance = shrinkage.shrink(covariance, strength[0])
    return covariance + ridge * jnp.eye(scatter.side, dtype=covariance.dtype)[None]


def _solve(factor: Float[Array, "d d"], centred: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows z with ``L z = x - μ``, written for rows: ``Z Lᵀ = X``."""
    return lax.linalg.triangular_solve(factor, centred, left_side=False, lower=True, transpose_a=True)


def inverse_transpose(triangle: Float[Array, "p d d"], *, lower: bool) -> Float[Array, "p d d"]:
    """L⁻ᵀ of L, and back: the inverse transpose of L⁻ᵀ is L."""
    identity = jnp.broadcast_to(jnp.eye(triangle.shape[-1], dtype=triangle.dtype), triangle.shape)
    return lax.linalg.triangular_solve(triangle, identity, left_side=True, lower=lower, transpose_a=True)


@jax.jit
def _leading_directions(factor: Float[Array, "p d d"]) -> Float[Array, "p d"]:
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)

    def step(_: Array, v: Array) -> Array:
        v = product("pij,pj->pi", factor, product("pji,pj->pi", factor, v))
        return v / jnp.linalg.norm(v, axis=1, keepdims=True)

    start = jax.random.normal(jax.random.key(0), factor.shape[:2], factor.dtype)
    return lax.fori_loop(0, POWER_ITERATIONS, step, start)
