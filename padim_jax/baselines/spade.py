"""SPADE: the most similar good images, then patch against patch (Cohen & Hoshen, arXiv 2005.02357)."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, collect, deepest_tap, embedding_of, patches, pooled, score_images
from padim_jax.baselines.neighbours import CHUNK_BYTES, nearest
from padim_jax.baselines.records import BackboneModel, check_shape
from padim_jax.baselines.settings import SpadeSettings
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.embedding import Embedding, tap_embeddings
from padim_jax.method.records import Scores

_PUBLISHED_IMAGES = 50  # K where the settings name none and there are as many


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Spade(BackboneModel[SpadeSettings]):
    """A fitted SPADE: every good image, as one vector and as activations.

    Attributes:
      bank: float32 (n, c), the mean activations of the deepest tap.
      gallery: float32 (n, h, w, c) of each tap, on its own grid; upsampled, they would take several times as much.
    """

    bank: Float[Array, "n c"]
    gallery: tuple[Float[Array, "n _h _w _c"], ...]

    @property
    def n_images(self) -> int:
        """K: how many of the fitted images an image is compared with."""
        return min(_PUBLISHED_IMAGES, len(self.bank)) if self.settings.n_images is None else self.settings.n_images


def fit(backbone: Backbone, batches: Batches, settings: SpadeSettings | None = None) -> Spade:
    """Fit a model: keep the activations of every good image.

    Memory grows with the number of images, 0.6 MB each with EfficientNet-Lite0's taps and 224×224 pixels.

    Args:
      backbone: from :func:`padim_jax.load_backbone`.
      batches: good images, uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
      settings: None for the defaults.

    Raises:
      TypeError, ValueError, FloatingPointError: images of another dtype or shape, fewer than 2 or than
        ``settings.n_images``, or with features that are not finite; an unknown tap; more ``n_patches`` than there are.
    """
    settings = SpadeSettings() if settings is None else settings
    embedding = embedding_of(backbone, settings.config, settings.config.taps)
    n_patches = embedding.n_positions
    if settings.n_patches > n_patches:
        raise ValueError(f"spade.fit: n_patches={settings.n_patches}, but images have {n_patches} patches; lower it")
    least = max(2, settings.n_images or 2)

    def program(images: Array) -> tuple[Array, ...]:
        whole, parts = _activations(backbone, embedding, images)
        return whole, *parts

    bank, *gallery = collect("spade.fit", batches, settings.config, program, least)
    return Spade(backbone, settings, embedding, jnp.asarray(bank), tuple(map(jnp.asarray, gallery)))


def score(
    model: Spade, images: UInt8[Array | np.ndarray, "n height width 3"], *, chunk_bytes: int = CHUNK_BYTES
) -> Scores:
    """Score images: the mean distance to the K most similar good images, and a map of distances to their patches.

    With f the mean activations of the deepest tap and F(·, p) those of all taps at a patch p, the score is
    ``1/K Σ ‖f(x) - f(y)‖`` over the K nearest images y, and the map ``1/κ Σ ‖F(x, p) - F(y, q)‖`` over the κ nearest
    patches (y, q) of all these images (the paper's equations 2 and 3, which square the distances), upsampled to the
    crop and blurred by ``sigma``.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.
      chunk_bytes: of the search, see :func:`padim_jax.baselines.neighbours.nearest`.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("spade.score", functools.partial(_score, chunk_bytes=chunk_bytes), model, images)


@functools.partial(jax.jit, static_argnames="embedding")
def _activations(backbone: Backbone, embedding: Embedding, images: Array) -> tuple[Array, tuple[Array, ...]]:
    """The mean of the deepest tap, which need not be among those of the embedding, and the activations of these."""
    deepest, names = deepest_tap(backbone.spec), embedding.taps
    if names[-1] == deepest:  # taps are in network order
        parts = tap_embeddings(backbone, embedding, images)
        return pooled(parts[-1]), parts
    both = _with_tap(backbone, embedding, deepest)
    *parts, last = tap_embeddings(backbone, both, images)
    return pooled(last), tuple(parts)


def _with_tap(backbone: Backbone, embedding: Embedding, name: str) -> Embedding:
    """The embedding with all channels of one more tap, behind those that it has."""
    taps = (*embedding.taps, name)
    total = sum(tap.channels for tap in backbone.spec.select(taps))
    return dataclasses.replace(embedding, taps=taps, channels=tuple(range(total)))


@functools.partial(jax.jit, static_argnames="chunk_bytes")
def _score(model: Spade, images: Array, chunk_bytes: int) -> Scores:
    whole, parts = _activations(model.backbone, model.embedding, images)
    similar = nearest(whole, model.bank, model.n_images, chunk_bytes=chunk_bytes)
    for part, good in zip(parts, model.gallery, strict=True):
        check_shape("gallery", good, (len(model.bank), *part.shape[1:]))
    grid, config = model.embedding.grid, model.config

    def of_image(one: tuple[tuple[Array, ...], Int[Array, " k"]]) -> Float[Array, " p"]:
        activations, index = one
        queries = patches(tuple(part[None] for part in activations), grid)[0]

        def compare(best: Array, place: Array) -> tuple[Array, None]:
            other = patches(tuple(lax.dynamic_slice_in_dim(part, place, 1) for part in model.gallery), grid)[0]
            found = nearest(queries, other, model.settings.n_patches, chunk_bytes=chunk_bytes).distance
            both = jnp.concatenate([best, found], axis=1)
            return jnp.sort(both, axis=1)[:, : found.shape[1]], None

        none = jnp.full((len(queries), model.settings.n_patches), jnp.inf)
        return jnp.mean(lax.scan(compare, none, index)[0], axis=1)

    distances = lax.map(of_image, (parts, similar.index)).reshape(-1, *grid)
    maps = anomaly_map(distances, config.crop, config.sigma, config.interpolation)
    return Scores(jnp.mean(similar.distance, axis=1), maps)
