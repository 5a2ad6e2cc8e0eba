"""Which Gaussian the cell of a grid is held against: one of its own, or one that all cells share.

A grid has p cells, and a model has Gaussians at as many positions, or at one. Everything that goes from embeddings
(p, n, d) to moments or to distances (p, n) goes through an arrangement, so that nothing else has to know which it is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from padim_jax.gaussians import cholesky
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.leave_one_out import Scalar
from padim_jax.gaussians.low_rank import AnyGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix

Weights = Float[Array, " n"] | Bool[Array, " n"]


class Arrangement(ABC):
    """How cells and Gaussians belong together; static."""

    @abstractmethod
    def n_gaussians(self, n_cells: int) -> int:
        """Gaussians of a grid of so many cells."""

    @abstractmethod
    def gaussians_of(self, cells: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Which Gaussian each of these cells is held against."""

    @abstractmethod
    def update(self, moments: Moments, x: Float[Array, "p n d"], weights: Weights) -> Moments:
        """Fold the embeddings of a batch of images into moments; an image of weight w counts as w images."""

    @abstractmethod
    def distances(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """Mahalanobis distances, not squared, of every cell."""

    @abstractmethod
    def left_out_distances(
        self,
        gaussian: AnyGaussian,
        x: Float[Array, "p n d"],
        count: Float[Array, ""],
        weights: Float[Array, " n"],
        ridge: Scalar,
        prior_images: Scalar = 0.0,
    ) -> Float[Array, "p n"]:
        """Distances of images from the Gaussians of all the others; arguments as of :func:`leave_one_out`."""

    @abstractmethod
    def deviations(
        self, gaussian: AnyGaussian, x: Float[Array, "p n d"], weights: Float[Array, " n"]
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

    def update(self, moments: Moments, x: Float[Array, "p n d"], weights: Weights) -> Moments:
        """As :func:`padim_jax.gaussians.moments.update`."""
        return gaussian_moments.update(moments, x, weights)

    def distances(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """As the Gaussian has them."""
        return gaussian.distances(x)

    def left_out_distances(
        self,
        gaussian: AnyGaussian,
        x: Float[Array, "p n d"],
        count: Float[Array, ""],
        weights: Float[Array, " n"],
        ridge: Scalar,
        prior_images: Scalar = 0.0,
    ) -> Float[Array, "p n"]:
        """As the Gaussian has them, in closed form."""
        return gaussian.left_out_distances(x, count, weights, ridge, prior_images)

    def deviations(
        self, gaussian: AnyGaussian, x: Float[Array, "p n d"], weights: Float[Array, " n"]
    ) -> Float[Array, "g d"]:
        """Of each cell."""
        return jnp.einsum("pnd,n->pd", x - gaussian.mean[:, None], weights, precision="highest")


@dataclass(frozen=True)
class SharedGaussian(Arrangement):
    """All cells share one Gaussian, which does not know where in the image they lie.

    What counts is the image: its p cells share its weight, ``w / p`` each. The mean is that of all cells of n images,
    and ``Σ = C / (n - 1) + ε I`` with ``C = Σ_k w_k / p Σ_c (x_kc - μ)(x_kc - μ)ᵀ``. The divisor is n - 1 and not
    n p - 1, because the cells of one image are no independent sample: where they are all alike, n - 1 is exact, and
    where they are independent, Σ is too large by 1 / n of itself.
    """

    def n_gaussians(self, n_cells: int) -> int:
        """One, whatever the grid."""
        return 1

    def gaussians_of(self, cells: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """The only one."""
        return np.zeros_like(cells)

    def update(self, moments: Moments, x: Float[Array, "p n d"], weights: Weights) -> Moments:
        """Merge the moments of a batch with the others, by the formula of :func:`padim_jax.gaussians.moments.merge`."""
        return gaussian_moments.merge(moments, _of_images(x, weights.astype(x.dtype)))

    def distances(self, gaussian: AnyGaussian, x: Float[Array, "p n d"]) -> Float[Array, "p n"]:
        """Of all cells of all images from the one Gaussian."""
        return gaussian.distances(x.reshape(1, -1, x.shape[-1])).reshape(x.shape[:2])

    def left_out_distances(
        self,
        gaussian: AnyGaussian,
        x: Float[Array, "p n d"],
        count: Float[Array, ""],
        weights: Float[Array, " n"],
        ridge: Scalar,
        prior_images: Scalar = 0.0,
    ) -> Float[Array, "p n"]:
        """Take all cells of an image out at once, exactly, and factor anew for each image.

        With n all images' weights, w the image's, m the mean of its cells and A their scatter about it, divided by p:
        ``μ' = μ + s w``, ``s = (μ - m) / (n - w)`` and ``C' = C - w A - n w (n - w) s sᵀ``, from which
        ``Σ' = C' / (n - w - 1) + ε I``. Not finite where n - w ≤ 1, or Σ' is not definite, as of an image that was not
        among those fitted on.
        """
        if gaussian.no_leave_one_out:
            return gaussian.left_out_distances(x, count, weights, ridge, prior_images)
        factor = gaussian.with_solver("triangular-solve").factor
        identity = jnp.eye(x.shape[-1], dtype=x.dtype)[None]
        covariance = jnp.einsum("pij,pkj->pik", factor, factor, precision=lax.Precision.HIGHEST)
        scatter = (covariance - ridge * identity) * (count - 1)
        cells = x.transpose(1, 0, 2)
        weight = weights.astype(x.dtype)[:, None]
        own_mean = jnp.mean(cells, axis=1)
        left = count - weight
        shift = (gaussian.mean - own_mean) / left
        rows = (cells - own_mean[:, None]) * jnp.sqrt(weight / len(x))[..., None]
        rows = jnp.concatenate([rows, (shift * jnp.sqrt(count * weight * left))[:, None]], axis=1)
        gone = jnp.einsum("npi,npj->nij", rows, rows, precision=lax.Precision.HIGHEST)
        divisor = jnp.where(left > 1, left - 1, jnp.nan)
        whitening = cholesky.inverse_factor((scatter - gone) / divisor[..., None] + ridge * identity).mT
        others = WhitenedGaussian(gaussian.mean + shift * weight, TriangularMatrix.from_square(whitening))
        return others.distances(cells).T

    def deviations(
        self, gaussian: AnyGaussian, x: Float[Array, "p n d"], weights: Float[Array, " n"]
    ) -> Float[Array, "g d"]:
        """Of the mean of all cells."""
        return jnp.einsum("nd,n->d", jnp.mean(x, axis=0) - gaussian.mean, weights, precision="highest")[None]


def _of_images(x: Float[Array, "p n d"], weights: Float[Array, " n"]) -> Moments:
    """Moments of all cells of some images at one position, an image of weight w counted as w."""
    count = jnp.sum(weights)
    image_means = jnp.mean(x, axis=0)
    mean = jnp.sum(image_means * weights[:, None], axis=0, keepdims=True) / jnp.where(count > 0, count, 1)
    rows = (x - mean[None]) * jnp.sqrt(weights / len(x))[None, :, None]
    scatter = SymmetricMatrix.zeros(1, x.shape[-1]).add_products(rows.reshape(1, -1, x.shape[-1]))
    return Moments(count, mean, scatter)
