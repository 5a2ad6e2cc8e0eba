"""``padim inspect``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from padim_jax.commands.inspect_folder import folder_lines, inspect_folder
from padim_jax.commands.inspect_model import inspect_model, model_lines
from padim_jax.commands.terminal import batch_option, debug_option, note_ignored, printable
from padim_jax.data import find_images
from padim_jax.storage import MANIFEST


@click.command("inspect")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Of a folder: score by this model, not one fitted here.")
@click.option("--quick", is_flag=True, help="Of a folder: headers and digests only; no pixels decoded, no scores.")
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Of a model: good images, to look for positions with two peaks.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for tables and pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@batch_option
@debug_option
def inspect_command(
    path: Path, model: Path | None, quick: bool, images: Path | None, out: Path | None, as_json: bool, batch_size: int
) -> None:
    """Inspect PATH, a folder of images or a model.

    Of a folder: what the files are, which can't be read, duplicates, and likely mistakes: odd sizes, channels, depths
    and formats, and images whose score stands out when each is scored by a model of all the others: --model, if it was
    fitted on them (others are scored as they are), else one fitted here in memory.

    Of a model: settings, sizes, calibration, condition numbers of its covariances and, with --images, positions where
    the images fall into two groups.

    With --out: images.csv and suspects.png; or mean.png, log_determinant.png and two_peaks.png. The exit code is 1 if a
    file can't be read.
    """
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
    click.echo(json.dumps(record, indent=1) if as_json else "\n".join(map(printable, lines)))
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
