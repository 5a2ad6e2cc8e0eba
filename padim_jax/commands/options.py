"""Options that several commands have. Nothing here computes, so nothing heavy is imported to show a help text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from padim_jax.backbones import BACKBONES
from padim_jax.config import (
    FALSE_ALARM_RATE,
    PIXEL_RATE,
    Covariance,
    Interpolation,
    PadimConfig,
    Precision,
    Projection,
    Resize,
)


class Size(click.ParamType):
    """``224``, or ``224x320`` for height x width."""

    name = "N|HxW"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As it is written here; capitals would make nonsense of it."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        try:
            numbers = [int(part) for part in str(value).lower().split("x")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or min(numbers) < 1:
            self.fail(f"{value!r} is neither N nor HEIGHTxWIDTH in pixels", param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


RATE = click.FloatRange(0, 1, min_open=True, max_open=True)

debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
batch_option = click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images computed at once."
)
roi_option = click.option(
    "--roi",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Mask file: look only where it is not 0.",
)
preset_option = click.option(
    "--preset", "preset_name", metavar="NAME", help="Settings by name; options given besides win."
)
backbone_option = click.option(
    "--backbone", type=click.Choice(list(BACKBONES)), help="Network. Default: the preset's, or Lite0."
)


def setting(name: str, kind: Any, about: str) -> Callable[[Any], Any]:
    """Option for a field of ``PadimConfig``; None where it was not given."""
    default = getattr(PadimConfig(), name)
    shown = "the backbone's" if default is None else str(default)
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=f"{about} Default: {shown}.")


def settings_options(command: Any) -> Any:
    """Options of every command that fits anew; :func:`padim_jax.commands.settings.chosen` makes settings of them."""
    return _with(
        command,
        preset_option,
        click.option("--image-size", type=Size(), help="Resize images to this. Default: the preset's."),
        click.option(
            "--crop-size", type=Size(), help="Then cut out the centre; the rest is not judged. Default: the preset's."
        ),
        backbone_option,
        click.option(
            "--weights",
            type=str,
            help="Weights file (.pth, .safetensors), or 'random'. Default: embedded, or the publisher's file.",
        ),
        click.option(
            "--tap", "taps", multiple=True, help="Layer to embed; repeat for several. Default: the backbone's."
        ),
        setting("n_channels", int, "Dimension d of the embedding."),
        setting("ridge", float, "ε added to the covariance's diagonal."),
        setting("seed", int, "Of the random channel selection."),
        setting(
            "resize",
            click.Choice(get_args(Resize)),
            "Stretch to the image size; or keep the aspect: cover it and take the centre, or fit inside with black "
            "around.",
        ),
        setting("sigma", float, "Blur of the map, in pixels."),
        setting("interpolation", click.Choice(get_args(Interpolation)), "Of images and maps; the paper's is bicubic."),
        setting("neighbourhood", int, "Average activations over k x k cells; odd."),
        setting(
            "covariance",
            click.Choice(get_args(Covariance)),
            "Sample covariance + ε I, or shrunk at each position besides.",
        ),
        setting(
            "projection",
            click.Choice(get_args(Projection)),
            "How the taps' channels become d; principal components read the images twice.",
        ),
        setting(
            "precision",
            click.Choice(get_args(Precision)),
            "Of the backbone; bfloat16 is for GPUs and TPUs. Statistics are float32 in either.",
        ),
        click.option(
            "--value-range",
            type=float,
            nargs=2,
            metavar="LOW HIGH",
            help="Of images of more than 8 bits a channel: the values that become black and white. Default: found.",
        ),
    )


def rate_options(command: Any) -> Any:
    """The rates of every command that calibrates."""
    return _with(
        command,
        click.option(
            "--false-alarm-rate",
            type=RATE,
            help=f"Share of good images that may be called anomalous. Default: {FALSE_ALARM_RATE:g}, or the model's.",
        ),
        click.option(
            "--pixel-rate",
            type=RATE,
            help=f"Share of good images' pixels that masks may mark. Default: {PIXEL_RATE:g}, or the model's.",
        ),
    )


trust_option = click.option(
    "--trust-calibration",
    "trusted",
    is_flag=True,
    help="Take the images to calibrate on for good ones even where they score much higher than those fitted on.",
)


def calibration_options(command: Any) -> Any:
    """Options of every command that calibrates one model."""
    others = click.option(
        "--calibration",
        "held_out",
        multiple=True,
        type=click.Path(exists=True, path_type=Path),
        help="Good images to calibrate on instead of those read; repeat for several folders.",
    )
    return others(trust_option(rate_options(command)))


def mesh_options(command: Any) -> Any:
    """Options that share a fit out."""
    return _with(
        command,
        click.option("--devices", type=click.IntRange(1), help="Devices of this machine to use. Default: one."),
        click.option("--coordinator", metavar="HOST:PORT", help="Of process 0, for the others to find it."),
        click.option(
            "--num-processes", type=click.IntRange(1), help="Processes that fit together, by the same command."
        ),
        click.option("--process-id", type=click.IntRange(0), help="Which of them this is, from 0."),
        click.option(
            "--distributed", is_flag=True, help="Be one of the processes that SLURM, Open MPI or a pod tells of."
        ),
        click.option(
            "--grid", type=click.IntRange(1), help="Devices that share out the positions. Default: all of a process."
        ),
    )


def _with(command: Any, *options: Callable[[Any], Any]) -> Any:
    """The command with these options, in this order."""
    for option in reversed(options):
        command = option(command)
    return command
