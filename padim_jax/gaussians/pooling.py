"""A covariance pooled over all positions, which counts at each of them as that of some more images.

Each position of n images in d channels has d (d + 1) / 2 numbers to estimate; all positions together have p times as
many images. The posterior mean under an inverse Wishart prior of mean T and ν degrees of freedom beyond the fewest
takes both, ``Σ = (C + ν T) / (n - 1 + ν)``: 0 images leave positions to themselves, and many give them all one
covariance about means of their own. Friedman 1989 (doi:10.1080/01621459.1989.10478752) shrinks the covariances of
classes towards that of all in the same way.
"""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.triangle import SymmetricMatrix


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prior:
    """What is known of the covariance at a position before an image is seen.

    Attributes:
      covariance: float32 (d, d), T.
      images: float32 (), ν, the number of images that it counts as.
    """

    covariance: Float[Array, "d d"]
    images: Float[Array, ""]


def pooled_covariance(moments: Moments, n_positions: int) -> Float[Array, "d d"]:
    """``T = Σ_p C_p / (P (n - 1))``, the mean over P positions of their sample covariances.

    Where n_p images cover each position, the divisor is ``Σ_p max(n_p - 1, 0)``. Not finite for fewer than two images.

    Args:
      moments: of the positions; more of them than P hold zeros, as a mesh fills up.
      n_positions: P.
    """
    if moments.coverage is None:
        divisor = n_positions * jnp.where(moments.count > 1, moments.count - 1, jnp.nan)
    else:
        divisor = jnp.where(moments.count > 1, jnp.sum(jnp.maximum(moments.coverage - 1, 0)), jnp.nan)
    total = SymmetricMatrix(tuple(jnp.sum(panel, axis=0, keepdims=True) for panel in moments.scatter.panels))
    return total.square()[0] / divisor
