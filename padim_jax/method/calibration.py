"""What good images score: p-values, thresholds for a stated false-alarm rate, and a fixed colour scale.

The calibration scores s_1 … s_n are those of good images that the model does not know: held out from the fit, or
each left out of it in turn (:mod:`padim_jax.gaussians.leave_one_out`). A new image of score s gets
``p = (1 + #{i: s_i ≥ s}) / (n + 1)``. For held-out images that is the split-conformal p-value: a good new image gets
p ≤ α with a probability of at most α, whatever the distribution, as long as it and they are exchangeable (Vovk,
Gammerman & Shafer 2005). Left-out images give the jackknife's: each score comes from a model of one image less, so
the same holds only approximately, as far as one image changes the model little; no bound covers every distribution
(Barber et al., arXiv 1905.02928). So do maps that are standardised by the good images themselves, held out or not: each
of these is standardised by the others (:mod:`padim_jax.method.standard`), and a new one by all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from padim_jax.config import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.method import brief

# kept: also from models before an update, or from merged parts; folds: each by a model of the other folds
Method = Literal["leave-one-out", "held-out", "kept", "folds"]
Source = Literal["rate", "set"]
RECIPE = ("method", "false_alarm_rate", "pixel_rate")  # see :func:`recipe`

NO_MATCH = -1.0  # of an image that is judged nowhere
_SHIFT = 14  # low bits of a float32 that the histogram drops: bins 2⁻⁹ of their value wide
_FIRST, _LAST = (int(np.float32(edge).view(np.int32)) >> _SHIFT for edge in (2.0**-10, 2.0**20))
BINS = _LAST - _FIRST


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Calibration:
    """Scores of good images, and what follows from them.

    All is in units of the maps: distances, not squared, or standard deviations where maps are standardised.

    Attributes:
      scores: float32 (n,), ascending image scores of good images.
      pixels: float32 (BINS,), how many of their maps' pixels lie in each bin; see :class:`Histogram`.
      threshold: float32 (), images that score more are anomalous.
      pixel_threshold: float32 (), pixels above it are marked.
      colour_scale: float32 (2,), values at the ends of a heat map's colours: the good pixels' median (or a little
        less than the threshold, where that is lower), and as far above the threshold as that is below it.
      method: where the scores come from; static.
      false_alarm_rate: the rate asked for, in (0, 1); static. See :attr:`attained_rate`.
      pixel_rate: share of good images' pixels above ``pixel_threshold``; static.
      threshold_source: "rate" where ``threshold`` follows from ``false_alarm_rate``, "set" where a person set it,
        or labelled images did; static.
      least_match: float32 (), images that match the reference of an aligned model less are anomalous, see
        :func:`least_match`; None where images are not aligned.

    >>> model.calibration.method, model.calibration.false_alarm_rate, len(model.calibration.scores)
    ('leave-one-out', 0.1, 20)
    >>> round(model.calibration.attained_rate, 3)
    0.095
    """

    scores: Float[Array, " n"]
    pixels: Float[Array, " bins"]
    threshold: Float[Array, ""]
    pixel_threshold: Float[Array, ""]
    colour_scale: Float[Array, " 2"]
    method: Method = field(metadata={"static": True})
    false_alarm_rate: float = field(metadata={"static": True})
    pixel_rate: float = field(metadata={"static": True})
    threshold_source: Source = field(default="rate", metadata={"static": True})
    least_match: Float[Array, ""] | None = None

    __repr__ = brief.calibration

    @property
    def attained_rate(self) -> float:
        """``k / (n + 1)`` where the threshold is the k-th largest score: ``false_alarm_rate`` rounded down.

        It is above ``false_alarm_rate`` only where ``n + 1 < 1 / false_alarm_rate``, which n scores can't resolve:
        then the threshold is the largest score. For a threshold that was set, with m scores above it, it is
        ``(m + 1) / (n + 1)``, the p-value of a score just above.
        """
        n = len(self.scores)
        return (self._above + 1 if self.threshold_source == "set" else _rank(n, self.false_alarm_rate)) / (n + 1)

    @property
    def images_wanted(self) -> int:
        """Fewest images for which the threshold attains ``false_alarm_rate``; 1 where the threshold was set."""
        return 1 if self.threshold_source == "set" else images_wanted(self.false_alarm_rate)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval in which the false-alarm rate of this very threshold lies with ``confidence``.

        Over draws of n calibration scores, the rate beyond the k-th largest follows Beta(k, n + 1 - k)
        (order statistics of independent, continuous scores). For a threshold that was set, with m of n scores above it,
        it is Clopper and Pearson's interval, from Beta(m, n + 1 - m) to Beta(m + 1, n - m).
        """
        from scipy.special import betaincinv  # scipy.stats would take a second to import, this a tenth

        n, tail = len(self.scores), (1 - confidence) / 2
        if self.threshold_source == "set":
            m = self._above
            low = betaincinv(m, n + 1 - m, tail) if m else 0
            return float(low), float(betaincinv(m + 1, n - m, 1 - tail) if m < n else 1)
        k = _rank(n, self.false_alarm_rate)
        low, high = betaincinv(k, n + 1 - k, [tail, 1 - tail])
        return float(low), float(high)

    @property
    def _above(self) -> int:
        return int(np.count_nonzero(np.asarray(self.scores) > np.asarray(self.threshold)))


