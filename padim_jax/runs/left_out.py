"""Score image files that a model was fitted on, each by the model of all the others; and others that it was not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from padim_jax.images import UnreadableImage, stop_at_unreadable
from padim_jax.method.records import Padim
from padim_jax.runs.calibrate import check_fitted
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.score import ScoredImage
from padim_jax.runs.steps import read_steps
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_note


def left_out_files(
    model: Padim,
    paths: Sequence[Path],
    images: Mapping[str, float],
    *,
    batch_size: int,
    among: int | None = None,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    advance: Advance = lambda count: None,
) -> Iterator[ScoredImage]:
    """Score image files that a model was fitted on, each by the model of all the others, in order, by distances.

    As :func:`padim_jax.runs.score.score_files` does for others; ``images`` are those of the fit with their weights.
    With ``among``, steps are filled up as those of so many files are, and the same programs round as they do there.

    Raises:
      UnreadableImage: from ``unreadable``.
      ValueError: a file that is not in ``images``; as :func:`padim_jax.method.scoring.leave_one_out_scores`.
    """
    engine = OneDevice(model.backbone)
    held, watch = engine.for_leave_one_out("left_out_files", model), Watch(note=ignore_note, unreadable=unreadable)
    size = engine.step_size(batch_size, max(len(paths), among or 0))
    for step in read_steps(paths, model.config, batch_size, watch, size=size):
        check_fitted("left_out_files", step.files, images)
        weights = np.zeros(len(step.images), np.float32)
        weights[: len(step.own)] = [images[file.digest or ""] for file in step.own]
        left_out = engine.leave_out(held, step, weights)
        for index, file in enumerate(step.own):
            score, anomaly_map = float(left_out.image_score[index]), left_out.anomaly_map[index]
            yield ScoredImage(file.path, score, None, None, step.images[index], anomaly_map, file.size)
        advance(len(step.files))


def held_out_scores(
    engine: Engine, held: Any, paths: Sequence[Path], batch_size: int, watch: Watch, advance: Advance
) -> Float[np.ndarray, " n"]:
    """Scores of files that a model, as the engine holds it (with its standard, if any), was not fitted on.

    Raises:
      UnreadableImage: from ``watch.unreadable``.
      Interrupted: ``watch`` has stopped it.
    """
    scores = [np.zeros(0, np.float32)]
    size = engine.step_size(batch_size, len(paths))
    for step in read_steps(paths, engine.model(held).config, batch_size, watch, size=size):
        scores.append(engine.score(held, step).image_score)
        advance(len(step.files))
        if step.stop:
            raise Interrupted("interrupted while comparing")
    return np.concatenate(scores)
