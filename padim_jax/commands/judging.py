"""The command lines of the commands that score images and measure models."""

from pathlib import Path
from typing import get_args

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import (
    RATE,
    Bytes,
    batch_option,
    debug_option,
    devices_option,
    grid_options,
    roi_option,
)
from padim_jax.commands.terminal import tell
from padim_jax.config import PaperTableName, ProtocolName, TableFormat

ROTATED_DRAWS = 5  # arXiv 2011.08785 reports means over random draws
_PIXELS = click.Choice(("crop", "original"))
_regions_option = click.option(
    "--regions", is_flag=True, help="List the regions above the pixel threshold in DIR/regions.csv."
)
_min_area_option = click.option(
    "--min-area",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="With --regions: leave out regions of fewer of the image's pixels.",
)
_tight_masks_option = click.option(
    "--tight-masks", is_flag=True, help="Of each region, mark and list only what reaches half of its peak."
)


def _list_presets(context: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set:
        from padim_jax.presets import PRESETS

        width = max(map(len, PRESETS))
        for preset in PRESETS.values():
            tell(f"{preset.name:{width}}  {preset.about}")
        context.exit()


def _list_methods(context: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set:
        from padim_jax.baselines.registry import METHODS
        from padim_jax.baselines.settings import rules_of

        for method in METHODS.values():
            tell(f"{method.name}  {method.about} ({method.source})")
            for name, rules in rules_of(method.settings).items():
                default = method.settings.__dataclass_fields__[name].default
                tell(f"    {name}: {rules.help} Default: {rules.default or default}.")
        context.exit()


@click.command(
    "score",
    cls=Command,
    example="padim score bracket.padim new_parts/ --out result",
    place="padim_jax.commands.score:score_command",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--heatmaps/--no-heatmaps", default=True, show_default=True, help="Write a picture for each image.")
@click.option(
    "--colour-range",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    help="Values at the ends of the colour scale. Default: the calibration's, with the threshold in the middle.",
)
@click.option(
    "--masks",
    type=_PIXELS,
    help="Write a mask of what is above the pixel threshold, in these pixels.",
)
@click.option("--maps", type=_PIXELS, help="Write the maps as float TIFFs, in these pixels.")
@click.option(
    "--look-rate",
    type=RATE,
    help="Give three verdicts: good, look, bad. Share of good images that may be not called good, such as 0.05.",
)
@_regions_option
@_min_area_option
@_tight_masks_option
@roi_option
@devices_option
@batch_option
@debug_option
def score_command() -> None:
    """Score images, or folders of them, with MODEL.

    Writes DIR/scores.csv (path; score, higher is further from normal; p_value, how rarely a good image scores as much;
    verdict, normal or anomalous; row and column of the map's maximum, in the image's pixels; threshold; heatmap, its
    file in DIR; note) and DIR/heatmaps/, in place of those of an earlier run. All heat maps share the calibration's
    colour scale. Files that can't be read are named, on the terminal and in DIR/unreadable.csv, get no score, and make
    the exit code 1. --masks original and --maps original are in the pixels of the image files; what the crop leaves out
    is 0 in masks and NaN in maps.

    --regions writes DIR/regions.csv, a row for each connected region above the pixel threshold: path; region, 1 for the
    highest of an image; left, top, width, height and area, in the image's pixels; peak, its highest distance, with row
    and column; p_value, how rarely a good image's highest distance is as much.

    --look-rate makes the verdict one of three: bad above the model's threshold, look where the p-value is at most this
    rate or the score says little (an image that does not lie as the good ones do), and good otherwise.

    Results are kept in DIR/unfinished/ as they come: the same command goes on where a run was stopped.
    """


@click.command(
    "score-many",
    cls=Command,
    example="padim score-many models stream.csv --out result --memory 4GB",
    place="padim_jax.commands.score_many:score_many_command",
)
@click.argument("models", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--memory", type=Bytes(), default="4GB", show_default=True, help="What models may take while loaded.")
@click.option("--heatmaps/--no-heatmaps", default=True, show_default=True, help="Write a picture for each image.")
@_regions_option
@_min_area_option
@_tight_masks_option
@batch_option
@debug_option
def score_many_command() -> None:
    """Score images, each by the one of MODELS that TABLE names for it.

    MODELS is a folder of models, as padim fit-many writes it. TABLE is in CSV; its columns are model,path: the name of
    a model and an image, or a folder of them, relative to the table. Images may come in any order: models are loaded
    when they are asked for, and those unused for longest make room.

    Writes DIR/scores.csv (model, then the columns of padim score, in the table's order) and, of models that are
    calibrated, DIR/heatmaps/MODEL/ and, with --regions, DIR/regions.csv. Files that can't be read and models that can't
    be loaded are named, on the terminal and in DIR/unreadable.csv, and make the exit code 1.

    Results are kept in DIR/unfinished/ as they come: the same command goes on where a run was stopped.
    """


@click.command(
    "evaluate",
    cls=Command,
    example="padim evaluate measured/ --out evaluation --preset lite0-plus\n"
    "padim evaluate measured/ --out grid --ridge 0.01 --ridge 0.1 --n-channels 50 --n-channels 100\n"
    "padim evaluate mvtec_anomaly_detection/ --out paper --table localisation",
    place="padim_jax.commands.evaluate:evaluate_command",
)
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results; required with FOLDER.",
)
@click.option(
    "--preset", "preset_names", multiple=True, metavar="NAME", help="Settings; repeat for several. Default: lite0."
)
@click.option(
    "--list-presets",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_presets,
    help="List the presets and exit.",
)
@click.option(
    "--method",
    "method_texts",
    multiple=True,
    metavar="NAME",
    help="A method to compare with, as NAME or NAME:SETTING=VALUE,…; repeat for several.",
)
@click.option(
    "--list-methods",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_methods,
    help="List the methods with their settings, and exit.",
)
@click.option(
    "--table",
    type=click.Choice(get_args(PaperTableName)),
    help="Fill in this table of the paper; without FOLDER, show what has been published of it.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Of a method's good images, each scored by a model of the others, for thresholds.",
)
@click.option(
    "--category", "category_names", multiple=True, metavar="NAME", help="Which of FOLDER's; repeat. Default: all."
)
@click.option(
    "--protocol",
    type=click.Choice(get_args(ProtocolName)),
    help="rotated: all images are rotated within 10° and cropped at random, as in Rd-MVTec AD. Default: standard.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help=f"Draws of channels (and rotations), from seed 0. Default: 1; rotated, {ROTATED_DRAWS}.",
)
@click.option("--weights", type=str, help="Weights file, or 'random', for the one backbone of all presets.")
@grid_options
@click.option(
    "--table-format",
    "table_formats",
    type=click.Choice(get_args(TableFormat)),
    multiple=True,
    help="Write the table as DIR/table.md, .tex or .csv, with --table time as DIR/time.md (its default) or the like; "
    "repeat for several.",
)
@click.option(
    "--prepared",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for TFDS's copies of the images. Default: prepared in --out.",
)
@click.option("--report/--no-report", default=True, show_default=True, help="Write a web page for each run.")
@devices_option
@batch_option
@debug_option
def evaluate_command() -> None:
    """Measure presets, and other methods, on FOLDER: a data set with good and defective images.

    FOLDER is a category in MVTec AD's layout or with good/ and bad/ folders, a folder of several, or ShanghaiTech
    Campus. Writes DIR/results.json, DIR/results.csv, DIR/files.csv (every image, its role, score and p-value), and a
    report of each run. Besides the usual metrics they say what share of the defective test images is found, and of the
    good ones flagged, at thresholds for 1 % and 5 % false alarms that come from the good training images alone. Runs
    already in DIR are kept, not repeated, so that an interrupted evaluation goes on where it was.

    Settings replace those of the presets. A setting that is repeated has several values, and each of them is evaluated;
    several such settings make a grid of all combinations. --tap alone means the same as for padim fit: repeated, it
    names the layers of one embedding.

    Methods take the network, and the way to read images, of the first --preset, or of lite0; without --preset they are
    evaluated alone. With --table and without --preset, a method takes the network of its row in the paper, such as that
    of wr50-rd550 for spade. Methods that train a network of their own need the extra train.

    --table chooses what PaDiM's paper compares in one of its tables, with its protocol, and writes DIR/localisation.md
    or the like: what was measured beside what has been published, with sources. A row that can't be measured, for
    lack of weights or because it fails, says so, and the others go on. --preset and --method name other rows to
    measure; of the others, the published figures stay.

    Needs the extra evaluate, and for ShanghaiTech Campus the extra video; the published figures need neither.
    """


@click.command(
    "report",
    cls=Command,
    example="padim report evaluation",
    place="padim_jax.commands.evaluate:report_command",
)
@click.argument("results", type=click.Path(exists=True, file_okay=False, path_type=Path))
@debug_option
def report_command() -> None:
    """Rewrite the web page of every run below RESULTS, a folder that evaluate wrote."""
