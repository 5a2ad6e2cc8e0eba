"""The components that the cells of all positions are shared out over: where each begins, and how much each holds.

A patch belongs to the component whose centre is nearest. Centres are found once, before a fit folds its images in, and
then stay, so that moments of different images stream, merge and are forgotten component by component.
"""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

LLOYD_STEPS = 50  # at most


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Components:
    """K components.

    Attributes:
      centres: float32 (K, d); a patch belongs to the nearest, the first of several.
      shares: float32 (K,), how many images' worth of patches each holds: ``Σ_k shares_k`` is the count of images.
    """

    centres: Float[Array, "k d"]
    shares: Float[Array, " k"]


def nearest(x: Float[Array, "*cells d"], centres: Float[Array, "k d"]) -> Int[Array, "*cells"]:
    """Which centre is nearest, ``argmin_k ‖x - c_k‖²``."""
    products = jnp.einsum("...d,kd->...k", x, centres, precision=lax.Precision.HIGHEST)
    lengths = jnp.sum(centres**2, axis=-1).reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.argmin(lengths - 2 * products, axis=-1)


def find_centres(patches: Float[np.ndarray, "m d"], n_components: int, seed: int) -> Float[np.ndarray, "k d"]:
    """Centres of k-means, begun by k-means++ (Arthur & Vassilvitskii 2007) from ``seed``; in float64, on the host.

    Args:
      patches: a sample, the same patches in the same order for the same centres.
      n_components: K.
      seed: of the draws.

    Raises:
      ValueError: fewer different patches than components.
    """
    x, generator = patches.astype(np.float64), np.random.default_rng(seed)
    chosen = [int(generator.integers(len(x)))] if len(x) else []
    squared = np.full(len(x), np.inf)
    while chosen and len(chosen) < n_components:
        squared = np.minimum(squared, ((x - x[chosen[-1]]) ** 2).sum(axis=1))
        if not squared.max() > 0:
            break
        chosen.append(int(generator.choice(len(x), p=squared / squared.sum())))
    if len(chosen) < n_components:
        raise ValueError(
            f"n_components={n_components} is more than the {len(chosen)} different patches of the images; lower it"
        )
    centres, before = x[chosen], None
    for _ in range(LLOYD_STEPS):
        belongs = ((centres**2).sum(axis=1)[None] - 2 * x @ centres.T).argmin(axis=1)
        if before is not None and (belongs == before).all():
            break
        members = np.eye(n_components)[belongs]
        counts = members.sum(axis=0)[:, None]
        centres = np.where(counts > 0, members.T @ x / np.maximum(counts, 1), centres)
        before = belongs
    return centres.astype(np.float32)
