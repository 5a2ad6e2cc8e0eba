"""Results in a file until all of a run are there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool

from padim_jax.method.anomaly_map import image_score
from padim_jax.runs.score import ScoredImage

_SIZE = np.dtype("<u4")


class ResultSpool:
    """Holds results of one shape in a file until the colour scale of the whole run is known; iterating reads them.

    Args:
      file: open to be read and written, not buffered; closed by whoever opened it.
      share, roi: what scores follow from maps by, as of :func:`padim_jax.method.anomaly_map.image_score`.
    """

    def __init__(
        self, file: BinaryIO, share: float | None = None, roi: Bool[np.ndarray, "height width"] | None = None
    ) -> None:
        self._file, self._share, self._roi = file, share, roi
        self._rows: list[tuple[ScoredImage, float]] = []  # without arrays; the map's median
        self._shape = (0, 0)

    def add(self, item: ScoredImage) -> None:
        """Keep one result."""
        self._shape = item.anomaly_map.shape
        parts = (np.asarray(item.size, _SIZE), item.image, item.anomaly_map.astype("<f4"))
        self._file.seek(len(self._rows) * self._record)
        buffer = memoryview(b"".join(part.tobytes() for part in parts))
        while buffer:  # a disk that is almost full takes a part
            buffer = buffer[self._file.write(buffer) :]
        self._rows.append((item.without_arrays(), float(np.median(item.anomaly_map))))

    def restore(self, rows: Sequence[tuple[Path, tuple[str, ...]]], shape: tuple[int, int]) -> None:
        """Take over what a run that was stopped has kept: of these paths with their notes, not calibrated."""
        self._shape = shape
        for path, notes in rows:
            item = self._read(len(self._rows), ScoredImage.empty(path, notes))
            (score,) = np.asarray(image_score(item.anomaly_map[None], self._share, self._roi))
            summary = replace(item.without_arrays(), score=float(score))
            self._rows.append((summary, float(np.median(item.anomaly_map))))

    def scale(self) -> tuple[float, float]:
        """Distances at the ends of the colour scale: the median of the images' medians, and the highest score.

        Below what half of the cells of a typical image show, nothing is worth colour.
        """
        medians = [median for _, median in self._rows]
        return float(np.median(medians)), max(item.score for item, _ in self._rows)

    def __iter__(self) -> Iterator[ScoredImage]:
        for index, (item, _) in enumerate(self._rows):
            yield self._read(index, item)

    @property
    def _record(self) -> int:
        return 2 * _SIZE.itemsize + 7 * self._shape[0] * self._shape[1]

    def _read(self, index: int, summary: ScoredImage) -> ScoredImage:
        self._file.seek(index * self._record)
        content = self._file.read(self._record)
        if len(content) < self._record:
            raise OSError(f"{getattr(self._file, 'name', 'spool')} was cut short; remove it and score anew")
        height, width = self._shape
        start, end = 2 * _SIZE.itemsize, 2 * _SIZE.itemsize + 3 * height * width
        size = np.frombuffer(content[:start], _SIZE)
        image = np.frombuffer(content[start:end], np.uint8).reshape(height, width, 3)
        anomaly_map = np.frombuffer(content[end:], "<f4").reshape(height, width)
        return replace(summary, image=image, anomaly_map=anomaly_map, size=(int(size[0]), int(size[1])))
