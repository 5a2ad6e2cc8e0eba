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
      coverage: float32 (p,), n of each position, where images need not cover all of them; None where they do.
      components: where p Gaussians share the cells of all positions, their centres and what each holds; else None.
    """

    count: Float[Array, ""]
    mean: Float[Array, "p d"]
    scatter: SymmetricMatrix
    higher: HigherMoments | None = None
    coverage: Float[Array, " p"] | None = None
    components: Components | None = None

    @property
    def counts(self) -> Float[Array, "#p 1"]:
        """The n of each position, or that of all, or what each component holds; beside the means."""
        if self.components is not None:
            return self.components.shares[:, None]
        return (self.count[None] if self.coverage is None else self.coverage)[:, None]

    @property
    def divisor(self) -> Float[Array, " p"]:
        """``n - 1`` of each position, but 1 where fewer than two images cover it; not finite for fewer in all.

        That of a component, which holds a share π of all patches, is ``π (n - 1)``.
        """
        if self.components is not None:
            positions = self.components.shares * ((self.count - 1) / self.count)
        elif self.coverage is not None:
            positions = jnp.maximum(self.coverage, 2) - 1
        else:
            positions = jnp.full(len(self.mean), self.count - 1)
        return jnp.where(self.count > 1, positions, jnp.nan)


def init(
    n_positions: int,
    n_channels: int,
    *,
    higher: bool = False,
    covered: bool = False,
    centres: Float[Array, "p d"] | None = None,
) -> Moments:
    """Moments of no image; with the ``higher`` ones for Ledoit-Wolf shrinkage, with a coverage, or of components."""
    return Moments(
        count=jnp.zeros((), jnp.float32),
        mean=jnp.zeros((n_positions, n_channels), jnp.float32),
        scatter=SymmetricMatrix.zeros(n_positions, n_channels),
        higher=shrinkage.init(n_positions, n_channels) if higher else None,
        coverage=jnp.zeros(n_positions, jnp.float32) if covered else None,
        components=None if centres is None else Components(centres, jnp.zeros(n_positions, jnp.float32)),
    )


def update(
    moments: Moments,
    x: Float[Array, "p n d"],
    weights: Float[Array, " n"] | Bool[Array, " n"],
    inside: Bool[Array, "p n"] | None = None,
) -> Moments:
    """Fold a batch in: Chan, Golub & LeVeque (1983), equation 2.1.

    With a earlier images of mean μ and a batch of b images of mean m, ``δ = m - μ``:
    ``μ' = μ + δ b/(a + b)`` and ``C' = C + Σ (x - m)(x - m)ᵀ + δ δᵀ ab/(a + b)``.
    An image of weight w counts as w images; rows of weight 0 (padding) do not count, nor do, in moments with a
    coverage, those that are not ``inside``.
    """
    weights = weights.astype(x.dtype)
    count = moments.count + jnp.sum(weights)
    own: list[Array] = []  # the count and the weights of each position, where they differ
    if moments.coverage is not None:
        assert inside is not None
        own = [moments.coverage, jnp.where(inside, weights[None], 0)]

    def fold(state: tuple[SymmetricMatrix, Array], x: Array, *of_positions: Array) -> tuple[SymmetricMatrix, Array]:
        (scatter, mean), (earlier, batch) = state, of_positions or (moments.count[None], weights[None])
        rows, shift = _update_rows(earlier, mean, x, batch)
        return scatter.add_products(rows), mean + shift * _share(earlier, batch)

    scatter, mean = map_in_place(fold, (moments.scatter, moments.mean), x, *own)
    if moments.coverage is not None:
        return Moments(count, mean, scatter, coverage=own[0] + jnp.sum(own[1], axis=1))
    if moments.higher is None:
        return Moments(count, mean, scatter)
    rows, shift = _update_rows(moments.count[None], moments.mean, x, weights[None])
    share = _share(moments.count[None], weights[None])
    step = jnp.where(moments.count > 0, shift * share, 0)  # no images have no mean to move from
    # C s by way of the new scatter: read before it is written over, the old one would be copied
    products = jnp.einsum("pnj,pj->pn", rows, step, precision=lax.Precision.HIGHEST)
    added = jnp.einsum("pnj,pn->pj", rows, products, precision=lax.Precision.HIGHEST)
    earlier = shrinkage.recentre(moments.higher, moments.count, step, _multiply(scatter, step) - added)
    batch = shrinkage.from_rows(x - mean[:, None], weights)
    return Moments(count, mean, scatter, shrinkage.add(earlier, batch))


def _share(count: Float[Array, " #p"], weights: Float[Array, "#p n"]) -> Float[Array, "#p 1"]:
    """``b / (a + b)``."""
    batch_count = jnp.sum(weights, axis=1)
    return (batch_count / _or_one(count + batch_count))[:, None]


def _update_rows(
    count: Float[Array, " #p"], mean: Float[Array, "p d"], x: Float[Array, "p n d"], weights: Float[Array, "#p n"]
) -> tuple[Float[Array, "p m d"], Float[Array, "p d"]]:
    """Rows r of which ``C' = C + Σ r rᵀ``, the last one for the rank-one term; and ``δ``."""
    batch_count, count = jnp.sum(weights, axis=1)[:, None], count[:, None]
    weight = weights[..., None]
    batch_mean = jnp.sum(x * weight, axis=1) / _or_one(batch_count)
    shift = batch_mean - mean
    mean_row = shift * jnp.sqrt(count * batch_count / _or_one(count + batch_count))
    return jnp.concatenate([(x - batch_mean[:, None]) * jnp.sqrt(weight), mean_row[:, None]], axis=1), shift


