"""How much a compact form changes distances at most: a bound over every embedding there is."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from padim_jax.gaussians.chunks import map_chunks
from padim_jax.gaussians.factors import WhitenedGaussian, inverse_transpose
from padim_jax.gaussians.low_rank import LowRankGaussian
from padim_jax.gaussians.triangle import TriangularMatrix

SQUARINGS = 4  # the bound of a spectral norm then exceeds it by d^(1/32) at most: 15 % at d = 100, 22 % at d = 550
MARGIN = 1.01  # factor on that bound, for the rounding of its own float32 arithmetic
_HIGHEST = lax.Precision.HIGHEST


def worst_error(exact: WhitenedGaussian, other: WhitenedGaussian | LowRankGaussian) -> Float[Array, " p"]:
    """Per position, a bound of ``|M' - M| / M`` over every x there is, M by ``exact`` and M' by ``other``.

    With ``x - μ = L z``, ``L = W⁻ᵀ``: ``M = ‖z‖`` and ``M'² = zᵀ(I + A) z``, A symmetric, so that
    ``s = ‖A‖₂ ≤ ‖A^(2^k)‖_F^(1/2^k)`` bounds ``|(M'/M)² - 1|``. For a whitening ``W' = W + E``:
    ``A = G + Gᵀ + GᵀG`` with ``G = Eᵀ L``, where nothing cancels; for a low rank: ``A = Lᵀ P' L - I`` with P' the
    precision that its distances use, whose basis need not be orthonormal; that difference rounds at about 1e-7
    times ``‖L‖₂ / sqrt(noise)``. The bound covers what the stored numbers of the two forms differ by, not the
    rounding of a score's own arithmetic. Infinite where the means differ, or a number is not finite.

    Returns:
      float32 (p,), 0 or more; 0.001 says that no distance changes by more than a thousandth of itself.
    """
    if isinstance(other, LowRankGaussian):
        bound = map_chunks(_low_rank_bound, exact.whitening, other.basis, other.spread, other.noise)
    else:
        bound = map_chunks(_whitening_bound, exact.whitening, other.whitening)
    comparable = (exact.mean == other.mean).all(axis=-1) & jnp.isfinite(bound)
    return jnp.where(comparable, bound, jnp.inf)


def _whitening_bound(whitening: TriangularMatrix, other: TriangularMatrix) -> Float[Array, " p"]:
    square = whitening.square()
    factor = inverse_transpose(square, lower=False)
    g = jnp.einsum("pki,pkj->pij", other.square() - square, factor, precision=_HIGHEST)
    return _relative(g + g.mT + jnp.einsum("pki,pkj->pij", g, g, precision=_HIGHEST))


def _low_rank_bound(
    whitening: TriangularMatrix,
    basis: Float[Array, "p r d"],
    spread: Float[Array, "p r"],
    noise: Float[Array, " p"],
) -> Float[Array, " p"]:
    factor = inverse_transpose(whitening.square(), lower=False)
    y = jnp.einsum("prd,pdi->pri", basis, factor, precision=_HIGHEST)
    residual = factor - jnp.einsum("prd,pri->pdi", basis, y, precision=_HIGHEST)
    y = y / jnp.sqrt(spread + noise[:, None])[..., None]
    rows = jnp.concatenate([residual / jnp.sqrt(noise)[:, None, None], y], axis=1)
    product = jnp.einsum("pki,pkj->pij", rows, rows, precision=_HIGHEST)
    return _relative(product - jnp.eye(product.shape[-1], dtype=product.dtype)[None])


def _relative(a: Float[Array, "p d d"]) -> Float[Array, " p"]:
    """Bound of ``|sqrt(1 + t) - 1|`` for every ``|t| ≤ ‖A‖₂``, from below ``t = -s``: ``1 - sqrt(1 - s)``."""
    s = MARGIN * spectral_bound(a)
    below = s / (1 + jnp.sqrt(jnp.maximum(1 - s, 0)))  # not 1 - sqrt(1 - s), which cancels
    return jnp.where(s < 1, below, jnp.maximum(1, s / (1 + jnp.sqrt(1 + s))))


def spectral_bound(symmetric: Float[Array, "p d d"]) -> Float[Array, " p"]:
    """Bound of the spectral norm of symmetric matrices, ``‖A^(2^k)‖_F^(1/2^k)``, at most ``d^(1/2^(k+1))`` times it.

    Every power is brought to norm 1 before it is squared, so that none leaves the range of float32.
    """
    largest = jnp.max(jnp.abs(symmetric), axis=(1, 2))
    power = symmetric / jnp.where(largest > 0, largest, 1)[:, None, None]
    bound = largest
    for squarings in range(SQUARINGS + 1):
        if squarings:
            power = jnp.einsum("pij,pjk->pik", power, power, precision=_HIGHEST)
        norm = jnp.sqrt(jnp.sum(power**2, axis=(1, 2)))
        bound = bound * norm ** (0.5**squarings)
        power = power / jnp.where(norm > 0, norm, 1)[:, None, None]
    return bound
