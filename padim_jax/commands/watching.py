"""How a command follows a run over files: a bar for each stage, notes at the end, Ctrl-C between two steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import click

from padim_jax.commands.terminal import Notes, interruption, progress_bar, say
from padim_jax.images import UnreadableImage, stop_at_unreadable
from padim_jax.runs.calibrate import MixedImages
from padim_jax.runs.watch import Interrupted, Watch, ignore_remark, no_progress, skip_unreadable


@contextmanager
def follow_run(unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable) -> Iterator[Watch]:
    """Follow a run on the terminal, with bars and remarks; Ctrl-C stops it, and notes about files come at its end.

    Args:
      unreadable: as of :class:`padim_jax.runs.Watch`.
    """
    notes = Notes()
    try:
        with interruption() as stopped:
            yield Watch(progress_bar, notes, say, unreadable, stopped)
    finally:
        notes.say()


@contextmanager
def watching(
    state: str,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    *,
    shown: bool = True,
) -> Iterator[Watch]:
    """Follow a run on the terminal as :func:`follow_run` does, and turn what ends it into an error message.

    Args:
      state: what an interruption leaves, for its message.
      unreadable: as of :class:`padim_jax.runs.Watch`.
      shown: whether to show progress and print remarks; where false, another process does.
    """
    try:
        with follow_run(unreadable) as watch:
            yield watch if shown else replace(watch, progress=no_progress, remark=ignore_remark)
    except Interrupted as error:
        raise click.ClickException(f"{error}; {state}") from error
    except UnreadableImage as error:
        raise click.ClickException(f"{error} (mend or remove it)") from error
    except MixedImages as error:
        raise click.UsageError(str(error)) from error


def unreadable_option(skip: bool) -> Callable[[UnreadableImage], None]:
    """What to do with a file that can't be read, by ``--skip-unreadable``."""

    def stop(error: UnreadableImage) -> None:
        raise click.ClickException(f"{error} (mend or remove it, or pass --skip-unreadable)") from error

    return skip_unreadable if skip else stop
