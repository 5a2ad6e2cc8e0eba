"""Streaming moments at p positions: count, mean and centred scatter, folded in batch by batch, merged, and forgotten.

Everything here works on positions-first arrays (p positions, n images, d channels) and is pure. Scatters are kept as
triangles (:mod:`padim_jax.gaussians.triangle`) and the grid is processed in chunks (:mod:`padim_jax.gaussians.chunks`).
The record is spared the tests' run-time shape checks: JAX builds it with placeholders too.
"""

from dataclasses import dataclass, replace
from typing import no_type_check

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from padim_jax.gaussians import shrinkage
from padim_jax.gaussians.chunks import map_chunks, map_in_place
from padim_jax.gaussians.components import Components
from padim_jax.gaussians.shrinkage import HigherMoments
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of every position; what a fit accumulates.

    Attributes:
      count: float32 (), images seen, or the sum n = Σ_k w_k of their weights; exact up to 2²⁴.
      mean: float32 (p, d), μ.
      scatter: symmetric (p, d, d), Σ_k w_k (x_k - μ)(x_k - μ)ᵀ, not divided.
      higher: what Ledoit-Wolf shrinkage needs in addition; None where the covariance is not shrunk.
      components: where p Gaussians share the cells of all positions, their centres and what each holds; else None.
    """

    count: Float[Array, ""]
    mean: Float[Array, "p d"]
    scatter: SymmetricMatrix
    higher: HigherMoments | None = None
    components: Components | None = None

    @property
    def held(self) -> Float[Array, "..."]:
        """How many images each position holds: the count (), or that of each component (p, 1)."""
        return self.count if self.components is None else self.components.shares[:, None]


def init(
    n_positions: int, n_channels: int, *, higher: bool = False, centres: Float[Array, "p d"] | None = None
) -> Moments:
    """Moments of no image at all; with the ``higher`` ones for Ledoit-Wolf shrinkage, or of components."""
    return Moments(
        count=jnp.zeros((), jnp.float32),
        mean=jnp.zeros((n_positions, n_channels), jnp.float32),
        scatter=SymmetricMatrix.zeros(n_positions, n_channels),
        higher=shrinkage.init(n_positions, n_channels) if higher else None,
        components=None if centres is None else Components(centres, jnp.zeros(n_positions, jnp.float32)),
    )


def update(moments: Moments, x: Float[Array, "p n d"], weights: Float[Array, " n"] | Bool[Array, " n"]) -> Moments:
    """Fold a batch in: Chan, Golub & LeVeque (1983), equation 2.1.

    With a earlier images of mean μ and a batch of b images of mean m, ``δ = m - μ``:
    ``μ' = μ + δ b/(a + b)`` and ``C' = C + Σ (x - m)(x - m)ᵀ + δ δᵀ ab/(a + b)``.
    An image of weight w counts as w images; rows of weight 0 (padding) do not count.
    """
    weights = weights.astype(x.dtype)
    batch_count = jnp.sum(weights)
    count = moments.count + batch_count
    share = batch_count / jnp.maximum(count, 1)

    def fold(state: tuple[SymmetricMatrix, Array], x: Array) -> tuple[SymmetricMatrix, Array]:
        scatter, mean = state
        rows, shift = _update_rows(moments.count, mean, x, weights)
        return scatter.add_products(rows), mean + shift * share

    scatter, mean = map_in_place(fold, (moments.scatter, moments.mean), x)
    if moments.higher is None:
        return Moments(count, mean, scatter)
    rows, shift = _update_rows(moments.count, moments.mean, x, weights)
    step = jnp.where(moments.count > 0, shift * share, 0)  # no images have no mean to move from
    # C s by way of the new scatter: read before it is written over, the old one would be copied
    products = jnp.einsum("pnj,pj->pn", rows, step, precision=lax.Precision.HIGHEST)
    added = jnp.einsum("pnj,pn->pj", rows, products, precision=lax.Precision.HIGHEST)
    earlier = shrinkage.recentre(moments.higher, moments.count, step, _multiply(scatter, step) - added)
    batch = shrinkage.from_rows(x - mean[:, None], weights)
    return Moments(count, mean, scatter, shrinkage.add(earlier, batch))


def _update_rows(
    count: Float[Array, ""], mean: Float[Array, "p d"], x: Float[Array, "p n d"], weights: Float[Array, " n"]
) -> tuple[Float[Array, "p m d"], Float[Array, "p d"]]:
    """Rows r of which ``C' = C + Σ r rᵀ``, the last one for the rank-one term; and ``δ``."""
    batch_count = jnp.sum(weights)
    weight = weights[None, :, None]
    batch_mean = jnp.sum(x * weight, axis=1) / jnp.maximum(batch_count, 1)
    shift = batch_mean - mean
    mean_row = shift * jnp.sqrt(count * batch_count / jnp.maximum(count + batch_count, 1))
    return jnp.concatenate([(x - batch_mean[:, None]) * jnp.sqrt(weight), mean_row[:, None]], axis=1), shift


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both samples together, by the formula of :func:`update`; of components with the same centres."""
    shift = b.mean - a.mean
    held = a.held + b.held
    share = b.held / jnp.where(held > 0, held, 1)
    scaled = shift * jnp.sqrt(a.held * share)

    def fold(scatter: SymmetricMatrix, other: SymmetricMatrix, scaled: Array) -> SymmetricMatrix:
        return jax.tree.map(jnp.add, scatter.add_products(scaled[:, None]), other)

    mean = a.mean + shift * share
    higher = None
    if a.higher is not None and b.higher is not None:
        step_a, step_b = shift * share, -shift * (1 - share)
        higher = shrinkage.add(
            shrinkage.recentre(a.higher, a.count, step_a, _multiply(a.scatter, step_a)),
            shrinkage.recentre(b.higher, b.count, step_b, _multiply(b.scatter, step_b)),
        )
    components = None
    if a.components is not None and b.components is not None:
        components = replace(a.components, shares=a.components.shares + b.components.shares)
    scatter = map_in_place(fold, a.scatter, b.scatter, scaled)
    return Moments(a.count + b.count, mean, scatter, higher, components)


def decay(moments: Moments, factor: Float[Array, ""]) -> Moments:
    """Moments in which every image counts ``factor`` times as much as before."""
    higher = None if moments.higher is None else jax.tree.map(lambda value: value * factor, moments.higher)
    scatter = jax.tree.map(lambda panel: panel * factor, moments.scatter)
    components = moments.components
    components = None if components is None else replace(components, shares=components.shares * factor)
    return Moments(moments.count * factor, moments.mean, scatter, higher, components)


def forget(moments: Moments, gone: Moments) -> Moments:
    """Moments of the images that are not in ``gone``: :func:`merge` undone.

    With n images of mean μ, b of them gone, those of mean m, ``s = (μ - m) b/(n - b)``: ``μ' = μ + s`` and
    ``C' = C - C_gone - s sᵀ (n - b) n/b``. Digits are lost where C' is much smaller than C.
    """
    remaining = moments.held - gone.held
    shift = (moments.mean - gone.mean) * (gone.held / jnp.where(remaining > 0, remaining, 1))
    scaled = shift * jnp.sqrt(remaining * moments.held / jnp.where(gone.held > 0, gone.held, 1))

    def fold(scatter: SymmetricMatrix, other: SymmetricMatrix, scaled: Array) -> SymmetricMatrix:
        return jax.tree.map(jnp.subtract, scatter, other.add_products(scaled[:, None]))

    mean = moments.mean + shift
    higher = None
    if moments.higher is not None and gone.higher is not None:
        gone_shift = mean - gone.mean
        before = shrinkage.recentre(moments.higher, moments.count, shift, _multiply(moments.scatter, shift))
        gone_higher = shrinkage.recentre(gone.higher, gone.count, gone_shift, _multiply(gone.scatter, gone_shift))
        higher = jax.tree.map(jnp.subtract, before, gone_higher)
    components = None
    if moments.components is not None and gone.components is not None:
        components = replace(moments.components, shares=remaining[:, 0])
    scatter = map_in_place(fold, moments.scatter, gone.scatter, scaled)
    return Moments(moments.count - gone.count, mean, scatter, higher, components)


def rounding_left(before: Moments, after: Moments, whitening: TriangularMatrix) -> Float[Array, " p"]:
    """About the relative error that :func:`forget` may have left in distances, per position.

    ``2⁻²⁴ (c + 2 m sqrt(n c)) / (n' - 1) · max diag Σ'⁻¹``: the rounding of the scatter before, with c its largest
    diagonal entry and m the largest mean, an error which stays when the images that made it large are gone, against
    the smallest variance of what is left; its whitening W gives Σ'⁻¹ = W Wᵀ.
    """
    largest = jnp.max(before.scatter.diagonal(), axis=-1)
    offset = jnp.max(jnp.abs(before.mean), axis=-1)
    held = before.count if before.components is None else before.components.shares
    rounding = (largest + 2 * offset * jnp.sqrt(held * largest)) * 2.0**-24
    squares = jax.tree.map(jnp.square, whitening)
    precision = jnp.max(squares.rows_times_transposed(jnp.ones_like(before.mean)[:, None]), axis=(1, 2))
    divisor = after.count - 1
    if after.components is not None:
        shares = after.components.shares
        divisor = jnp.where(shares > 0, divisor * shares / after.count, jnp.inf)
    return rounding / divisor * precision


def shrinkage_strength(moments: Moments) -> Float[Array, " p"] | None:
    """Ledoit-Wolf's ρ (:func:`padim_jax.gaussians.shrinkage.coefficient`); None without the higher moments."""
    if moments.higher is None:
        return None
    return map_chunks(
        lambda scatter, fourth: shrinkage.coefficient(scatter.square(), fourth, moments.count),
        moments.scatter,
        moments.higher.fourth,
    )


def _multiply(scatter: SymmetricMatrix, s: Float[Array, "p d"]) -> Float[Array, "p d"]:
    """``C s``, in chunks, because XLA copies the parts of the panels that it multiplies by."""
    return map_chunks(SymmetricMatrix.times, scatter, s)
