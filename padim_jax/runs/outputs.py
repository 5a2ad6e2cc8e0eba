"""What is written of a scored image: a row of a table, a heat map, a mask, a map of distances; and under which name."""

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage, mask_to_original, to_original
from padim_jax.images.decode import Note
from padim_jax.images.geometry import seen_part
from padim_jax.images.image import read_photo
from padim_jax.pictures import picture
from padim_jax.runs.score import ScoredImage, find_summit

COLUMNS = ("path", "score", "p_value", "verdict", "row", "column", "threshold", "heatmap", "note")
_LONGEST_NAME = 255  # bytes, of a file on the usual file systems
LONGEST_SIDE = 768  # pixels of a photo in a heat map
_PNG = {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}  # as small as by level 3, in half the time
_BETWEEN = "; "  # notes of an image
_SIZE = np.dtype("<u4")

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """What a table says of a result.

    Attributes:
      path: of the image.
      score, p_value, anomalous: as :class:`padim_jax.runs.score.ScoredImage` has them.
      row, column: of the map's maximum, in pixels of the upright original.
      threshold: scores above it are anomalous; None where the model is not calibrated.
      heatmap: file of the heat map, relative to the folder of the results; empty where there is none.
      notes: what a reader should know of this result.
    """

    path: Path
    score: float
    p_value: float | None
    anomalous: bool | None
    row: int
    column: int
    threshold: float | None = None
    heatmap: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: ScoredImage, config: PadimConfig, threshold: float | None, heatmap: str = "") -> "Row":
        """The row of one result of a model with ``config`` and ``threshold``."""
        summit = find_summit(item, config)
        return cls(item.path, item.score, item.p_value, item.anomalous, *summit, threshold, heatmap, item.notes)

    @classmethod
    def read(cls, cells: Sequence[str]) -> "Row":
        """The row that has these :attr:`cells`; numbers have the digits that a table has of them."""
        path, score, p_value, verdict, row, column, threshold, heatmap, note = cells
        return cls(
            path=Path(path),
            score=float(score),
            p_value=float(p_value) if p_value else None,
            anomalous=verdict == "anomalous" if verdict else None,
            row=int(row),
            column=int(column),
            threshold=float(threshold) if threshold else None,
            heatmap=heatmap,
            notes=tuple(note.split(_BETWEEN)) if note else (),
        )

    @property
    def verdict(self) -> str:
        """Either "anomalous" or "normal", or nothing where the model is not calibrated."""
        return verdict_of(self.anomalous)

    @property
    def cells(self) -> tuple[object, ...]:
        """What stands in :data:`COLUMNS`; p-value, verdict and threshold are empty without a calibration."""
        p_value, threshold = ("" if one is None else f"{one:.7g}" for one in (self.p_value, self.threshold))
        place = (self.row, self.column, threshold, self.heatmap, _BETWEEN.join(self.notes))
        return self.path, f"{self.score:.7g}", p_value, self.verdict, *place


def verdict_of(anomalous: bool | None) -> str:
    """Either "anomalous" or "normal", or nothing where the model is not calibrated."""
    return "" if anomalous is None else "anomalous" if anomalous else "normal"


def write_heatmap(
    target: Path,
    item: ScoredImage,
    scale: tuple[float, float],
    *,
    config: PadimConfig | None = None,
    threshold: float | None = None,
    note: Note = lambda path, text: None,
) -> None:
    """Write the picture of one result as PNG, making folders as needed.

    Args:
      target: to write.
      item: the result.
      scale: distances at the ends of the colours.
      config: what the image was read with: the photo is read again, to be shown larger than the network saw it. None
        shows what the network saw.
      threshold: outlined, and marked on the colour scale.
      note: told where the photo could not be read again, so that what the network saw is shown.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    verdict = verdict_of(item.anomalous)
    name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in item.path.name)  # on one line, and text
    title = f"score {item.score:.4g}" + (f"   {verdict}, p = {item.p_value:.3g}" if verdict else "") + f"   {name}"
    photo, (left, top) = item.image, (0, 0)
    (bottom, right) = item.anomaly_map.shape
    if config is not None:
        try:
            photo = read_photo(item.path, config, LONGEST_SIDE)
        except UnreadableImage as error:  # it was there when it was scored
            note(item.path, f"its heat map shows what the network saw, for it could not be read again ({error.reason})")
        else:
            left, top, right, bottom = map(int, seen_part(item.size, config).crop)
    shown = item.anomaly_map[top:bottom, left:right]
    row, column = np.unravel_index(int(np.argmax(shown)), shown.shape)
    summit = (row + 0.5) * photo.shape[0] / shown.shape[0], (column + 0.5) * photo.shape[1] / shown.shape[1]
    drawn = picture(photo, shown, scale, title, threshold=threshold, summit=summit)
    drawn.save(target, **_PNG)


def write_mask(target: Path, item: ScoredImage, threshold: float, config: PadimConfig, original: bool) -> None:
    """Write which pixels lie above ``threshold`` as a PNG of 0 and 255, at crop size or in the file's own pixels."""
    marked = item.anomaly_map > threshold
    marked = mask_to_original(marked, item.size, config) if original else marked
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(marked.astype(np.uint8) * np.uint8(255)).save(target, format="PNG")


