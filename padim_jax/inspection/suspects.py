"""Which images of a folder score high by a model of all the others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from padim_jax.artifact import Updatable
from padim_jax.backbones import load_backbone
from padim_jax.images import UnreadableImage, find_value_range
from padim_jax.images.survey import Depth, ImageFacts
from padim_jax.inspection.positions import OUTLIER_RANGES, outlier_limit, rank_p_values
from padim_jax.method.fitting import finalize
from padim_jax.method.pictures import picture
from padim_jax.method.records import Padim
from padim_jax.method.variants import with_standard
from padim_jax.presets import preset
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fold import fit_moments
from padim_jax.runs.left_out import left_out_files
from padim_jax.runs.score import ScoredImage, find_summit, score_files
from padim_jax.runs.watch import Watch, ignore_note, skip_unreadable

_RULE = f"log score above the upper quartile by {OUTLIER_RANGES:g} interquartile ranges"
_PRESET = "lite0"
_PICTURED = 12  # images of the highest scores
_COLUMNS = 3  # of their pictures


@dataclass(frozen=True)
class Suspect:
    """What an image scores among the others.

    Attributes:
      path: of the file.
      score: by the model of all the other images.
      p_value: share of the images that score as much.
      row, column: of the map's maximum, in pixels of the upright original.
      left_out: whether the model was fitted on it, so that it was left out.
      stands_out: whether its score is above the limit.
    """

    path: Path
    score: float
    p_value: float
    row: int
    column: int
    left_out: bool
    stands_out: bool


@dataclass(frozen=True)
class LeaveOneOut:
    """Scores of a folder's images, each by the model of all the others.

    Attributes:
      model: its name.
      not_scored: images that the model does not take, with the reason.
      not_done: why there are no scores; None where there are.
      median: of the scores.
      limit: score above which an image stands out; see :func:`padim_jax.inspection.positions.outlier_limit`.
      suspects: all images that have a score, the highest first.
      highest: the first of these with their maps.
    """

    model: str
    not_scored: Mapping[str, str]
    not_done: str | None = None
    median: float = 0.0
    limit: float = 0.0
    suspects: tuple[Suspect, ...] = ()
    highest: tuple[ScoredImage, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.not_done is not None:
            return {"model": self.model, "not_done": self.not_done, "not_scored": dict(self.not_scored), "images": []}
        return {
            "model": self.model,
            "median": self.median,
            "limit": self.limit,
            "rule": _RULE,
            "not_scored": dict(self.not_scored),
            "images": [asdict(suspect) | {"path": str(suspect.path)} for suspect in self.suspects],
        }

    def draw(self) -> Image.Image:
        """Draw the highest scores, row by row: images with their maps, in colour from the median to the limit.

        Corners mark the place where a map is highest.
        """
        scale = self.median, self.limit
        pictures = [
            picture(
                item.image,
                item.anomaly_map,
                scale,
                f"{item.path.name}   {item.score:.4g}" + ("   stands out" if item.score > self.limit else ""),
                summit=_summit(item.anomaly_map),
            )
            for item in self.highest
        ]
        width, height = pictures[0].size  # all are of the crop's size
        columns, rows = min(_COLUMNS, len(pictures)), -(-len(pictures) // _COLUMNS)
        sheet = Image.new("RGB", (columns * width, rows * height), "white")
        for index, part in enumerate(pictures):
            sheet.paste(part, (index % columns * width, index // columns * height))
        return sheet


def leave_one_out(
    images: Sequence[ImageFacts], model: Updatable | None, name: str, *, batch_size: int, watch: Watch
) -> LeaveOneOut:
    """Score all images that a model takes, by distances, and say which of them stand out.

    Args:
      images: facts of the files.
      model: it lists the images it was fitted on. None fits the preset lite0 on those that it takes.
      name: of ``model``, in the result.
      batch_size: images computed at once.
      watch: follows the work, in stages "fit" and "score".
    """
    not_scored: dict[str, str] = {}
    paths = [image.path for image in images]
    if model is not None:
        fitted, weights = model.model(), model.images
    else:
        by_depth: dict[Depth | None, list[Path]] = {}
        for image in images:
            by_depth.setdefault(image.depth, []).append(image.path)
        paths = max(by_depth.values(), key=len, default=[])
        majority = set(paths)
        other_depths = [str(image.path) for image in images if image.path not in majority]
        not_scored = dict.fromkeys(other_depths, "another depth than most images")
        fitted, weights = _fit_preset(paths, batch_size, watch)
        name = f"{_PRESET}, fitted here"
    if fitted is None or fitted.count < 3:
        count = 0 if fitted is None else int(fitted.count)
        reason = f"the model is of {count} images, wanted 3 or more" + ("" if paths else "; no image can be read")
        if model is None and paths:
            reason += (
                " that the preset takes, 224 pixels or more each way (padim fit --crop-size, then --model, for smaller)"
            )
        return LeaveOneOut(name, not_scored, reason)
    digests = {image.path: image.digest for image in images}
    own = [path for path in paths if digests[path] in weights]
    others = [path for path in paths if digests[path] not in weights]

    def refuse(error: UnreadableImage) -> None:
        not_scored[str(error.path)] = error.reason

    def score_all() -> Iterator[tuple[ScoredImage, bool]]:
        options: dict[str, Any] = {"batch_size": batch_size, "unreadable": refuse, "advance": advance}
        for item in left_out_files(fitted, own, weights, **options) if own else ():
            yield item, True
        for item in score_files(with_standard(fitted, None), others, note=ignore_note, **options) if others else ():
            yield item, False

    with watch.progress("score", len(paths)) as advance:
        rows, highest = _keep_highest(score_all(), fitted)
    if not rows:
        return LeaveOneOut(name, not_scored, "the model takes none of the images")
    values = [row.score for row in rows]
    limit = outlier_limit(values)
    suspects = [
        replace(row, p_value=float(p), stands_out=row.score > limit)
        for row, p in zip(rows, rank_p_values(values), strict=True)
    ]
    suspects.sort(key=lambda row: -row.score)
    return LeaveOneOut(name, not_scored, None, float(np.median(values)), limit, tuple(suspects), tuple(highest))


def _summit(anomaly_map: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    row, column = np.unravel_index(int(np.argmax(anomaly_map)), anomaly_map.shape)
    return row + 0.5, column + 0.5


def _fit_preset(paths: Sequence[Path], batch_size: int, watch: Watch) -> tuple[Padim | None, Mapping[str, float]]:
    """The default preset on the files that it takes; None where they are fewer than two."""
    chosen = preset(_PRESET)
    config = replace(chosen.members[0], value_range=find_value_range(paths)) if paths else chosen.members[0]
    network = load_backbone(chosen.backbone)
    # scoring names the images that the model does not take
    quiet = replace(watch, note=ignore_note, unreadable=skip_unreadable)
    fold = fit_moments(OneDevice(network), paths, config, batch_size, quiet)
    if fold.state.count < 2:
        return None, {}
    return finalize(network, fold.state, donate=True), fold.images


def _keep_highest(scored: Iterable[tuple[ScoredImage, bool]], fitted: Padim) -> tuple[list[Suspect], list[ScoredImage]]:
    """A row of each result, in order, still without what only all of them tell; and the highest with their maps."""
    rows: list[Suspect] = []
    highest: list[ScoredImage] = []
    for item, left_out in scored:
        row, column = find_summit(item, fitted.config)
        assert row is not None
        assert column is not None
        rows.append(Suspect(item.path, item.score, 1.0, row, column, left_out, False))
        # copies, for a view would keep its whole batch in memory
        highest.append(replace(item, image=item.image.copy(), anomaly_map=item.anomaly_map.copy()))
        if len(highest) > _PICTURED:
            del highest[min(range(len(highest)), key=lambda index: highest[index].score)]
    return rows, sorted(highest, key=lambda item: -item.score)
