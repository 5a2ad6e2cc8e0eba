"""The embedding whose distance a compact form changes most: what the bound of every embedding is the bound of."""

from dataclasses import dataclass
from typing import no_type_check

import jax
import numpy as np
from jaxtyping import Float

from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.low_rank import LowRankGaussian


@no_type_check
@dataclass(frozen=True, eq=False)
class WorstCase:
    """An embedding at one position, and its distances.

    Attributes:
      position: the one of p whose bound is the largest.
      deviation: x - μ there, float32 (d,).
      distance: M of it by the exact form, not squared, about sqrt(d).
      error: ``|M' - M| / M`` by the compact form, both in float64.
    """

    position: int
    deviation: Float[np.ndarray, " d"]
    distance: float
    error: float


def worst_case(exact: WhitenedGaussian, other: WhitenedGaussian | LowRankGaussian, position: int) -> WorstCase:
    """The embedding at a position whose distance two forms differ in most, relative to the distance.

    With ``x - μ = L z``, ``L = W⁻ᵀ``: ``M = ‖z‖`` and ``M' = ‖R L z‖``, R the rows whose squares M'² adds up. So it is
    the right singular vector z of R L whose singular value is furthest from 1.

    Args:
      exact: p positions.
      other: the same in a compact form.
      position: one of p.
    """
    one, small = (jax.tree.map(lambda array: array[position : position + 1], g) for g in (exact, other))
    whitening = np.asarray(one.whitening.square(), np.float64)[0]
    factor = np.linalg.inv(whitening).T
    rows = _rows(small)
    _, stretched, directions = np.linalg.svd(rows @ factor, full_matrices=False)
    worst = int(np.argmax(np.abs(stretched - 1)))
    deviation = (factor @ directions[worst] * np.sqrt(len(factor))).astype(np.float32)
    distance, changed = (float(np.linalg.norm(side @ deviation.astype(np.float64))) for side in (whitening.T, rows))
    return WorstCase(position, deviation, distance, abs(changed - distance) / distance)


def _rows(gaussian: WhitenedGaussian | LowRankGaussian) -> Float[np.ndarray, "k d"]:
    """R with ``M² = ‖R (x - μ)‖²``, of one position."""
    if isinstance(gaussian, WhitenedGaussian):
        return np.asarray(gaussian.whitening.square(), np.float64)[0].T
    basis, spread = np.asarray(gaussian.basis, np.float64)[0], np.asarray(gaussian.spread, np.float64)[0]
    noise = float(np.asarray(gaussian.noise)[0])
    outside = np.eye(basis.shape[1]) - basis.T @ basis
    return np.concatenate([outside / np.sqrt(noise), basis / np.sqrt(spread + noise)[:, None]])