def write_map(target: Path, item: ScoredImage, config: PadimConfig, original: bool) -> None:
    """Write distances as a float TIFF, at crop size or in the file's own pixels (NaN where the crop never looked)."""
    values = to_original(item.anomaly_map, item.size, config) if original else item.anomaly_map
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.float32)).save(target, format="TIFF")


def written(items: Iterable[T], write: Callable[[T], None]) -> Iterator[T]:
    """Give ``items`` on, in order, each once ``write`` is done with it; threads write while the next are computed."""
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="write")
    pending: deque[tuple[T, Future[None]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(write, item)))
            while len(pending) > 2 * (os.cpu_count() or 1) or (pending and pending[0][1].done()):
                done, future = pending.popleft()
                future.result()
                yield done
        for done, future in pending:
            future.result()
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


class ResultSpool:
    """Holds results of one shape in a file until the colour scale of the whole run is known; iterating reads them.

    Args:
      file: open to be read and written, not buffered; closed by whoever opened it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rows: list[tuple[ScoredImage, float]] = []  # without arrays; the map's median
        self._shape = (0, 0)

    def add(self, item: ScoredImage) -> None:
        """Keep one result."""
        self._shape = item.anomaly_map.shape
        parts = (np.asarray(item.size, _SIZE), item.image, item.anomaly_map.astype("<f4"))
        self._file.seek(len(self._rows) * self._record)
        rest = memoryview(b"".join(part.tobytes() for part in parts))
        while rest:  # a disk that is almost full takes a part
            rest = rest[self._file.write(rest) :]
        self._rows.append((item.without_arrays(), float(np.median(item.anomaly_map))))

    def restore(self, rows: Sequence[tuple[Path, tuple[str, ...]]], shape: tuple[int, int]) -> None:
        """Take over what a run that was stopped has kept: of these paths with their notes, not calibrated."""
        self._shape = shape
        for path, notes in rows:
            item = self._read(len(self._rows), ScoredImage.empty(path, notes))
            light = replace(item.without_arrays(), score=float(item.anomaly_map.max()))
            self._rows.append((light, float(np.median(item.anomaly_map))))

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

    def _read(self, index: int, light: ScoredImage) -> ScoredImage:
        self._file.seek(index * self._record)
        content = self._file.read(self._record)
        if len(content) < self._record:
            raise OSError(f"{getattr(self._file, 'name', 'spool')} was cut short; remove it and score anew")
        height, width = self._shape
        start, end = 2 * _SIZE.itemsize, 2 * _SIZE.itemsize + 3 * height * width
        size = np.frombuffer(content[:start], _SIZE)
        image = np.frombuffer(content[start:end], np.uint8).reshape(height, width, 3)
        anomaly_map = np.frombuffer(content[end:], "<f4").reshape(height, width)
        return replace(light, image=image, anomaly_map=anomaly_map, size=(int(size[0]), int(size[1])))


def common_folder(paths: Sequence[Path]) -> Path:
    """Deepest folder that holds all ``paths``; results are laid out below it as their images are."""
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))


def result_place(path: Path, root: Path, suffix: str = ".png") -> Path:
    """Relative place of what belongs to image ``path`` below ``root``: its own, with ``suffix`` added."""
    place = Path(os.path.abspath(path)).relative_to(root)
    return place.with_name(_file_name(place.name, suffix))


def result_places(images: Iterable[tuple[str, Path]], root: Path, suffix: str = ".png") -> dict[tuple[str, Path], Path]:
    """Places as :func:`result_place` has them, below a folder for each name, no two the same and none a folder's.

    Where one is taken, by an image before it or as a folder that another needs, ``~2``, ``~3`` … is added to the name:
    of ``a.png`` beside a folder ``a.png.png`` with images, the place is ``a.png~2.png``.
    """
    wished = {(name, path): name / result_place(path, root, suffix) for name, path in images}
    taken = {folder for place in wished.values() for folder in place.parents}
    found: dict[tuple[str, Path], Path] = {}
    for key, place in wished.items():
        free, number = place, 1
        while free in taken:
            number += 1
            free = place.with_name(_file_name(f"{key[1].name}~{number}", suffix))
        taken.add(free)
        found[key] = free
    return found


def _file_name(name: str, suffix: str) -> str:
    if len(os.fsencode(name + suffix)) <= _LONGEST_NAME:
        return name + suffix
    return hashlib.sha256(os.fsencode(name)).hexdigest() + suffix
