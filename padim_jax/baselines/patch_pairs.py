"""Square patches of images: pairs drawn for training, and grids of them for scoring."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

# (down, right) of the eight places around a patch, in units of the distance between them
PLACES = np.asarray([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])


def draw_pairs(
    key: Key[Array, ""], images: Float[Array, "n h w 3"], side: int, pairs: int
) -> tuple[Float[Array, "4 n b s s 3"], Int[Array, "n b"]]:
    """Patches of ``side`` pixels drawn from images, ``pairs`` times from each.

    Returns:
      A patch and one from a place around it, three quarters of a side away and up to an eighth more or less; a patch
      and one that is a thirty-second of a side, or a pixel, away from it each way. And which of ``PLACES`` the second
      one has.
    """
    n, (height, width) = len(images), images.shape[1:3]
    distance, slack, near = 3 * side // 4, side // 8, max(1, side // 32)
    keys = jax.random.split(key, 5)
    last = jnp.asarray([height - side, width - side])[None, None]
    places = jax.random.randint(keys[0], (n, pairs), 0, 8)
    step = jnp.asarray(PLACES * distance)[places]
    lowest, highest = jnp.maximum(-step, 0), last - jnp.maximum(step, 0)
    first = jax.random.randint(keys[1], step.shape, lowest, highest + 1)
    other = jnp.clip(first + step + jax.random.randint(keys[2], step.shape, -slack, slack + 1), 0, last)
    one = jax.random.randint(keys[3], step.shape, 0, last + 1)
    away = jnp.asarray(PLACES * near)[jax.random.randint(keys[4], (n, pairs), 0, 8)]
    beside = jnp.clip(one + away, 0, last)

    def cut(image: Array, corner: Array) -> Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), (side, side, 3))

    cut_all = jax.vmap(jax.vmap(cut, (None, 0)))
    return jnp.stack([cut_all(images, corners) for corners in (first, other, one, beside)]), places


def patch_starts(length: int, side: int, stride: int) -> Int[np.ndarray, " p"]:
    """First pixels of patches along an axis, every ``stride`` pixels, and of the last patch that fits."""
    starts = np.arange(0, length - side + 1, stride)
    return starts if starts[-1] == length - side else np.append(starts, length - side)


def spread(
    values: Float[Array, "n p"], size: tuple[int, int], side: int, stride: int
) -> Float[Array, "n height width"]:
    """For each pixel, the mean of the values of the patches that it lies in, which are given row by row."""
    rows, columns = (jnp.asarray(_coverage(length, side, stride)) for length in size)
    grid = values.reshape(len(values), rows.shape[1], columns.shape[1])
    half = jnp.einsum("nrc,xc->nrx", grid, columns, precision=lax.Precision.HIGHEST)
    return jnp.einsum("yr,nrx->nyx", rows, half, precision=lax.Precision.HIGHEST)


def _coverage(length: int, side: int, stride: int) -> Float[np.ndarray, "length p"]:
    """Which share each patch has of a pixel; rows sum to 1. A stride above the side leaves none uncovered."""
    offsets = np.arange(length)[:, None] - patch_starts(length, side, stride)
    covered = ((offsets >= 0) & (offsets < side)).astype(np.float64)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
