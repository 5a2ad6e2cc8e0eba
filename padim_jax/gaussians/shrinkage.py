"""Ledoit-Wolf shrinkage per position, from moments that stream and merge exactly.

O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
Multivariate Analysis 88 (2004). Besides the scatter it needs the fourth moment Σ‖x - μ‖⁴, and to move that to another
mean the second, Σ‖x - μ‖², and third, Σ‖x - μ‖²(x - μ).
"""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HigherMoments:
    """Sums about the mean of every position, x written for x_k - μ.

    Attributes:
      second: float32 (p,), Σ_k ‖x‖², the trace of the scatter.
      third: float32 (p, d), Σ_k ‖x‖² x.
      fourth: float32 (p,), Σ_k ‖x‖⁴.
    """

    second: Float[Array, " p"]
    third: Float[Array, "p d"]
    fourth: Float[Array, " p"]


def init(n_positions: int, n_channels: int) -> HigherMoments:
    """Higher moments of no image at all."""
    second, fourth = (jnp.zeros(n_positions, jnp.float32) for _ in range(2))  # one buffer can't be donated twice
    return HigherMoments(second, jnp.zeros((n_positions, n_channels), jnp.float32), fourth)


def from_rows(rows: Float[Array, "p n d"], weights: Float[Array, " n"]) -> HigherMoments:
    """Higher moments of rows that are already centred, each counted ``weights`` times."""
    squared = jnp.sum(rows**2, axis=-1)
    weighted = squared * weights[None]
    third = jnp.sum(weighted[..., None] * rows, axis=1)
    return HigherMoments(jnp.sum(weighted, axis=-1), third, jnp.sum(weighted * squared, axis=-1))


def recentre(
    higher: HigherMoments, count: Float[Array, ""], s: Float[Array, "p d"], cs: Float[Array, "p d"]
) -> HigherMoments:
    """Higher moments about ``μ + s``, from those about the mean μ of ``count`` images, with ``cs = C s``.

    With t, v, q the second, third and fourth moments, expanded and with Σ x = 0: ``t' = t + n ‖s‖²``,
    ``v' = v - 2 C s - t' s`` and ``q' = q - 4 sᵀv + 4 sᵀC s + 2 ‖s‖² t + n ‖s‖⁴``.
    """
    length = jnp.sum(s**2, axis=-1)
    second = higher.second + count * length
    fourth = higher.fourth + jnp.sum(s * (4 * cs - 4 * higher.third), axis=-1) + length * (higher.second + second)
    return HigherMoments(second, higher.third - 2 * cs - second[:, None] * s, fourth)


def add(a: HigherMoments, b: HigherMoments) -> HigherMoments:
    """Sum of two sets of higher moments about the same mean."""
    return jax.tree.map(jnp.add, a, b)


def coefficient(
    scatter: Float[Array, "p d d"], fourth: Float[Array, " p"], count: Float[Array, ""]
) -> Float[Array, " p"]:
    """Shrinkage ρ in [0, 1] that the sample itself asks for (Ledoit & Wolf 2004, section 3.2).

    ``ρ = min(b, a) / a`` with ``S = C / n``, ``m = tr S / d``, ``a = ‖S - m I‖² / d`` and
    ``b = (Σ‖x‖⁴ / n - ‖S‖²) / (n d)``; the norms are Frobenius norms; ρ is 0 where a is.
    """
    sample = scatter / count
    diagonal = jnp.diagonal(sample, axis1=1, axis2=2)
    squares, mean = jnp.sum(sample**2, axis=(1, 2)), jnp.mean(diagonal, axis=-1)
    # not ‖S‖² - d m², which cancels near a multiple of the identity
    distance = squares - jnp.sum(diagonal**2, axis=-1) + jnp.sum((diagonal - mean[:, None]) ** 2, axis=-1)
    error = (fourth / count - squares) / count
    positive = jnp.where(distance > 0, distance, 1)
    return jnp.where(distance > 0, jnp.clip(error / positive, 0, 1), 0)


def shrink(covariance: Float[Array, "p d d"], strength: Float[Array, " p"]) -> Float[Array, "p d d"]:
    """``(1 - ρ) S + ρ (tr S / d) I``."""
    d = covariance.shape[-1]
    mean = jnp.trace(covariance, axis1=1, axis2=2) / d
    diagonal = (strength * mean)[:, None, None] * jnp.eye(d, dtype=covariance.dtype)[None]
    return (1 - strength)[:, None, None] * covariance + diagonal
