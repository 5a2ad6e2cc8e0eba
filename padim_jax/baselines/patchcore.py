"""PatchCore: the nearest of a few representative patches (Roth et al., arXiv 2106.08265)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone, BackboneSpec
from padim_jax.baselines.coreset import coreset
from padim_jax.baselines.features import Batches, collect, embedding_of, patches, score_images
from padim_jax.baselines.neighbours import CHUNK_BYTES, nearest
from padim_jax.baselines.records import BackboneModel
from padim_jax.baselines.settings import PatchCoreSettings
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.embedding import Embedding, tap_embeddings
from padim_jax.method.records import Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class PatchCore(BackboneModel[PatchCoreSettings]):
    """A fitted PatchCore: the coreset of all patches of all good images.

    Attributes:
      bank: float32 (m, d), the patches that were kept.
    """

    bank: Float[Array, "m d"]


def published_taps(spec: BackboneSpec) -> tuple[str, ...]:
    """The middle layers, as the paper has it: the network's default taps but the finest; all where there is one."""
    return spec.default_taps[1:] or spec.default_taps


def fit(backbone: Backbone, batches: Batches, settings: PatchCoreSettings | None = None) -> PatchCore:
    """Fit a model: gather the patches of all images and keep a share of them, chosen so that none is far from these.

    A patch is the mean over ``patch_size``² cells around it in each tap's own grid (cells outside count as 0, as in the
    published code), coarser taps upsampled bilinearly. The n · p patches, 4 d bytes each, are in memory while the
    coreset is sought, which takes ``share (n p)² search_dimension`` operations at most.

    Args:
      backbone: from :func:`padim_jax.load_backbone`.
      batches: good images, uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
      settings: None for the defaults. Where ``config.taps`` names none, taps are :func:`published_taps`. What is drawn
        comes from ``config.seed``. On near ties the rounding of another batch size can choose other patches.

    Raises:
      TypeError, ValueError, FloatingPointError: images of another dtype or shape, fewer than 2, or with features that
        are not finite; an unknown tap; a coreset of fewer than ``n_neighbours`` patches.
    """
    settings = PatchCoreSettings() if settings is None else settings
    config = settings.config
    taps = published_taps(backbone.spec) if config.taps is None else config.taps
    embedding = embedding_of(backbone, config, taps, settings.patch_size)
    (features,) = collect(
        "patchcore.fit", batches, config, lambda images: (embed_patches(backbone, embedding, images),), 2
    )
    rows = jnp.asarray(features.reshape(-1, features.shape[-1]))
    size = int(len(rows) * settings.share)
    if size < settings.n_neighbours:
        raise ValueError(
            f"patchcore.fit: share={settings.share:g} of {len(rows)} patches keeps {size}, wanted n_neighbours="
            f"{settings.n_neighbours} or more; raise share or lower n_neighbours"
        )
    chosen = coreset(rows, size, jnp.uint32(config.seed), settings.search_dimension)
    return PatchCore(backbone, settings, embedding, rows[chosen])


def score(
    model: PatchCore, images: UInt8[Array | np.ndarray, "n height width 3"], *, chunk_bytes: int = CHUNK_BYTES
) -> Scores:
    """Score images: a map of distances to the nearest patch of the coreset, and the largest of them, weighted.

    With x* the patch whose distance s* to its nearest neighbour m* is the largest, and N the b patches of the coreset
    nearest to m*, the score is ``(1 - exp(s*) / Σ_{m ∈ N} exp(‖x* - m‖)) s*`` (equation 7), and s* itself where b is 1.
    The map is upsampled to the crop and blurred by ``sigma``; the score is not of the map.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.
      chunk_bytes: of the search, see :func:`padim_jax.baselines.neighbours.nearest`.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("patchcore.score", functools.partial(_score, chunk_bytes=chunk_bytes), model, images)


@functools.partial(jax.jit, static_argnames="embedding")
def embed_patches(backbone: Backbone, embedding: Embedding, images: Array) -> Float[Array, "n p d"]:
    """Locally aware patch features, row by row."""
    parts = tap_embeddings(backbone, embedding, images)
    return patches(tuple(_count_borders(part, embedding.neighbourhood) for part in parts), embedding.grid)


def _count_borders(x: Float[Array, "n h w c"], neighbourhood: int) -> Float[Array, "n h w c"]:
    """Means over the cells that exist, as means over all of a neighbourhood, those outside being 0."""
    reach = neighbourhood // 2
    for axis in (1, 2):
        length = x.shape[axis]
        index = np.arange(length)
        cells = np.minimum(index + reach, length - 1) - np.maximum(index - reach, 0) + 1
        shape = [-1 if a == axis else 1 for a in range(4)]
        x = x * jnp.asarray(cells / neighbourhood, x.dtype).reshape(shape)
    return x


@functools.partial(jax.jit, static_argnames="chunk_bytes")
def _score(model: PatchCore, images: Array, chunk_bytes: int) -> Scores:
    features = embed_patches(model.backbone, model.embedding, images)
    values, grid = patch_scores(model.bank, features, model.settings.n_neighbours, chunk_bytes)
    config = model.config
    distances = grid.reshape(-1, *model.embedding.grid)
    return Scores(values, anomaly_map(distances, config.crop, config.sigma, config.interpolation))


def patch_scores(
    bank: Float[Array, "m d"], features: Float[Array, "n p d"], n_neighbours: int, chunk_bytes: int = CHUNK_BYTES
) -> tuple[Float[Array, " n"], Float[Array, "n p"]]:
    """Scores of images, weighted, and the distance of each of their patches to the nearest of the bank."""
    n, p, d = features.shape
    found = nearest(features.reshape(n * p, d), bank, 1, chunk_bytes=chunk_bytes)
    distances, index = found.distance.reshape(n, p), found.index.reshape(n, p)
    image, worst = jnp.arange(n), jnp.argmax(distances, axis=1)
    largest = distances[image, worst]
    if n_neighbours == 1:
        return largest, distances
    around = nearest(bank[index[image, worst]], bank, n_neighbours, chunk_bytes=chunk_bytes).index
    support = jnp.sqrt(jnp.sum((features[image, worst][:, None] - bank[around]) ** 2, axis=-1))
    weight = 1 - jnp.exp(largest - jax.nn.logsumexp(support, axis=1))
    return weight * largest, distances
