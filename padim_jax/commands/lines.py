"""The command lines of the commands for life on a line."""

from pathlib import Path

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import debug_option

_VERDICTS = ("good", "look", "bad", "unreadable")
_store_argument = click.argument("store", type=click.Path(dir_okay=False, path_type=Path))


@click.command(
    "results",
    cls=Command,
    computes=False,
    example="padim results line.db --verdict bad --since 2026-01-31\npadim results line.db --out january.csv",
    place="padim_jax.commands.results:results_command",
)
@_store_argument
@click.option("--verdict", type=click.Choice(_VERDICTS), help="Only decisions of this verdict.")
@click.option("--model", metavar="NAME", help="Only decisions by the model of this name.")
@click.option("--source", help="Only decisions on images of this source, as it was recorded.")
@click.option("--since", metavar="TIME", help="Only from this day or time on, such as 2026-01-31T13:45.")
@click.option("--until", metavar="TIME", help="Only before this day or time.")
@click.option(
    "--corrected/--not-corrected", default=None, help="Only decisions that a person corrected, or the others."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Only the newest N. Default: 20; all where --out is given."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write them to this file, .csv or .jsonl, in their order, instead of printing them.",
)
@debug_option
def results_command() -> None:
    """Show the decisions in STORE, which padim watch writes: the newest first, then how many there are of each verdict.

    Times without a zone are local; those in a store are UTC. What a person corrected shows both verdicts. What waits to
    be handed on, and images that were dropped, are named at the end.
    """
