"""Fit and score on files: the host loops between ``data`` and the jitted functions, with memory that stays flat."""

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.data import UnreadableImage, load_batches, stop_at_unreadable
from padim_jax.data.decode import Note
from padim_jax.model import Padim
from padim_jax.overlay import picture
from padim_jax.padim import fit
from padim_jax.scoring import score
from weights_conversion.atomic import write_atomically

T = TypeVar("T")
_LONGEST_NAME = 255  # bytes, of a file on the usual file systems

Advance = Callable[[int], None]  # told how many more files are done


@dataclass(frozen=True)
class Rereadable(Generic[T]):
    """An iterable that starts anew each time, as principal components need it."""

    read: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.read()


@dataclass(frozen=True)
class ScoredImage:
    """One file's result."""

    path: Path
    score: float
    image: UInt8[np.ndarray, "height width 3"]
    anomaly_map: Float[np.ndarray, "height width"]


def fit_files(
    backbone: Backbone,
    paths: Sequence[Path],
    config: PadimConfig,
    *,
    batch_size: int,
    skip_unreadable: bool = False,
    advance: Advance = lambda count: None,
    note: Note | None = None,
) -> tuple[Padim, list[UnreadableImage]]:
    """Fit a model on image files; gives it with the files that were skipped.

    ``advance`` is told of every file ``config.passes`` times, ``note`` once what was decided about one (see
    :func:`padim_jax.data.load_batches`).

    Raises:
      UnreadableImage: the first file that can't be read, unless ``skip_unreadable``.
      ValueError: fewer than two readable images.
    """
    skipped: dict[Path, UnreadableImage] = {}
    noted: set[tuple[Path, str]] = set()

    def unreadable(error: UnreadableImage) -> None:
        if not skip_unreadable:
            raise error
        skipped[error.path] = error
        advance(1)

    def note_once(path: Path, text: str) -> None:
        if note is not None and (path, text) not in noted:
            noted.add((path, text))
            note(path, text)

    def batches() -> Iterator[np.ndarray]:
        for batch in load_batches(paths, config, batch_size, unreadable, None if note is None else note_once):
            yield batch.images
            advance(len(batch.paths))

    return fit(backbone, Rereadable(batches), config), list(skipped.values())


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

    for batch in load_batches(paths, model.config, batch_size, report, note):
        scores = score(model, fill_up(batch.images, batch_size) if len(paths) > batch_size else batch.images)
        values, maps = np.asarray(scores.image_score), np.asarray(scores.anomaly_map)
        for path, image, value, anomaly_map in zip(batch.paths, batch.images, values, maps, strict=False):
            if not np.isfinite(value):
                raise FloatingPointError(f"score: {path} got {value}; the model or the image is broken")
            yield ScoredImage(path, float(value), image, anomaly_map)
        advance(len(batch.paths))


def fill_up(images: UInt8[np.ndarray, "n height width 3"], count: int) -> UInt8[np.ndarray, "count height width 3"]:
    """Black images added to make ``count``, so that one compiled program serves a last, smaller batch too."""
    return np.pad(images, [(0, count - len(images)), (0, 0), (0, 0), (0, 0)])


def write_scores(path: Path, rows: Sequence[tuple[Path, float]]) -> None:
    """Write ``path,score`` rows as CSV, in one step."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "score"])
    writer.writerows((name, f"{value:.7g}") for name, value in rows)
    write_atomically(path, stream.getvalue().encode("utf-8", "surrogateescape"))


def write_heatmap(target: Path, item: ScoredImage, scale: tuple[float, float]) -> None:
    """Write the picture of one result as PNG, making folders as needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    picture(item.image, item.anomaly_map, scale, f"{item.path.name}   score {item.score:.4g}").save(
        target, format="PNG", compress_level=3
    )


class ResultSpool:
    """Holds results on disk until the colour scale of the whole run is known; iterating gives them back."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object
        self._rows: list[tuple[Path, float, float, tuple[int, ...]]] = []  # path, score, median, shape

    def add(self, item: ScoredImage) -> None:
        """Keep one result."""
        self._file.write(item.image.tobytes())
        self._file.write(item.anomaly_map.astype("<f4").tobytes())
        self._rows.append((item.path, item.score, float(np.median(item.anomaly_map)), item.anomaly_map.shape))

    def scale(self) -> tuple[float, float]:
        """Distances at the ends of the colour scale: the median of the images' medians, and the highest score.

        Below what half of the cells of a typical image show, nothing is worth colour.
        """
        return float(np.median([median for _, _, median, _ in self._rows])), max(score for _, score, _, _ in self._rows)

    def __iter__(self) -> Iterator[ScoredImage]:
        self._file.seek(0)
        for path, value, _, (height, width) in self._rows:
            pixels = height * width
            image = np.frombuffer(self._file.read(3 * pixels), np.uint8).reshape(height, width, 3)
            anomaly_map = np.frombuffer(self._file.read(4 * pixels), "<f4").reshape(height, width)
            yield ScoredImage(path, value, image, anomaly_map)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def common_folder(paths: Sequence[Path]) -> Path:
    """Deepest folder that holds all ``paths``; results are laid out below it as their images are."""
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))


def heatmap_place(path: Path, root: Path) -> Path:
    """Relative place of the heat map of image ``path`` below ``root``: its own, with ``.png`` added."""
    place = Path(os.path.abspath(path)).relative_to(root)
    name = f"{place.name}.png"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{hashlib.sha256(os.fsencode(place.name)).hexdigest()}.png"
    return place.with_name(name)
