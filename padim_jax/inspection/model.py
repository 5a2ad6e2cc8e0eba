"""What a model is made of, and where it may be weak: its settings, sizes, covariances, positions with two peaks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from padim_jax.artifact import load, load_updatable
from padim_jax.artifact.manifest import read_manifest
from padim_jax.images import UnreadableImage, load_batches
from padim_jax.inspection.positions import (
    MOST_FOR_PEAKS,
    SHARED,
    Conditions,
    Peaks,
    find_conditions,
    find_peaks,
    log_determinants,
    mean_lengths,
)
from padim_jax.method.alignment import FEWEST
from padim_jax.method.calibration import Calibration
from padim_jax.method.pictures import grid_picture
from padim_jax.method.records import Padim
from padim_jax.method.variants import with_solver
from padim_jax.runs.watch import Watch, ignore_note


@dataclass(frozen=True)
class PeakSearch:
    """A search for positions where good images fall into two groups.

    Attributes:
      total: how many images were given, of which an even choice is looked at.
      read: files of those looked at.
      peaks: what was found; None where it could not be done.
      not_done: why not.
      unreadable: files that can't be read.
    """

    total: int
    read: tuple[Path, ...]
    peaks: Peaks | None
    not_done: str = ""
    unreadable: tuple[UnreadableImage, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.peaks is None:
            return {"not_done": self.not_done}
        ratio = self.peaks.ratio
        strongest = np.unravel_index(int(ratio.argmax()), ratio.shape)
        return {
            "images": self.peaks.count,
            "of": self.total,
            "limit": self.peaks.limit,
            "positions": [
                {"row": row, "column": column, "ratio": float(ratio[row, column])} for row, column in self.peaks.found
            ],
            "strongest": {
                "row": int(strongest[0]),
                "column": int(strongest[1]),
                "ratio": float(ratio.max()),
                "smaller_group": [str(self.read[index]) for index in self.peaks.strongest],
            },
        }


@dataclass(frozen=True)
class ModelInspection:
    """What there is to say about a stored model.

    Attributes:
      path: of its folder.
      manifest: as stored.
      model: scoring by "triangular-solve", or of low rank.
      images: digests of the files it was fitted on, with their weights; None where its form does not list them.
      bytes_on_disk: of its folder.
      bytes_in_memory: of its parts.
      conditions: condition numbers of the covariances.
      log_determinants: of the covariances, (rows, columns): how much good images vary.
      mean_lengths: of the mean embeddings, (rows, columns).
      peaks: positions with two peaks; None where no images were given.
    """

    path: Path
    manifest: Mapping[str, Any]
    model: Padim
    images: Mapping[str, float] | None
    bytes_on_disk: int
    bytes_in_memory: Mapping[str, int]
    conditions: Conditions
    log_determinants: Float[np.ndarray, "rows columns"]
    mean_lengths: Float[np.ndarray, "rows columns"]
    peaks: PeakSearch | None

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        model, manifest, conditions = self.model, self.manifest, self.conditions
        columns, determinants = model.embedding.grid[1], self.log_determinants
        worst = int(conditions.numbers.argmax())
        return {
            "model": str(self.path),
            "form": manifest.get("form", "square"),
            "max_error": manifest.get("max_error"),
            "schema": manifest["schema"],
            "versions": manifest.get("versions", {}),
            "backbone": model.embedding.backbone,
            "weights_digest": model.embedding.weights_digest,
            "taps": list(model.embedding.taps),
            "dimension": model.embedding.dimension,
            "grid": list(model.embedding.grid),
            "config": asdict(model.config),
            "n": float(model.count),
            "bytes_on_disk": self.bytes_on_disk,
            "bytes_in_memory": dict(self.bytes_in_memory),
            "images_listed": None if self.images is None else dict(self.images),
            "roi_share": None if model.roi is None else float(np.asarray(model.roi).mean()),
            "calibration": None if model.calibration is None else _calibration_record(model.calibration),
            "condition_numbers": {
                "median": float(np.median(conditions.numbers)),
                "worst": float(conditions.numbers[worst]),
                "worst_at": list(divmod(int(conditions.positions[worst]), columns)),
                "positions": len(conditions.numbers),
                "of": conditions.n_positions,
            },
            "log_determinant": {
                "least": float(determinants.min()),
                "least_at": list(divmod(int(determinants.argmin()), columns)),
                "most": float(determinants.max()),
                "most_at": list(divmod(int(determinants.argmax()), columns)),
            },
            "unreadable": [
                {"path": str(error.path), "reason": error.reason}
                for error in (() if self.peaks is None else self.peaks.unreadable)
            ],
            "two_peaked": None if self.peaks is None else self.peaks.record(),
        }

    def write(self, folder: Path) -> None:
        """Write pictures of the grid, ``mean.png``, ``log_determinant.png`` and ``two_peaks.png``, into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        grid_picture(self.mean_lengths, "length of the mean embedding").save(folder / "mean.png")
        title = "log determinant of the covariance: how much good images vary"
        grid_picture(self.log_determinants, title).save(folder / "log_determinant.png")
        if self.peaks is not None and (peaks := self.peaks.peaks) is not None:
            title = f"variance explained by two groups; from {peaks.limit:.3g} two-peaked"
            grid_picture(peaks.ratio, title).save(folder / "two_peaks.png")


