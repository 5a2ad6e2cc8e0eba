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
from rich.table import Table as RichTable

from padim_jax.artifact import ownership
from padim_jax.backbones import load_backbone
from padim_jax.baselines.registry import parse_method
from padim_jax.commands.devices import MeshOptions
from padim_jax.commands.grid import Grid, Methods, expand_grid, plan_runs
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
from padim_jax.config import ProtocolName, TableFormat
from padim_jax.images import UnreadableImage
from padim_jax.presets import preset as find_preset
from padim_jax.runs.engines import Engine, engine
from padim_jax.runs.watch import Advance

if TYPE_CHECKING:  # TFDS, Grain and scikit-learn take seconds to import, which other commands need not wait for
    from padim_jax.data.catalogue import Category
    from padim_jax.evaluation.results import Summary
    from padim_jax.evaluation.run import AnyRun

REPORT = "report.html"
_PROBE = 2**20  # bytes, less than a page with pictures


def evaluate_command(
    folder: Path,
    out: Path,
    preset_names: tuple[str, ...],
    method_texts: tuple[str, ...],
    folds: int,
    category_names: tuple[str, ...],
    protocol: ProtocolName,
    seeds: int | None,
    weights: str | None,
    prepared: Path | None,
    report: bool,
    table_formats: tuple[TableFormat, ...],
    devices: int | None,
    batch_size: int,
    **settings: tuple[Any, ...],
) -> None:
    """Do what ``padim evaluate`` says it does."""
    import padim_jax.evaluation.evaluate  # noqa: F401 - a package that is missing shows before anything is written
    from padim_jax.data.catalogue import find_categories
    from padim_jax.evaluation.results import claim
    from padim_jax.evaluation.table import FILES

    seed_values = tuple(dict.fromkeys(settings.pop("seed")))
    if seed_values and seeds is not None:
        raise click.UsageError("--seeds counts seeds from 0 and --seed names them; give one of the two")
    prepared, mesh = prepared or out / "prepared", MeshOptions(devices).mesh()
    with wrong_use():
        presets = [find_preset(name) for name in dict.fromkeys(preset_names)]
        choices = tuple({repr(choice): choice for choice in map(parse_method, method_texts)}.values())
        if choices and mesh is not None:
            raise ValueError("--devices is of PaDiM; the methods of --method are fitted on one device: leave it out")
        methods = Methods(choices, presets[0] if presets else find_preset("lite0"), folds)
        presets = presets or [methods.preset] * (not choices)
        categories = find_categories(folder, prepared, category_names)
        if weights is not None and len({preset.backbone for preset in presets}) > 1:
            raise ValueError("--weights is of one backbone, but the presets have several; evaluate them one by one")
        _check_apart(categories, {"--out": out, "--prepared": prepared})
        grid = expand_grid(settings)
        runs = plan_runs(categories, presets, methods, grid, protocol, seed_values or range(seeds or 0), weights)
    with ownership.locked(out, "evaluate"):
        claim(out, [FILES[name] for name in table_formats])
        _check_room(out)
        _evaluate_all(runs, grid, out, weights, mesh, batch_size, report, table_formats)


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


def _evaluate_all(
    runs: Sequence[AnyRun],
    grid: Grid,
    out: Path,
    weights: str | None,
    mesh: Mesh | None,
    batch_size: int,
    report: bool,
    table_formats: Sequence[TableFormat],
) -> None:
    """Evaluate what has not been evaluated yet, one run after the other; the tables are written after each."""
    from padim_jax.data.catalogue import assign_roles, ignored_files, prepare
    from padim_jax.evaluation.evaluate import evaluate
    from padim_jax.evaluation.operating_points import remarks
    from padim_jax.evaluation.report import RUN_FILE, write_report
    from padim_jax.evaluation.results import metrics_of, write_results
    from padim_jax.evaluation.run import earlier, finished, place
    from padim_jax.evaluation.table import percent, write_tables

    categories = {run.category.name: run.category for run in runs}
    # all files are listed before any is scored
    builders = {name: category.build() for name, category in categories.items()}
    for name, builder in builders.items():
        note_ignored(ignored_files(builder), name)
    board = _Board()
    engines: dict[str, Engine] = {}  # by the network they hold
    records: list[dict[str, Any]] = []
    pages: list[Path] = []
    tables: list[Path] = []
    with board.show(), _state_progress(out, records, len(runs)):
        for name, builder in builders.items():  # a fault in any shows before the first run
            board.bar(f"preparing {name}")
            prepare(builder)
            assign_roles(builder)
        for run in runs:
            builder, name = builders[run.category.name], run.preset.backbone
            label = f"{len(records) + 1}/{len(runs)} {run.category.name} {grid.label(run)} seed {run.seed}"
            if name not in engines:
                progress = megabytes(board.bar(f"{label}: loading {name}", unit="MB"))
                engines[name] = engine(load_backbone(name, weights, progress=progress), mesh)
            backbone = engines[name].backbone
            record, remark = finished(run, backbone, builder, out), "there already"
            if record is None:
                if outdated := earlier(run, backbone, builder, out):
                    say(f"{label}: run again; {outdated} is of an earlier version, which did not calibrate, and stays")
                options = {"batch_size": batch_size, "progress": partial(board.stage, label), "engine": engines[name]}
                try:
                    record = evaluate(run, backbone, builder, out, **options)
                except UnreadableImage as error:
                    raise click.ClickException(f"{run.category.folder}: {error} (mend or remove it)") from error
                remark = f"in {sum(record['seconds'].values()):.1f} s"
            if "chosen" in record:
                say(f"{label}: {record['chosen']['why']}")
            records.append(record)
            pages.append(out / place(run, backbone, builder) / REPORT)
            if report and not pages[-1].exists():
                write_report(pages[-1].parent, pages[-1])
            board.lines = write_results(out, records, grid.varying)
            tables = write_tables(out, board.lines, table_formats)
            say(f"{label}: image AUROC {percent(metrics_of(record)['image_auroc'])}, {remark}")
    Console(highlight=False).print(_tables(board.lines))
    notes = {f"{record['category']}: {text}": None for record in records for text in remarks(record.get("calibration"))}
    for note in notes:
        say(note)
    tell(", ".join([f"{out / 'results.json'}, results.csv, files.csv", *(path.name for path in tables)]))
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
    from padim_jax.evaluation.table import AT_THRESHOLDS, SEPARATION

    title = "percent"
    if any(line.published for line in lines):
        title += "; in brackets, what has been published"
    tables = [_table(lines, title, SEPARATION)]
    if any(line.mean[name] is not None for line in lines for name in AT_THRESHOLDS):
        title = (
            "percent of the defective test images found, and of the good ones flagged, at thresholds for 1 % and 5 % "
        )
        tables.append(_table(lines, f"{title}false alarms from good training images alone", AT_THRESHOLDS))
    return Group(*tables)


def _table(lines: Sequence[Summary], title: str, metrics: Mapping[str, str]) -> RichTable:
    from padim_jax.evaluation.table import data_text, make_table

    cells = make_table(lines, metrics)
    title = title if "data" in cells.names else f"{data_text(lines[0])}, {title}"
    table = RichTable(title=title, title_justify="left", title_style="dim")
    for name in cells.names:
        table.add_column(name, overflow="fold")
    for name in cells.metrics:
        table.add_column(name, justify="right")
    for line, row in zip(lines, cells.rows, strict=True):
        style = "bold" if line.category in ("mean", "textures", "objects") else None
        table.add_row(*(escape(printable(cell)) for cell in row), style=style)
    return table
