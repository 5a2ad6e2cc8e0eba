"""What the commands print: progress bars and messages."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from padim_jax.runs.watch import Advance

_PAGE_WIDTH = 100  # characters; longer lines are hard to read

screen = Console(stderr=True, highlight=False, soft_wrap=True)


def size_text(size: int | tuple[int, int]) -> str:
    """A size as an option reads it."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Only note Ctrl-C or a SIGTERM, so that work under way can be kept; a second one raises KeyboardInterrupt."""
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        say("stopping after this batch …")

    # only the main thread can handle signals
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous_handlers = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


@contextmanager
def wrong_use(but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn a ``ValueError`` about what the user typed into wrong use, exit code 2, all but those that mean more."""
    try:
        yield
    except but:
        raise
    except ValueError as error:
        from padim_jax.commands.options import name_options

        raise click.UsageError(name_options(str(error))) from error


def new_progress() -> Progress:
    """Bars with counts and rates, not shown yet."""
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    ]
    return Progress(*columns, TimeRemainingColumn(), console=screen)


def add_bar(progress: Progress, what: str, total: int | None = None, unit: str = "images") -> Advance:
    """Replace the bars by a new one; the returned function advances it."""
    for task in progress.task_ids:
        progress.remove_task(task)
    task = progress.add_task(printable(what), total=total, rate="")
    start, done = time.perf_counter(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        rate = done / max(time.perf_counter() - start, 1e-9)
        progress.update(task, advance=count, rate=f"{rate:.1f} {unit}/s")

    return advance


@contextmanager
def progress_bar(what: str, total: int | None = None, unit: str = "images", *, shown: bool = True) -> Iterator[Advance]:
    """Show a bar, or none where another process shows it; the function it yields advances it."""
    if not shown:
        yield lambda count: None
        return
    progress = new_progress()
    advance_bar = add_bar(progress, what, total, unit)

    def advance(count: int) -> None:
        progress.start()
        advance_bar(count)

    if total is not None:  # a bar without a total may never be needed, so it shows once it advances
        progress.start()
    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()


def megabytes(advance: Advance) -> Callable[[str, int, int], None]:
    """A callback for a download's bytes that advances by megabytes."""
    counted = 0

    def progress(_: str, received: int, __: int) -> None:
        nonlocal counted
        advance((received >> 20) - counted)
        counted = received >> 20

    return progress


def note_ignored(ignored: Mapping[str, int], where: str = "") -> None:
    """Print which files a search ignored."""
    if ignored:
        from padim_jax.images.folder import describe

        say(f"ignored other files{where and f' in {where}'}: {describe(ignored)}")


def note_replaced(model: Path) -> None:
    """Print how to get back a model whose place a new one took, if there was one."""
    from padim_jax.artifact.folder import PREVIOUS

    if (model / PREVIOUS).exists():
        say(f"note: this took the place of a model that was there; padim undo {model} brings that back")


class Notes:
    """Notes about files, printed together: the first of many equal notes, and how many more there are."""

    _SHOWN = 5

    def __init__(self) -> None:
        self._paths: dict[str, list[Path]] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, path: Path, text: str) -> None:
        """Add a note; several threads may do so at once."""
        with self._lock:
            self._counts[text] += 1
            if self._counts[text] <= self._SHOWN:
                self._paths.setdefault(text, []).append(path)

    def say(self) -> None:
        """Print all notes."""
        for text, paths in self._paths.items():
            for path in paths:
                say(f"note: {path}: {text}")
            if more := self._counts[text] - len(paths):
                say(f"note: {more} more files: {text}")


def say(text: str) -> None:
    """Print a line of text beside the results, on standard error."""
    screen.print(printable(text), markup=False)


def keep_stdout() -> None:
    """Let only Python write to standard output; Gloo, when processes meet, writes to its descriptor from C++."""
    try:
        descriptor = os.dup(sys.stdout.fileno())
    except (OSError, ValueError):  # standard output has no descriptor, so nothing in C++ can write to it
        return
    sys.stdout.flush()
    with open(os.devnull, "wb") as null:  # noqa: PTH123 - os.devnull is no path to a file
        os.dup2(null.fileno(), sys.stdout.fileno())
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = os.fdopen(descriptor, "w", encoding=encoding, errors=errors, buffering=1)


def tell(text: str) -> None:
    """Print a line of a command's results, on standard output."""
    click.echo(printable(text))


def show_page(markdown: str) -> None:
    """Show a page of Markdown: rendered and in a pager on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        click.echo(markdown, nl=False)
        return
    from rich.markdown import Markdown  # its parser takes a while to import

    page = Console(force_terminal=True, width=min(Console().width, _PAGE_WIDTH))
    with page.capture() as rendered:
        page.print(Markdown(markdown, hyperlinks=False))  # older pagers show the escape codes of links
    click.echo_via_pager(rendered.get())


def printable(text: str) -> str:
    """Text on one line, with everything unprintable escaped: newlines, escape codes, and bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
