"""What ``padim evaluate`` shows and writes of its runs: all metrics, beside what has been published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable

from padim_jax.commands.terminal import printable
from padim_jax.config import TableFormat
from padim_jax.evaluation.results import Summary
from padim_jax.evaluation.table import AT_THRESHOLDS, SEPARATION, Layout, data_text, make_table, write_tables

if TYPE_CHECKING:
    from padim_jax.evaluation.run import AnyRun


class Overview:
    """The table of all runs; the first run that fails ends the evaluation.

    Attributes:
      tolerated: exceptions that leave one run out.
      failures: what went wrong, by row.
      unexpected: the error behind a failure, where it may be a fault of the program.
    """

    tolerated: tuple[type[Exception], ...] = ()
    failures: Mapping[str, Any] = {}
    unexpected: Exception | None = None

    def order(self, runs: Iterable[AnyRun]) -> list[AnyRun]:
        """Runs in the order in which they are done."""
        return list(runs)

    def fail(self, run: AnyRun, error: Exception) -> str:
        """Go on after a run that failed; never called, as nothing is tolerated."""
        raise error

    def lines(self, summary: Sequence[Summary], runs: Sequence[Mapping[str, Any]]) -> list[Summary]:
        """The lines of the table."""
        return list(summary)

    def files(self, formats: Sequence[TableFormat]) -> list[str]:
        """Names of the files of tables."""
        return [Layout().file(name) for name in formats]

    def write(self, out: Path, lines: Sequence[Summary], formats: Sequence[TableFormat]) -> list[Path]:
        """Write the tables; returns the paths."""
        return write_tables(out, lines, formats)

    def render(self, lines: Sequence[Summary]) -> RenderableType:
        """The tables for the terminal."""
        return tables(lines)

    def show(self, lines: Sequence[Summary]) -> None:
        """Print the tables."""
        Console(highlight=False).print(self.render(lines))


def tables(lines: Sequence[Summary]) -> RenderableType:
    """Metrics in percent beside published figures; below, recall and false alarms at calibrated thresholds."""
    title = "percent"
    if any(line.published for line in lines):
        title += "; in brackets, what has been published"
    shown = [draw_table(lines, title, SEPARATION)]
    if any(line.mean[name] is not None for line in lines for name in AT_THRESHOLDS):
        title = (
            "percent of the defective test images found, and of the good ones flagged, at thresholds for 1 % and 5 % "
        )
        shown.append(draw_table(lines, f"{title}false alarms from good training images alone", AT_THRESHOLDS))
    return Group(*shown)


def draw_table(lines: Sequence[Summary], title: str, metrics: Mapping[str, str]) -> RichTable:
    """Metrics of lines for the terminal; their title begins with the data where no column has it."""
    cells = make_table(lines, metrics)
    title = title if "data" in cells.names else f"{data_text(lines[0])}, {title}"
    drawn = RichTable(title=title, title_justify="left", title_style="dim")
    for name in cells.names:
        drawn.add_column(name, overflow="fold")
    for name in cells.metrics:
        drawn.add_column(name, justify="right")
    for line, row in zip(lines, cells.rows, strict=True):
        style = "bold" if line.category in ("mean", "textures", "objects") else None
        drawn.add_row(*(escape(printable(cell)) for cell in row), style=style)
    return drawn
