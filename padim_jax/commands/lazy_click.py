"""Click commands that are imported late: a declaration when its help is shown, its function when it runs."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from padim_jax.commands.startup import start

_COLUMN = 36
# Parameters that few users need, of any command; a help text shows all others first.
HEADINGS = {
    "Expert options": (
        *("backbone", "weights", "taps", "n_channels", "ridge", "seed", "resize", "sigma", "interpolation"),
        *("neighbourhood", "covariance", "prior_images", "positions", "n_components", "align", "max_angle"),
        *("anomaly_map", "image_score", "projection", "precision", "value_range"),
        *("calibrate", "pixel_rate", "checkpoint_every", "batch_size", "debug"),
        *("colour_range", "memory", "prepared", "trusted", "replace_changed"),
        *("settle", "queue", "when_full", "keep_days", "keep_size"),
        *("max_body", "max_in_hand", "max_megapixels", "receive_seconds", "client_rate"),
    ),
    "Other methods than PaDiM": ("method", "folds"),
    "Several devices": ("devices", "part", "coordinator", "num_processes", "process_id", "distributed", "grid"),
}
_HEADING_OF = {name: heading for heading, names in HEADINGS.items() for name in names}


@dataclass(frozen=True)
class Entry:
    """A line of the overview.

    Attributes:
      place: where the command is declared, "module:name".
      usage: how the command is called.
      about: what the command does, in a few words.
    """

    place: str
    usage: str
    about: str


class LazyGroup(click.Group):
    """A group that imports the command asked for, and lists all of them without importing any."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the overview."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None where no command has that name."""
        return None if cmd_name not in self.entries else named(self.entries[cmd_name].place)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview."""
        with formatter.section("Commands"):
            for entry in self.entries.values():
                formatter.write(f"{'':{formatter.current_indent}}{entry.usage:{_COLUMN}}  {entry.about}\n")


class Command(click.Command):
    """A command whose function lies elsewhere; its help has options under headings, and an example at the end.

    Attributes:
      place: the function that does the work, "module:name".
      example: one or several command lines.
      computes: whether the command needs JAX; one that does not starts at once.
    """

    def __init__(self, *args: Any, place: str, example: str, computes: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place = place
        self.example = example
        self.computes = computes

    def invoke(self, ctx: click.Context) -> Any:
        """Import the function that does the work, and call it."""
        if self.computes:
            start()
        return ctx.invoke(named(self.place), **ctx.params)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that everyone needs, then the others, each under its heading."""
        records: dict[str, list[tuple[str, str]]] = {"Options": [], **{heading: [] for heading in HEADINGS}}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                records[_HEADING_OF.get(param.name or "", "Options")].append(record)
        for heading, rows in records.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows, col_max=34)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def named(place: str) -> Any:
    """What "module:name" names."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