def inspect_model(
    path: Path, images: Sequence[Path] | None = None, *, batch_size: int = 16, watch: Watch | None = None
) -> ModelInspection:
    """Look at a stored model: its settings and sizes, its covariances, and positions where its images differ in kind.

    Args:
      path: of its folder.
      images: good ones, to look for positions with two peaks; None looks for none.
      batch_size: images computed at once.
      watch: follows the work, in one stage, "peaks"; files that can't be read are in the result.

    Raises:
      ArtifactError: as :func:`padim_jax.load`.
    """
    manifest = read_manifest(path)
    if manifest.get("form") == "updatable":
        stored = load_updatable(path)
        weights = dict(stored.images)
        memory = {"backbone": _nbytes(stored.backbone), "moments": _nbytes(stored.moments)}
        model = stored.model(solver="triangular-solve", donate=True)
    else:
        model = load(path)
        weights, memory = None, {"backbone": _nbytes(model.backbone)}
        if model.gaussian.solver == "inverse-factor":
            model = with_solver(model, "triangular-solve")
    memory["gaussian"] = _nbytes(model.gaussian)
    return ModelInspection(
        path=path,
        manifest=manifest,
        model=model,
        images=weights,
        bytes_on_disk=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        bytes_in_memory=memory,
        conditions=find_conditions(model),
        log_determinants=log_determinants(model),
        mean_lengths=mean_lengths(model),
        peaks=None if images is None else _search_peaks(model, images, batch_size, watch or Watch()),
    )


def _search_peaks(model: Padim, paths: Sequence[Path], batch_size: int, watch: Watch) -> PeakSearch:
    indices = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_FOR_PEAKS)).round().astype(int))
    chosen = [paths[index] for index in indices]
    if model.config.positions == "shared":
        return PeakSearch(len(paths), (), None, SHARED)
    if len(chosen) < FEWEST:
        return PeakSearch(len(paths), (), None, f"{len(chosen)} images, wanted {FEWEST} or more")
    read: list[Path] = []
    unreadable: list[UnreadableImage] = []
    with watch.progress("peaks", len(chosen)) as advance:

        def batches() -> Iterator[np.ndarray]:
            for batch in load_batches(chosen, model.config, batch_size, unreadable.append, ignore_note):
                read.extend(batch.paths)
                yield batch.images
                advance(len(batch.paths))

        try:
            peaks, reason = find_peaks(model, batches()), ""
        except ValueError as error:
            if len(read) >= FEWEST:
                raise
            peaks, reason = None, str(error)
    return PeakSearch(len(paths), tuple(read), peaks, reason, tuple(unreadable))


def _calibration_record(calibration: Calibration) -> dict[str, Any]:
    return {
        "method": calibration.method,
        "n": len(calibration.scores),
        "threshold": float(calibration.threshold),
        "threshold_source": calibration.threshold_source,
        "pixel_threshold": float(calibration.pixel_threshold),
        "false_alarm_rate": calibration.false_alarm_rate,
        "pixel_rate": calibration.pixel_rate,
        "attained_rate": calibration.attained_rate,
        "interval": list(calibration.interval()),
        "images_wanted": calibration.images_wanted,
    }


def _nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
