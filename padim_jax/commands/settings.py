"""Options for settings, for the commands that fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from padim_jax.backbones import BACKBONES, Backbone, load_backbone
from padim_jax.commands.terminal import Size, megabytes, progress_bar, say, wrong_use
from padim_jax.config import Covariance, Interpolation, PadimConfig, Precision, Projection, Resize
from padim_jax.data import find_value_range
from padim_jax.embedding import draw_embedding
from padim_jax.presets import preset


def setting(name: str, kind: Any, about: str) -> Callable[[Any], Any]:
    """Option for a field of ``PadimConfig``; None where it was not given."""
    default = getattr(PadimConfig(), name)
    shown = "the backbone's" if default is None else str(default)
    return click.option(f"--{name.replace('_', '-')}", type=kind, show_default=shown, help=about)


def settings_options(command: Any) -> Any:
    """Options of every command that fits anew; :func:`chosen` makes settings of them."""
    for option in (
        click.option(
            "--value-range",
            type=float,
            nargs=2,
            metavar="LOW HIGH",
            help="Of images of more than 8 bits a channel: the values that become black and white. Default: found.",
        ),
        setting(
            "precision",
            click.Choice(get_args(Precision)),
            "Of the backbone; bfloat16 is for GPUs and TPUs. Statistics are float32 in either.",
        ),
        setting(
            "projection",
            click.Choice(get_args(Projection)),
            "How the taps' channels become d; principal components read the images twice.",
        ),
        setting(
            "covariance",
            click.Choice(get_args(Covariance)),
            "Sample covariance + ε I, or shrunk at each position besides.",
        ),
        setting("neighbourhood", int, "Average activations over k x k cells; odd."),
        setting("interpolation", click.Choice(get_args(Interpolation)), "Of images and maps; the paper's is bicubic."),
        setting("sigma", float, "Blur of the map, in pixels."),
        setting("crop_size", Size(), "Then cut out the centre."),
        setting(
            "resize",
            click.Choice(get_args(Resize)),
            "Stretch to the image size; or keep the aspect: cover it and take the centre, or fit inside with black "
            "around.",
        ),
        setting("image_size", Size(), "Resize images to this."),
        setting("seed", int, "Of the random channel selection."),
        setting("ridge", float, "ε added to the covariance's diagonal."),
        setting("n_channels", int, "Dimension d of the embedding."),
        click.option(
            "--tap", "taps", multiple=True, help="Layer to embed; repeat for several. Default: the backbone's."
        ),
        click.option(
            "--weights",
            type=str,
            help="Weights file (.pth, .safetensors), or 'random'. Default: embedded, or the publisher's file.",
        ),
        click.option(
            "--backbone", type=click.Choice(list(BACKBONES)), help="Network. Default: the preset's, or Lite0."
        ),
        click.option("--preset", "preset_name", metavar="NAME", help="Settings by name; options given besides win."),
    ):
        command = option(command)
    return command


def chosen(
    preset_name: str | None, backbone: str | None, taps: tuple[str, ...], **given: Any
) -> tuple[str, PadimConfig]:
    """Backbone and settings of what :func:`settings_options` were given, but for the weights."""
    with wrong_use():
        name, config = begin(preset_name, backbone)
        wanted = {key: value for key, value in given.items() if value is not None}
        config = replace(config, **wanted, **({"taps": taps} if taps else {}))
        BACKBONES[name].select(config.taps)
    return name, config


def loaded(name: str, weights: str | None, config: PadimConfig) -> Backbone:
    """The network, downloaded if need be, and checked to have the channels asked for."""
    with progress_bar("download", unit="MB") as advance:
        network = load_backbone(name, weights, progress=megabytes(advance))
    with wrong_use():
        draw_embedding(network, config)
    return network


def with_value_range(config: PadimConfig, paths: Sequence[Path]) -> PadimConfig:
    """Settings with the range of the files' values, where they have more than 8 bits and none was given."""
    if config.value_range is not None:
        return config
    with progress_bar("fit range", len(paths)) as advance:
        value_range = find_value_range(paths, advance=advance)
    if value_range is None:
        return config
    low, high = value_range
    say(
        f"images of more than 8 bits: values {low:.12g} to {high:.12g} are what this model takes, black to white; "
        "others are refused (--value-range sets the range)"
    )
    return replace(config, value_range=value_range)


def begin(name: str | None, backbone: str | None) -> tuple[str, PadimConfig]:
    """Backbone and settings to start from."""
    found = preset(name or "lite0")
    if name is not None and backbone not in (None, found.backbone):
        raise ValueError(f"--backbone {backbone} is not that of --preset {name}, {found.backbone}; give one of the two")
    if len(found.members) != 1:
        raise ValueError(f"--preset {name} sums the maps of {len(found.members)} models; it is there for evaluate only")
    return backbone or found.backbone, found.members[0]
