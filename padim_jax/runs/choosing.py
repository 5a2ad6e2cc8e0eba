"""Choose settings by the good images of a fit, files or arrays, before it begins."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.images import find_value_range
from padim_jax.images.folder import load_batches
from padim_jax.mesh.processes import gather
from padim_jax.method.checks import check_images
from padim_jax.method.choosing import Choice, Roi, compare, images_computed, spread, unlike, without_needless_turns
from padim_jax.method.regularisation import ImageSample
from padim_jax.runs.inputs import Images, Notes, Place, as_backbone, image_paths, paths_or_arrays, read_images
from padim_jax.runs.watch import Interrupted, Watch, ignore_note


def choose(
    backbone: Backbone | str,
    images: Place | Iterable[Place] | Images | Iterable[Images],
    candidates: Iterable[PadimConfig],
    *,
    roi: Roi = None,
    batch_size: int = 16,
) -> Choice:
    """Choose settings for a kind of part, by its good images alone: those by which drawn defects stand out most.

    It is what ``padim fit --preset auto`` does first. The first candidate is kept unless another is better beyond
    doubt, and where there are fewer than 12 different images. :mod:`padim_jax.method.choosing` says how, and
    :func:`padim_jax.method.choosing.compare` what it costs: three fits of few images, less than one of many.

    Args:
      backbone: from :func:`load_backbone`, or its name, which loads it.
      images: good images, as :func:`fit` takes them; at most 64 are looked at, evenly spread.
      candidates: settings that read images alike, such as ``padim.preset("auto").candidates``; of files with more than
        8 bits a channel, the range of values is found where they have none.
      roi: the region of interest, as of :func:`with_roi`.
      batch_size: images computed at once.

    Raises:
      FileNotFoundError: a path that is not there.
      UnreadableImage: a file that can't be read (a ``ValueError``).
      TypeError, ValueError, FloatingPointError: as :func:`padim_jax.method.choosing.compare`; no image files.

    >>> kinds = "standardised", "distance"
    >>> candidates = [padim.PadimConfig(**{**vars(config), "anomaly_map": kind}) for kind in kinds]
    >>> choice = padim.choose(backbone, good_images, candidates)
    >>> choice.images, choice.config in candidates
    (20, True)
    """
    backbone, configs = as_backbone("choose", backbone), unlike("choose", candidates)
    places, batches = paths_or_arrays("choose", images)
    paths = () if places is None else image_paths("choose", places)
    if places is not None and configs[0].value_range is None:
        value_range = find_value_range(paths)
        configs = tuple(replace(config, value_range=value_range) for config in configs)
    with Notes() as notes:
        if places is not None:
            batches = read_images([paths[index] for index in spread(len(paths))], configs[0], batch_size, notes)
        sample = ImageSample(configs[0], always=True)
        for batch in sample.watch(batches):
            check_images("choose", batch, configs[0])
    pixels = np.concatenate([np.zeros((0, *configs[0].crop, 3), np.uint8), *sample.batches()])
    return compare(backbone, pixels, without_needless_turns(configs, pixels, roi), roi=roi, batch_size=batch_size)


def choose_files(
    backbone: Backbone,
    paths: Sequence[Path],
    candidates: Sequence[PadimConfig],
    batch_size: int,
    watch: Watch,
    *,
    roi: Roi = None,
) -> PadimConfig:
    """The settings for a fit on files, chosen by some that are evenly spread over all; the only ones of one candidate.

    Every process reads the same files and computes on a device of its own; what process 0 finds holds for all.

    Args:
      backbone: the frozen network.
      paths: all files, the same in every process.
      candidates: settings, the first of which is kept in doubt.
      batch_size: images computed at once.
      watch: follows one stage, "choose", of the images computed; told what was chosen.
      roi: the region of interest.

    Raises:
      UnreadableImage: from ``watch.unreadable``.
      Interrupted: one of the processes was asked to stop.
      ValueError, FloatingPointError: as :func:`padim_jax.method.choosing.compare`.
    """
    configs = unlike("choose", candidates)
    if len(configs) == 1:
        return configs[0]

    def go_on() -> None:
        if gather(np.array([watch.stopped()])).any():
            raise Interrupted("interrupted while the settings were chosen, before the fit")

    parts = [np.zeros((0, *configs[0].crop, 3), np.uint8)]
    sample = [paths[index] for index in spread(len(paths))]
    for batch in load_batches(sample, configs[0], batch_size, watch.unreadable, ignore_note):
        parts.append(batch.images)
        go_on()
    images = np.concatenate(parts)
    kept = without_needless_turns(configs, images, roi)
    agreed = gather(np.array([config in kept for config in configs]))[0]  # as process 0 has it
    configs = tuple(config for config, is_kept in zip(configs, agreed, strict=True) if is_kept)
    with watch.progress("choose", images_computed(configs, len(images))) as advance:

        def follow(count: int) -> None:
            advance(count)
            go_on()

        choice = compare(backbone, images, configs, roi=roi, batch_size=batch_size, advance=follow)
    if choice.criteria:
        criteria, errors = gather(np.array([choice.criteria, choice.standard_errors]))[0]
        choice = replace(choice, criteria=tuple(map(float, criteria)), standard_errors=tuple(map(float, errors)))
    watch.remark(f"note: {choice.describe()}")
    return choice.config
