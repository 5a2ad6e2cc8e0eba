"""Score files: the host loop between ``data`` and the jitted functions, with memory that stays flat."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.settings import check_settings
from padim_jax.baselines.manifest import files_of, is_baseline
from padim_jax.config import PadimConfig
from padim_jax.images import Batch, UnreadableImage, load_batches, stop_at_unreadable
from padim_jax.images.decode import Note
from padim_jax.images.geometry import place_in_original
from padim_jax.method.calibration import Calibration
from padim_jax.method.programs import judge
from padim_jax.method.records import Padim, Scores
from padim_jax.method.scoring import score
from padim_jax.method.warping import Poses
from padim_jax.runs.baseline import Baseline
from padim_jax.runs.regions import Region, RegionSearch
from padim_jax.runs.watch import Advance

FITTED_ON = "was among the images the model was fitted on"  # notes of results
POOR_MATCH = "does not lie as the good images do"
OTHER_SIZE = "another size than every image the model was fitted on"

T = TypeVar("T")
_SAME_ASPECT = 0.01  # relative: as far as rounding to whole pixels may take one
_NOTHING = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.float32)


def verdict_of(anomalous: bool | None) -> str:
    """Either "anomalous" or "normal", or nothing where the model is not calibrated."""
    return "" if anomalous is None else "anomalous" if anomalous else "normal"


@dataclass(frozen=True)
class Rereadable(Generic[T]):
    """An iterable that starts anew each time, as principal components need it."""

    read: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.read()


@dataclass(frozen=True)
class ScoredImage:
    """One file's result.

    Attributes:
      path: of the file.
      score: the image's, as of :class:`padim_jax.Scores`.
      p_value, anomalous: None where the model is not calibrated.
      image: RGB, as the network saw it.
      anomaly_map: at crop size, of distances or standardised; empty of methods that judge whole images.
      size: (width, height) of the upright image in the file, in pixels.
      digest: of the file's content, as :class:`padim_jax.images.Batch` has it; empty where nobody asked.
      notes: what a reader should know of this result.
      regions: of the map above the pixel threshold; None where nobody asked, or the model is not calibrated.
      decided: one of the three verdicts (see :mod:`padim_jax.line.verdict`); empty where nobody asked for them.
      pose: angle in degrees, and shift in rows and columns of pixels at crop size, by which the part lies otherwise
        than the reference (:class:`padim_jax.method.warping.Poses`); None where images are not aligned.
    """

    path: Path
    score: float
    p_value: float | None
    anomalous: bool | None
    image: UInt8[np.ndarray, "height width 3"]
    anomaly_map: Float[np.ndarray, "height width"]
    size: tuple[int, int]
    digest: str = ""
    notes: tuple[str, ...] = ()
    regions: tuple[Region, ...] | None = None
    decided: str = ""
    pose: tuple[float, float, float] | None = None

    @property
    def verdict(self) -> str:
        """Good, look or bad where somebody asked for these, else as :func:`verdict_of`."""
        return self.decided or verdict_of(self.anomalous)

    @classmethod
    def empty(cls, path: Path, notes: tuple[str, ...] = ()) -> "ScoredImage":
        """A result that is yet to get its score and arrays."""
        return cls(path, 0.0, None, None, *_NOTHING, (0, 0), notes=notes)

    def without_arrays(self) -> "ScoredImage":
        """The same with empty arrays, to be kept in numbers."""
        return replace(self, image=_NOTHING[0], anomaly_map=_NOTHING[1])


def score_files(
    model: Padim | Baseline,
    paths: Sequence[Path],
    *,
    batch_size: int,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    advance: Advance = lambda count: None,
    note: Note | None = None,
    total: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
    mesh: Mesh | None = None,
    regions: RegionSearch | None = None,
) -> Iterator[ScoredImage]:
    """Score image files in order; files that can't be read go to ``unreadable`` and get no score.

    Args:
      model: any.
      paths: files to score.
      batch_size: images computed at once.
      unreadable: told of files that can't be read; may raise to stop.
      advance: told how many more files are done.
      note: told what was decided about a file (see :func:`padim_jax.images.load_batches`).
      total: files of the run that these are the last ones of, so that they are computed as they would be in it.
      stopped: asked after each batch whether to leave the others out.
      mesh: of this process's devices, to share each batch out; None for the default device.
      regions: which ones to find where the model is calibrated; None for none.

    Raises:
      FloatingPointError: a score that is not finite, naming the file.
    """

    def report(error: UnreadableImage) -> None:
        unreadable(error)
        advance(1)

    is_many = (len(paths) if total is None else total) > batch_size
    batches = load_batches(paths, model.config, batch_size, report, note)
    options = {"advance": advance, "stopped": stopped, "mesh": mesh, "regions": regions}
    yield from score_batches(model, batches, batch_size=batch_size, is_many=is_many, **options)


def score_batches(
    model: Padim | Baseline,
    batches: Iterable[Batch],
    *,
    batch_size: int,
    is_many: bool,
    advance: Advance = lambda count: None,
    stopped: Callable[[], bool] = lambda: False,
    mesh: Mesh | None = None,
    regions: RegionSearch | None = None,
) -> Iterator[ScoredImage]:
    """Score images that are read already, in order.

    Args:
      model: any.
      batches: of at most ``batch_size`` images each.
      batch_size: images computed at once.
      is_many: whether every batch is filled up to ``batch_size``; else up to the next power of two.
      advance: as of :func:`score_files`.
      stopped: likewise.
      mesh: likewise.
      regions: likewise.

    Raises:
      FloatingPointError: a score that is not finite, naming the file.
    """
    roi = None if model.roi is None else np.asarray(model.roi)
    calibration, run = model.calibration, _program(model, mesh)
    for batch in batches:
        size = batch_size if is_many else filled_size(len(batch.images), batch_size)
        scores = run(fill_up(batch.images, size))
        scores = jax.device_get(scores)
        values, maps = scores.image_score, scores.anomaly_map
        judged = scores if calibration is None else judge(calibration, scores)
        probabilities, verdicts = judged.p_value, judged.anomalous
        for index, (path, image) in enumerate(zip(batch.paths, batch.images, strict=True)):
            if not np.isfinite(values[index]):
                raise FloatingPointError(f"score: {path} got {values[index]}; the model or the image is broken")
            found = None
            if regions is not None and calibration is not None:
                found = regions.find(maps[index], batch.sizes[index], calibration, model.config, roi)
                # images of other methods may be scored by something else than their maps; of aligned ones, what the
                # rest of the image would score without a region is known only where the reference lies
                if isinstance(model, Baseline) or (model.alignment is not None and model.config.top_share is not None):
                    found = tuple(replace(region, p_value=None) for region in found)
            yield ScoredImage(
                path=path,
                score=float(values[index]),
                p_value=None if probabilities is None else float(probabilities[index]),
                anomalous=None if verdicts is None else bool(verdicts[index]),
                image=image,
                anomaly_map=maps[index],
                size=batch.sizes[index],
                digest=batch.digests[index],
                notes=() if calibration is None else _note_match(calibration, scores.match, index),
                regions=found,
                pose=None if scores.poses is None else _pose(scores.poses, index),
            )
        advance(len(batch.paths))
        if stopped():
            return


def _program(model: Padim | Baseline, mesh: Mesh | None) -> Callable[[UInt8[np.ndarray, "n height width 3"]], Scores]:
    """What scores images, without verdicts."""
    if isinstance(model, Baseline):
        if mesh is not None:
            raise ValueError(f"score_files: mesh is of PaDiM; a model of {model.method.name} scores on one device")
        return model.score
    uncalibrated = replace(model, calibration=None)
    if mesh is None:
        return partial(score, uncalibrated)
    from padim_jax import mesh as meshes  # takes a tenth of a second to import, which one device has no use for

    return partial(meshes.score, meshes.place(mesh, uncalibrated))


def _note_match(calibration: Calibration, match: Float[np.ndarray, " n"] | None, index: int) -> tuple[str, ...]:
    """A note where an image is anomalous because it does not match the reference."""
    if match is None or calibration.least_match is None or match[index] >= calibration.least_match:
        return ()
    own, least = match[index], float(calibration.least_match)
    return (f"{POOR_MATCH} (match {own:.2f}, good images {least:.2f} or more): is the part there, and whole?",)


def _pose(poses: Poses, index: int) -> tuple[float, float, float]:
    row, column = map(float, poses.shift[index])
    return float(poses.angle[index]), row, column


def find_summit(item: ScoredImage, config: PadimConfig) -> tuple[int, int] | tuple[None, None]:
    """(row, column) of the map's maximum, in pixels of the upright original; None of both where there is no map."""
    if item.anomaly_map.size == 0:
        return None, None
    row, column = np.unravel_index(int(np.argmax(item.anomaly_map)), item.anomaly_map.shape)
    return place_in_original(row + 0.5, column + 0.5, item.size, config)


