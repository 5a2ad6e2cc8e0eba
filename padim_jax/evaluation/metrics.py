"""How well scores tell defective from good: whole images by scikit-learn, pixels by sums that fit in memory.

A test set of 160 maps of 1024 × 1024 pixels has 168 million scores. Only the scores of defective
pixels move the true-positive rate, so they alone serve as thresholds; the normal ones are sorted
in place and searched, and no other array of their length is ever held.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from numpy.typing import ArrayLike
from scipy import ndimage

from padim_jax.lazy import extra

with extra("evaluate"):
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

_CUT = np.uint32(0xFFFFFF80)  # keeps sign, exponent and 16 of a float32's 23 mantissa bits
_BLOCK = 2**22  # values folded at a time


@dataclass(frozen=True)
class ImageMetrics:
    """Separation of defective from good images; every value but the threshold is in [0, 1].

    Attributes:
      auroc: area under the ROC curve, ties counted half; None where the labels are all alike.
      average_precision: ``Σ (R_k - R_{k-1}) P_k`` over the distinct scores; None without a defective image.
      best_f1: the largest F1 of any threshold; None without a defective image. The threshold is
        chosen on the very labels it is judged by, so this is the best that an oracle could reach.
      best_f1_threshold: that threshold; scores at or above it are called defective.
    """

    auroc: float | None
    average_precision: float | None
    best_f1: float | None
    best_f1_threshold: float | None


@dataclass(frozen=True)
class PixelMetrics:
    """Separation of defective from normal pixels; every rate is in [0, 1].

    Attributes:
      auroc: area under the ROC curve, ties counted half. None, as are the next two, unless there
        are pixels of both kinds.
      average_precision: ``Σ (R_k - R_{k-1}) P_k`` over the distinct scores.
      pro: area under the per-region overlap against the false-positive rate up to the limit, divided by the limit.
      n_regions: 8-connected regions of defective pixels.
      n_normal_pixels: pixels outside the masks.
      n_defective_pixels: pixels inside the masks.
      exact: false where scores were cut to bound memory; average_precision and pro then carry no bound.
      auroc_error: bound on ``|auroc - exact auroc|``: half the share of (normal, defective) pairs
        that the cut left tied; 0 where exact.
    """

    auroc: float | None
    average_precision: float | None
    pro: float | None
    n_regions: int
    n_normal_pixels: int
    n_defective_pixels: int
    exact: bool
    auroc_error: float


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> ImageMetrics:
    """Metrics of one score per image.

    Args:
      labels: (n,), true or 1 for defective.
      scores: (n,), finite, larger for more anomalous.

    Raises:
      ValueError: the shapes differ or are not (n,), a label is neither 0 nor 1, or a score is not finite.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"image_metrics: labels and scores must both have shape (n,), not {labels.shape} and {scores.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"image_metrics: labels must be 0 or 1, not {labels[~np.isin(labels, (0, 1))][0]}")
    if not np.isfinite(scores).all():
        raise ValueError(f"image_metrics: scores must be finite; {np.sum(~np.isfinite(scores))} are not")
    labels = labels.astype(bool)
    if not labels.any():
        return ImageMetrics(None, None, None, None)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    total = precision + recall
    # the last point has no threshold
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
    best = np.argmax(f1)
    return ImageMetrics(
        auroc=None if labels.all() else _rate(roc_auc_score(labels, scores)),
        average_precision=_rate(average_precision_score(labels, scores)),
        best_f1=_rate(f1[best]),
        best_f1_threshold=float(thresholds[best]),
    )


