"""Defects as regions: what hangs together above a threshold on a map, in the pixels of the photo."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from padim_jax.config import PadimConfig
from padim_jax.images.geometry import pixel_edges, place_in_original, seen_part
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.calibration import Calibration, p_values, pixel_median

COLUMNS = ("path", "region", "left", "top", "width", "height", "area", "peak", "row", "column", "p_value")
_TOUCHING = np.ones((3, 3), bool)  # cells that share a side or a corner


@dataclass(frozen=True)
class Region:
    """A connected region of a map above a threshold; all places are in pixels of the upright original.

    Attributes:
      box: its left, top, width and height.
      area: how many pixels it covers, as :func:`padim_jax.images.mask_to_original` marks them.
      peak: its largest distance, not squared.
      row, column: where that is.
      p_value: share of good images that score no less than this one would by the region alone, s:
        ``(1 + #{i: s_i ≥ s}) / (n + 1)``; None without a calibration. For s all other pixels above the threshold count
        as the lowest of the map: where images score their maximum, s is ``peak``, and where they score the mean of
        their highest pixels, it is the mean of as many. It is never above the image's score, so the probability that a
        good image has any region at all with p ≤ α is at most α, on the terms of an image's p-value (see
        :mod:`padim_jax.method.calibration`).
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    row: int
    column: int
    p_value: float | None = None

    @property
    def cells(self) -> tuple[object, ...]:
        """What stands in :data:`COLUMNS` after the path and the region's number."""
        p_value = "" if self.p_value is None else f"{self.p_value:.7g}"
        return *self.box, self.area, f"{self.peak:.7g}", self.row, self.column, p_value


@dataclass(frozen=True)
class RegionSearch:
    """Which regions above the pixel threshold of a calibrated model are found.

    Attributes:
      min_area: pixels of the original; smaller regions are left out.
      tight: of each region, only what reaches half of its peak (see :func:`mask_above`).
    """

    min_area: int = 1
    tight: bool = False

    def find(
        self,
        anomaly_map: Float[np.ndarray, "height width"],
        size: tuple[int, int],
        calibration: Calibration,
        config: PadimConfig,
        roi: Bool[np.ndarray, "height width"] | None = None,
    ) -> tuple[Region, ...]:
        """:func:`find_regions` with the calibration's pixel threshold."""
        threshold, floor = float(calibration.pixel_threshold), good_level(calibration) if self.tight else None
        options = {"floor": floor, "min_area": self.min_area, "roi": roi}
        return tuple(find_regions(anomaly_map, threshold, size, config, calibration=calibration, **options))


def good_level(calibration: Calibration) -> float:
    """Distance of a typical pixel of good images, from which :func:`mask_above` measures half of a peak."""
    return pixel_median(calibration)


def mask_above(
    anomaly_map: Float[np.ndarray, "height width"], threshold: float, floor: float | None = None
) -> Bool[np.ndarray, "height width"]:
    """Cells above ``threshold``; with a ``floor``, of each region the full width at half maximum.

    The blur spreads a strong defect far beyond its edges, up to where the map falls to the threshold. In a region of
    peak m, the cells that stay are those of at least ``floor + (m - floor) / 2``, where that is above the threshold.
    """
    from scipy import ndimage  # takes a tenth of a second to import, which a run without regions has no use for

    mask = anomaly_map > threshold
    if floor is None:
        return mask
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, _TOUCHING, output=labels)
    floor = min(floor, threshold)  # above it, every region would lose its peak too
    peaks = np.asarray(ndimage.maximum(anomaly_map, labels, np.arange(labels.max() + 1)))
    return mask & (anomaly_map >= floor + (peaks[labels] - floor) / 2)


def find_regions(
    anomaly_map: Float[np.ndarray, "height width"],
    threshold: float,
    size: tuple[int, int],
    config: PadimConfig,
    *,
    floor: float | None = None,
    min_area: int = 0,
    calibration: Calibration | None = None,
    roi: Bool[np.ndarray, "height width"] | None = None,
) -> list[Region]:
    """Regions of cells above ``threshold`` that touch by a side or a corner, by falling peak.

    The black borders of a padded image belong to none. A region between the centres of a small photo's pixels counts as
    the pixel that its peak lies in.

    Args:
      anomaly_map: distances, of ``config.crop_size``.
      threshold: distance.
      size: (width, height) of the upright original.
      config: sizes and ``resize`` that the image was read with.
      floor: as of :func:`mask_above`, whose regions these are; what it splits is several.
      min_area: pixels of the original; smaller regions are left out.
      calibration: gives the regions p-values.
      roi: the model's region of interest, which these depend on; None for everywhere.

    Raises:
      ValueError: a map of another shape.

    >>> anomaly_map = np.zeros((32, 48))
    >>> anomaly_map[4:6, 8:16] = 9
    >>> find_regions(anomaly_map, 5.0, (96, 64), PadimConfig(image_size=(32, 48), crop_size=(32, 48)))
    [Region(box=(16, 8, 16, 4), area=64, peak=9.0, row=9, column=17, p_value=None)]
    """
    from scipy import ndimage  # as above

    if anomaly_map.shape != config.crop:
        shapes = f"{anomaly_map.shape}, wanted {config.crop}"
        raise ValueError(f"find_regions: anomaly_map has shape {shapes}, the crop_size of its config")
    left, top, right, bottom = map(int, seen_part(size, config).crop)
    above = np.zeros(anomaly_map.shape, bool)
    above[top:bottom, left:right] = mask_above(anomaly_map, threshold, floor)[top:bottom, left:right]
    labels = np.zeros(anomaly_map.shape, np.int32)
    ndimage.label(above, _TOUCHING, output=labels)
    edges = pixel_edges(size, config)
    regions, alone = list[Region](), list[float]()
    for label, part in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[part] == label
        distances = np.where(inside, anomaly_map[part], -np.inf)
        summit = np.unravel_index(int(np.argmax(distances)), distances.shape)
        row, column = place_in_original(summit[0] + part[0].start + 0.5, summit[1] + part[1].start + 0.5, size, config)
        y, x = (axis_edges[cells.start : cells.stop + 1] for axis_edges, cells in zip(edges, part, strict=True))
        first_row, first_column = min(int(y[0]), row), min(int(x[0]), column)
        width, height = max(int(x[-1]), column + 1) - first_column, max(int(y[-1]), row + 1) - first_row
        area = max(int(np.diff(y) @ (inside @ np.diff(x).astype(np.float64))), 1)
        if area >= min_area:
            box = first_column, first_row, width, height
            regions.append(Region(box, area, float(distances[summit]), row, column))
            if calibration is not None:
                others = (anomaly_map > threshold) & (labels != label)
                alone.append(_score_without(others, anomaly_map, config, roi))
    if calibration is not None:
        probabilities = p_values(calibration, np.asarray(alone))
        regions = [replace(region, p_value=float(p)) for region, p in zip(regions, probabilities, strict=True)]
    return sorted(regions, key=lambda region: -region.peak)


def _score_without(
    others: Bool[np.ndarray, "height width"],
    anomaly_map: Float[np.ndarray, "height width"],
    config: PadimConfig,
    roi: Bool[np.ndarray, "height width"] | None,
) -> float:
    """What an image would score if its ``others`` were no higher than its lowest pixel."""
    lowest = anomaly_map.min() if roi is None else anomaly_map[roi].min()
    return float(image_score(np.where(others, lowest, anomaly_map)[None], config.top_share, roi)[0])
