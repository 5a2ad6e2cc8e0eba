"""Maps of good images, kept until it is known what others are standardised by; :mod:`padim_jax.method.standard`."""

import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from padim_jax.config import PadimConfig
from padim_jax.method.aligned import LEAST_SHARE
from padim_jax.method.anomaly_map import image_score, resampling
from padim_jax.method.standard import FEWEST, GoodMaps, MapMoments, MapStandard, mean_known

_BUDGET = 256 * 2**20  # bytes of distances that are kept in memory


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
        self._scored: tuple[MapMoments, np.ndarray] | None = None  # by what the scores are, and they
        self.moments = MapMoments(0, np.zeros(pixels), np.zeros(pixels))

    def add(self, grids: Float[np.ndarray, "n h w"]) -> None:
        """Take in the distances of some images, as :func:`padim_jax.method.programs.scores_of` gives them.

        Cells that are not judged are not numbers.
        """
        if len(grids) == 0:
            return
        self._scored = None
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

    def good_maps(
        self, together: Callable[[MapMoments], MapMoments] = lambda own: own, before: MapStandard | None = None
    ) -> GoodMaps:
        """What these maps are like.

        Args:
          together: gives, of what is known of these images, what is known of those of all processes.
          before: the standard of other images, which count too.
        """
        maps = together(self.moments)
        if before is not None:
            maps = self._moments_of(before).merge(maps)
        if self._config.anomaly_map != "combined" or maps.images < FEWEST:  # of fewer there is no standard anyway
            return GoodMaps(maps)
        scores = together(MapMoments.of(self._both_scores(maps)))
        if before is not None and before.levels is not None:
            levels, scales = (np.asarray(array, np.float64) for array in (before.levels, before.scales))
            scores = MapMoments(float(before.count), levels, scales**2).merge(scores)
        return GoodMaps(maps, scores)

    def left_out(self, good: GoodMaps, own: "MapSample | None" = None) -> Iterator[Float[np.ndarray, "n height width"]]:
        """Standardised or combined maps in the order of :meth:`add`, each by ``good`` without its own share.

        Args:
          good: of these images, and of others too.
          own: the maps whose shares are taken out, where these are others of the same parts; added in like batches.
        """
        shares = self if own is None else own
        scores = None if good.scores is None else good.scores.without(shares._both_scores(good.maps))
        first = 0
        for maps, z in self._standardised(good.maps, shares):
            if scores is not None:
                rows = slice(first, first := first + len(maps))
                z = _combine(maps, z, scores.mean[rows], scores.scale()[rows])
            yield self._whole_standardised(z)

    def by(self, standard: MapStandard | None) -> Iterator[Float[np.ndarray, "n height width"]]:
        """Maps in the order of :meth:`add`, standardised or combined by ``standard``; distances where it is None."""
        if standard is None:
            yield from (self._whole(self._maps(grids)) for grids in self._grids())
            return
        by = self._moments_of(standard)
        for grids in self._grids():
            maps = self._maps(grids)
            z = (maps - by.mean) / np.sqrt(by.variance)
            if standard.levels is not None:
                levels, scales = (np.asarray(array, np.float64)[None] for array in (standard.levels, standard.scales))
                z = _combine(maps, z, levels, scales)
            yield self._whole_standardised(z)

    def standard(self, call: str, good: GoodMaps) -> MapStandard:
        """The standard of ``good``.

        Raises:
          ValueError: naming ``call``, fewer than three images.
        """
        moments = good.maps
        if moments.images < FEWEST:
            raise ValueError(
                f"{call}: {moments.images:g} images, wanted {FEWEST} or more, whose maps others are standardised by "
                f"(anomaly_map={self._config.anomaly_map!r})"
            )
        known = np.broadcast_to(moments.count, moments.mean.shape) > 0
        filled = np.where(known, moments.mean, mean_known(moments.mean, known))  # where no map was judged, as elsewhere
        mean, spread = self._whole(filled[None])[0], self._whole(moments.spread()[None], outside=1)[0]
        scores = () if good.scores is None else (good.scores.mean, good.scores.scale())
        count, *both = (np.asarray(array, np.float32) for array in (moments.images, *scores))
        return MapStandard(*jax.device_put((mean, spread, count, *both)))

    def _moments_of(self, standard: MapStandard) -> MapMoments:
        """Of the images that a standard is of; its spreads stand in for their standard deviations, which it has not."""
        mean, spread = (np.asarray(array, np.float64).reshape(1, -1) for array in (standard.mean, standard.spread))
        inside = slice(None) if self._roi is None else self._roi.ravel()
        return MapMoments(float(standard.count), mean[0, inside], spread[0, inside] ** 2)

    def _standardised(
        self, good: MapMoments, shares: "MapSample"
    ) -> Iterator[tuple[Float[np.ndarray, "n q"], Float[np.ndarray, "n q"]]]:
        """Distances, and z by ``good`` without the shares of the maps of another sample, batch by batch."""
        own = shares._grids()
        for grids in self._grids():
            maps = self._maps(grids)
            others = good.without(maps if shares is self else self._maps(next(own)))
            yield maps, (maps - others.mean) / others.spread()

    def _both_scores(self, good: MapMoments) -> Float[np.ndarray, "n 2"]:
        """The image scores of these images, which are among ``good``, by distances and by z.

        Those of an image that is judged nowhere are not numbers. They are asked for twice, and made once.
        """
        if self._scored is not None and self._scored[0] is good:
            return self._scored[1]
        scores = [np.zeros((0, 2))]
        for maps, z in self._standardised(good, self):
            both = self._whole(maps), self._whole_standardised(z)
            each = np.stack([image_score(one, self._config.top_share, self._roi) for one in both], axis=1)
            scores.append(np.where(np.isfinite(maps).any(axis=1, keepdims=True), each, np.nan))
        self._scored = good, np.concatenate(scores).astype(np.float64)
        return self._scored[1]

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

    def _whole_standardised(self, values: Float[np.ndarray, "n q"]) -> Float[np.ndarray, "n height width"]:
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


def _combine(
    maps: Float[np.ndarray, "n q"],
    z: Float[np.ndarray, "n q"],
    levels: Float[np.ndarray, "#n 2"],
    scales: Float[np.ndarray, "#n 2"],
) -> Float[np.ndarray, "n q"]:
    return np.maximum(z, levels[:, 1:] + scales[:, 1:] * (maps - levels[:, :1]) / scales[:, :1])