def _or_one(count: Array) -> Array:
    """A divisor, 1 where it would be 0: what is divided is 0 there."""
    return jnp.where(count > 0, count, 1)


def _with_counts(
    a: Moments,
    b: Moments,
    sign: int,
    mean: Float[Array, "p d"],
    scatter: SymmetricMatrix,
    higher: HigherMoments | None,
) -> Moments:
    """Moments of the images of ``a`` and of ``b``, or, where the sign is -1, without those of ``b``."""
    coverage, components = None, None
    if a.coverage is not None and b.coverage is not None:
        coverage = a.coverage + sign * b.coverage
    if a.components is not None and b.components is not None:
        components = replace(a.components, shares=a.components.shares + sign * b.components.shares)
    return Moments(a.count + sign * b.count, mean, scatter, higher, coverage, components)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both samples together, by the formula of :func:`update`; of components with the same centres."""
    shift = b.mean - a.mean
    share = b.counts / _or_one(a.counts + b.counts)
    scaled = shift * jnp.sqrt(a.counts * share)

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
    return _with_counts(a, b, 1, mean, map_in_place(fold, a.scatter, b.scatter, scaled), higher)


def decay(moments: Moments, factor: Float[Array, ""]) -> Moments:
    """Moments in which every image counts ``factor`` times as much as before."""
    higher = None if moments.higher is None else jax.tree.map(lambda value: value * factor, moments.higher)
    scatter = jax.tree.map(lambda panel: panel * factor, moments.scatter)
    decayed = Moments(moments.count * factor, moments.mean, scatter, higher)
    if moments.coverage is not None:
        return replace(decayed, coverage=moments.coverage * factor)
    if moments.components is not None:
        return replace(decayed, components=replace(moments.components, shares=moments.components.shares * factor))
    return decayed


def forget(moments: Moments, gone: Moments) -> Moments:
    """Moments of the images that are not in ``gone``: :func:`merge` undone.

    With n images of mean μ, b of them gone, those of mean m, ``s = (μ - m) b/(n - b)``: ``μ' = μ + s`` and
    ``C' = C - C_gone - s sᵀ (n - b) n/b``. Digits are lost where C' is much smaller than C.
    """
    remaining = moments.counts - gone.counts
    difference, share = moments.mean - gone.mean, gone.counts / _or_one(remaining)
    shift, scaled = difference * share, difference * jnp.sqrt(share * moments.counts)

    def fold(scatter: SymmetricMatrix, other: SymmetricMatrix, scaled: Array) -> SymmetricMatrix:
        return jax.tree.map(jnp.subtract, scatter, other.add_products(scaled[:, None]))

    mean = moments.mean + shift
    higher = None
    if moments.higher is not None and gone.higher is not None:
        gone_shift = mean - gone.mean
        before = shrinkage.recentre(moments.higher, moments.count, shift, _multiply(moments.scatter, shift))
        gone_higher = shrinkage.recentre(gone.higher, gone.count, gone_shift, _multiply(gone.scatter, gone_shift))
        higher = jax.tree.map(jnp.subtract, before, gone_higher)
    scatter = map_in_place(fold, moments.scatter, gone.scatter, scaled)
    return _with_counts(moments, gone, -1, mean, scatter, higher)


def rounding_left(before: Moments, after: Moments, whitening: TriangularMatrix) -> Float[Array, " p"]:
    """The relative error, about at most, that :func:`forget` may have left in distances, per position.

    ``2 · 2⁻²⁴ (c + 2 m sqrt(n c)) / (n' - 1) · max diag Σ'⁻¹``: the rounding of the scatter before, with c its largest
    diagonal entry and m the largest mean, an error which stays when the images that made it large are gone, against
    the smallest variance of what is left; its whitening W gives Σ'⁻¹ = W Wᵀ. The factor 2 is for what other entries
    and the mean add: over 650 random cases, the largest error was up to 1.5 times what stands without it.
    """
    largest = jnp.max(before.scatter.diagonal(), axis=-1)
    offset = jnp.max(jnp.abs(before.mean), axis=-1)
    rounding = (largest + 2 * offset * jnp.sqrt(before.counts[:, 0] * largest)) * 2.0**-23
    squares = jax.tree.map(jnp.square, whitening)
    precision = jnp.max(squares.rows_times_transposed(jnp.ones_like(before.mean)[:, None]), axis=(1, 2))
    divisor = after.divisor
    return rounding / jnp.where(divisor == 0, jnp.inf, divisor) * precision  # no patch is nearest to an empty component


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
