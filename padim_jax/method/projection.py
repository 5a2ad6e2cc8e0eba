"""Matrices that take all channels of the taps to d dimensions: x ↦ Wᵀx with WᵀW = I."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from padim_jax.backbones import Backbone
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.moments import Moments
from padim_jax.method.embedding import Embedding, embed


def semi_orthogonal(seed: int, n_channels: int, dimension: int) -> Float[np.ndarray, "c d"]:
    """W drawn uniformly among the matrices with orthonormal columns (Kim et al., arXiv 2105.14737).

    The Q of a Gaussian matrix's QR factors, its columns' signs fixed by R's diagonal (Mezzadri 2007,
    arXiv math-ph/0609050). Equal seeds give equal matrices up to the rounding of LAPACK.
    """
    with jax.ensure_compile_time_eval():  # the draw is static, under jit too
        normal = np.asarray(jax.random.normal(jax.random.key(seed), (n_channels, dimension)), np.float64)
    q, r = np.linalg.qr(normal)
    return (q * np.sign(np.diagonal(r))).astype(np.float32)


def principal_components(
    backbone: Backbone, embedding: Embedding, batches: Iterable[tuple[Array, Array]]
) -> Float[np.ndarray, "c d"]:
    """W, the leading eigenvectors of the covariance of all channels over all patches of all images.

    Args:
      backbone: the frozen network.
      embedding: of all channels, ``projected`` to d.
      batches: images (n, height, width, 3), uint8, and which of them count, bool (n,).

    Raises:
      ValueError: no images, or channels that are not finite.
    """
    moments = channel_moments(embedding)
    for images, valid in batches:
        jax.block_until_ready(moments)  # a fast reader must not queue up images
        moments = fold_channels(backbone, embedding, moments, images, valid)
    return leading_components(moments, embedding.dimension)


def channel_moments(embedding: Embedding) -> Moments:
    """Moments of all channels over no patch: one position, which :func:`fold_channels` folds every patch into."""
    return gaussian_moments.init(1, len(embedding.channels))


def leading_components(moments: Moments | None, dimension: int) -> Float[np.ndarray, "c d"]:
    """The leading eigenvectors of the scatter of :func:`fold_channels`.

    Raises:
      ValueError: no images, or channels that are not finite.
    """
    scatter = np.zeros(()) if moments is None else np.asarray(moments.scatter.square()[0], np.float64)
    if moments is None or moments.count == 0 or not np.isfinite(scatter).all():
        raise ValueError("principal components: no images, or embeddings that are not finite")
    _, vectors = np.linalg.eigh(scatter)
    leading = vectors[:, ::-1][:, :dimension]
    # an eigenvector's sign is arbitrary: the largest entry is made positive, so that equal data give equal W
    largest = np.take_along_axis(leading, np.abs(leading).argmax(axis=0)[None], axis=0)
    return (leading * np.sign(largest)).astype(np.float32)


@functools.partial(jax.jit, static_argnames="embedding")
def fold_channels(backbone: Backbone, embedding: Embedding, moments: Moments, images: Array, valid: Array) -> Moments:
    """Fold all patches of images into the moments of their channels."""
    x = embed(backbone, embedding, images)  # (p, n, c)
    counts = jnp.broadcast_to(valid[None], x.shape[:2]).reshape(-1)
    return gaussian_moments.update(moments, x.reshape(1, -1, x.shape[-1]), counts)
