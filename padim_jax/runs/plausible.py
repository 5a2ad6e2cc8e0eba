"""Whether images that are said to be good score as a model's own good images do when they are left out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from padim_jax.runs.watch import ignore_remark

LEAST_P = 1e-3  # of good images that are to be believed
_MARGIN = 16  # images, within which one counts, of embeddings of few dimensions
COMPARED = 64  # of the model's own images, that others are compared with


class Implausible(ValueError):
    """The images score so much higher or lower than those fitted on that they may not be good ones, or not new."""


def compare(
    scores: Float[np.ndarray, " m"],
    own: Float[np.ndarray, " n"],
    alternative: Literal["greater", "less"] = "greater",
) -> float:
    """p-value that images as good as a model's own score as high as ``scores``, or as low.

    The one-sided test of Mann and Whitney: the share of pairs in which a score is above one of ``own``, which does not
    depend on how scores are distributed.

    Args:
      scores: of other images.
      own: of the images fitted on, each left out in turn.
      alternative: the side: "greater" for as high, "less" for as low.
    """
    from scipy.stats import mannwhitneyu  # takes a second to import

    return float(mannwhitneyu(scores, own, alternative=alternative).pvalue)


def check_plausible(
    call: str,
    scores: Float[np.ndarray, " m"],
    own: Float[np.ndarray, " n"],
    *,
    may_be_lower: bool = False,
    remark: Callable[[str], None] = ignore_remark,
) -> None:
    """Refuse images as good ones that score far higher than a model's own, or far lower, as those it was fitted on do.

    Args:
      call: to name.
      scores: of the images.
      own: of the images fitted on, each left out in turn.
      may_be_lower: new good images may score lower than ``own`` too, see :func:`one_image_counts`; nothing is proved
        then, and nothing refused.
      remark: is told of low scores then, in a sentence.

    Raises:
      Implausible: naming ``call``, the medians and the p-value of :func:`compare`.
    """
    medians = f"median {np.median(scores):.4g} against {np.median(own):.4g}"
    if (p := compare(scores, own)) < LEAST_P:
        raise Implausible(
            f"{call}: the {len(scores)} images to calibrate on score much higher than the model's own good images do "
            f"when left out ({medians}; p = {p:.2g} that good images would by chance): they may hold defects, or come "
            "from another camera, light or batch. Look at them (padim score); if they are good, pass "
            "--trust-calibration"
        )
    if (p := compare(scores, own, "less")) >= LEAST_P:
        return
    if may_be_lower:
        remark(
            f"warning: the {len(scores)} images to calibrate on score much lower than the model's own good images did "
            f"when left out ({medians}; p = {p:.2g}). New images do so by a model that has more images now, or about "
            "as many as dimensions; but so do images that it was fitted on, in other files too, and a threshold from "
            "those would be far too low: make sure that they are others"
        )
        return
    raise Implausible(
        f"{call}: the {len(scores)} images to calibrate on score much lower than the model's own good images do when "
        f"left out ({medians}; p = {p:.2g} that new good images would by chance), as images do that it was fitted on, "
        "in other files too: a threshold from these would be far too low. Calibrate on images that it was not fitted "
        "on; if these are such, pass --trust-calibration"
    )


def one_image_counts(images: float, dimension: int) -> bool:
    """Whether a model of so many images gives new ones clearly lower scores than a model of one image less does.

    Near as many images as dimensions, a single one adds much to what the model knows of its last few directions; far
    from there, on either side, it does not.
    """
    return abs(images - dimension) <= max(dimension / 2, _MARGIN)


def choose_evenly(paths: Sequence[Path]) -> Sequence[Path]:
    """An even choice of at most 64 files, which are enough to compare others with."""
    return paths[:: max(1, -(-len(paths) // COMPARED))]