def pixel_median(reference: Calibration) -> float:
    """What half of good images' pixels exceed, in units of the maps."""
    return _quantile(np.asarray(reference.pixels), 0.5)


def pixel_colour_scale(reference: Calibration) -> tuple[float, float]:
    """Values at the ends of a heat map's colours where an image's score is not of its map.

    The good pixels' median, and as far above the pixel threshold, which is in the middle, as that is below it.
    """
    low = pixel_median(reference)
    return low, float(
        max(2 * float(reference.pixel_threshold) - low, np.nextafter(np.float32(low), np.float32(np.inf)))
    )


class Histogram:
    """Counts of maps' values that can be merged, in bins as wide as 2⁻⁹ of their value, from 2⁻¹⁰ to 2²⁰."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: Float[np.ndarray, "*shape"]) -> None:
        """Count values; those beyond the ends, and those below 0, count in the outermost bins."""
        # the order of non-negative floats is that of their bits
        bins = (np.maximum(values, 0).astype(np.float32).view(np.int32) >> _SHIFT) - _FIRST
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1).ravel(), minlength=BINS)


def calibration(
    scores: Float[np.ndarray, " n"],
    pixels: Float[np.ndarray, " bins"],
    method: Method,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    pixel_rate: float = PIXEL_RATE,
    threshold: float | None = None,
    least_match: float | None = None,
) -> Calibration:
    """Calibration from good images' scores and the histogram of their pixels.

    The threshold is the k-th largest score, ``k = max(1, floor(α (n + 1)))``: a score above it is one with p ≤ α, or,
    where n is too small for any, one above all. The pixel threshold is the least bin edge with at most a share of
    ``pixel_rate`` above; pixels of one image depend on each other, so that share is a mean over images and says
    nothing about a single one. A given ``threshold`` takes the place of the first; p-values are those of the scores
    all the same.

    Raises:
      ValueError: no scores, scores that are not finite, a rate outside (0, 1), a threshold that is no positive number.
    """
    for name, rate in (("false_alarm_rate", false_alarm_rate), ("pixel_rate", pixel_rate)):
        if not 0 < rate < 1:
            raise ValueError(f"calibrate: {name}={rate!r}, wanted a number above 0 and below 1")
    scores = np.sort(np.asarray(scores, np.float32))
    if len(scores) == 0 or not np.isfinite(scores).all():
        raise ValueError("calibrate: wanted finite scores of at least one good image")
    if threshold is None:
        threshold_value = scores[len(scores) - _rank(len(scores), false_alarm_rate)]
    else:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise TypeError(f"calibrate: threshold={threshold!r}, wanted a number")
        with np.errstate(over="ignore", under="ignore"):
            threshold_value = np.float32(threshold)
        if not 0 < threshold_value < np.inf:
            raise ValueError(
                f"calibrate: threshold={threshold!r}, wanted a positive finite number, in units of the scores"
            )
    edge = _quantile(pixels, pixel_rate)
    # maps may be as good as constant, and the quantile is the upper edge of its bin
    low = min(_quantile(pixels, 0.5), threshold_value - abs(threshold_value) * 2.0**-8)
    colours = np.asarray([low, 2 * threshold_value - low], np.float32)
    arrays = (scores, np.asarray(pixels, np.float32), threshold_value, np.float32(edge), colours)
    return Calibration(
        *jax.device_put(arrays),  # one by one, each number of scores would compile a program to copy it
        method=method,
        false_alarm_rate=float(false_alarm_rate),
        pixel_rate=float(pixel_rate),
        threshold_source="rate" if threshold is None else "set",
        least_match=None if least_match is None else jax.device_put(np.float32(least_match)),
    )


def least_match(matches: Float[np.ndarray, " n"]) -> float | None:
    """How well an image has to match the reference: the worst good one, less what that lies below their median.

    A good new image is the worst of n + 1 with a probability of 1 / (n + 1); one that is as much worse again is rarer.

    Args:
      matches: of good images; those that are not finite, and none at all where nothing is aligned, tell nothing, nor
        do images that are judged nowhere, which never match.
    """
    aligned = matches[np.isfinite(matches)]
    if not len(aligned):
        return None
    known, least = aligned[aligned > NO_MATCH], float(np.nextafter(np.float32(NO_MATCH), np.float32(0)))
    return max(least, float(2 * known.min() - np.median(known))) if len(known) else least


def images_wanted(false_alarm_rate: float) -> int:
    """Fewest images whose scores give a threshold of this rate."""
    return math.ceil(1 / false_alarm_rate - 1e-9) - 1


def recipe(reference: Calibration) -> dict[str, Any]:
    """What :func:`calibration` needs, besides the scores and pixels, to make the same calibration again."""
    threshold = {"threshold": float(reference.threshold)} if reference.threshold_source == "set" else {}
    return {name: getattr(reference, name) for name in RECIPE} | threshold


def at_rates(reference: Calibration, false_alarm_rate: float, pixel_rate: float) -> Calibration:
    """The same scores with thresholds for other rates, also where the threshold was set before."""
    scores, pixels = np.asarray(reference.scores), np.asarray(reference.pixels)
    return replace(
        calibration(scores, pixels, reference.method, false_alarm_rate, pixel_rate), least_match=reference.least_match
    )


def join_calibrations(parts: Sequence[Calibration], false_alarm_rate: float, pixel_rate: float) -> Calibration:
    """The scores of several calibrations together, taken as scores that are kept from other states of a model.

    A good new image's score by the model as it is now, and these, are not exchangeable any more, so the false-alarm
    rate holds only as far as the models' scores are alike. More images make the distances of good images smaller, so
    scores kept from a model of fewer are rather too high: they err towards fewer false alarms.

    Raises:
      ValueError: as :func:`calibration`.
    """
    scores = np.concatenate([np.asarray(part.scores) for part in parts])
    pixels = sum((np.asarray(part.pixels) for part in parts), np.zeros(BINS, np.float32))
    method: Method = parts[0].method if len(parts) == 1 else "kept"
    matches = [float(part.least_match) for part in parts if part.least_match is not None]
    return calibration(
        scores, pixels, method, false_alarm_rate, pixel_rate, least_match=min(matches) if matches else None
    )


def without_scores(reference: Calibration, gone: Sequence[int], pixels: Float[np.ndarray, " bins"]) -> Calibration:
    """The calibration without the scores of some images, at the same rates; a threshold that was set stays.

    Args:
      reference: the calibration.
      gone: places of their scores among the ascending ones.
      pixels: the histogram of their maps' pixels (:class:`Histogram`).

    Raises:
      ValueError: no score would be left.
    """
    scores = np.delete(np.asarray(reference.scores), list(gone))
    left = np.maximum(np.asarray(reference.pixels) - pixels, 0)
    least = None if reference.least_match is None else float(reference.least_match)
    return calibration(scores, left, **recipe(reference), least_match=least)


def at_threshold(reference: Calibration, threshold: float, pixel_rate: float | None = None) -> Calibration:
    """The same scores with a given threshold, in units of the scores; ``pixel_rate`` stays, unless it is given.

    Raises:
      ValueError: a threshold that is no positive finite number.
    """
    scores, pixels = np.asarray(reference.scores), np.asarray(reference.pixels)
    pixel_rate = reference.pixel_rate if pixel_rate is None else pixel_rate
    rates = reference.false_alarm_rate, pixel_rate
    changed = calibration(scores, pixels, reference.method, *rates, float(threshold))
    return replace(changed, least_match=reference.least_match)


def p_values(reference: Calibration, scores: Float[Array | np.ndarray, " m"]) -> Float[Array | np.ndarray, " m"]:
    """:func:`conformal_p_values` of each score by the calibration's, in (0, 1]; small means anomalous.

    NumPy scores stay on the host, without a program for every number of scores.
    """
    if isinstance(scores, np.ndarray):
        return conformal_p_values(np.asarray(reference.scores), scores).astype(np.float32)
    return conformal_p_values(reference.scores, scores)


def conformal_p_values(
    ascending: Float[Array | np.ndarray, " n"], scores: Float[Array | np.ndarray, " m"], *, among: bool = False
) -> Float[Array | np.ndarray, " m"]:
    """``p = (1 + #{i: s_i ≥ s}) / (n + 1)`` for each score s, from n others.

    Args:
      ascending: sorted scores of good images.
      scores: scores to compare with them, of the same kind of array.
      among: the scores are among ``ascending``: each is compared with all but itself.
    """
    n, library = len(ascending) + (not among), np if isinstance(scores, np.ndarray) else jnp
    at_least = n - library.searchsorted(ascending, scores, side="left")  # itself included
    return at_least.astype(np.float64 if library is np else jnp.float32) / max(1, n)


def is_anomalous(
    reference: Calibration,
    scores: Float[Array | np.ndarray, " m"],
    matches: Float[Array | np.ndarray, " m"] | None = None,
) -> Bool[Array | np.ndarray, " m"]:
    """Which scores lie above the threshold, or which images match the reference of an aligned model too badly.

    Those that are not finite count as above. NumPy scores stay on the host.
    """
    is_above = ~(scores <= _beside(reference.threshold, scores))
    if matches is None or reference.least_match is None:
        return is_above
    return is_above | ~(matches >= _beside(reference.least_match, matches))


def _beside(limit: Array, values: Array | np.ndarray) -> Array | np.ndarray:
    return np.asarray(limit) if isinstance(values, np.ndarray) else limit


def _rank(n: int, rate: float) -> int:
    return max(1, math.floor(rate * (n + 1) + 1e-9))  # 0.05 * 20 must not fall short of 1


def _quantile(counts: Float[np.ndarray, " bins"], rate: float) -> float:
    """Least upper edge of a bin with at most a share of ``rate`` of the counts above it."""
    counts = np.asarray(counts, np.float64)
    above = counts[::-1].cumsum()[::-1] - counts  # beyond each bin
    index = int(np.argmax(above <= rate * counts.sum()))
    return float(np.array((_FIRST + index + 1) << _SHIFT, np.int32).view(np.float32))
