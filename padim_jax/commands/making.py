"""The command lines of the commands that make models."""

import re
from pathlib import Path
from typing import Any

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import (
    Size,
    batch_option,
    calibration_options,
    debug_option,
    mesh_options,
    rate_options,
    roi_option,
    settings_options,
    trust_option,
)


class Part(click.ParamType):
    """One of several parts: ``2/8`` is the second of eight."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(value))
        if match is None or int(match[1]) > int(match[2]):
            self.fail(f"{value!r} is not I/N with I from 1 to N", param, ctx)
        return int(match[1]), int(match[2])


@click.command(
    "fit", cls=Command, example="padim fit good_parts/ --out bracket.padim", place="padim_jax.commands.fit:fit_command"
)
@click.argument("good_dir", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@settings_options
@click.option(
    "--method",
    metavar="NAME",
    help="Fit a method to compare with, as padim evaluate lists them; NAME or NAME:SETTING=VALUE,…",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="With --method: parts of the images, each scored by a model of the others, to calibrate.",
)
@calibration_options
@roi_option
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read, and list them.")
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    show_default=True,
    help="Read the images again, for p-values and thresholds.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Keep what was done every N images. Default: when interrupted only.",
)
@mesh_options
@batch_option
@debug_option
def fit_command() -> None:
    """Learn what is normal from GOOD_DIR, a folder of good images (searched recursively).

    The images are then read again, and each is scored by the model of all the others: that calibrates the model, so
    that new images get p-values and verdicts. The model can be updated, merged and made to forget; padim compact makes
    it smaller. A fit that was interrupted goes on where it was, by the same command.
    """


@click.command(
    "fit-many",
    cls=Command,
    example="padim fit-many parts.csv --out models",
    place="padim_jax.commands.fit_many:fit_many_command",
)
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the models.")
@settings_options
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read; else their model fails.")
@click.option(
    "--calibrate/--no-calibrate", default=True, show_default=True, help="Read the images again, for p-values."
)
@rate_options
@trust_option
@click.option(
    "--replace-changed", is_flag=True, help="Refit models that were updated, calibrated or made otherwise since."
)
@click.option(
    "--devices", type=click.IntRange(1), help="Devices of this machine to share the models out. Default: all."
)
@click.option("--part", type=Part(), default="1/1", help="Fit every N-th model only, from the I-th: for N machines.")
@batch_option
@debug_option
def fit_many_command() -> None:
    """Fit a model for every line of TABLE, all with one network and one compiled program.

    TABLE is in CSV; its columns are model,good: the name of a model, which becomes a folder in --out, and its folder
    of good images, relative to the table. Two more columns may be there, and may be empty: calibration, a folder of
    other good images to calibrate on, and roi, a mask file. All models have the same settings.

    A model that fails is named, with the reason, and the others are fitted; then the exit code is 1. The same command,
    given again, fits what failed, what is new and what has changed. Models that padim update, forget, merge or
    calibrate changed are kept and named. --out/models.csv lists all.
    """


@click.command(
    "compact",
    cls=Command,
    example="padim compact bracket.padim --out edge.padim --max-error 1e-3",
    place="padim_jax.commands.compact:compact_command",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, max_open=True),
    default=1e-3,
    show_default=True,
    help="Largest relative error of a distance.",
)
@debug_option
def compact_command() -> None:
    """Write the smallest form of MODEL that scores with no distance off by more than --max-error.

    The bound holds for every possible image, not for a sample. The result scores, but can't be updated, merged or made
    to forget: keep MODEL for that.
    """


@click.command(
    "import",
    cls=Command,
    example="padim import padim.ckpt --out bracket.padim",
    place="padim_jax.commands.importing:import_command",
)
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--image-size", type=Size(), help="Size that images were resized to, where CHECKPOINT does not say.")
@debug_option
def import_command() -> None:
    """Make a model of CHECKPOINT, the .ckpt file of a PaDiM model that anomalib fitted.

    Nothing in CHECKPOINT is executed. The network, the channels, and the Gaussians are its own, and so are its maps but
    for a border of 4 sigma, where the two mirror maps in different ways. What padim can't do as anomalib did is refused
    in words. The result scores, and can be calibrated, compacted and exported; it can't be updated, merged or made to
    forget, since the moments of its images are not in CHECKPOINT. Its scores are distances; anomalib shows them divided
    by those of its validation images.
    """