@dataclass(frozen=True)
class FittedOn:
    """What a stored model knows of the files that it was fitted on.

    Attributes:
      digests: of their content; none where the model does not list them.
      sizes: (width, height) in pixels, each once; none where they are not known.
    """

    digests: frozenset[str]
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, folder: Path) -> "FittedOn":
        """Read it from the model in ``folder``.

        Raises:
          ArtifactError: no model.
        """
        if is_baseline(folder):
            files = files_of(folder)
            return cls(frozenset(files), tuple(dict.fromkeys(files.values())))
        manifest = read_manifest(folder)
        images = manifest.get("images") if manifest.get("form") == "updatable" else None
        digests = frozenset(images) if isinstance(images, dict) else frozenset[str]()
        return cls(digests, check_settings(folder, manifest).image_sizes)

    def annotate(self, item: ScoredImage) -> ScoredImage:
        """The same result, with notes on what these files tell of it."""
        notes, (width, height) = list(item.notes), item.size
        if item.digest in self.digests:
            notes.append(FITTED_ON)
        if self.is_other_size(item.size):
            aspect = " and another aspect ratio" if self.is_other_aspect(item.size) else ""
            notes.append(f"{width}×{height} pixels, {OTHER_SIZE}{aspect}")
        return replace(item, notes=tuple(notes))

    def is_other_size(self, size: tuple[int, int]) -> bool:
        """Whether no file that the model was fitted on had this (width, height)."""
        return bool(self.sizes) and size not in self.sizes

    def is_other_aspect(self, size: tuple[int, int]) -> bool:
        """Whether the ratio of width to height is off by more than 1 % from that of every file fitted on."""
        aspect = size[0] / size[1]
        return bool(self.sizes) and all(abs(aspect * height / width - 1) > _SAME_ASPECT for width, height in self.sizes)


def filled_size(count: int, limit: int) -> int:
    """The power of two that ``count`` images are filled up to, ``limit`` at most: few sizes, few compiled programs."""
    return min(limit, 1 << max(0, count - 1).bit_length())


def fill_up(images: UInt8[np.ndarray, "n height width 3"], count: int) -> UInt8[np.ndarray, "count height width 3"]:
    """Black images added to make ``count``, so that one compiled program serves a last, smaller batch too."""
    return np.pad(images, [(0, count - len(images)), (0, 0), (0, 0), (0, 0)])
