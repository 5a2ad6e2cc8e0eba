"""``padim evaluate`` and ``padim report``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from padim_jax.artifact import ownership
from padim_jax.backbones import Backbone, load_backbone
from padim_jax.commands.judging import ROTATED_DRAWS
from padim_jax.commands.terminal import (
    add_bar,
    megabytes,
    new_progress,
    note_ignored,
    printable,
    say,
    screen,
    tell,
    wrong_use,
)
from padim_jax.config import ProtocolName
from padim_jax.data.protocol import Protocol
from padim_jax.images import UnreadableImage
from padim_jax.presets import Preset
from padim_jax.presets import preset as find_preset
from padim_jax.runs.watch import Advance

if TYPE_CHECKING:  # TFDS, Grain and scikit-learn take seconds to import, which other commands need not wait for
    from padim_jax.data.catalogue import Category
    from padim_jax.evaluation.evaluate import Run
    from padim_jax.evaluation.results import Summary

REPORT = "report.html"
_PROBE = 2**20  # bytes, less than a page with pictures
_COLUMNS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pro": "PRO",
}
_AT_THRESHOLDS = {
    "recall_at_1_percent": "found, 1 %",
    "false_alarms_at_1_percent": "alarms, 1 %",
    "recall_at_5_percent": "found, 5 %",
    "false_alarms_at_5_percent": "alarms, 5 %",
}


def evaluate_command(
    folder: Path,
    out: Path,
    preset_names: tuple[str, ...],
    category_names: tuple[str, ...],
    protocol: ProtocolName,
    seeds: int | None,
    weights: str | None,
    prepared: Path | None,
    report: bool,
    batch_size: int,
    **sizes: Any,
) -> None:
    """Do what ``padim evaluate`` says it does."""
    from padim_jax.data.catalogue import find_categories
    from padim_jax.evaluation.evaluate import Run
    from padim_jax.evaluation.results import claim

    prepared = prepared or out / "prepared"
    with wrong_use():
        presets = [find_preset(name) for name in dict.fromkeys(preset_names or ("lite0",))]
        categories = find_categories(folder, prepared, category_names)
        if weights is not None and len({preset.backbone for preset in presets}) > 1:
            raise ValueError("--weights is of one backbone, but the presets have several; evaluate them one by one")
        _check_apart(categories, {"--out": out, "--prepared": prepared})
        runs = [
            Run(category, preset, seed, Protocol(protocol, seed * (protocol == "rotated")), **sizes, weights=weights)
            for category in categories
            for preset in presets
            for seed in range(_count_seeds(preset, protocol, seeds))
        ]
    with ownership.locked(out, "evaluate"):
        claim(out)
        _check_room(out)
        _evaluate_all(runs, out, weights, batch_size, report)


def report_command(results: Path) -> None:
    """Do what ``padim report`` says it does."""
    from padim_jax.evaluation.report import RUN_FILE, write_report

    folders = sorted(path.parent for path in results.rglob(RUN_FILE))
    runs = [run for run in folders if not run.name.startswith(".")]  # those were never finished
    if not runs:
        raise click.UsageError(f"{results} holds no run ({RUN_FILE}); padim evaluate writes them")
    for run in runs:
        write_report(run, run / REPORT)
        tell(str(run / REPORT))


def _evaluate_all(runs: Sequence[Run], out: Path, weights: str | None, batch_size: int, report: bool) -> None:
    """Evaluate what has not been evaluated yet, one run after the other; the tables are written after each."""
    from padim_jax.data.catalogue import assign_roles, ignored_files, prepare
    from padim_jax.evaluation.evaluate import earlier, evaluate, finished, place
    from padim_jax.evaluation.operating_points import remarks
    from padim_jax.evaluation.report import RUN_FILE, write_report
    from padim_jax.evaluation.results import metrics_of, write_results

    categories = {run.category.name: run.category for run in runs}
    # all files are listed before any is scored
    builders = {name: category.build() for name, category in categories.items()}
    for name, builder in builders.items():
        note_ignored(ignored_files(builder), name)
    board = _Board()
    networks: dict[str, Backbone] = {}
    records: list[dict[str, Any]] = []
    pages: list[Path] = []
    with board.show(), _state_progress(out, records, len(runs)):
        for name, builder in builders.items():  # a fault in any shows before the first run
            board.bar(f"preparing {name}")
            prepare(builder)
            assign_roles(builder)
        for run in runs:
            builder, name = builders[run.category.name], run.preset.backbone
            label = f"{len(records) + 1}/{len(runs)} {run.category.name} {run.preset.name} seed {run.seed}"
            if name not in networks:
                progress = megabytes(board.bar(f"{label}: loading {name}", unit="MB"))
                networks[name] = load_backbone(name, weights, progress=progress)
            record, remark = finished(run, networks[name], builder, out), "there already"
            if record is None:
                if outdated := earlier(run, networks[name], builder, out):
                    say(f"{label}: run again; {outdated} is of an earlier version, which did not calibrate, and stays")
                progress = partial(board.stage, label)
                try:
                    record = evaluate(run, networks[name], builder, out, batch_size=batch_size, progress=progress)
                except UnreadableImage as error:
                    raise click.ClickException(f"{run.category.folder}: {error} (mend or remove it)") from error
                remark = f"in {sum(record['seconds'].values()):.1f} s"
            records.append(record)
            pages.append(out / place(run, networks[name], builder) / REPORT)
            if report and not pages[-1].exists():
                write_report(pages[-1].parent, pages[-1])
            board.lines = write_results(out, records)
            say(f"{label}: image AUROC {_percent(metrics_of(record)['image_auroc'])}, {remark}")
    Console(highlight=False).print(_tables(board.lines))
    notes = {f"{record['category']}: {text}": None for record in records for text in remarks(record.get("calibration"))}
    for note in notes:
        say(note)
    tell(f"{out / 'results.json'}, results.csv, files.csv")
    if others := sum(1 for path in (out / "runs").rglob(RUN_FILE) if path.parent / REPORT not in pages):
        say(f"{others} other runs in {out}, of other settings or files, are not in these tables")
    for page in pages if report else ():
        tell(f"  {page}")


class _Board:
    """The table so far, with a progress bar below it."""

    def __init__(self) -> None:
        self.lines: list[Summary] = []
        self._progress = new_progress()

    def show(self) -> Live:
        """Context in which the board is shown; lines can be printed above it."""
        return Live(get_renderable=self._render, console=screen, transient=True)

    def bar(self, what: str, total: int | None = None, unit: str = "images") -> Advance:
        return add_bar(self._progress, what, total, unit)

    def stage(self, label: str, stage: str, total: int) -> Advance:
        return self.bar(f"{label}: {stage}", total)

    def _render(self) -> Group:
        return Group(*([_tables(self.lines)] if self.lines else []), self._progress)


@contextmanager
def _state_progress(out: Path, records: list[dict[str, Any]], total: int) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        finished = f"{len(records)} of {total} runs are in {out}"
        raise click.ClickException(f"interrupted; {finished}, and the same command goes on from there") from error


def _count_seeds(preset: Preset, protocol: ProtocolName, seeds: int | None) -> int:
    """How many seeds to run: one where a seed changes nothing, as a spread of 0 would look like stability."""
    if protocol == "rotated":
        return seeds or ROTATED_DRAWS
    if not preset.draws and (seeds or 1) > 1:
        say(f"{preset.name} draws nothing at random, so one seed is enough")
    return (seeds or 1) if preset.draws else 1


def _check_apart(categories: Sequence[Category], targets: dict[str, Path]) -> None:
    """Refuse to write inside a category: the results would count among its files, and change it with every run."""
    for category in categories:
        for option, target in targets.items():
            if target.resolve().is_relative_to(category.place.resolve()):
                raise ValueError(
                    f"{option} {target} lies in {category.place}, which it would change; choose a folder outside"
                )


def _check_room(out: Path) -> None:
    """Fail now, not after hours of scoring; the probe is not empty, as a full disk still takes empty files."""
    try:
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(bytes(_PROBE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise OSError(
            f"evaluate: can't write to {out} ({error.strerror or error}); make room, or choose another --out"
        ) from error


def _tables(lines: Sequence[Summary]) -> RenderableType:
    """Metrics in percent beside published figures; below, recall and false alarms at calibrated thresholds."""
    title = "percent"
    if any(line.published for line in lines):
        title += "; in brackets, what has been published"
    tables = [_table(lines, title, _COLUMNS)]
    if any(line.mean[name] is not None for line in lines for name in _AT_THRESHOLDS):
        title = (
            "percent of the defective test images found, and of the good ones flagged, at thresholds for 1 % and 5 % "
        )
        tables.append(_table(lines, f"{title}false alarms from good training images alone", _AT_THRESHOLDS))
    return Group(*tables)


def _table(lines: Sequence[Summary], title: str, columns: Mapping[str, str]) -> Table:
    """A table of the first of ``columns``, and of the others that any line defines."""
    several_data = len({(line.data, line.protocol) for line in lines}) > 1
    title = title if several_data else f"{_data(lines[0])}, {title}"
    table = Table(title=title, title_justify="left", title_style="dim")
    for name in ("data", "preset", "category") if several_data else ("preset", "category"):
        table.add_column(name, overflow="fold")
    first = next(iter(columns))
    defined = [name for name in columns if name == first or any(line.mean[name] is not None for line in lines)]
    for name in defined:
        table.add_column(columns[name], justify="right")
    for line in lines:
        names = (_data(line), line.preset, line.category) if several_data else (line.preset, line.category)
        style = "bold" if line.category in ("mean", "textures", "objects") else None
        table.add_row(
            *(escape(printable(name)) for name in names), *(_cell(line, name) for name in defined), style=style
        )
    return table


def _data(line: Summary) -> str:
    return line.data if line.protocol == "standard" else f"{line.data}, {line.protocol}"


def _cell(line: Summary, name: str) -> str:
    value, spread, reference = line.mean[name], line.spread[name], line.published.get(name)
    text = _percent(value)
    text += "" if spread is None else f" ±{100 * spread:.1f}"
    return text if reference is None else f"{text} ({100 * reference.value:.1f})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
