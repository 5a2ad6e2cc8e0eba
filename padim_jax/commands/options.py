"""Options that several commands share. Nothing here computes, so nothing heavy is imported to show a help text."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from padim_jax import config
from padim_jax.backbones import BACKBONES
from padim_jax.config import FALSE_ALARM_RATE, PIXEL_RATE, SETTINGS, PadimConfig

_UNITS = {"MB": 10**6, "GB": 10**9}


class AsWritten(click.ParamType):
    """A type whose name stands in help texts as it is; capitals would spoil it."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The name."""
        return self.name


class Size(AsWritten):
    """A size in pixels: ``224``, or ``224x320`` for height x width."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        try:
            numbers = [int(part) for part in str(value).lower().split("x")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or min(numbers) < 1:
            self.fail(f"{value!r} is neither N nor HEIGHTxWIDTH in pixels", param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


class NumberOrAuto(AsWritten):
    """A number, or ``auto``."""

    name = "NUMBER|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        try:
            return value if value == "auto" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)


class Bytes(click.ParamType):
    """A number of bytes: ``500MB``, ``4GB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB)", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no size such as 500MB or 4GB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


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
    "--preset", "preset_name", metavar="NAME", help="Settings by name; other options take precedence."
)
backbone_option = click.option(
    "--backbone",
    type=click.Choice(list(BACKBONES)),
    metavar="NAME",
    help=f"Network: {', '.join(BACKBONES)}. Default: the preset's, or Lite0.",
)


_OF_CONFIG = "PadimConfig: "
_HINTS = get_type_hints(PadimConfig)
# how an option reads a field of each type other than a choice
_KINDS: Mapping[Any, dict[str, Any]] = {
    int | None: {"type": int},
    int: {"type": int},
    float: {"type": float},
    str: {"metavar": "max|top-P%"},
    config.Regulariser: {"type": NumberOrAuto()},
    config.Size: {"type": Size()},
    tuple[str, ...] | None: {"multiple": True},
    tuple[float, float] | None: {"type": float, "nargs": 2, "metavar": "LOW HIGH"},
}


def setting_option(name: str, default: str | None = None, *, multiple: bool = False) -> Callable[[Any], Any]:
    """The option for a field of ``PadimConfig``, made from its setting; its value is None, or (), where not given.

    Args:
      name: the field.
      default: the default in words, where it is not that of the setting.
      multiple: whether the option may be repeated, to give several values.
    """
    setting, hint = SETTINGS[name], _HINTS[name]
    kind: dict[str, Any] = {"type": click.Choice(get_args(hint))} if get_origin(hint) is Literal else _KINDS[hint]
    default = default or setting.default or getattr(PadimConfig, name)
    kind = kind | {"multiple": multiple or "multiple" in kind}
    return click.option(_flag(name), name, help=f"{setting.help} Default: {default}.", **kind)


def name_options(message: str) -> str:
    """An error of ``PadimConfig`` with the options in place of its fields; any other message as it is.

    >>> name_options("PadimConfig: ridge=0.0, wanted a positive number")
    '--ridge 0.0: wanted a positive number'
    """
    if not message.startswith(_OF_CONFIG):
        return message
    text = re.sub(rf"\b({'|'.join(SETTINGS)})=", lambda field: f"{_flag(field[1])} ", message.removeprefix(_OF_CONFIG))
    for name in SETTINGS:
        text = text.replace(name, _flag(name)) if "_" in name else text  # the others are words of the text, too
    return text.replace(", wanted", ": wanted", 1)


def _flag(name: str) -> str:
    repeated = "multiple" in _KINDS.get(_HINTS[name], ())
    return f"--{name.removesuffix('s') if repeated else name.replace('_', '-')}"


def settings_options(command: Any) -> Any:
    """Options of every command that fits anew (:func:`padim_jax.commands.settings.choose_settings` reads them)."""
    weights = click.option(
        "--weights",
        help="Weights file (.pth, .safetensors), or 'random'. Default: embedded, or the publisher's file.",
    )
    return _with(command, preset_option, backbone_option, weights, *map(setting_option, SETTINGS))


def grid_options(command: Any) -> Any:
    """Options of settings with one or several values, but for the value range: ``evaluate`` reads 8-bit images only."""
    defaults = {name: "the preset's" for name in SETTINGS if name != "value_range"} | {"seed": "those of --seeds"}
    return _with(command, *(setting_option(name, default, multiple=True) for name, default in defaults.items()))


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
    help="Take the images to calibrate on for good, new ones even where they score much higher or lower than those "
    "fitted on.",
)


def calibration_options(command: Any) -> Any:
    """Options of every command that calibrates one model."""
    calibration_option = click.option(
        "--calibration",
        "held_out",
        multiple=True,
        type=click.Path(exists=True, path_type=Path),
        help="Good images to calibrate on instead of those read; repeat for several folders.",
    )
    return calibration_option(trust_option(rate_options(command)))


devices_option = click.option("--devices", type=click.IntRange(1), help="Devices of this machine to use. Default: one.")


def mesh_options(command: Any) -> Any:
    """Options that share a fit out."""
    return _with(
        command,
        devices_option,
        click.option("--coordinator", metavar="HOST:PORT", help="Address of process 0, where the others find it."),
        click.option(
            "--num-processes", type=click.IntRange(1), help="Processes that fit together, by the same command."
        ),
        click.option("--process-id", type=click.IntRange(0), help="Number of this process, from 0."),
        click.option(
            "--distributed", is_flag=True, help="Join the processes that SLURM, Open MPI or a TPU pod has started."
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
