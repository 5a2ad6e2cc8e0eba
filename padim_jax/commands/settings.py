"""The settings and the network that the options of a command ask for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from padim_jax.backbones import BACKBONES, Backbone, load_backbone
from padim_jax.commands.terminal import megabytes, progress_bar, say, wrong_use
from padim_jax.config import PadimConfig
from padim_jax.images import find_value_range
from padim_jax.method.choosing import unlike, with_settings
from padim_jax.method.embedding import draw_embedding
from padim_jax.presets import preset


def choose_settings(
    preset_name: str | None, backbone: str | None, **options: Any
) -> tuple[str, tuple[PadimConfig, ...]]:
    """Backbone and settings that the options ask for; the weights are left to :func:`load_network`.

    The settings are one, or several of which the images are to choose one, where the preset says so.
    """
    with wrong_use():
        name, config = start_from_preset(preset_name, backbone)
        given = {name: value for name, value in options.items() if value not in (None, ())}
        several = () if preset_name is None else preset(preset_name).candidates
        candidates = unlike("fit", with_settings(several or (config,), given))
        BACKBONES[name].select(candidates[0].taps)
    return name, candidates


def load_network(name: str, weights: str | None, config: PadimConfig) -> Backbone:
    """Load the network, downloading it if need be, and check that it has the channels asked for."""
    with progress_bar("download", unit="MB") as advance:
        network = load_backbone(name, weights, progress=megabytes(advance))
    with wrong_use():
        draw_embedding(network, config)
    return network


def with_value_range(candidates: Sequence[PadimConfig], paths: Sequence[Path]) -> Sequence[PadimConfig]:
    """Settings with the range of the files' values, where they have more than 8 bits and none was given."""
    if candidates[0].value_range is not None:
        return candidates
    with progress_bar("checking depths", len(paths)) as advance:
        value_range = find_value_range(paths, advance=advance)
    if value_range is None:
        return candidates
    low, high = value_range
    say(
        f"images of more than 8 bits: this model takes values from {low:.12g} (black) to {high:.12g} (white); "
        "others are refused (--value-range sets the range)"
    )
    return [replace(config, value_range=value_range) for config in candidates]


def start_from_preset(name: str | None, backbone: str | None) -> tuple[str, PadimConfig]:
    """Backbone and settings to start from."""
    base = preset(name or "lite0")
    if name is not None and backbone not in (None, base.backbone):
        raise ValueError(f"--backbone {backbone} is not that of --preset {name}, {base.backbone}; give one of the two")
    if len(base.members) != 1:
        raise ValueError(f"--preset {name} sums the maps of {len(base.members)} models; only padim evaluate takes it")
    return backbone or base.backbone, base.members[0]
