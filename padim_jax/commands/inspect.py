"""``padim inspect``."""

import json
from pathlib import Path

import click

from padim_jax.artifact import Updatable, load_updatable
from padim_jax.artifact.manifest import MANIFEST, read_manifest
from padim_jax.artifact.ownership import claim
from padim_jax.baselines.manifest import refuse
from padim_jax.commands.inputs import check_apart, find_inputs
from padim_jax.commands.inspect_folder import folder_lines
from padim_jax.commands.inspect_model import model_lines
from padim_jax.commands.terminal import progress_bar, say, tell
from padim_jax.inspection import inspect_folder, inspect_model
from padim_jax.runs import Watch

_WRITTEN = ("images.csv", "suspects.png", "mean.png", "log_determinant.png", "two_peaks.png")


def inspect_command(
    path: Path, model: Path | None, quick: bool, images: Path | None, out: Path | None, as_json: bool, batch_size: int
) -> None:
    """Do what ``padim inspect`` says it does."""
    refuse(path, "inspect")
    is_model = (path / MANIFEST).is_file()
    kind, unfit_options = (
        ("a model", {"--model": model, "--quick": quick}) if is_model else ("a folder of images", {"--images": images})
    )
    for name, value in unfit_options.items():
        if value:
            raise click.UsageError(f"{name} is not for {kind}, which {path} is")
    if model is not None and quick:
        raise click.UsageError("--quick computes no scores, and --model is for scores; give one of the two")
    if out is not None and is_model and path.resolve() in out.resolve().parents:
        raise click.UsageError(f"--out {out} lies in the model; choose another folder")
    files = None if is_model and images is None else find_inputs([images or path], out)
    if out is not None:
        check_apart(out)
        claim(out, _WRITTEN, "inspect")
    watch = Watch(progress_bar, remark=say)
    if is_model:
        inspection = inspect_model(path, None if files is None else files.paths, batch_size=batch_size, watch=watch)
        record, show = inspection.record(), model_lines
    else:
        assert files is not None
        stored = None if model is None else _load_listing(model)
        inspection = inspect_folder(files, stored, name=str(model), quick=quick, batch_size=batch_size, watch=watch)
        record, show = {"folder": str(path), **inspection.record()}, folder_lines
    if out is not None:
        inspection.write(out)
    for line in json.dumps(record, indent=1).splitlines() if as_json else show(record):
        tell(line)
    if record["unreadable"]:
        raise click.ClickException(f"{len(record['unreadable'])} files could not be read")


def _load_listing(model: Path) -> Updatable:
    """A model that knows which images it was fitted on."""
    stored = load_updatable(model) if read_manifest(model).get("form") == "updatable" else None
    if stored is None or not stored.images:
        raise click.UsageError(f"{model} does not list the images it was fitted on; leave --model out")
    return stored
