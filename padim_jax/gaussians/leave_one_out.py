"""Leave-one-out Mahalanobis distances in closed form: no refit, no memory beyond the fitted factors.

Of a fitted N(μ, Σ), ``Σ = (1 - ρ) S + ρ (tr S / d) I + ε I`` with S = C / (n - 1) (ρ = 0 where it is not shrunk), or
``Σ = (C + ν T) / (n - 1 + ν) + ε I`` where it is pooled, image x = μ + δ is taken out again. The scatter becomes
``C' = C - b δ δᵀ``, the divisor and the trace lose the image's share, so that ``Σ' = κ (Σ - τ I) - c δ δᵀ`` with
numbers κ, τ and c, the smallest eigenvalue of Σ above τ; then Sherman and Morrison's formula gives the distance from
``q = δᵀ (κ (Σ - τ I))⁻¹ δ``.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from padim_jax.gaussians.chunks import map_chunks
from padim_jax.gaussians.triangle import TriangularMatrix

Scalar = float | Float[Array, ""]

_MAX_STEPS = 100
_TOLERANCE = 1e-5  # the largest share of a sum that its last step may have added


def leave_one_out(
    mean: Float[Array, "p d"],
    whitening: TriangularMatrix,
    x: Float[Array, "p n d"],
    count: Float[Array, ""] | Float[Array, " p"],
    weights: Float[Array, " n"] | Float[Array, "p n"],
    ridge: Scalar,
    strength: Float[Array, " p"] | None = None,
    prior_images: Scalar = 0,
) -> Float[Array, "p n"]:
    """Mahalanobis distances, not squared, of images from the Gaussian of all the others.

    With w the image's weight (1), n all images', ``b = w n / (n - w)`` and ``m = n - 1 + ν`` the divisor of Σ:

    * ``κ = m / (m - w)``, ``τ = ε (1 - 1/κ) + ρ b ‖δ‖² / (d m)``, ``c = (1 - ρ) b / (m - w)``;
    * ``q = δᵀ (κ (Σ - τ I))⁻¹ δ``, a few steps from ``δᵀ Σ⁻¹ δ``, because τ falls like 1/n;
    * ``D² = (n / (n - w))² q / (1 - c q)``.

    The coefficient ρ, and the covariance T that counts as ν images, are held fixed; everything else is as a refit
    without the image would have it. Valid for n ≤ d too, where float32 rounding of Σ leaves a relative error of about
    ``2⁻²⁴ D²``. Not finite where the formula has no meaning: n - w ≤ 1, or an image that was not among those fitted on.

    Args:
      mean: μ of all images.
      whitening: W = L⁻ᵀ of Σ = L Lᵀ of all images.
      x: embeddings of some of them.
      count: n, the sum of all images' weights, or of those that cover each position.
      weights: with which they were fitted; an image that was fitted twice is left out twice by weight 2. At each
        position where images do not cover all of them, 0 where they don't; what is given there means nothing.
      ridge: ε.
      strength: ρ; None where Σ is not shrunk.
      prior_images: ν of ``Σ = (C + ν T) / (n - 1 + ν) + ε I``; 0 where nothing is pooled.
    """
    # chunk by chunk: XLA packs the transposed factors of a whole batched product once more on CPU
    strength = jnp.zeros(len(x), x.dtype) if strength is None else strength
    counts = jnp.broadcast_to(count, len(x))
    chunk_distances = functools.partial(_chunk_distances, ridge=ridge, prior_images=prior_images)
    return map_chunks(
        chunk_distances, whitening, mean, strength, x, counts, jnp.broadcast_to(weights.astype(x.dtype), x.shape[:2])
    )


def _chunk_distances(
    whitening: TriangularMatrix,
    mean: Array,
    strength: Array,
    x: Array,
    count: Array,
    weight: Array,
    *,
    ridge: Scalar,
    prior_images: Scalar,
) -> Array:
    d, strength, count = x.shape[-1], strength[:, None], count[:, None]
    delta = x - mean[:, None]
    divisor = count - 1 + prior_images
    divisor_left = divisor - weight
    b = weight * count / (count - weight)
    kappa = divisor / divisor_left
    tau = ridge * (weight / divisor) + strength * b * jnp.sum(delta**2, axis=-1) / (d * divisor)
    c = (1 - strength) * b / divisor_left

    # q = zᵀ (I - τ WᵀW)⁻¹ z / κ by conjugate gradients (Hestenes & Stiefel 1952), each image for itself, all at once
    z = whitening.rows_times(delta)
    length = jnp.sum(z**2, axis=-1)

    def is_unfinished(state: tuple[Array, ...]) -> Array:
        steps, q, gain, _, _, _ = state
        return (steps < _MAX_STEPS) & jnp.any(gain > jnp.finfo(x.dtype).eps / 8 * q)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        steps, q, _, residual, direction, length = state
        back = whitening.rows_times_transposed(direction)
        image = direction - tau[..., None] * whitening.rows_times(back)
        curvature = jnp.sum(direction * image, axis=-1)
        alpha = length / jnp.where(curvature > 0, curvature, jnp.inf)  # 0 once there is nothing left to gain
        residual = residual - alpha[..., None] * image
        new_length = jnp.sum(residual**2, axis=-1)
        beta = new_length / jnp.where(length > 0, length, jnp.inf)
        gain = alpha * length
        return steps + 1, q + gain, gain, residual, residual + beta[..., None] * direction, new_length

    zero = jnp.zeros_like(length)
    start = (jnp.zeros((), int), zero, jnp.full_like(length, jnp.inf), z, z, length)
    _, q, gain, *_ = lax.while_loop(is_unfinished, step, start)
    q = jnp.where(gain <= _TOLERANCE * q, q, jnp.nan) / kappa
    denominator = 1 - c * q
    squared = (count / (count - weight)) ** 2 * q / jnp.where(denominator > 0, denominator, jnp.nan)
    return jnp.sqrt(jnp.where(count - weight > 1, squared, jnp.nan))
