"""Which Gaussian the cell of a grid is held against: one of its own, or one of a few that all cells share.

A grid has p cells, and a model has Gaussians at as many positions, or at g. Everything that goes from embeddings
(p, n, d) to moments or to distances (p, n) goes through an arrangement, so that nothing else has to know which it is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from padim_jax.gaussians import cholesky
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.components import nearest
from padim_jax.gaussians.factors import Gaussian, WhitenedGaussian
from padim_jax.gaussians.leave_one_out import Scalar
from padim_jax.gaussians.low_rank import AnyGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix

Weights = Float[Array, " n"] | Bool[Array, " n"]


class Arrangement(ABC):
    """How cells and Gaussians belong together; static."""

    @abstractmethod
    def n_gaussians(self, n_cells: int) -> int:
        """Gaussians of a grid of so many cells, g."""

    @abstractmethod
    def gaussians_of(self, cells: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Which Gaussian each of these cells is held against, whatever the image.

        Raises:
          ValueError: that depends on the image.
        """

    @abstractmethod
    def update(
        self, moments: Moments, x: Float[Array, "p n d"], weights: Weights, inside: Bool[Array, "p n"] | None = None
    ) -> Moments:
        """Fold the embeddings of a batch of images into moments; an image of weight w counts as w images.

        Of moments with a coverage, those that are ``inside``; None for moments that have none.
        """

    @abstractmethod
    def distances(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """Mahalanobis distances, not squared, of every cell."""

    def at_kink(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Bool[Array, "p n"]:
        """Which cells have a distance of 0, where it has no gradient that is a number: those exactly at the mean."""
        return (x == gaussian.mean[:, None]).all(axis=-1)

    @abstractmethod
    def left_out_distances(
        self,
        gaussian: AnyGaussian,
        x: Float[Array, "p n d"],
        count: Float[Array, ""] | Float[Array, " p"],
        weights: Float[Array, " n"] | Float[Array, "p n"],
        ridge: Scalar,
        prior_images: Scalar = 0.0,
    ) -> Float[Array, "p n"]:
        """Distances of images from the Gaussians of all the others; arguments as of :func:`leave_one_out`."""

    @abstractmethod
    def deviations(
        self, gaussian: AnyGaussian, x: Float[Array, "p n d"], weights: Float[Array, " n"] | Float[Array, "p n"]
    ) -> Float[Array, "g d"]:
        """``Σ w (x - μ)`` at each Gaussian, which is 0 over all images that it was fitted on."""


@dataclass(frozen=True)
class OwnGaussians(Arrangement):
    """Every cell has a Gaussian of its own, which only knows that place of the images (PaDiM)."""

    def n_gaussians(self, n_cells: int) -> int:
        """As many as there are cells."""
        return n_cells

    def gaussians_of(self, cells: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """That of the same number."""
        return cells

    def update(
        self, moments: Moments, x: Float[Array, "p n d"], weights: Weights, inside: Bool[Array, "p n"] | None = None
    ) -> Moments:
        """As :func:`padim_jax.gaussians.moments.update`."""
        return gaussian_moments.update(moments, x, weights, inside)

    def distances(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """As the Gaussian has them."""
        return gaussian.distances(x)

    def left_out_distances(
        self,
        gaussian: AnyGaussian,
        x: Float[Array, "p n d"],
        count: Float[Array, ""] | Float[Array, " p"],
        weights: Float[Array, " n"] | Float[Array, "p n"],
        ridge: Scalar,
        prior_images: Scalar = 0.0,
    ) -> Float[Array, "p n"]:
        """As the Gaussian has them, in closed form."""
        return gaussian.left_out_distances(x, count, weights, ridge, prior_images)

    def deviations(
        self, gaussian: AnyGaussian, x: Float[Array, "p n d"], weights: Float[Array, " n"] | Float[Array, "p n"]
    ) -> Float[Array, "g d"]:
        """Of each cell."""
        terms = "pnd,n->pd" if weights.ndim == 1 else "pnd,pn->pd"
        return jnp.einsum(terms, x - gaussian.mean[:, None], weights, precision="highest")


@dataclass(frozen=True)
class SharedGaussians(Arrangement):
    """All cells share one Gaussian, or K of them, which do not know where in the image they lie.

    What counts is the image: its p cells share its weight, ``w / p`` each. With one Gaussian the mean is that of all
    cells of n images, and ``Σ = C / (n - 1) + ε I`` with ``C = Σ_k w_k / p Σ_c (x_kc - μ)(x_kc - μ)ᵀ``. The divisor is
    n - 1 and not n p - 1, because the cells of one image are no independent sample: where they are all alike, n - 1 is
    exact, and where they are independent, Σ is too large by 1 / n of itself.

    With several, each cell belongs to the component whose centre is nearest (:mod:`padim_jax.gaussians.components`).
    Component k, which holds the share π_k of all cells, has ``Σ_k = C_k / (π_k (n - 1)) + ε I``, or, where it is
    pooled, ``(C_k + ν T) / (π_k (n - 1) + ν) + ε I`` with ``T = Σ_k C_k / (n - 1)``, which few cells of one kind can't
    make narrower than all. The distance is that of the likeliest component, ``D² = min_k (M_k² + c_k) - min_k c_k``
    with ``c_k = log|Σ_k| - 2 log π_k``: twice what the largest of the components' log-likelihoods is below the largest
    one there can be. Of one Gaussian that is M². By M_k alone, a component that varies much would take in whatever the
    others find strange.

    Attributes:
      n_components: K.
    """

    n_components: int = 1

    def n_gaussians(self, n_cells: int) -> int:
        """As many as components, whatever the grid."""
        return self.n_components

    def gaussians_of(self, cells: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """The only one, where there is only one."""
        if self.n_components > 1:
            raise ValueError(
                f"the patches of a position can belong to any of {self.n_components} components; wanted a model with "
                "one Gaussian for each position, or one for all"
            )
        return np.zeros_like(cells)

    def update(
        self, moments: Moments, x: Float[Array, "p n d"], weights: Weights, inside: Bool[Array, "p n"] | None = None
    ) -> Moments:
        """Merge the moments of a batch with the others, by the formula of :func:`padim_jax.gaussians.moments.merge`."""
        weights = weights.astype(x.dtype)
        shares = jnp.broadcast_to((weights / len(x))[None], x.shape[:2])
        if moments.components is None:
            held, mean, scatter = _moments_of(x, shares)
            return gaussian_moments.merge(moments, Moments(jnp.sum(weights), mean[None], scatter))
        belongs = nearest(x, moments.components.centres)

        def of_component(index: Array) -> tuple[Array, Array, SymmetricMatrix]:
            return _moments_of(x, jnp.where(belongs == index, shares, 0))

        held, mean, scatter = lax.map(of_component, jnp.arange(self.n_components))
        scatter = jax.tree.map(lambda panel: panel[:, 0], scatter)
        components = replace(moments.components, shares=held)
        batch = Moments(jnp.sum(weights), mean, scatter, components=components)
        return gaussian_moments.merge(moments, batch)

    def distances(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """Of all cells of all images, from the one Gaussian or from the likeliest component."""
        rows = x.reshape(1, -1, x.shape[-1])
        if gaussian.components is None:
            return gaussian.distances(rows).reshape(x.shape[:2])
        whitened = _whitened(gaussian)

        def squares(component: WhitenedGaussian) -> Array:
            return component.whitening.squared_norms(rows - component.mean[:, None])[0]

        each = jax.tree.map(lambda array: array[:, None], replace(whitened, components=None))
        share = gaussian.components.shares / jnp.sum(gaussian.components.shares)
        return _likeliest(lax.map(squares, each), _offsets(whitened, share)[:, None]).reshape(x.shape[:2])

    def at_kink(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Bool[Array, "p n"]:
        """At the mean of the only one; the distance from the likeliest of several takes care of itself."""
        if gaussian.components is not None:
            return jnp.zeros(x.shape[:2], bool)
        return super().at_kink(gaussian, x)

    def left_out_distances(
        self,
        gaussian: AnyGaussian,
        x: Float[Array, "p n d"],
        count: Float[Array, ""] | Float[Array, " p"],
        weights: Float[Array, " n"] | Float[Array, "p n"],
        ridge: Scalar,
        prior_images: Scalar = 0.0,
    ) -> Float[Array, "p n"]:
        """Take all cells of an image out at once, exactly, and factor anew for each image.

        Of a component that holds s images' worth of cells, t of them the image's, with m their mean and A their scatter
        about it: ``μ' = μ + t δ``, ``δ = (μ - m) / (s - t)`` and ``C' = C - A - s t (s - t) δ δᵀ``, from which ``Σ' =
        (C' + ν T) / (π' (n - w - 1) + ν) + ε I`` with ``π' = (s - t) / (n - w)``. Centres and T are held fixed; a
        component that holds no other image's cells is left out too. Not finite where n - w ≤ 1, or Σ' is not definite,
        as of an image that was not among those fitted on.
        """
        if gaussian.no_leave_one_out:
            return gaussian.left_out_distances(x, count, weights, ridge, prior_images)
        factored = gaussian.with_solver("triangular-solve")
        assert isinstance(factored, Gaussian)
        factor = factored.factor
        identity = jnp.eye(x.shape[-1], dtype=x.dtype)[None]
        covariance = jnp.einsum("pij,pkj->pik", factor, factor, precision=lax.Precision.HIGHEST)
        cells, weight = x.transpose(1, 0, 2), weights.astype(x.dtype)
        shares = jnp.broadcast_to((weight / len(x))[:, None], cells.shape[:2])
        several = gaussian.components
        held = jnp.full(self.n_components, count, x.dtype) if several is None else several.shares
        belongs = jnp.zeros(cells.shape[:2], int) if several is None else nearest(cells, several.centres)
        left = count - weight
        divisor = jnp.where(left > 1, left - 1, jnp.nan)

        def of_component(operands: tuple[Array, ...]) -> tuple[Array, Array]:
            index, mean, covariance, held = operands
            own = jnp.where(belongs == index, shares, 0)
            taken = jnp.sum(own, axis=1)
            own_mean = jnp.einsum("np,npd->nd", own, cells, precision=lax.Precision.HIGHEST)
            own_mean = own_mean / jnp.where(taken > 0, taken, 1)[:, None]
            others = held - taken
            is_empty = others * len(x) < 0.5 * jnp.where(weight > 0, weight, 1)  # of a cell
            others = jnp.where(is_empty, 0, others)
            delta = (mean[None] - own_mean) / jnp.where(is_empty, 1, others)[:, None]
            rows = (cells - own_mean[:, None]) * jnp.sqrt(own)[..., None]
            rows = jnp.concatenate([rows, (delta * jnp.sqrt(held * taken * others)[:, None])[:, None]], axis=1)
            gone = jnp.einsum("npi,npj->nij", rows, rows, precision=lax.Precision.HIGHEST)
            scatter = (covariance[None] - ridge * identity) * ((count - 1) * (held / count) + prior_images) - gone
            own_divisor = divisor * (others / left) + prior_images
            scale = jnp.where(is_empty, 0, 1 / jnp.where(is_empty, 1, own_divisor))
            sigma = scatter * scale[:, None, None] + ridge * identity
            whitening = TriangularMatrix.from_square(cholesky.inverse_factor(sigma).mT)
            fitted = WhitenedGaussian(mean[None] + delta * taken[:, None], whitening)
            squares = whitening.squared_norms(cells - fitted.mean[:, None])
            return squares, _offsets(fitted, others / left)

        operands = (jnp.arange(self.n_components), gaussian.mean, covariance, held)
        squares, offsets = lax.map(of_component, operands)
        if several is None:
            return jnp.sqrt(squares[0]).T
        distances = _likeliest(squares.reshape(len(squares), -1), jnp.repeat(offsets, len(x), axis=1))
        return distances.reshape(cells.shape[:2]).T

    def deviations(
        self, gaussian: AnyGaussian, x: Float[Array, "p n d"], weights: Float[Array, " n"] | Float[Array, "p n"]
    ) -> Float[Array, "g d"]:
        """Of the cells that belong to each, divided by p."""
        several = gaussian.components
        shares = jnp.broadcast_to((weights / len(x))[None], x.shape[:2])
        belongs = jnp.zeros(x.shape[:2], int) if several is None else nearest(x, several.centres)
        of_each = jnp.where(belongs[None] == jnp.arange(self.n_components)[:, None, None], shares[None], 0)
        total = jnp.einsum("gpn,pnd->gd", of_each, x, precision=lax.Precision.HIGHEST)
        return total - jnp.sum(of_each, axis=(1, 2))[:, None] * gaussian.mean


def _moments_of(
    x: Float[Array, "p n d"], shares: Float[Array, "p n"]
) -> tuple[Float[Array, ""], Float[Array, " d"], SymmetricMatrix]:
    """Sum of the shares of cells, their mean, and their scatter about it at one position."""
    held = jnp.sum(shares)
    mean = jnp.einsum("pn,pnd->d", shares, x, precision=lax.Precision.HIGHEST) / jnp.where(held > 0, held, 1)
    rows = (x - mean[None, None]) * jnp.sqrt(shares)[..., None]
    return held, mean, SymmetricMatrix.zeros(1, x.shape[-1]).add_products(rows.reshape(1, -1, x.shape[-1]))


def _whitened(gaussian: AnyGaussian) -> WhitenedGaussian:
    whitened = gaussian.with_solver("inverse-factor")
    assert isinstance(whitened, WhitenedGaussian)
    return whitened


def _offsets(gaussian: WhitenedGaussian, share: Float[Array, " g"]) -> Float[Array, " g"]:
    """``log|Σ| - 2 log π`` of each component; infinite where it holds nothing."""
    determinant = -2 * jnp.sum(jnp.log(gaussian.whitening.diagonal()), axis=-1)
    return determinant - 2 * jnp.log(jnp.maximum(share, 0))


def _likeliest(squares: Float[Array, "g m"], offsets: Float[Array, "g _m"]) -> Float[Array, " m"]:
    """``sqrt(min_k (M_k² + c_k) - min_k c_k)``; its gradient is 0 where it is."""
    squared = jnp.min(squares + (offsets - jnp.min(offsets, axis=0, keepdims=True)), axis=0)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), squared)
