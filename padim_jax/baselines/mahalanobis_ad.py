"""Mahalanobis-AD: one Gaussian of whole images per level (Rippel, Mertens & Merhof, arXiv 2005.14140)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, collect, embedding_of, pooled, score_images
from padim_jax.baselines.records import BackboneModel, ImageScores, check_shape
from padim_jax.baselines.settings import MahalanobisAdSettings
from padim_jax.gaussians import shrinkage
from padim_jax.method.embedding import Embedding, tap_embeddings

_strength = jax.jit(shrinkage.coefficient)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class MahalanobisAd(BackboneModel[MahalanobisAdSettings]):
    """A fitted Mahalanobis-AD: N(μ, Σ) of the mean activations of each tap.

    Attributes:
      means: float32 (c,) of each tap, μ.
      whitenings: float32 (c, c) of each tap, the upper triangle L⁻ᵀ with L Lᵀ = Σ.
    """

    means: tuple[Float[Array, " _c"], ...]
    whitenings: tuple[Float[Array, "_c _c"], ...]


def fit(backbone: Backbone, batches: Batches, settings: MahalanobisAdSettings | None = None) -> MahalanobisAd:
    """Fit a model: for each tap, mean and covariance of its mean activations ``f_l(x)`` over the images.

    ``Σ = (1 - ρ) S + ρ (tr S / c) I`` with the divisor n - 1 and ρ by Ledoit and Wolf
    (:mod:`padim_jax.gaussians.shrinkage`), with nothing added to the diagonal; factored in float64. The size of the
    model does not depend on the number of images.

    Args:
      backbone: from :func:`padim_jax.load_backbone`.
      batches: good images, uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
      settings: None for the defaults; ``config.taps`` are the levels, the network's default taps for None, where the
        paper has all nine of EfficientNet-B4.

    Raises:
      TypeError, ValueError, FloatingPointError: images of another dtype or shape, fewer than 3, or with features that
        are not finite; an unknown tap; a covariance that can't be factored, as where all images are equal.
    """
    call, settings = "mahalanobis_ad.fit", MahalanobisAdSettings() if settings is None else settings
    embedding = embedding_of(backbone, settings.config, settings.config.taps)
    levels = collect(call, batches, settings.config, lambda images: _levels(backbone, embedding, images), 3)
    means, whitenings = [], []
    for name, rows in zip(embedding.taps, levels, strict=True):
        mean = rows.mean(axis=0, dtype=np.float64)
        try:
            whitenings.append(jnp.asarray(_whitening(rows - mean), jnp.float32))
        except np.linalg.LinAlgError as error:
            raise FloatingPointError(
                f"{call}: the covariance of {name} over {len(rows)} images could not be factored; look for images that "
                "are all equal, or leave the tap out"
            ) from error
        means.append(jnp.asarray(mean, jnp.float32))
    return MahalanobisAd(backbone, settings, embedding, tuple(means), tuple(whitenings))


def _whitening(rows: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "c c"]:
    """L⁻ᵀ of the shrunk covariance of centred rows; ``LinAlgError`` where it is not positive definite."""
    n, width = rows.shape
    scatter, fourth = rows.T @ rows, (rows**2).sum(axis=1) ** 2
    moments = (jnp.asarray(array, jnp.float32) for array in (scatter[None], fourth.sum()[None], n))
    strength = float(_strength(*moments)[0])
    covariance = (1 - strength) * scatter / (n - 1) + strength * np.trace(scatter) / (n - 1) / width * np.eye(width)
    return np.linalg.inv(np.linalg.cholesky(covariance)).T


def score(model: MahalanobisAd, images: UInt8[Array | np.ndarray, "n height width 3"]) -> ImageScores:
    """Score images: ``Σ_l sqrt((f_l(x) - μ_l)ᵀ Σ_l⁻¹ (f_l(x) - μ_l))``, the sum of the levels' distances.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("mahalanobis_ad.score", _score, model, images)


@functools.partial(jax.jit, static_argnames="embedding")
def _levels(backbone: Backbone, embedding: Embedding, images: Array) -> tuple[Float[Array, "n _c"], ...]:
    """Mean activations of each tap."""
    return tuple(map(pooled, tap_embeddings(backbone, embedding, images)))


@jax.jit
def _score(model: MahalanobisAd, images: Array) -> ImageScores:
    total = jnp.zeros(len(images))
    levels = _levels(model.backbone, model.embedding, images)
    for x, mean, whitening in zip(levels, model.means, model.whitenings, strict=True):
        check_shape("means", mean, x.shape[1:])
        check_shape("whitenings", whitening, (*mean.shape, *mean.shape))
        white = jnp.einsum("nc,cd->nd", x - mean[None], whitening, precision=lax.Precision.HIGHEST)
        total += jnp.linalg.norm(white, axis=1)
    return ImageScores(total)
