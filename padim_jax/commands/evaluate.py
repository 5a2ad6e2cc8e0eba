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
from jax.sharding import Mesh
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from padim_jax.artifact import ownership
from padim_jax.backbones import load_backbone
from padim_jax.commands.devices import MeshOptions
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
from padim_jax.presets import Preset, preset
from padim_jax.runs.engines import Engine, engine
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
    presets: tuple[str, ...],
    categories: tuple[str, ...],
    protocol: ProtocolName,
    seeds: int | None,
    weights: str | None,
    prepared: Path | None,
    report: bool,
    devices: int | None,
    batch_size: int,
    **sizes: Any,
) -> None:
    """Do what ``padim evaluate`` says it does."""
    from padim_jax.data.catalogue import find_categories
    from padim_jax.evaluation.evaluate import Run
    from padim_jax.evaluation.results import claim

    prepared, mesh = prepared or out / "prepared", MeshOptions(devices).mesh()
    with wrong_use():
        chosen = [preset(name) for name in dict.fromkeys(presets or ("lite0",))]
        found = find_categories(folder, prepared, categories)
        if weights is not None and len({one.backbone for one in chosen}) > 1:
            raise ValueError("--weights is one backbone's, but the presets have several; evaluate them apart")
        _check_apart(found, {"--out": out, "--prepared": prepared})
        draws = {one.name: _draws(one, protocol, seeds) for one in chosen}
        plan = [
            Run(category, one, seed, Protocol(protocol, seed if protocol == "rotated" else 0), **sizes, weights=weights)
            for category in found
            for one in chosen
            for seed in range(draws[one.name])
        ]
    with ownership.locked(out, "evaluate"):
        claim(out)
        _check_room(out)
        _carry_out(plan, out, weights, mesh, batch_size, report)


def report_command(results: Path) -> None:
    """Do what ``padim report`` says it does."""
    from padim_jax.evaluation.report import RUN_FILE, write_report

    found = sorted(path.parent for path in results.rglob(RUN_FILE))
    runs = [run for run in found if not run.name.startswith(".")]  # those were never finished
    if not runs:
        raise click.UsageError(f"{results} holds no run ({RUN_FILE}); padim evaluate writes them")
    for run in runs:
        write_report(run, run / REPORT)
        tell(str(run / REPORT))


def _carry_out(
    plan: Sequence[Run], out: Path, weights: str | None, mesh: Mesh | None, batch_size: int, report: bool
) -> None:
    """Do what is planned and not done yet, one run after the other; tables are as of the last."""
    from padim_jax.data.catalogue import assign_roles, ignored_files, prepare
    from padim_jax.evaluation.evaluate import earlier, evaluate, finished, place
    from padim_jax.evaluation.operating_points import remarks
    from padim_jax.evaluation.report import RUN_FILE, write_report
    from padim_jax.evaluation.results import metrics_of, write_results

    categories = {run.category.name: run.category for run in plan}
    # all files are looked at before any is scored
    builders = {name: category.build() for name, category in categories.items()}
    for name, builder in builders.items():
        note_ignored(ignored_files(builder), name)
    board = _Board()
    engines: dict[str, Engine] = {}  # by the network they hold
    records: list[dict[str, Any]] = []
    pages: list[Path] = []
    with board.shown(), _going_on(out, records, len(plan)):
        for name, builder in builders.items():  # what is wrong with any shows before the first is scored
            board.bar(f"preparing {name}")
            prepare(builder)
            assign_roles(builder)
        for run in plan:
            builder, name = builders[run.category.name], run.preset.backbone
            label = f"{len(records) + 1}/{len(plan)} {run.category.name} {run.preset.name} seed {run.seed}"
            if name not in engines:
                moved = megabytes(board.bar(f"{label}: loading {name}", unit="MB"))
                engines[name] = engine(load_backbone(name, weights, progress=moved), mesh)
            network = engines[name].backbone
            record, how = finished(run, network, builder, out), "there already"
            if record is None:
                if before := earlier(run, network, builder, out):
                    say(f"{label}: run again; {before} is of an earlier version, which did not calibrate, and stays")
                options = {"batch_size": batch_size, "progress": partial(board.stage, label), "engine": engines[name]}
                try:
                    record = evaluate(run, network, builder, out, **options)
                except UnreadableImage as error:
                    raise click.ClickException(f"{run.category.folder}: {error} (mend or remove it)") from error
                how = f"in {sum(record['seconds'].values()):.1f} s"
            records.append(record)
            pages.append(out / place(run, network, builder) / REPORT)
            if report and not pages[-1].exists():
                write_report(pages[-1].parent, pages[-1])
            board.lines = write_results(out, records)
            say(f"{label}: image AUROC {_percent(metrics_of(record)['image_auroc'])}, {how}")
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
    """The table so far, and below it what is going on."""

    def __init__(self) -> None:
        self.lines: list[Summary] = []
        self._progress = new_progress()

    def shown(self) -> Live:
        """Context in which the board shows and lines can be said above it."""
        return Live(get_renderable=self._render, console=screen, transient=True)

    def bar(self, what: str, total: int | None = None, unit: str = "images") -> Advance:
        return add_bar(self._progress, what, total, unit)

    def stage(self, label: str, stage: str, total: int) -> Advance:
        return self.bar(f"{label}: {stage}", total)

    def _render(self) -> Group:
        return Group(*([_tables(self.lines)] if self.lines else []), self._progress)


@contextmanager
def _going_on(out: Path, records: list[dict[str, Any]], total: int) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        done = f"{len(records)} of {total} runs are in {out}"
        raise click.ClickException(f"interrupted; {done}, and the same command goes on from there") from error


def _draws(one: Preset, protocol: ProtocolName, seeds: int | None) -> int:
    """Seeds to run; one where a seed changes nothing, whose spread of 0 would look like stability."""
    if protocol == "rotated":
        return seeds or ROTATED_DRAWS
    if not one.draws and (seeds or 1) > 1:
        say(f"{one.name} draws nothing at random, so one seed is enough")
    return (seeds or 1) if one.draws else 1


def _check_apart(categories: Sequence[Category], targets: dict[str, Path]) -> None:
    """What is written inside a category would be among its files, and change it with every run."""
    for category in categories:
        for option, target in targets.items():
            if target.resolve().is_relative_to(category.place.resolve()):
                raise ValueError(
                    f"{option} {target} lies in {category.place}, which it would change; choose a folder outside"
                )


def _check_room(out: Path) -> None:
    """Fail now, not after hours of scoring; on a full disk an empty file could still be made."""
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
    """Metrics in percent, and beside them what has been published; below, what is found at calibrated thresholds."""
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
    """Those of ``columns`` that are defined anywhere, the first in any case."""
    several = len({(line.data, line.protocol) for line in lines}) > 1
    title = title if several else f"{_data(lines[0])}, {title}"
    table = Table(title=title, title_justify="left", title_style="dim")
    for name in ("data", "preset", "category") if several else ("preset", "category"):
        table.add_column(name, overflow="fold")
    first = next(iter(columns))
    shown = [name for name in columns if name == first or any(line.mean[name] is not None for line in lines)]
    for name in shown:
        table.add_column(columns[name], justify="right")
    for line in lines:
        names = (_data(line), line.preset, line.category) if several else (line.preset, line.category)
        style = "bold" if line.category in ("mean", "textures", "objects") else None
        table.add_row(*(escape(printable(name)) for name in names), *(_cell(line, name) for name in shown), style=style)
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
