"""Score files: the host loop between ``data`` and the jitted functions, with memory that stays flat."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from padim_jax.calibration import on_host
from padim_jax.config import PadimConfig
from padim_jax.data import UnreadableImage, load_batches, mask_to_original, stop_at_unreadable, to_original
from padim_jax.data.decode import Note
from padim_jax.model import Padim
from padim_jax.overlay import picture
from padim_jax.scoring import score
from padim_jax.tables import write_table

T = TypeVar("T")
_LONGEST_NAME = 255  # bytes, of a file on the usual file systems
_MARKER = ".written-by-padim"  # in a folder of results: it may be replaced

Advance = Callable[[int], None]  # told how many more files are done


@dataclass(frozen=True)
class Rereadable(Generic[T]):
    """An iterable that starts anew each time, as principal components need it."""

    read: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.read()


@dataclass(frozen=True)
class ScoredImage:
    """One file's result; p-value and verdict are None where the model is not calibrated."""

    path: Path
    score: float
    p_value: float | None
    anomalous: bool | None
    image: UInt8[np.ndarray, "height width 3"]
    anomaly_map: Float[np.ndarray, "height width"]
    size: tuple[int, int]


def score_files(
    model: Padim,
    paths: Sequence[Path],
    *,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    advance: Advance = lambda count: None,
    note: Note | None = None,
) -> Iterator[ScoredImage]:
    """Score image files in order; files that can't be read go to ``unreadable`` and get no score.

    ``note`` is told what was decided about a file (see :func:`padim_jax.data.load_batches`).

    Raises:
      FloatingPointError: a score that is not finite, naming the file.
    """

    def report(error: UnreadableImage) -> None:
        unreadable(error)
        advance(1)

    known, bare = model.calibration, replace(model, calibration=None)
    for batch in load_batches(paths, model.config, batch_size, report, note):
        size = batch_size if len(paths) > batch_size else filled_size(len(batch.images), batch_size)
        scores = score(bare, fill_up(batch.images, size))
        values, maps = np.asarray(scores.image_score), np.asarray(scores.anomaly_map)
        p_values, verdicts = (None, None) if known is None else on_host(known, values)
        for index, (path, image) in enumerate(zip(batch.paths, batch.images, strict=True)):
            if not np.isfinite(values[index]):
                raise FloatingPointError(f"score: {path} got {values[index]}; the model or the image is broken")
            yield ScoredImage(
                path=path,
                score=float(values[index]),
                p_value=None if p_values is None else float(p_values[index]),
                anomalous=None if verdicts is None else bool(verdicts[index]),
                image=image,
                anomaly_map=maps[index],
                size=batch.sizes[index],
            )
        advance(len(batch.paths))


def filled_size(count: int, most: int) -> int:
    """The power of two that ``count`` images are filled up to, ``most`` at most: few sizes, few compiled programs."""
    return min(most, 1 << max(0, count - 1).bit_length())


def fill_up(images: UInt8[np.ndarray, "n height width 3"], count: int) -> UInt8[np.ndarray, "count height width 3"]:
    """Black images added to make ``count``, so that one compiled program serves a last, smaller batch too."""
    return np.pad(images, [(0, count - len(images)), (0, 0), (0, 0), (0, 0)])


@dataclass(frozen=True)
class Row:
    """What is kept of a result until the end of a run."""

    path: Path
    score: float
    p_value: float | None
    anomalous: bool | None

    @property
    def verdict(self) -> str:
        """Either "anomalous" or "normal", or nothing where the model is not calibrated."""
        return "" if self.anomalous is None else ("anomalous" if self.anomalous else "normal")

    @property
    def cells(self) -> tuple[Path, str, str, str]:
        """Path, score, p-value and verdict as they stand in a table; the last two empty without a calibration."""
        return self.path, f"{self.score:.7g}", "" if self.p_value is None else f"{self.p_value:.7g}", self.verdict


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    """Write ``path,score,p_value,verdict`` rows as CSV, in one step; the last two empty without a calibration."""
    write_table(path, ("path", "score", "p_value", "verdict"), [row.cells for row in rows])


def write_heatmap(target: Path, item: ScoredImage, scale: tuple[float, float]) -> None:
    """Write the picture of one result as PNG, making folders as needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    verdict = Row(item.path, item.score, item.p_value, item.anomalous).verdict
    title = f"{item.path.name}   score {item.score:.4g}" + (f"   {verdict}, p = {item.p_value:.3g}" if verdict else "")
    picture(item.image, item.anomaly_map, scale, title).save(target, format="PNG", compress_level=3)


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


def is_replaceable(folder: Path) -> bool:
    """Whether ``folder`` is not there, or one that :func:`replaced` wrote."""
    return not folder.exists() or (folder / _MARKER).exists()


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which at the end takes the place of ``folder``, unless something fails."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        fresh.mkdir()
        (fresh / _MARKER).touch()
        yield fresh
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class ResultSpool:
    """Holds results on disk until the colour scale of the whole run is known; iterating gives them back."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object
        self._rows: list[tuple[ScoredImage, float, tuple[int, ...]]] = []  # without arrays, median, shape

    def add(self, item: ScoredImage) -> None:
        """Keep one result."""
        self._file.write(item.image.tobytes())
        self._file.write(item.anomaly_map.astype("<f4").tobytes())
        nothing = np.zeros((0, 0)), np.zeros((0, 0, 3), np.uint8)
        light = replace(item, anomaly_map=nothing[0], image=nothing[1])
        self._rows.append((light, float(np.median(item.anomaly_map)), item.anomaly_map.shape))

    def scale(self) -> tuple[float, float]:
        """Distances at the ends of the colour scale: the median of the images' medians, and the highest score.

        Below what half of the cells of a typical image show, nothing is worth colour.
        """
        medians = [median for _, median, _ in self._rows]
        return float(np.median(medians)), max(item.score for item, _, _ in self._rows)

    def __iter__(self) -> Iterator[ScoredImage]:
        self._file.seek(0)
        for item, _, (height, width) in self._rows:
            pixels = height * width
            image = np.frombuffer(self._file.read(3 * pixels), np.uint8).reshape(height, width, 3)
            anomaly_map = np.frombuffer(self._file.read(4 * pixels), "<f4").reshape(height, width)
            yield replace(item, image=image, anomaly_map=anomaly_map)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def common_folder(paths: Sequence[Path]) -> Path:
    """Deepest folder that holds all ``paths``; results are laid out below it as their images are."""
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))


def result_place(path: Path, root: Path, suffix: str = ".png") -> Path:
    """Relative place of what belongs to image ``path`` below ``root``: its own, with ``suffix`` added."""
    place = Path(os.path.abspath(path)).relative_to(root)
    name = f"{place.name}{suffix}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{hashlib.sha256(os.fsencode(place.name)).hexdigest()}{suffix}"
    return place.with_name(name)
