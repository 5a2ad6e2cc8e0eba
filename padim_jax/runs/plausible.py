"""Whether images that are said to be good score as a model's own good images do when they are left out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

LEAST_P = 1e-3  # of good images that are to be believed
COMPARED = 64  # of the model's own images, that others are compared with


class Implausible(ValueError):
    """The images score so much higher than those fitted on that they may not be good."""


def compare(scores: Float[np.ndarray, " m"], own: Float[np.ndarray, " n"]) -> float:
    """p-value that images as good as a model's own score as high as ``scores``.

    The one-sided test of Mann and Whitney: the share of pairs in which a score is above one of ``own``, which does not
    depend on how scores are distributed.

    Args:
      scores: of other images.
      own: of the images fitted on, each left out in turn.
    """
    from scipy.stats import mannwhitneyu  # takes a second to import

    return float(mannwhitneyu(scores, own, alternative="greater").pvalue)


def check_plausible(call: str, scores: Float[np.ndarray, " m"], own: Float[np.ndarray, " n"]) -> None:
    """Refuse images as good ones that score far higher than a model's own.

    Raises:
      Implausible: naming ``call``, the medians and the p-value of :func:`compare`.
    """
    p = compare(scores, own)
    if p < LEAST_P:
        raise Implausible(
            f"{call}: the {len(scores)} images to calibrate on score much higher than the model's own good images do "
            f"when left out (median {np.median(scores):.4g} against {np.median(own):.4g}; p = {p:.2g} that good images "
            "would by chance): they may hold defects, or come from another camera, light or batch. Look at them "
            "(padim score); if they are good, pass --trust-calibration"
        )


def choose_evenly(paths: Sequence[Path]) -> Sequence[Path]:
    """An even choice of at most 64 files, which are enough to compare others with."""
    return paths[:: max(1, -(-len(paths) // COMPARED))]
