"""The centres of the components that all positions share: k-means of a sample of all images' patches.

The sample is bounded and depends on what the images are, not on their order or batches: each patch has a number drawn
from a digest of its image's pixels, and those with the smallest numbers are kept (a bottom-k sample).
"""

import functools
import hashlib
from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.components import find_centres
from padim_jax.method.embedding import Embedding, embed

SAMPLE = 16_384  # patches: as many as k-means of 256 components takes seconds for


class PatchSample:
    """Patches drawn evenly from all different images that are added.

    Args:
      embedding: of the patches.
      size: how many are kept at most.
    """

    def __init__(self, embedding: Embedding, size: int = SAMPLE) -> None:
        self._size = size
        self._numbers = np.zeros(0)
        self._patches = np.zeros((0, embedding.dimension), np.float32)

    def add(
        self,
        images: UInt8[np.ndarray, "n height width 3"],
        x: Float[np.ndarray, "p _m d"],
        valid: Bool[np.ndarray, " n"],
    ) -> None:
        """Take in images and their embeddings; a copy of an image adds nothing."""
        for index in np.flatnonzero(valid):
            digest = hashlib.sha256(np.ascontiguousarray(images[index]).tobytes()).digest()
            numbers = np.random.default_rng(list(digest)).random(len(x))
            limit = self._numbers[-1] if len(self._numbers) == self._size else 1.0
            kept = numbers < limit
            numbers = np.concatenate([self._numbers, numbers[kept]])
            patches = np.concatenate([self._patches, x[kept, index]])
            self._numbers, order = np.unique(numbers, return_index=True)
            self._numbers, self._patches = self._numbers[: self._size], patches[order[: self._size]]

    def centres(self, config: PadimConfig) -> Float[np.ndarray, "k d"]:
        """Centres of the components, from ``config.seed``.

        Raises:
          ValueError: fewer different patches than components, or patches that are not finite.
        """
        if not np.isfinite(self._patches).all():
            raise ValueError("components: embeddings of images are not finite")
        return find_centres(self._patches, config.n_components, config.seed)


def centres_of(
    backbone: Backbone,
    embedding: Embedding,
    projection: Float[Array | np.ndarray, "c d"] | None,
    batches: Iterable[tuple[Array, Array]],
    config: PadimConfig,
) -> Float[np.ndarray, "k d"]:
    """Centres of the components of images, which are read once.

    Args:
      backbone: the frozen network.
      embedding: of the fit.
      projection: its matrix, if any.
      batches: images (n, height, width, 3), uint8, and which of them count, bool (n,).
      config: the settings.

    Raises:
      ValueError: as :meth:`PatchSample.centres`.
    """
    sample = PatchSample(embedding)
    for images, valid in batches:
        add_batch(backbone, embedding, projection, sample, images, valid)
    return sample.centres(config)


def add_batch(
    backbone: Backbone,
    embedding: Embedding,
    projection: Float[Array | np.ndarray, "c d"] | None,
    sample: PatchSample,
    images: Array | np.ndarray,
    valid: Array | np.ndarray,
) -> None:
    """Add the patches of a batch to ``sample``."""
    sample.add(np.asarray(images), np.asarray(_embed(backbone, embedding, images, projection)), np.asarray(valid))


@functools.partial(jax.jit, static_argnames="embedding")
def _embed(backbone: Backbone, embedding: Embedding, images: Array, projection: Array | None) -> Float[Array, "p n d"]:
    return embed(backbone, embedding, images, projection)
