"""A threshold that hangs on one image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

_LONE = 1.2  # times the next score: without that one image, the threshold would be lower by more than a sixth


def lone_image(scores: Float[np.ndarray, " n"], paths: Sequence[Path], threshold: float) -> list[str]:
    """A remark on a threshold that is the score of one image, far above the next lower one; none on another."""
    at, below = np.flatnonzero(scores == threshold), scores[scores < threshold]
    following = float(below.max(initial=0))
    if len(at) != 1 or threshold <= _LONE * following:
        return []
    return [
        f"note: the threshold, {threshold:.4g}, is the score of one image, {paths[at[0]]} "
        f"(next lower: {following:.4g}); look at it with padim inspect"
    ]
