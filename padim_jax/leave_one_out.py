"""Leave-one-out Mahalanobis distances in closed form: no refit, no memory beyond the fitted factors.

Of a fitted N(μ, Σ), ``Σ = (1 - ρ) S + ρ (tr S / d) I + ε I`` with S = C / (n - 1) (ρ = 0 where it is not shrunk),
image x = μ + δ is taken out again. Its scatter goes by ``C' = C - b δ δᵀ``, its share of the divisor and of the
trace too, so that ``Σ' = κ (Σ - τ I) - c δ δᵀ`` with numbers κ, τ and c, the smallest eigenvalue of Σ above τ; then
Sherman and Morrison's formula gives the distance from ``q = δᵀ (κ (Σ - τ I))⁻¹ δ``.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from padim_jax.gaussian import WhitenedGaussian, whiten

_MOST_TERMS = 500


def leave_one_out(
    gaussian: WhitenedGaussian,
    x: Float[Array, "p n d"],
    count: Float[Array, ""],
    weights: Float[Array, " n"],
    ridge: float,
) -> Float[Array, "p n"]:
    """Mahalanobis distances, not squared, of images from the Gaussian of all the others.

    With w the image's weight (1), n all images' and ``b = w n / (n - w)``:

    * ``κ = (n - 1) / (n - w - 1)``, ``τ = ε (1 - 1/κ) + ρ b ‖δ‖² / (d (n - 1))``, ``c = (1 - ρ) b / (n - w - 1)``;
    * ``q = δᵀ (κ (Σ - τ I))⁻¹ δ = Σ_k τᵏ δᵀ Σ^-(k+1) δ / κ``, a series that falls like 1/n;
    * ``D² = (n / (n - w))² q / (1 - c q)``.

    The coefficient ρ is held fixed; everything else is as a refit without the image would have it. Valid for n ≤ d
    too. Not finite where the formula has no meaning: n - w ≤ 1, or an image that was not among those fitted on.

    Args:
      gaussian: of all images.
      x: embeddings of some of them.
      count: n, the sum of all images' weights.
      weights: of these, as they were fitted with; an image that is there twice is left out twice by weight 2.
      ridge: ε.
    """
    d = x.shape[-1]
    delta = x - gaussian.mean[:, None]
    strength = jnp.zeros((), x.dtype) if gaussian.strength is None else gaussian.strength[:, None]
    weight = weights.astype(x.dtype)[None]
    left = count - weight - 1
    b = weight * count / (count - weight)
    kappa = (count - 1) / left
    tau = ridge * (weight / (count - 1)) + strength * b * jnp.sum(delta**2, axis=-1) / (d * (count - 1))
    c = (1 - strength) * b / left

    z = whiten(gaussian, delta)
    first = jnp.sum(z**2, axis=-1)

    def more(state: tuple[Array, ...]) -> Array:
        terms, total, term, _ = state
        # all but the last digit, with room for a slow tail
        return (terms < _MOST_TERMS) & jnp.any(jnp.abs(term) > jnp.finfo(x.dtype).eps / 8 * total)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        terms, total, _, z = state
        # z is Wᵀ y for a vector y; the next is Wᵀ (τ Σ⁻¹ y), one product back and one forth for two terms
        back = jnp.einsum("pni,pji->pnj", z, gaussian.whitening, precision=lax.Precision.HIGHEST) * tau[..., None]
        odd = jnp.sum(back**2, axis=-1) / tau
        z = whiten(gaussian, back)
        even = jnp.sum(z**2, axis=-1)
        return terms + 2, total + odd + even, odd + even, z

    terms, total, _, _ = lax.while_loop(more, step, (jnp.zeros((), int), first, first, z))
    q = jnp.where(terms < _MOST_TERMS, total, jnp.nan) / kappa
    rest = 1 - c * q
    squared = (count / (count - weight)) ** 2 * q / jnp.where(rest > 0, rest, jnp.nan)
    return jnp.sqrt(jnp.where(left > 0, squared, jnp.nan))
