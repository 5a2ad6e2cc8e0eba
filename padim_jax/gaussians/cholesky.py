"""Cholesky factors and their inverses, one per position, as batched products: no LAPACK where that is slow or unsafe.

On CPU jaxlib calls LAPACK matrix by matrix; batched products take two thirds of its time. And two such calls side by
side (of two threads, or of two virtual devices) can wait for each other forever there (seen with jaxlib 0.8.0 and
0.10.2). Elsewhere the library's own factoring is taken.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LEAF = 13  # the side up to which columns are eliminated one by one: at d = 100, 7 is as fast but compiles longer
_HIGHEST = lax.Precision.HIGHEST


def factor(matrix: Float[Array, "p d d"]) -> Float[Array, "p d d"]:
    """Lower triangular L with ``L Lᵀ = A`` of symmetric A; not finite where A is not positive definite."""
    return lax.platform_dependent(matrix, cpu=lambda a: _factor_and_inverse(a)[0], default=_library_factor)


def inverse_factor(matrix: Float[Array, "p d d"]) -> Float[Array, "p d d"]:
    """L⁻¹, lower triangular, of symmetric A with ``L Lᵀ = A``; not finite where A is not positive definite."""
    return lax.platform_dependent(
        matrix, cpu=lambda a: _factor_and_inverse(a)[1], default=lambda a: _library_inverse(_library_factor(a))
    )


def _library_factor(matrix: Array) -> Array:
    return lax.linalg.cholesky(matrix, symmetrize_input=False)


def _library_inverse(matrix: Array) -> Array:
    lower = _library_factor(matrix)
    identity = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return lax.linalg.triangular_solve(lower, identity, left_side=True, lower=True)


def _factor_and_inverse(matrix: Array) -> tuple[Array, Array]:
    """L and L⁻¹ of A by halves, ``L₂₁ = A₂₁ L₁₁⁻ᵀ``, ``L₂₂ L₂₂ᵀ = A₂₂ - L₂₁ L₂₁ᵀ`` (Golub & Van Loan, section 4.2)."""
    d = matrix.shape[-1]
    if d <= LEAF:
        return _eliminate(matrix)
    half = _half(d)
    upper, upper_inverse = _factor_and_inverse(matrix[:, :half, :half])
    below = _product(matrix[:, half:, :half], upper_inverse.mT)
    lower, lower_inverse = _factor_and_inverse(matrix[:, half:, half:] - _product(below, below.mT))
    corner = -_product(_product(lower_inverse, below), upper_inverse)
    return _stack(upper, below, lower), _stack(upper_inverse, corner, lower_inverse)


def _half(d: int) -> int:
    """Where to cut: leaves come out of equal size, as large as they may be."""
    leaves = -(-d // LEAF)
    return -(-d // leaves) * (leaves // 2)


def _eliminate(matrix: Array) -> tuple[Array, Array]:
    """L and L⁻¹ of small matrices: rows of [A | I] are subtracted from those below them, which leaves [Lᵀ | L⁻¹]."""
    d = matrix.shape[-1]
    rows = jnp.arange(d)[None, :, None]

    def step(column: Array, augmented: Array) -> Array:
        pivot = lax.dynamic_index_in_dim(augmented, column, axis=1)
        pivot = pivot / jnp.sqrt(lax.dynamic_index_in_dim(pivot, column, axis=2))
        reduced = augmented - jnp.where(rows > column, pivot[:, :, :d].mT * pivot, 0)
        return jnp.where(rows == column, pivot, reduced)

    identity = jnp.broadcast_to(jnp.eye(d, dtype=matrix.dtype), matrix.shape)
    augmented = lax.fori_loop(0, d, step, jnp.concatenate([matrix, identity], axis=-1))
    return jnp.tril(augmented[:, :, :d].mT), augmented[:, :, d:]


def _product(a: Array, b: Array) -> Array:
    return jnp.einsum("pij,pjk->pik", a, b, precision=_HIGHEST)


def _stack(upper: Array, below: Array, lower: Array) -> Array:
    above = jnp.zeros((len(upper), upper.shape[-1], lower.shape[-1]), upper.dtype)
    return jnp.concatenate([jnp.concatenate([upper, above], axis=-1), jnp.concatenate([below, lower], axis=-1)], axis=1)
