"""``padim evaluate --table``: a table of the paper, filled in as far as data and weights are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from rich.console import Console, RenderableType
from rich.markup import escape

from padim_jax.baselines.registry import parse_method
from padim_jax.commands.grid import Grid, MethodChoice, Subject
from padim_jax.commands.overview import draw_table
from padim_jax.commands.terminal import printable
from padim_jax.config import PaperTableName, ProtocolName, TableFormat
from padim_jax.evaluation.paper import MVTEC, PAPER, STC, TABLES, PaperRow, PaperTable
from padim_jax.evaluation.results import Summary, costs_of
from padim_jax.evaluation.table import Layout, write_tables
from padim_jax.presets import preset as find_preset

if TYPE_CHECKING:  # TFDS and Grain take seconds to import, which published figures need not wait for
    from padim_jax.data.catalogue import Category
    from padim_jax.evaluation.run import AnyRun

_DEFAULT_FORMAT: TableFormat = "markdown"
_IN_WORDS = (ValueError, OSError, FloatingPointError, click.ClickException)  # errors whose text says what is wrong


@dataclass
class Comparison:
    """A table of the paper with what is measured for it.

    Attributes:
      table: which.
      rows: with what measures each; None for those of the paper that are not measured.
      settings: values that replace those of all rows; of a weights file its name, as tables are shown to others.
      planned: names of the categories that are measured, by the data set's name.
      failures: by the row's label, what went wrong, with the category of each run where it did.
      draws: how many runs are planned, by the subject's name and the category's.
      unexpected: the first error that may be a fault of the program; None where there is none.
    """

    table: PaperTable
    rows: list[tuple[PaperRow, Subject | None]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    draws: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexpected: Exception | None = None

    tolerated: ClassVar[tuple[type[Exception], ...]] = (Exception,)  # whatever ends one row, the others go on

    @property
    def subjects(self) -> list[Subject]:
        """What is measured; what trains a network of its own comes last, as it takes longest."""
        found = [subject for _, subject in self.rows if subject is not None]
        return sorted(found, key=lambda one: isinstance(one, MethodChoice) and not one.method.uses_backbone)

    def order(self, runs: Iterable[AnyRun]) -> list[AnyRun]:
        """Runs row by row, so that rows are whole where an evaluation is stopped; notes what they are of."""
        runs = list(runs)
        for run in runs:
            names = self.planned.setdefault(run.category.data, [])
            names.extend([run.category.name] * (run.category.name not in names))
            self.draws[run.name, run.category.name] += 1
        place = {subject.name: number for number, subject in enumerate(self.subjects)}
        return sorted(runs, key=lambda run: place[run.name])

    def fail(self, run: AnyRun, error: Exception) -> str:
        """Note that a run could not be done, and say it in words."""
        label = next(row.label for row, subject in self.rows if subject is not None and subject.name == run.name)
        reason = error.message if isinstance(error, click.ClickException) else str(error)
        if not isinstance(error, _IN_WORDS):
            reason = f"{type(error).__name__}: {reason}"
            self.unexpected = self.unexpected or error
        reason = reason or type(error).__name__
        self.failures.setdefault(label, {}).setdefault(reason, []).append(run.category.name)
        return f"{label}: not measured: {reason}"

    def lines(self, summary: Sequence[Summary], runs: Sequence[Mapping[str, Any]]) -> list[Summary]:
        """The lines of the table."""
        named = [(row, None if subject is None else subject.name) for row, subject in self.rows]
        return self.table.compare(named, self.planned, summary, runs, self._notes(runs))

    def write(self, out: Path, lines: Sequence[Summary], formats: Sequence[TableFormat]) -> list[Path]:
        """Write the table, as ``localisation.md`` or the like; returns the paths."""
        return write_tables(out, lines, formats or (_DEFAULT_FORMAT,), self.layout(lines)) if lines else []

    def files(self, formats: Sequence[TableFormat]) -> list[str]:
        """Names of what is written."""
        return [self.layout(()).file(name) for name in formats or (_DEFAULT_FORMAT,)]

    def render(self, lines: Sequence[Summary]) -> RenderableType:
        """The table for the terminal."""
        drawn = draw_table(lines, "", self.table.metrics)
        drawn.title = escape(self.layout(lines).caption or "")
        return drawn

    def show(self, lines: Sequence[Summary]) -> None:
        """Print the table with its notes."""
        console = Console(highlight=False, soft_wrap=True)
        console.print(self.render(lines))
        for note in self.layout(lines).notes:
            console.print(printable(note), markup=False)

    def layout(self, lines: Sequence[Summary]) -> Layout:
        """Caption, headings and notes."""
        units = "" if self.table.is_of_costs else "; percent"
        caption = f"{PAPER}: {self.table.title}{units}; in brackets, what has been published"
        if self.planned and not set(self.planned) <= set(self.table.data):
            caption = (
                f"the methods of {PAPER}: {self.table.title}{units}; on images of which nothing has been published"
            )
        labels_of: dict[str, dict[str, None]] = {}
        for line in lines:
            for figure in (line.published[name] for name in self.table.metrics if name in line.published):
                labels_of.setdefault(figure.source, {})[line.preset] = None
        notes = [f"{line.preset}: {line.note}" for line in lines if line.note]
        sources = [f"published, {', '.join(labels)}: {source}" for source, labels in labels_of.items()]
        return Layout(self.table.name, self.table.metrics, caption, tuple(dict.fromkeys([*notes, *sources])))

    def _failure(self, subject: Subject, reason: str, failed: Sequence[str]) -> str:
        texts, is_all = list[str](), set(failed) >= {name for planned in self.planned.values() for name in planned}
        for name, n_failed in Counter(failed).items():
            n_draws = max(self.draws[subject.name, name], n_failed)
            is_all &= n_failed == n_draws
            texts.append(name if n_failed == n_draws else f"{name} ({n_failed} of {n_draws} draws)")
        return f"not measured: {reason}" if is_all else f"not measured of {', '.join(texts)}: {reason}"

    def _notes(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """By label, in what measured figures are not the published ones, and what could not be measured."""
        notes, measured = {}, {run["preset"] for run in runs}
        costs = self.table.metrics if self.table.is_of_costs else ()
        without_costs = {run["preset"] for run in runs if None in (costs_of(run)[name] for name in costs)}
        for row, subject in self.rows:
            if subject is None:
                continue
            failures = self.failures.get(row.label, {})
            parts = [self._failure(subject, reason, failed) for reason, failed in failures.items()]
            if subject.name in measured:
                parts += [row.remark] * (row.remark != "")
                parts += _other_settings(row, subject)
                parts += _other_network(row, subject)
                if subject.name in without_costs:
                    parts.append("measured by an earlier version, without costs; another --out measures them")
                if self.settings:
                    parts.append(f"measured with {', '.join(f'{k}={v}' for k, v in self.settings.items())}")
            if parts:
                notes[row.label] = "; ".join(parts)
        return notes


def compare_with_paper(
    name: PaperTableName, presets: Sequence[str], methods: Sequence[str], folds: int, grid: Grid, weights: str | None
) -> Comparison:
    """The table called ``name``, to be filled in.

    Presets and methods that the user names are measured in place of the paper's choice: in their row of the paper, or
    in one of their own below. Methods take the network of the first preset, or that of their row.

    Raises:
      ValueError: no such preset or method; settings of several values, or of such as a row does not have.
    """
    if grid.varying:
        raise ValueError(f"--table takes one value of {grid.varying[0]}; leave --table out to compare several")
    table, settings = TABLES[name], grid.settings[0] | ({} if weights is None else {"weights": Path(weights).name})
    if not presets and not methods:
        return Comparison(table, [(row, _subject(row, folds)) for row in table.rows], settings)
    chosen: list[tuple[PaperRow, Subject]] = []
    for preset_name in dict.fromkeys(presets):
        subject = find_preset(preset_name)
        found = next((row for row in table.rows if row.method is None and row.preset == preset_name), None)
        chosen.append((found or PaperRow(preset_name, "", preset_name), subject))
    for method, own in {repr(choice): choice for choice in map(parse_method, methods)}.values():
        row = _row_of_method(table, method.name, own)
        network = presets[0] if presets else (row.preset if row and row.preset else "lite0")
        choice = MethodChoice(method, own, find_preset(network), folds)
        taken = row is None or any(row is other for other, _ in chosen)
        chosen.append((PaperRow(choice.name, "", network, choice.name) if taken or row is None else row, choice))
    rows: list[tuple[PaperRow, Subject | None]] = [
        (row, next((subject for other, subject in chosen if other is row), None)) for row in table.rows
    ]
    own_rows = [(row, subject) for row, subject in chosen if not any(row is other for other in table.rows)]
    return Comparison(table, [*rows, *own_rows], settings)


def protocol_of(table: PaperTable, given: ProtocolName | None) -> ProtocolName:
    """The table's protocol; ``ValueError`` where another one was given."""
    if given not in (None, table.protocol):
        raise ValueError(f"--table {table.name} is of the protocol {table.protocol}; leave --protocol {given} out")
    return table.protocol