class PixelScores:
    """Collects maps and masks; neither their order nor the batches change any metric.

    Args:
      limit: pixels of either kind held exactly, a normal one in 4 bytes, a defective one in 8. With
        more, scores are cut towards zero to 16 mantissa bits (a relative 2⁻¹⁶ at most) and held as
        distinct values with counts: some 65,000 for each doubling between the smallest and the largest.
    """

    def __init__(self, limit: int = 2**28) -> None:
        self._limit = limit
        self._normal = _Multiset(np.float32)
        # score + i · area of its region: NumPy sorts complex numbers by real part, then by imaginary part,
        # so that sums over the regions' weights are made in one order whatever order the pixels came in
        self._defective = _Multiset(np.complex64)
        self._n_regions = 0

    def add(self, anomaly_map: Float32[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> None:
        """Add one image; sizes may differ between images, and no region spans two images.

        Args:
          anomaly_map: finite, larger for more anomalous.
          mask: true where defective.

        Raises:
          ValueError: a dtype or a shape is wrong, the shapes differ, or a score is not finite.
        """
        anomaly_map, mask = np.asarray(anomaly_map), np.asarray(mask)
        if anomaly_map.dtype != np.float32 or mask.dtype != np.bool_:
            raise ValueError(
                f"PixelScores.add: anomaly_map must be float32 and mask bool, not {anomaly_map.dtype} and {mask.dtype}"
            )
        if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape:
            raise ValueError(
                "PixelScores.add: anomaly_map and mask must both have shape (h, w), "
                f"not {anomaly_map.shape} and {mask.shape}"
            )
        if not np.isfinite(anomaly_map).all():
            count = np.sum(~np.isfinite(anomaly_map))
            raise ValueError(f"PixelScores.add: anomaly_map must be finite; {count} of {mask.size} pixels are not")
        regions = np.empty(mask.shape, np.int32)
        self._n_regions += cast(int, ndimage.label(mask, structure=np.ones((3, 3)), output=regions))
        inside = regions[mask]
        defective = np.empty(len(inside), np.complex64)
        defective.real = anomaly_map[mask]
        defective.imag = np.bincount(inside)[inside]
        self._normal.add(anomaly_map[~mask])
        self._defective.add(defective)
        if max(self._normal.total, self._defective.total) > self._limit:
            self._normal.cut()
            self._defective.cut()

    def metrics(self, fpr_limit: float = 0.3) -> PixelMetrics:
        """Metrics of the pixels so far; more may be added afterwards.

        With R regions, a threshold t has ``PRO(t) = 1/R Σ 1/area`` over defective pixels of score ≥ t,
        and ``FPR(t)``, the share of normal pixels of score ≥ t. The curve joins the points of all
        distinct thresholds by straight lines and is interpolated at the limit.

        Args:
          fpr_limit: the false-positive rate up to which PRO is integrated, in (0, 1].

        Raises:
          ValueError: the limit is outside (0, 1].
        """
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"PixelScores.metrics: fpr_limit must be in (0, 1], not {fpr_limit}")
        n, d, exact = self._normal.total, self._defective.total, self._normal.exact
        if n == 0 or d == 0:
            return PixelMetrics(None, None, None, self._n_regions, n, d, exact, 0.0)

        pixels, counts = (array[::-1] for array in self._defective.ascending())
        scores, areas = np.real(pixels), np.imag(pixels)
        ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # index of the last of each distinct score
        thresholds = scores[ends]
        # counts at or above each threshold, from the highest down; `above` leaves out the normal pixels tied with it
        true = np.cumsum(counts)[ends]
        overlap = np.cumsum(counts / areas.astype(np.float64))[ends]
        false, above = (n - rank for rank in self._normal.ranks(thresholds))

        recall_steps = np.diff(true, prepend=0) / d
        return PixelMetrics(
            auroc=_rate(np.sum(recall_steps * (1 - (false + above) / (2 * n)))),
            average_precision=_rate(np.sum(recall_steps * true / (true + false))),
            pro=_rate(_area(above / n, false / n, overlap / overlap[-1], fpr_limit)),
            n_regions=self._n_regions,
            n_normal_pixels=n,
            n_defective_pixels=d,
            exact=exact,
            auroc_error=0.0 if exact else _rate(np.sum(recall_steps * (false - above) / (2 * n))),
        )


class _Multiset:
    """Scores in one growing array; once cut, the distinct values in ascending order with their counts."""

    def __init__(self, dtype: type[np.float32] | type[np.complex64]) -> None:
        self.total = 0
        self._values = np.empty(0, dtype)  # longer than total while exact, so that it grows rarely
        self._counts = np.empty(0, np.int64)  # unused while exact
        self._pending: list[np.ndarray] = []  # to be cut and folded in
        self._n_pending = 0
        self.exact = True

    def add(self, values: Shaped[np.ndarray, " n"]) -> None:
        """Add ``values`` and take them over: they may be overwritten."""
        before, self.total = self.total, self.total + len(values)
        if not self.exact:  # each fold goes over all values so far, so folds are few and large
            self._pending.append(values)
            self._n_pending += len(values)
            if self._n_pending >= _BLOCK:
                self._flush()
            return
        if self.total > len(self._values):
            # reallocated in place, where the old and the new array together would double the peak
            self._values.resize(max(self.total, len(self._values) * 5 // 4), refcheck=False)
        self._values[before : self.total] = values

    def cut(self) -> None:
        """Cut the scores to 16 mantissa bits, for good: from here on, new scores are cut too."""
        if not self.exact:
            return
        scores = self._values[: self.total]
        self._values, self.exact = np.empty(0, scores.dtype), False
        for start in range(0, self.total, _BLOCK):
            self._fold(scores[start : start + _BLOCK])

    def ascending(self) -> tuple[Shaped[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Values in ascending order with their counts; an exact set repeats values instead."""
        if not self.exact:
            self._flush()
            return self._values, self._counts
        values = self._values[: self.total]
        values.sort()
        return values, np.broadcast_to(np.int64(1), self.total)

    def ranks(self, thresholds: Shaped[np.ndarray, " t"]) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " t"]]:
        """How many values lie below each threshold, and how many at or below it."""
        values, counts = self.ascending()
        below, up_to = values.searchsorted(thresholds, "left"), values.searchsorted(thresholds, "right")
        if self.exact:
            return below, up_to
        cumulative = np.append(0, np.cumsum(counts))
        return cumulative[below], cumulative[up_to]

    def _flush(self) -> None:
        if self._pending:
            self._fold(np.concatenate(self._pending))
            self._pending, self._n_pending = [], 0

    def _fold(self, values: Shaped[np.ndarray, " n"]) -> None:
        bits = np.real(values).view(np.uint32)
        bits &= _CUT
        values, counts = np.unique(values, return_counts=True)
        n_before = len(self._values)
        self._values, positions = np.unique(np.concatenate([self._values, values]), return_inverse=True)
        merged = np.zeros(len(self._values), np.int64)
        merged[positions[:n_before]] += self._counts
        merged[positions[n_before:]] += counts
        self._counts = merged


def _area(above: np.ndarray, false: np.ndarray, overlap: np.ndarray, limit: float) -> float:
    """Mean height over [0, limit] of the curve that meets ``overlap`` at ``false``.

    Between thresholds it runs level up to ``above``, then straight: up, or along normal pixels
    tied with the threshold.
    """
    x = np.concatenate([[0], np.stack([above, false], axis=1).ravel(), [1]])
    y = np.concatenate([[0], np.stack([np.append(0, overlap[:-1]), overlap], axis=1).ravel(), [1]])
    end = np.searchsorted(x, limit)  # x[end - 1] < limit <= x[end]
    at_limit = y[end - 1] + (y[end] - y[end - 1]) * (limit - x[end - 1]) / (x[end] - x[end - 1])
    return np.trapezoid(np.append(y[:end], at_limit), np.append(x[:end], limit)) / limit


def _rate(value: float) -> float:
    """``value`` as a plain number, clipped to [0, 1], which rounding may have left."""
    return min(max(float(value), 0.0), 1.0)
