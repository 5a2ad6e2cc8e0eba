"""What scores the test images of a run: PaDiM or another method, with thresholds from good images alone."""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from padim_jax.backbones import Backbone
from padim_jax.baselines.records import named_arrays
from padim_jax.config import PadimConfig
from padim_jax.data.catalogue import Part
from padim_jax.data.examples import load_examples
from padim_jax.data.libraries import tfds
from padim_jax.data.protocol import Protocol
from padim_jax.evaluation.operating_points import OperatingPoints, leave_out, points_of_folds
from padim_jax.evaluation.run import AnyRun, MethodRun, Run
from padim_jax.method.scoring import NoLeaveOneOut
from padim_jax.runs.choosing import choose
from padim_jax.runs.copies import pixels_digest
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.fit_method import method_scorer, training_remarks
from padim_jax.runs.fold import fit_batches
from padim_jax.runs.folds import deal_alike
from padim_jax.runs.scorer import Scorer
from padim_jax.runs.watch import Advance, ignore_remark

Progress = Callable[[str, int], Advance]


@dataclass(frozen=True)
class Detector:
    """What a run has fitted.

    Attributes:
      scorer: of test images.
      points: thresholds, from good images alone.
      n_bytes: of the fitted arrays, without the network's.
      seconds: by stage.
      chosen: what the good images chose, as ``run.json`` tells it; None where there was nothing to choose.
    """

    scorer: Scorer
    points: OperatingPoints
    n_bytes: int
    seconds: dict[str, float]
    chosen: dict[str, Any] | None = None


@dataclass
class GoodImages:
    """The images that a run is fitted on, read as often as a method wants them.

    Attributes:
      builder: the prepared data set.
      part: which of its examples.
      protocol: how images are placed.
      batch_size: images read at once.
      names: of the files read so far, in order, each once.
      advance: told how many images have just been read.
    """

    builder: tfds.core.DatasetBuilder
    part: Part
    protocol: Protocol
    batch_size: int
    names: dict[str, None] = field(default_factory=dict)
    advance: Advance = lambda count: None

    def __len__(self) -> int:
        return count(self.builder, self.part)

    def read(self, config: PadimConfig, among: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """Batches of all images, or of those at places ``among`` them."""
        indices = self.part.indices
        if among is not None:
            indices = tuple(among) if indices is None else tuple(indices[place] for place in among)
        for batch in load_examples(
            self.builder, self.part.split, config, self.batch_size, self.protocol, indices, with_masks=False
        ):
            yield batch.images
            self.names.update(dict.fromkeys(batch.file_names))
            self.advance(len(batch.images))


def count(builder: tfds.core.DatasetBuilder, part: Part) -> int:
    """Number of examples."""
    return builder.info.splits[part.split].num_examples if part.indices is None else len(part.indices)


def fit_detector(
    run: AnyRun,
    backbone: Backbone,
    good: GoodImages,
    progress: Progress,
    engine: Engine | None = None,
    remark: Callable[[str], None] = ignore_remark,
) -> Detector:
    """Fit what a run says on its good images, and find thresholds from them; ``remark`` is told how a training goes.

    Raises:
      ValueError, FloatingPointError: as :func:`padim_jax.evaluation.evaluate.evaluate`.
    """
    if isinstance(run, MethodRun):
        return _fit_method(run, backbone, good, progress, remark)
    return _fit_padim(run, engine or OneDevice(backbone), good, progress)


def padim_scorer(engine: Engine, models: Sequence[Any], batch_size: int) -> Scorer:
    """Scores by the sum of the maps of models that ``engine`` holds."""

    def program(images: np.ndarray) -> tuple[None, Array]:
        return None, functools.reduce(operator.add, (engine.scores(model, images).anomaly_map for model in models))

    return Scorer(program, engine.step_size(batch_size, batch_size), engine.model(models[0]).config.top_share)


def _fit_padim(run: Run, engine: Engine, good: GoodImages, progress: Progress) -> Detector:
    start = time.perf_counter()
    stage = "choose" if run.candidates else "fit"
    good.advance = progress(stage, sum(member.passes for member in run.members) * len(good))
    size = engine.step_size(good.batch_size, len(good))
    members, chosen = run.members, None
    if run.candidates:
        choice = choose(engine.backbone, good.read(members[0]), run.candidates, batch_size=good.batch_size)
        members, good.advance = (choice.config,), progress("fit", choice.config.passes * len(good))
        chosen = {"members": [dataclasses.asdict(member) for member in members], "why": choice.describe()}
    models = [fit_batches(engine, partial(good.read, member), member, size) for member in members]
    fitted = time.perf_counter()
    good.advance = progress("calibrate", len(good))
    try:  # members differ in taps, not in how images are read
        points = leave_out(engine, models, good.read(members[0]), size)
    except NoLeaveOneOut as error:  # maps are standardised, and nothing is known to do it by
        raise ValueError(
            f"evaluate: {run.category.name} with the preset {run.preset.name} and seed {run.seed} can't be scored by "
            f"standardised maps: {str(error).removeprefix('leave_out: ')}; leave it out, or take maps of distances"
        ) from error
    if points.calibrations:
        models = [engine.with_standard(*pair) for pair in zip(models, points.standards, strict=True)]
    seconds = {"fit": fitted - start, "calibrate": time.perf_counter() - fitted}
    n_bytes = sum(leaf.nbytes for model in models for leaf in jax.tree.leaves(engine.model(model).gaussian))
    return Detector(padim_scorer(engine, models, good.batch_size), points, n_bytes, seconds, chosen)


def _fit_method(
    run: MethodRun, backbone: Backbone, good: GoodImages, progress: Progress, remark: Callable[[str], None]
) -> Detector:
    settings, (config,) = run.method_settings, run.members
    start = time.perf_counter()
    good.advance = progress("fit", len(good))
    pixels = list[str]()

    def watched() -> Iterator[np.ndarray]:
        for images in good.read(config):
            yield images
            pixels.extend(map(pixels_digest, images))

    model = run.baseline.fit(backbone, watched(), settings, host=training_remarks(run.baseline, remark))
    jax.block_until_ready(jax.tree.leaves(model))
    fitted = time.perf_counter()
    folds, counted = deal_alike(pixels, run.folds, run.seed)
    good.advance = progress("calibrate", run.folds * len(good))
    fit = partial(run.baseline.fit, backbone, settings=settings)
    points = points_of_folds(
        folds,
        lambda among: good.read(config, among),
        lambda batches: method_scorer(run.baseline, fit(batches), good.batch_size),
        counted,
    )
    seconds = {"fit": fitted - start, "calibrate": time.perf_counter() - fitted}
    n_bytes = sum(array.nbytes for array in named_arrays(model).values())
    return Detector(method_scorer(run.baseline, model, good.batch_size), points, n_bytes, seconds)
