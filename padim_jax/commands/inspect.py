"""``padim inspect``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from padim_jax.artifact.folder import MANIFEST
from padim_jax.artifact.ownership import claim
from padim_jax.commands.inspect_folder import folder_lines, inspect_folder
from padim_jax.commands.inspect_model import inspect_model, model_lines
from padim_jax.commands.terminal import note_ignored, tell
from padim_jax.images import find_images

_WRITTEN = ("images.csv", "suspects.png", "mean.png", "log_determinant.png", "two_peaks.png")


def inspect_command(
    path: Path, model: Path | None, quick: bool, images: Path | None, out: Path | None, as_json: bool, batch_size: int
) -> None:
    """Do what ``padim inspect`` says it does."""
    is_model = (path / MANIFEST).is_file()
    for name, given, fits in (
        ("--model", model, not is_model),
        ("--quick", quick, not is_model),
        ("--images", images, is_model),
    ):
        if given and not fits:
            raise click.UsageError(
                f"{name} is not for {'a model' if is_model else 'a folder of images'}, which {path} is"
            )
    if model is not None and quick:
        raise click.UsageError("--quick takes no scores, --model is for scores; give one of the two")
    found = None if is_model and images is None else find_images([images or path], exclude=out)
    _check_out(out, path if is_model else None, () if found is None else found.paths)
    if is_model:
        if found is not None:
            note_ignored(found.ignored)
        record = inspect_model(path, None if found is None else found.paths, out, batch_size)
        lines = model_lines(record)
    else:
        assert found is not None
        record = inspect_folder(path, found, model, quick, out, batch_size)
        lines = folder_lines(record)
    for line in json.dumps(record, indent=1).splitlines() if as_json else lines:
        tell(line)
    if record["unreadable"]:
        raise click.ClickException(f"{len(record['unreadable'])} files could not be read")


def _check_out(out: Path | None, model: Path | None, images: Sequence[Path]) -> None:
    if out is None:
        return
    inside = os.path.abspath(out) + os.sep
    if model is not None and inside.startswith(os.path.abspath(model) + os.sep):
        raise click.UsageError(f"--out {out} lies in the model; choose another folder")
    if within := [path for path in images if os.path.abspath(path).startswith(inside)]:
        raise click.UsageError(f"--out {out} holds images to inspect ({within[0]}); choose another folder")
    claim(out, _WRITTEN, "inspect")
