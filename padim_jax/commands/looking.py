"""The command lines of the commands that look at images and models."""

from pathlib import Path
from typing import get_args

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import backbone_option, batch_option, debug_option, preset_option, setting_option
from padim_jax.config import Form


@click.command(
    "estimate",
    cls=Command,
    example="padim estimate good_parts/ --preset wr50-rd550",
    place="padim_jax.commands.estimate:estimate_command",
)
@click.argument("good_dir", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--images", type=click.IntRange(2), metavar="N", help="How many. Default: those of GOOD_DIR, or 200.")
@preset_option
@backbone_option
@click.option("--weights", type=str, help="Weights file. Default: embedded, or random ones, which take as much.")
@setting_option("n_channels")
@setting_option("image_size")
@setting_option("crop_size")
@click.option("--form", type=click.Choice(get_args(Form)), help="Show the size on disk of this form only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@batch_option
@debug_option
def estimate_command() -> None:
    """Estimate what a fit and a score will take, before either runs: state, size on disk, peak memory, seconds.

    Compiles the programs for shapes alone, and computes with a part of the grid and one batch: images of GOOD_DIR, or
    random ones.
    """


@click.command(
    "inspect",
    cls=Command,
    example="padim inspect good_parts/ --out looked",
    place="padim_jax.commands.inspect:inspect_command",
)
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
def inspect_command() -> None:
    """Inspect PATH, a folder of images or a model.

    Of a folder: what the files are, which can't be read, duplicates, how far parts are shifted and turned, and likely
    mistakes: odd sizes, channels, depths and formats, and images whose score stands out when each is scored by a model
    of all the others: --model, if it was fitted on them (others are scored as they are), else one fitted in memory.

    Of a model: settings, sizes, calibration, condition numbers of its covariances and, with --images, positions where
    the images fall into two groups.

    With --out: images.csv and suspects.png; or mean.png, log_determinant.png and two_peaks.png. The exit code is 1 if a
    file can't be read.
    """


@click.command("demo", cls=Command, example="padim demo --out padim-demo", place="padim_jax.commands.demo:demo_command")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("padim-demo"),
    show_default=True,
    help="Folder for the model and the pictures.",
)
@batch_option
@debug_option
def demo_command() -> None:
    """Fit and score real solar cells (the ELPV data set), which pip has installed: nothing else is downloaded.

    Learns from good monocrystalline cells, scores held-out good ones against defective ones, prints the
    image AUROC, and writes heat maps of the best and worst finds. Needs the extra demo, which brings the images.
    """


@click.command(
    "guide",
    cls=Command,
    example="padim guide thresholds\npadim guide limits | less",
    place="padim_jax.commands.guide:guide_command",
    computes=False,
)
@click.argument("topic", required=False)
@debug_option
def guide_command() -> None:
    """Show a page of the user's guide; without TOPIC, list the pages.

    The guide is installed with padim, so no network is needed. On a terminal a page is rendered and shown in a pager;
    in a pipe or a file it is plain Markdown.
    """
