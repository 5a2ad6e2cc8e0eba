"""Defects as regions: what hangs together above a threshold on a map, in the pixels of the photo."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from padim_jax.config import PadimConfig
from padim_jax.images.geometry import pixel_edges, place_in_original, seen_part
from padim_jax.method.calibration import Calibration, p_values

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
      p_value: share of good images whose maximum reaches ``peak``, ``(1 + #{i: s_i ≥ peak}) / (n + 1)``; None without a
        calibration. A good image has a region with p ≤ α, be it any, with a probability of at most α, on the terms
        of its own p-value (see :mod:`padim_jax.method.calibration`).
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


def find_regions(
    anomaly_map: Float[np.ndarray, "height width"],
    threshold: float,
    size: tuple[int, int],
    config: PadimConfig,
    *,
    min_area: int = 0,
    calibration: Calibration | None = None,
) -> list[Region]:
    """Regions of cells above ``threshold`` that touch by a side or a corner, by falling peak.

    The black borders of a padded image belong to none. A region between the centres of a small photo's pixels counts as
    the pixel that its peak lies in.

    Args:
      anomaly_map: distances, of ``config.crop_size``.
      threshold: distance.
      size: (width, height) of the upright original.
      config: sizes and ``resize`` that the image was read with.
      min_area: pixels of the original; smaller regions are left out.
      calibration: gives the regions p-values.

    Raises:
      ValueError: a map of another shape.

    >>> anomaly_map = np.zeros((32, 48))
    >>> anomaly_map[4:6, 8:16] = 9
    >>> find_regions(anomaly_map, 5.0, (96, 64), PadimConfig(image_size=(32, 48), crop_size=(32, 48)))
    [Region(box=(16, 8, 16, 4), area=64, peak=9.0, row=9, column=17, p_value=None)]
    """
    from scipy import ndimage  # takes a tenth of a second to import, which a run without regions has no use for

    if anomaly_map.shape != config.crop:
        shapes = f"{anomaly_map.shape}, wanted {config.crop}"
        raise ValueError(f"find_regions: anomaly_map has shape {shapes}, the crop_size of its config")
    left, top, right, bottom = map(int, seen_part(size, config).crop)
    above = np.zeros(anomaly_map.shape, bool)
    above[top:bottom, left:right] = anomaly_map[top:bottom, left:right] > threshold
    labels = np.zeros(anomaly_map.shape, np.int32)
    ndimage.label(above, _TOUCHING, output=labels)
    edges = pixel_edges(size, config)
    regions = list[Region]()
    for label, part in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[part] == label
        distances = np.where(inside, anomaly_map[part], -np.inf)
        summit = np.unravel_index(int(np.argmax(distances)), distances.shape)
        row, column = place_in_original(summit[0] + part[0].start + 0.5, summit[1] + part[1].start + 0.5, size, config)
        y, x = (axis_edges[cells.start : cells.stop + 1] for axis_edges, cells in zip(edges, part, strict=True))
        first_row, first_column = min(int(y[0]), row), min(int(x[0]), column)
        width, height = max(int(x[-1]), column + 1) - first_column, max(int(y[-1]), row + 1) - first_row
        area = max(int(np.diff(y) @ inside @ np.diff(x)), 1)
        if area >= min_area:
            box = first_column, first_row, width, height
            regions.append(Region(box, area, float(distances[summit]), row, column))
    if calibration is not None:
        probabilities = p_values(calibration, np.asarray([region.peak for region in regions]))
        regions = [replace(region, p_value=float(p)) for region, p in zip(regions, probabilities, strict=True)]
    return sorted(regions, key=lambda region: -region.peak)
