"""Fit a model on image files, calibrate and save it: the whole way, on one device or on many."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from padim_jax.artifact import Updatable
from padim_jax.config import PadimConfig
from padim_jax.method.calibration import Calibration
from padim_jax.method.records import PadimMoments
from padim_jax.runs.calibrate import Terms, TooFewImages, calibrate_model
from padim_jax.runs.checkpoint import Checkpoint
from padim_jax.runs.engines import Engine, Roi
from padim_jax.runs.fold import fit_moments
from padim_jax.runs.records import Fold
from padim_jax.runs.regularise import regularise_files
from padim_jax.runs.watch import Interrupted, Watch


@dataclass(frozen=True)
class Fitted:
    """What a fit on files has saved.

    Attributes:
      paths: files that the model was fitted on.
      different: how many of them have different content.
      count: the images of the moments, a file that is there twice counted twice.
      skipped: files that could not be read, with the reason.
      calibration: of the model; None where it was not asked for, or could not be made.
      uncalibrated: why it could not be made; nothing where it was, or was not asked for.
    """

    paths: Sequence[Path]
    different: int
    count: int
    skipped: Mapping[str, str]
    calibration: Calibration | None
    uncalibrated: str = ""


def fit_files(
    engine: Engine,
    paths: Sequence[Path],
    config: PadimConfig,
    out: Path,
    checkpoint: Checkpoint,
    batch_size: int,
    watch: Watch,
    *,
    roi: Roi = None,
    terms: Terms | None = None,
    progress: Mapping[str, Any] | None = None,
    keep_previous: bool = False,
) -> Fitted:
    """Fit on image files, calibrate and save, and forget the checkpoint.

    If anything fails after the moments were factored, the checkpoint keeps the fit. All processes call this alike.

    Args:
      engine: where to compute.
      paths: all files, the same in every process.
      config: the settings.
      out: folder to write.
      checkpoint: where an unfinished fit is kept, and from which it may continue.
      batch_size: images that each process computes at once.
      watch: told of every file, asked whether to stop.
      roi: the region of interest, as of :func:`padim_jax.with_roi`.
      terms: how to calibrate; None to leave the model uncalibrated.
      progress: what the model is to remember of its origin, besides what this fit adds.
      keep_previous: keep the model that is replaced, for :func:`padim_jax.artifact.folder.undo`.

    Raises:
      UnreadableImage: from ``watch.unreadable``; the first file to calibrate on that can't be read.
      Interrupted: one of the processes was asked to stop.
      Implausible, ValueError, FloatingPointError: as :func:`padim_jax.finalize` and
        :func:`padim_jax.runs.calibrate.calibrate_model`.
      ArtifactError, OSError: as :func:`padim_jax.artifact.save_updatable`.
      ProcessFailed: another process stopped.
    """
    fold = fit_moments(engine, paths, config, batch_size, watch, checkpoint)
    fitted = [path for path in paths if str(path) not in fold.skipped]
    moments = engine.whole(fold.state)
    of_many = jax.process_count() > 1  # whatever happens to one of them, the others can't keep the fit then
    if of_many and config.chooses:
        checkpoint.write(engine, fold, moments)
    with _keep_fit(engine, fold, moments, checkpoint):
        chosen = regularise_files(engine, moments, fitted, fold.images, batch_size, watch)
    held, reference, reason = engine.finalize(chosen, roi), None, ""
    if terms is not None:
        if of_many and not config.chooses:
            checkpoint.write(engine, fold, moments)
        try:
            with _keep_fit(engine, fold, moments, checkpoint):
                reference = calibrate_model(engine, held, fitted, fold.images, terms, batch_size, watch)
        except TooFewImages as error:
            reason = str(error)
    del held  # as large as the moments
    origin = None if progress is None else {**progress, "images": len(fitted), "skipped": len(fold.skipped)}
    calibration, standard = (None, None) if reference is None else (reference.calibration, reference.standard)
    details = calibration, roi, origin, fold.image_sizes, standard
    engine.save(Updatable(engine.backbone, chosen, fold.images, *details), out, keep_previous=keep_previous)
    checkpoint.remove()
    return Fitted(fitted, len(fold.images), int(moments.count), fold.skipped, calibration, reason)


@contextmanager
def _keep_fit(engine: Engine, fold: Fold, moments: PadimMoments, checkpoint: Checkpoint) -> Iterator[None]:
    """Write the checkpoint where what follows a fold fails; an interruption says so."""
    try:
        yield
    except TooFewImages:
        raise
    except Exception as error:
        if jax.process_count() == 1:
            checkpoint.write(engine, fold, moments)
        if not isinstance(error, Interrupted):
            raise
        raise Interrupted(f"{error}; the fit is kept in {checkpoint.folder}") from error
