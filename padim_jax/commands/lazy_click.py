"""Commands of click that are imported when they are wanted: the group for one's help, a command to do its work."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from padim_jax.commands.startup import start

_COLUMN = 36


@dataclass(frozen=True)
class Entry:
    """A line of the overview.

    Attributes:
      place: where the command is declared, "module:name".
      usage: how it is called.
      about: what it does, in a few words.
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
        """Import the command; None where there is none of that name."""
        return None if cmd_name not in self.entries else named(self.entries[cmd_name].place)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview."""
        with formatter.section("Commands"):
            for entry in self.entries.values():
                formatter.write(f"{'':{formatter.current_indent}}{entry.usage:{_COLUMN}}  {entry.about}\n")


class Command(click.Command):
    """A command that is declared here and done elsewhere.

    Attributes:
      place: the function that does it, "module:name"; None where the one that was decorated does.
    """

    def __init__(self, *args: Any, place: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place = place

    def invoke(self, ctx: click.Context) -> Any:
        """Import what does the work, and do it."""
        start()
        return super().invoke(ctx) if self.place is None else ctx.invoke(named(self.place), **ctx.params)


def named(place: str) -> Any:
    """What "module:name" names."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
