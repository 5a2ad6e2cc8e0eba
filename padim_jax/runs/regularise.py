"""Choose the ridge and the prior's images of a fit on files, by some of its files."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from padim_jax.images.folder import load_batches
from padim_jax.mesh.processes import gather
from padim_jax.method.records import PadimMoments
from padim_jax.method.regularisation import (
    SAMPLE_IMAGES,
    ImageSample,
    Regularisation,
    choose,
    embed_sample,
    sample_positions,
    with_regularisation,
)
from padim_jax.runs.copies import Copies
from padim_jax.runs.engines import Engine
from padim_jax.runs.steps import File, Step
from padim_jax.runs.watch import Interrupted, Watch, ignore_note


def regularise_files(
    engine: Engine,
    moments: PadimMoments,
    paths: Sequence[Path],
    images: Mapping[str, float],
    batch_size: int,
    watch: Watch,
) -> PadimMoments:
    """Moments whose settings are numbers, chosen by files that are evenly spread over all, where they are "auto".

    Every process reads the same files, and what process 0 finds holds for all. Files with the same pixels are one
    image; of more than :data:`SAMPLE_IMAGES` files, copies outside of the sample are not known.

    Args:
      engine: where the moments lie.
      moments: of all files.
      paths: files that were folded in, the same in every process.
      images: digest of each file and its weight.
      batch_size: images computed at once.
      watch: follows one stage, "regularise"; told what was chosen.

    Raises:
      UnreadableImage: a file that could be read before.
      Interrupted: one of the processes was asked to stop.
    """
    if not moments.config.chooses:
        return moments
    sample = paths[:: -(-len(paths) // SAMPLE_IMAGES)] if paths else []
    size = engine.step_size(batch_size, len(sample))
    copies, counted = Copies(images), list[File]()

    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in load_batches(sample, moments.config, size, note=ignore_note):
            files = [
                File(path, digest, hashlib.sha256(image).digest(), image_size)
                for path, image, digest, image_size in zip(
                    batch.paths, batch.images, batch.digests, batch.sizes, strict=True
                )
            ]
            is_first = np.array(copies.first_ones(files), bool)
            counted.extend(file for file, first in zip(files, is_first, strict=True) if first)
            step = Step.of(batch.images[is_first], size)
            yield step.images, step.valid
            advance(len(batch.paths))
            if gather(np.array([watch.stopped()])).any():
                raise Interrupted("interrupted while the ridge was chosen")

    def weights() -> list[float]:
        return [copies.weight(file) for file in counted]

    with watch.progress("regularise", len(sample)) as advance:
        chosen = _choose(engine, moments, read(), weights)
    watch.remark(f"note: {chosen.describe()}")
    return with_regularisation(moments, chosen)


def regularise_images(engine: Engine, moments: PadimMoments, sample: ImageSample, size: int) -> PadimMoments:
    """Moments whose settings are numbers, chosen by a sample of the images that were folded in, each with weight 1.

    Args:
      engine: where the moments lie.
      moments: of all images.
      sample: some of them.
      size: that batches are filled up to.
    """
    if not moments.config.chooses:
        return moments
    steps = (Step.of(images, size) for images in sample.batches(size))
    batches = ((step.images, step.valid) for step in steps)
    return with_regularisation(moments, _choose(engine, moments, batches, lambda: sample.weights))


def _choose(
    engine: Engine,
    moments: PadimMoments,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    weights: Callable[[], list[float]],
) -> Regularisation:
    """What process 0 chooses; ``weights`` are called for once the batches were read."""
    positions = sample_positions(moments.embedding, engine.covered_by_all(moments))
    statistics = engine.statistics(moments, positions)
    held = replace(moments, **{name: jax.device_get(getattr(moments, name)) for name in ("projection", "alignment")})
    x = embed_sample(engine.backbone, held, positions, batches)
    chosen = choose(moments.config, statistics, x, np.array(weights()))
    # six digits, because numbers travel between processes in float32
    ridge, prior_images = (float(f"{v:.6g}") for v in gather(np.array([chosen.ridge, chosen.prior_images]))[0])
    return replace(chosen, ridge=ridge, prior_images=prior_images)
