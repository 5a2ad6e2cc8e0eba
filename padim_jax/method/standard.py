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

The score of an image among the n is made without its share in m and s. All is float64 on the host.
"""

import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from padim_jax.config import PadimConfig
from padim_jax.method import brief
from padim_jax.method.aligned import LEAST_SHARE
from padim_jax.method.anomaly_map import resampling

FEWEST = 3  # images, of which one is left out and two have a variance
_BUDGET = 256 * 2**20  # bytes of distances that are kept in memory
_LEAST_SPREAD = 1e-3  # of the mean distance: less is no variation but rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapStandard:
    """What maps of good images are like, by which others are standardised; see :mod:`padim_jax.method.standard`.

    Attributes:
      mean: float32 (height, width), m, in units of distance; 0 outside of the region of interest.
      spread: float32 (height, width), s, in units of distance, above 0; 1 outside of the region of interest.
      count: float32 (), n, the images that they are of.
    """

    mean: Float[Array, "height width"]
    spread: Float[Array, "height width"]
    count: Float[Array, ""]

    __repr__ = brief.standard

    def standardise(self, maps: Float[Array, "n height width"]) -> Float[Array, "n height width"]:
        """``z = (M - m) / s`` of maps of distances."""
        return (maps - self.mean[None]) / self.spread[None]


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
        """Of one or more maps; pixels that are not judged are not numbers."""
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
        pooled = _mean(self.variance, known)
        over_pixels = _mean((self.variance - pooled) ** 2, known)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.minimum(1, 2 * (over_pixels + pooled**2) / ((n + 1) * over_pixels))
        share = np.where(over_pixels > 0, share, 1)
        of_chance = share * (n - 1)
        share = of_chance / np.where(known, of_chance + (1 - share) * (self.count - 1), of_chance)
        least = _LEAST_SPREAD * _mean(np.abs(self.mean), known)
        spread = np.maximum(np.sqrt(self.variance + share * (pooled - self.variance)), least)
        return np.where(spread > 0, spread, 1)


def _mean(
    values: Float[np.ndarray, "*samples q"], known: Bool[np.ndarray, "*samples q"]
) -> Float[np.ndarray, "*samples 1"]:
    """Mean over the pixels where something is known; 0 where it is nowhere."""
    return np.where(known, values, 0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)


class MapSample:
    """Maps of distances of good images: kept as the grids that they follow from, 1/16 as large, and standardised.

    Beyond 256 MiB the grids wait in a temporary file.

    Args:
      config: the settings, for sizes and blur.
      roi: the region of interest; None for everywhere.
    """

    def __init__(self, config: PadimConfig, roi: Bool[Array | np.ndarray, "height width"] | None) -> None:
        self._config, self._roi = config, None if roi is None else np.asarray(roi)
        pixels = int(np.prod(config.crop)) if self._roi is None else int(self._roi.sum())
        self._kept, self._bytes = list[np.ndarray](), 0
        self._file: Any = None
        self._in_file = list[tuple[int, ...]]()
        self.moments = MapMoments(0, np.zeros(pixels), np.zeros(pixels))

    def add(self, grids: Float[np.ndarray, "n h w"]) -> None:
        """Take in the distances of some images, as :func:`padim_jax.method.programs.scores_of` gives them.

        Cells that are not judged are not numbers.
        """
        if len(grids) == 0:
            return
        self.moments = self.moments.merge(MapMoments.of(self._maps(grids)))
        self._bytes += grids.nbytes
        if self._bytes <= _BUDGET:
            self._kept.append(np.array(grids, np.float32))
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the sample
            weakref.finalize(self, self._file.close)
        self._file.write(np.ascontiguousarray(grids, np.float32).data)
        self._in_file.append(grids.shape)

    def left_out(
        self, moments: MapMoments, own: "MapSample | None" = None
    ) -> Iterator[Float[np.ndarray, "n height width"]]:
        """Standardised maps in the order of :meth:`add`, each by ``moments`` without its own share.

        Args:
          moments: of these images, and of others too.
          own: the maps whose shares are taken out, where these are others of the same parts; added in like batches.
        """
        shares = None if own is None else own._grids()
        for grids in self._grids():
            maps = self._maps(grids)
            others = moments.without(maps if shares is None else self._maps(next(shares)))
            yield self._standardised((maps - others.mean) / others.spread())

    def by(self, standard: MapStandard | None) -> Iterator[Float[np.ndarray, "n height width"]]:
        """Maps in the order of :meth:`add`, standardised by ``standard``, or distances where it is None."""
        by = None if standard is None else self.moments_of(standard)
        for grids in self._grids():
            maps = self._maps(grids)
            yield self._whole(maps) if by is None else self._standardised((maps - by.mean) / np.sqrt(by.variance))

    def moments_of(self, standard: MapStandard) -> MapMoments:
        """Of the images that a standard is of; its spreads stand in for their standard deviations, which it has not."""
        mean, spread = (np.asarray(array, np.float64).reshape(1, -1) for array in (standard.mean, standard.spread))
        inside = slice(None) if self._roi is None else self._roi.ravel()
        return MapMoments(float(standard.count), mean[0, inside], spread[0, inside] ** 2)

    def standard(self, call: str, moments: MapMoments) -> MapStandard:
        """The standard of ``moments``.

        Raises:
          ValueError: naming ``call``, fewer than three images.
        """
        if moments.images < FEWEST:
            raise ValueError(
                f"{call}: {moments.images:g} images, wanted {FEWEST} or more, whose maps others are standardised by "
                "(anomaly_map='standardised')"
            )
        known = np.broadcast_to(moments.count, moments.mean.shape) > 0
        filled = np.where(known, moments.mean, _mean(moments.mean, known))  # where no map was judged, like the others
        mean, spread = self._whole(filled[None])[0], self._whole(moments.spread()[None], outside=1)[0]
        return MapStandard(*jax.device_put((mean, spread, np.float32(moments.images))))

    def _grids(self) -> Iterator[Float[np.ndarray, "n h w"]]:
        yield from self._kept
        if self._file is not None:
            self._file.seek(0)
            for shape in self._in_file:
                yield np.frombuffer(self._file.read(4 * int(np.prod(shape))), np.float32).reshape(shape)

    def _maps(self, grids: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n q"]:
        """Of all pixels in the region of interest, row by row; those that are not judged are not numbers."""
        config = self._config
        rows, columns = (
            resampling(cells, pixels, config.sigma, config.interpolation)
            for cells, pixels in zip(grids.shape[1:], config.crop, strict=True)
        )

        def maps_of(grids: np.ndarray) -> np.ndarray:
            return rows @ (grids.astype(np.float64) @ columns.T)

        judged = np.isfinite(grids)
        if judged.all():
            maps = maps_of(grids)
        else:  # as :meth:`padim_jax.method.aligned.View.maps` has them
            share = maps_of(judged)
            maps = np.where(
                share > LEAST_SHARE, maps_of(np.where(judged, grids, 0)) / np.where(share > 0, share, 1), np.nan
            )
        return maps.reshape(len(maps), -1) if self._roi is None else maps[:, self._roi]

    def _standardised(self, values: Float[np.ndarray, "n q"]) -> Float[np.ndarray, "n height width"]:
        """Whole maps, no higher where they are not judged than anywhere else, as the method's programs have them."""
        return self._whole(
            values, np.minimum(0, np.where(np.isfinite(values), values, np.inf).min(axis=1))[:, None, None]
        )

    def _whole(
        self, values: Float[np.ndarray, "n q"], outside: float | Float[np.ndarray, "n 1 1"] = 0
    ) -> Float[np.ndarray, "n height width"]:
        values = np.where(np.isfinite(values), values, np.reshape(outside, (-1, 1)))
        if self._roi is None:
            return values.astype(np.float32).reshape(-1, *self._config.crop)
        whole = np.full((len(values), *self._config.crop), outside, np.float32)
        whole[:, self._roi] = values
        return whole
