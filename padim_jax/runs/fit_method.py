"""Fit another method than PaDiM on image files, calibrate it by folds of them, and save it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from padim_jax.backbones import Backbone
from padim_jax.baselines import FittedModel, Method, TrainingCheckpoint, TrainingHost, TrainingStopped, save
from padim_jax.baselines.settings import BaselineSettings
from padim_jax.images import Batch as ImageBatch
from padim_jax.images import UnreadableImage, load_batches
from padim_jax.method.calibration import Calibration, Histogram
from padim_jax.method.calibration import calibration as calibrate_scores
from padim_jax.runs.copies import pixels_digest
from padim_jax.runs.folds import Batch, TooFewInFolds, deal_alike, score_folds
from padim_jax.runs.scorer import Scorer
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_note, ignore_remark


def method_scorer(found: Method, model: FittedModel[Any], batch_size: int) -> Scorer:
    """Scores by a fitted model of another method."""

    def program(images: np.ndarray) -> tuple[Array, Array | None]:
        scores = found.score(model, images)
        return scores.image_score, scores.anomaly_map if found.has_map else None

    return Scorer(program, batch_size)


def training_remarks(found: Method, remark: Callable[[str], None]) -> TrainingHost | None:
    """What a training remarks on its loss and speed by, ten times, and on how it ends; None where none is trained."""
    told = 0

    def advance(step: int, steps: int, loss: float, images_per_second: float) -> None:
        nonlocal told
        if (10 * step) // steps > told:
            told = (10 * step) // steps
            remark(f"{found.name}: step {step} of {steps}, loss {loss:.4g}, {images_per_second:.0f} images/s")

    return None if found.uses_backbone else TrainingHost(advance=advance, note=remark)


@dataclass(frozen=True)
class FittedMethod:
    """What a fit on files has saved.

    Attributes:
      paths: files that the model was fitted on.
      skipped: files that could not be read, with the reason.
      calibration: of the model; None where it was not asked for, or could not be made.
      uncalibrated: why it could not be made; nothing where it was, or was not asked for.
    """

    paths: Sequence[Path]
    skipped: dict[Path, str]
    calibration: Calibration | None
    uncalibrated: str = ""


def fit_method(
    found: Method,
    backbone: Backbone | None,
    settings: BaselineSettings,
    paths: Sequence[Path],
    out: Path,
    *,
    folds: int | None,
    others: Sequence[Path] | None = None,
    rates: tuple[float, float],
    batch_size: int,
    watch: Watch,
) -> FittedMethod:
    """Fit a method on image files, calibrate it by folds of them, and save it.

    Copies of an image share a fold and count once: a model that knows a copy of an image would score it too low.

    Args:
      found: the method.
      backbone: the frozen network; None for methods that train one of their own.
      settings: all of the method's.
      paths: files.
      out: folder to write.
      folds: as of :func:`padim_jax.runs.folds.deal`; None leaves the model uncalibrated.
      others: good images to calibrate on in place of folds, which the model has not seen.
      rates: of false alarms, for images and for pixels.
      batch_size: images computed at once.
      watch: follows the work, in stages "fit" and "calibrate".

    Raises:
      UnreadableImage: from ``watch.unreadable``.
      Interrupted: ``watch`` has stopped it; nothing is kept but a training, which the same call goes on from.
      ValueError, FloatingPointError: as of the method's fit; ``others`` that the model was fitted on.
      ArtifactError, OSError: as of :func:`padim_jax.baselines.save`.
    """
    config, skipped = settings.config, dict[Path, str]()
    readable, pixels, files = list[Path](), list[str](), dict[str, tuple[int, int]]()  # what the fit has read

    def unreadable(error: UnreadableImage) -> None:
        watch.unreadable(error)
        skipped[error.path] = error.reason

    def read(some: Sequence[Path], advance: Advance, note: Any) -> Iterator[ImageBatch]:
        for batch in load_batches(some, config, batch_size, unreadable, note):
            yield batch
            advance(len(batch.images))
            if watch.stopped():
                raise Interrupted("interrupted")

    def noted(batches: Iterable[ImageBatch]) -> Iterator[Batch]:
        for batch in batches:
            readable.extend(batch.paths)
            pixels.extend(map(pixels_digest, batch.images))
            files.update(zip(batch.digests, batch.sizes, strict=True))
            yield batch.images

    checkpoint = None if found.uses_backbone else TrainingCheckpoint(out.with_name(f"{out.name}.training"))
    fit = _fit_of(found, backbone, settings, watch)
    with watch.progress("fit", len(paths)) as advance:
        model = fit(noted(read(paths, advance, watch.note)), checkpoint)
        jax.block_until_ready(jax.tree.leaves(model))
    calibration, reason, own = None, "", set(pixels)
    if folds is not None and others is not None:
        scorer, histogram, scores = method_scorer(found, model, batch_size), Histogram(), list[float]()
        with watch.progress("calibrate", len(others)) as advance:
            for images in (batch.images for batch in read(others, advance, watch.note)):
                if own & set(map(pixels_digest, images)):
                    raise ValueError(
                        "fit: some of the images to calibrate on are among those fitted on, whose scores are too low; "
                        "name others, or none, to calibrate by folds"
                    )
                values, maps = scorer.finish(scorer.start(images), len(images))
                scores += values.tolist()
                histogram.add(values if maps is None else maps)
        calibration = calibrate_scores(np.asarray(scores, np.float32), histogram.counts, "held-out", *rates)
    elif folds is not None:
        dealt, counted = deal_alike(pixels, folds, config.seed)
        with watch.progress("calibrate", len(dealt) * len(readable)) as advance:
            try:
                values, histogram = score_folds(
                    dealt,
                    lambda among: (
                        batch.images for batch in read([readable[place] for place in among], advance, ignore_note)
                    ),
                    lambda batches: method_scorer(found, fit(batches, None), batch_size),
                    counted,
                )
            except TooFewInFolds as error:
                reason = str(error)
            else:
                calibration = calibrate_scores(values, histogram.counts, "folds", *rates)
    save(model, out, calibration, files)
    if checkpoint is not None:
        checkpoint.remove()
    return FittedMethod(readable, skipped, calibration, reason)


def _fit_of(
    found: Method, backbone: Backbone | None, settings: BaselineSettings, watch: Watch
) -> Callable[[Iterable[Batch], TrainingCheckpoint | None], FittedModel[Any]]:
    """What fits the method; a training remarks on its loss ten times, and can be stopped."""

    def fit(batches: Iterable[Batch], checkpoint: TrainingCheckpoint | None) -> FittedModel[Any]:
        host = training_remarks(found, watch.remark if checkpoint is not None else ignore_remark)  # not of the folds
        if host is not None:
            host = replace(host, checkpoint=checkpoint, stopped=watch.stopped)
        try:
            return found.fit(backbone, batches, settings, host=host)
        except TrainingStopped as error:
            if checkpoint is None:
                raise Interrupted("interrupted while calibrating; the training of the model itself is kept") from error
            raise Interrupted(str(error)) from error

    return fit
