"""DN2: how far an image is from the most similar good ones (Bergman, Cohen & Hoshen, arXiv 2002.10445)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, collect, deepest_tap, embedding_of, pooled, score_images
from padim_jax.baselines.neighbours import CHUNK_BYTES, nearest
from padim_jax.baselines.records import BackboneModel, ImageScores
from padim_jax.baselines.settings import Dn2Settings
from padim_jax.method.embedding import Embedding, tap_embeddings


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Dn2(BackboneModel[Dn2Settings]):
    """A fitted DN2: one vector of every good image.

    Attributes:
      bank: float32 (n, c), the mean activations of each image.
    """

    bank: Float[Array, "n c"]


def fit(backbone: Backbone, batches: Batches, settings: Dn2Settings | None = None) -> Dn2:
    """Fit a model: keep ``f(x)``, the mean over all cells of the deepest tap, or of those that the settings name.

    Memory grows with the number of images, 4 c bytes each.

    Args:
      backbone: from :func:`padim_jax.load_backbone`.
      batches: good images, uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
      settings: None for the defaults.

    Raises:
      TypeError, ValueError, FloatingPointError: images of another dtype or shape, fewer than
        ``max(2, settings.n_images)``, or with features that are not finite; an unknown tap.
    """
    settings = Dn2Settings() if settings is None else settings
    config = settings.config
    taps = (deepest_tap(backbone.spec),) if config.taps is None else config.taps
    embedding = embedding_of(backbone, config, taps)
    least = max(2, settings.n_images)
    (bank,) = collect("dn2.fit", batches, config, lambda images: (_embed(backbone, embedding, images),), least)
    return Dn2(backbone, settings, embedding, jnp.asarray(bank))


def score(
    model: Dn2, images: UInt8[Array | np.ndarray, "n height width 3"], *, chunk_bytes: int = CHUNK_BYTES
) -> ImageScores:
    """Score images: ``1/k Σ ‖f(x) - f(y)‖`` over the k most similar of the fitted images y.

    The paper squares the distances; their mean here is in the features' units, as all scores of this package are.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.
      chunk_bytes: of the search, see :func:`padim_jax.baselines.neighbours.nearest`.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("dn2.score", functools.partial(_score, chunk_bytes=chunk_bytes), model, images)


@functools.partial(jax.jit, static_argnames="embedding")
def _embed(backbone: Backbone, embedding: Embedding, images: Array) -> Float[Array, "n c"]:
    return jnp.concatenate([pooled(part) for part in tap_embeddings(backbone, embedding, images)], axis=1)


@functools.partial(jax.jit, static_argnames="chunk_bytes")
def _score(model: Dn2, images: Array, chunk_bytes: int) -> ImageScores:
    queries = _embed(model.backbone, model.embedding, images)
    found = nearest(queries, model.bank, model.settings.n_images, chunk_bytes=chunk_bytes)
    return ImageScores(jnp.mean(found.distance, axis=1))