def check_data(table: PaperTable, categories: Sequence[Category]) -> None:
    """Raise ``ValueError`` where ShanghaiTech Campus and other images take each other's tables."""
    data = {category.data for category in categories}
    if STC in data and STC not in table.data:
        raise ValueError(f"--table {table.name} is not of ShanghaiTech Campus; take --table stc")
    if STC not in data and MVTEC not in table.data:
        raise ValueError(f"--table {table.name} is of ShanghaiTech Campus, and FOLDER is not; take another table")


def refuse_without_folder(options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` where options that measure something are given without images."""
    if given := [name for name, value in options.items() if value not in (None, (), False)]:
        raise click.UsageError(f"{given[0]} is of what is measured, and there is no FOLDER; name one, or leave it out")


def _subject(row: PaperRow, folds: int) -> Subject | None:
    if row.preset is None:
        return None
    found = find_preset(row.preset)
    return found if row.method is None else MethodChoice(*parse_method(row.method), found, folds)


def _row_of_method(table: PaperTable, name: str, own: Mapping[str, Any]) -> PaperRow | None:
    """The row of a method: of several, the one whose settings are nearest."""
    fitting = []
    for row in table.rows:
        if row.method is not None:
            method, settings = parse_method(row.method)
            if method.name == name and settings.items() <= own.items():
                fitting.append((len(settings), row))
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _other_settings(row: PaperRow, subject: Subject) -> list[str]:
    if row.method is None or not isinstance(subject, MethodChoice) or not row.published:
        return []
    if parse_method(row.method)[1] != subject.own:
        return [f"measured with {subject.name}"]
    if subject.method.uses_backbone:
        return []
    quick = "measured with settings that learn in minutes"
    return [quick if row.paper_method is None else f"{quick}; --method {row.paper_method} takes the paper's"]


def _other_network(row: PaperRow, subject: Subject) -> list[str]:
    if row.backbone is None or not isinstance(subject, MethodChoice) or subject.preset.backbone == row.backbone:
        return []
    return [f"measured with {subject.preset.backbone}, published with {row.backbone}"]
