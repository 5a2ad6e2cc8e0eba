"""Anomaly maps in standard deviations: how far each pixel is from what good images have there.

Where good parts vary, as along an edge, the distances of good images are large and vary too, and a defect elsewhere
may stay below them. With m and s the mean and the standard deviation, at each pixel, of maps M of n good images that
the model does not know, ``z = (M - m) / s`` says by how many standard deviations a pixel is beyond them.

A variance v of few images is uncertain, so it is drawn towards v̄, the mean over all pixels in the region of interest::

    s² = ((n - 1) v + ν v̄) / (n - 1 + ν) = (1 - b) v + b v̄,    b = ν / (n - 1 + ν).

Of all such sums, the one with the least mean squared error over the pixels has Bühlmann's credibility factor (ASTIN
Bulletin 4, 1967): b is the share of chance in the variance of v over the pixels. For normal maps chance contributes
``2 E[σ⁴] / (n - 1)``, with σ² the true variances; with u the variance of v over the pixels, that share is

    b = min(1, 2 (u + v̄²) / ((n + 1) u)),    ν = (n - 1) b / (1 - b).

(Equal true variances give ``u = 2 v̄² / (n - 1)`` by chance and b = 1.) It is also the mean of σ² given v where the σ²
follow a scaled inverse χ² distribution, as in Smyth (Statistical Applications in Genetics 3, 2004). Neighbouring
pixels vary together, which makes u less precise, but hardly biased, as they are many.

A map of z finds what is unusual at its place, one of distances what is unusual anywhere, and which of them finds more
depends on the parts. ``anomaly_map="combined"`` takes the higher of both at each pixel, once distances are on the scale
of z: with a and c the mean and the standard deviation of the image scores of the n good images by maps of distances,
and b and d of those by maps of z, it is

    max(z, b + d (M - a) / c).

So an image is judged by that of the two maps in which it is further beyond good images.

The score of an image among the n is made without its share in m and s, and without its own scores in a, b, c and d.
(Its share in the z of each of the others, by which they have their scores, stays: it is about 1/n of 1/n.) All is
float64 on the host.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from padim_jax.config import AnomalyMap
from padim_jax.method import brief

FEWEST = 3  # images, of which one is left out and two have a variance
_LEAST_SPREAD = 1e-3  # of the mean distance: less is no variation but rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapStandard:
    """What maps of good images are like, by which others are standardised; see :mod:`padim_jax.method.standard`.

    Attributes:
      mean: float32 (height, width), m, in units of distance; 0 outside of the region of interest.
      spread: float32 (height, width), s, in units of distance, above 0; 1 outside of the region of interest.
      count: float32 (), n, the images that they are of.
      levels: float32 (2,), a and b, the mean image scores by maps of distances and of z; None unless maps are combined.
      scales: float32 (2,), c and d, the standard deviations of these scores, above 0; None likewise.
    """

    mean: Float[Array, "height width"]
    spread: Float[Array, "height width"]
    count: Float[Array, ""]
    levels: Float[Array, "2"] | None = None
    scales: Float[Array, "2"] | None = None

    __repr__ = brief.standard

    def apply(self, maps: Float[Array, "n height width"]) -> Float[Array, "n height width"]:
        """Of maps of distances those in standard deviations, combined with the distances where levels are known."""
        z = (maps - self.mean[None]) / self.spread[None]
        if self.levels is None or self.scales is None:
            return z
        return jnp.maximum(z, self.levels[1] + self.scales[1] * ((maps - self.levels[0]) / self.scales[0]))

    @property
    def anomaly_map(self) -> AnomalyMap:
        """The setting of this name that it is for."""
        return "standardised" if self.levels is None else "combined"


@dataclass(frozen=True)
class MapMoments:
    """Mean and variance of maps at q pixels; of several samples, where the arrays have leading axes.

    Attributes:
      count: n, or that of each pixel, where maps are not judged everywhere.
      mean: (..., q).
      variance: (..., q), divided by n - 1; 0 for n ≤ 1.
    """

    count: float | Float[np.ndarray, "*samples q"]
    mean: Float[np.ndarray, "*samples q"]
    variance: Float[np.ndarray, "*samples q"]

    @classmethod
    def of(cls, maps: Float[np.ndarray, "n q"]) -> "MapMoments":
        """Of maps; pixels that are not judged are not numbers."""
        if len(maps) == 0:
            return cls(0, np.zeros(maps.shape[1]), np.zeros(maps.shape[1]))
        judged = np.isfinite(maps)
        if judged.all():
            return cls(len(maps), maps.mean(axis=0), maps.var(axis=0, ddof=1) if len(maps) > 1 else 0 * maps[0])
        count = judged.sum(axis=0).astype(np.float64)
        mean = np.where(judged, maps, 0).sum(axis=0) / np.maximum(count, 1)
        scatter = np.where(judged, maps - mean, 0) ** 2
        return cls(count, mean, scatter.sum(axis=0) / np.maximum(count - 1, 1))

    @property
    def images(self) -> float:
        """How many maps there are, at the pixel where most are judged."""
        return float(np.max(self.count))

    def merge(self, other: "MapMoments") -> "MapMoments":
        """Of both samples together, by the formula of Chan, Golub and LeVeque (1979)."""
        if not self.images or not other.images:
            return self if self.images else other
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        scatter = np.maximum(self.count - 1, 0) * self.variance + np.maximum(other.count - 1, 0) * other.variance
        scatter += delta**2 * (self.count * share)
        return MapMoments(count, self.mean + delta * share, scatter / np.maximum(count - 1, 1))

    def without(self, maps: Float[np.ndarray, "k q"]) -> "MapMoments":
        """Of all but one map, for each of k maps that are among the n ≥ 3."""
        judged = np.isfinite(maps)
        n, delta = self.count, np.where(judged, maps - self.mean, 0)
        scatter = (n - 1) * self.variance - n / np.maximum(n - 1, 1) * delta**2
        variance = np.where(judged, np.maximum(scatter / np.maximum(n - 2, 1), 0), self.variance)
        count = n - 1 if judged.all() else n - judged
        return MapMoments(count, self.mean - delta / np.maximum(n - 1, 1), variance)

    def spread(self) -> Float[np.ndarray, "*samples q"]:
        """The standard deviations s, above 0: no less than a thousandth of the mean distance, or 1 where that is 0.

        The share b is that of a pixel where all n maps are judged; where fewer are, it is larger, by the same ν.
        """
        n = np.max(self.count, axis=-1, keepdims=True)
        known = np.broadcast_to(self.count, self.mean.shape) > 1  # at each pixel, whether it has a variance
        pooled = mean_known(self.variance, known)
        over_pixels = mean_known((self.variance - pooled) ** 2, known)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.minimum(1, 2 * (over_pixels + pooled**2) / ((n + 1) * over_pixels))
        share = np.where(over_pixels > 0, share, 1)
        of_chance = share * (n - 1)
        share = of_chance / np.where(known, of_chance + (1 - share) * (self.count - 1), of_chance)
        least = _LEAST_SPREAD * mean_known(np.abs(self.mean), known)
        spread = np.maximum(np.sqrt(self.variance + share * (pooled - self.variance)), least)
        return np.where(spread > 0, spread, 1)

    def scale(self) -> Float[np.ndarray, "*samples q"]:
        """The standard deviations as they are, but no less than a thousandth of the mean, or 1 where that is 0."""
        scale = np.maximum(np.sqrt(self.variance), _LEAST_SPREAD * np.abs(self.mean))
        return np.where(scale > 0, scale, 1)


@dataclass(frozen=True)
class GoodMaps:
    """What maps of good images are like.

    Attributes:
      maps: their distances at the q pixels of the region of interest.
      scores: their image scores, by distances and by z, at two "pixels"; None unless maps are combined.
    """

    maps: MapMoments
    scores: MapMoments | None = None

    @property
    def images(self) -> float:
        """How many they are of."""
        return self.maps.images


def mean_known(
    values: Float[np.ndarray, "*samples q"], known: Bool[np.ndarray, "*samples q"]
) -> Float[np.ndarray, "*samples 1"]:
    """Mean over the pixels where something is known; 0 where it is nowhere."""
    return np.where(known, values, 0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)
