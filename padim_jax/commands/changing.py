"""The command lines of the commands that change models."""

from pathlib import Path

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import (
    RATE,
    batch_option,
    calibration_options,
    debug_option,
    devices_option,
    setting_option,
    trust_option,
)

_model = click.argument("model", type=click.Path(path_type=Path))
_out = click.option("--out", type=click.Path(path_type=Path), help="Model folder to write. Default: MODEL itself.")


@click.command(
    "calibrate",
    cls=Command,
    example="padim calibrate bracket.padim good_parts/ --false-alarm-rate 0.01",
    place="padim_jax.commands.calibrate:calibrate_command",
)
@_model
@click.argument("good", nargs=-1, type=click.Path(exists=True, path_type=Path))
@_out
@click.option("--false-alarm-rate", type=RATE, help="Share of good images that may be called anomalous.")
@click.option("--pixel-rate", type=RATE, help="Share of good images' pixels that masks may mark.")
@setting_option("image_score", "the model's")
@trust_option
@click.option("--threshold", type=float, help="Image score above which an image is anomalous, set by hand.")
@devices_option
@batch_option
@debug_option
def calibrate_command() -> None:
    """Calibrate MODEL on GOOD images, for p-values and verdicts; without GOOD, change its rates or threshold only.

    Images that MODEL was fitted on are each scored by the model of all the others; images it was not fitted on are
    scored as they are (split-conformal: exact p-values). A mix of the two is refused, and so are images that score much
    higher than the model's own good ones do, or much lower, as copies of those that it was fitted on would. MODEL as it
    was before is kept: padim undo brings it back.

    --threshold sets the threshold of a calibrated MODEL by hand, as one found on labelled images; p-values stay as they
    are, and --false-alarm-rate goes back to a threshold from good images.

    --image-score changes what images score, which GOOD images then calibrate; MODEL is not fitted anew.
    """


@click.command(
    "update",
    cls=Command,
    example="padim update bracket.padim this_week/",
    place="padim_jax.commands.update:update_command",
)
@_model
@click.argument("good_dir", type=click.Path(exists=True, path_type=Path))
@_out
@click.option(
    "--half-life",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Let older images fade: after N newer ones they count half.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read, and list them.")
@click.option(
    "--keep-calibration",
    is_flag=True,
    help="Leave thresholds as they are: for images that were chosen by their scores, as false alarms are.",
)
@calibration_options
@devices_option
@batch_option
@debug_option
def update_command() -> None:
    """Add the good images of GOOD_DIR to MODEL, as if it had been fitted on all.

    Images that MODEL knows already are left out. Then the new ones calibrate it, each left out in turn; where they are
    too few for that, beside the scores there are, and --calibration takes other good images. MODEL as it was before is
    kept: padim undo brings it back.

    False alarms among the new images score high, which is why they were chosen; thresholds that follow from them would
    be too high. --keep-calibration adds such images and leaves the calibration as it is.
    """


@click.command(
    "merge",
    cls=Command,
    example="padim merge site_a.padim site_b.padim --out both.padim",
    place="padim_jax.commands.update:merge_command",
)
@_model
@click.argument("others", metavar="OTHER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@calibration_options
@batch_option
@debug_option
def merge_command() -> None:
    """Join MODEL and all OTHERs, as if one had been fitted on the images of all; no image is needed.

    They must have been fitted alike: backbone, weights, channels, sizes. Many are joined in pairs, pairs of pairs and
    so on, so that rounding grows with the logarithm of their number, and so do the models held in memory. The
    calibration scores of all are kept, until padim calibrate, or --calibration here, gives others. Where maps are
    standardised, the joined model has no calibration until then.
    """


@click.command(
    "forget",
    cls=Command,
    example="padim forget bracket.padim recalled_parts/",
    place="padim_jax.commands.update:forget_command",
)
@_model
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@_out
@calibration_options
@devices_option
@batch_option
@debug_option
def forget_command() -> None:
    """Take the images of DIR out of MODEL, as if it had never been fitted on them.

    Refuses images that it was not fitted on, and where too little would be left to be exact. The result is calibrated
    only with --calibration.
    """


@click.command(
    "undo",
    cls=Command,
    example="padim undo bracket.padim",
    place="padim_jax.commands.update:undo_command",
)
@_model
@debug_option
def undo_command() -> None:
    """Bring MODEL back as it was before the last update, forget or calibrate.

    A second time undoes that: the two states take turns.
    """
