"""Image files that a command reads, apart from what it writes."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from padim_jax.artifact.ownership import is_ours
from padim_jax.commands.terminal import note_ignored, say
from padim_jax.images import FoundImages, find_images
from padim_jax.images.folder import SUFFIXES

_NOT_GOOD = frozenset("test bad defect defects ng anomaly anomalous ground_truth".split())


def find_inputs(places: Sequence[Path], out: Path | None = None, where: str = "") -> FoundImages:
    """Image files in ``places``, none of them in ``out``, where results go; says which files it passed over."""
    images = find_images(places, exclude=out)
    if out is not None:
        check_apart(out, images.paths)
    note_ignored(images.ignored, where)
    return images


def check_apart(out: Path, paths: Sequence[Path] = ()) -> None:
    """Refuse results among images, where a later fit would take them for images of parts.

    Args:
      out: folder of the results; beside its results there may be no images.
      paths: images that are read, none of them in ``out``.
    """
    inside = [path for path in paths if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(out))]
    if not inside and out.is_dir() and not is_ours(out):
        inside = [path for path in out.iterdir() if path.suffix.lower() in SUFFIXES]
    if inside:
        raise click.UsageError(f"--out {out} holds images ({inside[0]}); choose a folder for the results alone")


def warn_of_defects(good_dir: Path, paths: Sequence[Path]) -> None:
    """Warn of each folder that is called as if its images were not good ones; a data set has such beside train/good."""
    folders = dict.fromkeys(
        good_dir.joinpath(*parts[: index + 1])
        for parts in (path.relative_to(good_dir).parts[:-1] for path in paths)
        for index, part in enumerate(parts)
        if part.lower() in _NOT_GOOD and not _NOT_GOOD.intersection(map(str.lower, parts[:index]))
    )
    train = good_dir / "train" / "good"
    better = f"give {train} instead" if train.is_dir() else "give a folder of good images alone"
    for folder in folders:
        say(f"warning: the model learns the images in {folder} as good ones; if they are not, {better}")
