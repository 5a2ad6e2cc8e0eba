"""DFM: what principal components of a layer's features leave unexplained (Ahuja et al., arXiv 1909.11786).

The score is the reconstruction error, which its authors use since (Ndiour, Ahuja & Tickoo, arXiv 2012.04250).
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, collect, deepest_tap, embedding_of, score_images
from padim_jax.baselines.records import BackboneModel, check_shape
from padim_jax.baselines.settings import DfmSettings
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.embedding import Embedding, tap_embeddings
from padim_jax.method.records import Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Dfm(BackboneModel[DfmSettings]):
    """A fitted DFM: the subspace that good images' features lie in.

    Attributes:
      mean: float32 (h, w, c), of the features.
      components: float32 (h, w, c, k), orthonormal directions of the largest variances.
    """

    mean: Float[Array, "h w c"]
    components: Float[Array, "h w c k"]


def fit(backbone: Backbone, batches: Batches, settings: DfmSettings | None = None) -> Dfm:
    """Fit a model: the principal components of one tap's activations, averaged over blocks of ``pool``² cells.

    The fewest components that keep ``variance`` of the features' variance are kept, found in float64.

    Args:
      backbone: from :func:`padim_jax.load_backbone`.
      batches: good images, uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
      settings: None for the defaults; ``config.taps`` names one tap, None the deepest.

    Raises:
      TypeError, ValueError, FloatingPointError: images of another dtype or shape, fewer than 2, all equal, or with
        features that are not finite; an unknown tap, or several.
    """
    settings = DfmSettings() if settings is None else settings
    config = settings.config
    taps = (deepest_tap(backbone.spec),) if config.taps is None else config.taps
    if len(taps) > 1:
        raise ValueError(f"dfm.fit: config.taps={taps!r}, wanted one tap, whose features are decomposed; name one")
    embedding = embedding_of(backbone, config, taps)
    (features,) = collect(
        "dfm.fit", batches, config, lambda images: (_features(backbone, embedding, images, settings.pool),), 2
    )
    rows = features.reshape(len(features), -1).astype(np.float64)
    mean = rows.mean(axis=0)
    components = principal_components(rows - mean, settings.variance)
    if components.shape[1] == 0:
        raise ValueError(f"dfm.fit: the {len(rows)} images have equal features, which vary in no direction")
    shape = features.shape[1:]
    return Dfm(
        backbone,
        settings,
        embedding,
        jnp.asarray(mean.reshape(shape), jnp.float32),
        jnp.asarray(components.reshape(*shape, -1), jnp.float32),
    )


def principal_components(rows: Float[np.ndarray, "n d"], share: float) -> Float[np.ndarray, "d k"]:
    """The fewest leading directions of centred rows that keep ``share`` of their squares; none where all are 0.

    The sign of each is that which makes its largest entry positive.
    """
    _, singular, directions = np.linalg.svd(rows, full_matrices=False)
    total = float((singular**2).sum())
    if total == 0:
        return np.zeros((rows.shape[1], 0))
    kept = np.cumsum(singular**2) / total
    # all directions that have a variance, where the share is 1; beyond, rounding alone points somewhere
    wanted = min(share, 1 - 1e-12)
    leading = directions[: int(np.searchsorted(kept, wanted)) + 1].T
    largest = np.take_along_axis(leading, np.abs(leading).argmax(axis=0)[None], axis=0)
    return leading * np.sign(largest)


def score(model: Dfm, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
    """Score images: ``‖x - μ - W Wᵀ(x - μ)‖`` of their features x, and each block's part of it as a map.

    With e the difference and e_b its c entries at a block b, the map is ``‖e_b‖``, upsampled to the crop and blurred by
    ``sigma``, and the score ``sqrt(Σ_b ‖e_b‖²)``. The papers have no map; that of the blocks is what anomalib draws.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("dfm.score", _score, model, images)


@functools.partial(jax.jit, static_argnames=("embedding", "pool"))
def _features(backbone: Backbone, embedding: Embedding, images: Array, pool: int) -> Float[Array, "n h w c"]:
    """Mean activations of square blocks of cells; the last of a row or column may hold fewer."""
    (x,) = tap_embeddings(backbone, embedding, images)
    for axis in (1, 2):
        length = x.shape[axis]
        side = min(pool, length)  # padding to a larger block would take memory for nothing
        blocks = -(-length // side)
        padded = jnp.pad(x, [(0, blocks * side - length if a == axis else 0) for a in range(4)])
        sums = padded.reshape(*x.shape[:axis], blocks, side, *x.shape[axis + 1 :]).sum(axis=axis + 1)
        cells = np.minimum(length - side * np.arange(blocks), side)
        x = sums / jnp.asarray(cells, x.dtype).reshape([-1 if a == axis else 1 for a in range(4)])
    return x


@jax.jit
def _score(model: Dfm, images: Array) -> Scores:
    features = _features(model.backbone, model.embedding, images, model.settings.pool)
    check_shape("mean", model.mean, features.shape[1:])
    check_shape("components", model.components, (*features.shape[1:], *model.components.shape[-1:]))
    centred = features - model.mean[None]
    precision = lax.Precision.HIGHEST
    coordinates = jnp.einsum("nhwc,hwck->nk", centred, model.components, precision=precision)
    error = centred - jnp.einsum("nk,hwck->nhwc", coordinates, model.components, precision=precision)
    squared = jnp.sum(error**2, axis=-1)
    config = model.config
    maps = anomaly_map(jnp.sqrt(squared), config.crop, config.sigma, config.interpolation)
    return Scores(jnp.sqrt(jnp.sum(squared, axis=(1, 2))), maps)
