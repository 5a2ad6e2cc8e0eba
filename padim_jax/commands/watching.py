"""How a command watches a run over files: a bar for each stage, notes at the end, Ctrl-C between two steps."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click

from padim_jax.commands.terminal import Notes, interruption, progress_bar, say
from padim_jax.images import UnreadableImage, stop_at_unreadable
from padim_jax.runs.calibrate import MixedImages
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_remark, no_progress, skip_unreadable


@contextmanager
def watching(
    left: str,
    unreadable: Callable[[UnreadableImage], None] = stop_at_unreadable,
    *,
    stages: Callable[[str, int], AbstractContextManager[Advance]] = progress_bar,
    shown: bool = True,
) -> Iterator[Watch]:
    """Show a run on the terminal, and say in words what ends it.

    Args:
      left: what an interruption leaves, for its message.
      unreadable: as of :class:`padim_jax.runs.Watch`.
      stages: shows the progress of a stage.
      shown: whether to show progress and say remarks; otherwise another process does.
    """
    notes = Notes()
    try:
        with interruption() as stopped:
            progress, remark = (stages, say) if shown else (no_progress, ignore_remark)
            yield Watch(progress, notes, remark, unreadable, stopped)
    except Interrupted as error:
        raise click.ClickException(f"{error}; {left}") from error
    except UnreadableImage as error:
        raise click.ClickException(f"{error} (mend or remove it)") from error
    except MixedImages as error:
        raise click.UsageError(str(error)) from error
    finally:
        notes.say()


def unreadable_option(skip: bool) -> Callable[[UnreadableImage], None]:
    """What to do with a file that can't be read, by ``--skip-unreadable``."""

    def stop(error: UnreadableImage) -> None:
        raise click.ClickException(f"{error} (mend or remove it, or pass --skip-unreadable)") from error

    return skip_unreadable if skip else stop
