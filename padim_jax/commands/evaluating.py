"""The runs of ``padim evaluate``, one after the other, with a table that grows on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jax.sharding import Mesh
from rich.console import Group
from rich.live import Live

from padim_jax.backbones import load_backbone
from padim_jax.commands.overview import Overview
from padim_jax.commands.terminal import add_bar, megabytes, new_progress, note_ignored, say, screen, tell
from padim_jax.config import TableFormat
from padim_jax.images import UnreadableImage
from padim_jax.runs.engines import Engine, engine
from padim_jax.runs.watch import Advance

if TYPE_CHECKING:  # TFDS, Grain and scikit-learn take seconds to import, which other commands need not wait for
    from padim_jax.commands.comparison import Comparison
    from padim_jax.commands.grid import Grid
    from padim_jax.data.libraries import tfds
    from padim_jax.evaluation.results import Summary
    from padim_jax.evaluation.run import AnyRun

REPORT = "report.html"


def evaluate_all(
    runs: Sequence[AnyRun],
    grid: Grid,
    view: Overview | Comparison,
    out: Path,
    weights: str | None,
    mesh: Mesh | None,
    *,
    batch_size: int,
    report: bool,
    table_formats: Sequence[TableFormat],
) -> None:
    """Evaluate what has not been evaluated yet, one run after the other; the tables are written after each.

    A run that fails ends the evaluation, unless ``view`` tolerates it: its other rows go on, and the exit code says it.
    """
    from padim_jax.data.catalogue import assign_roles, ignored_files, prepare
    from padim_jax.evaluation.operating_points import remarks
    from padim_jax.evaluation.report import RUN_FILE, write_report
    from padim_jax.evaluation.results import metrics_of, write_results
    from padim_jax.evaluation.run import place
    from padim_jax.evaluation.table import percent

    categories = {run.category.name: run.category for run in runs}
    # all files are listed before any is scored
    builders = {name: category.build() for name, category in categories.items()}
    for name, builder in builders.items():
        note_ignored(ignored_files(builder), name)
    board, networks = _Board(view), _Networks(weights, mesh)
    records, pages, tables = list[dict[str, Any]](), list[Path](), list[Path]()
    with board.show(), _state_progress(out, records, len(runs)):
        for name, builder in builders.items():  # a fault in any shows before the first run
            board.bar(f"preparing {name}")
            prepare(builder)
            assign_roles(builder)
        for number, run in enumerate(runs, 1):
            builder = builders[run.category.name]
            label = f"{number}/{len(runs)} {run.category.name} {grid.label(run)} seed {run.seed}"
            try:
                compute = networks.get(run.preset.backbone, board, label)
                record, remark = _evaluate(run, compute, builder, out, batch_size, board, label)
            except view.tolerated as error:
                said = f"{label}: {view.fail(run, error)}"
            else:
                if "chosen" in record:
                    say(f"{label}: {record['chosen']['why']}")
                records.append(record)
                pages.append(out / place(run, compute.backbone, builder) / REPORT)
                if report and not pages[-1].exists():
                    write_report(pages[-1].parent, pages[-1])
                said = f"{label}: image AUROC {percent(metrics_of(record)['image_auroc'])}, {remark}"
            board.lines = view.lines(write_results(out, records, grid.varying) if records else [], records)
            tables = view.write(out, board.lines, table_formats)
            say(said)
    view.show(board.lines)
    notes = {f"{record['category']}: {text}": None for record in records for text in remarks(record.get("calibration"))}
    for note in notes:
        say(note)
    written = [out / name for name in ("results.json", "results.csv", "files.csv") if records] + tables
    tell(", ".join(str(path) if place == 0 else path.name for place, path in enumerate(written)))
    if others := sum(1 for path in (out / "runs").rglob(RUN_FILE) if path.parent / REPORT not in pages):
        say(f"{others} other runs in {out}, of other settings or files, are not in these tables")
    for page in pages if report else ():
        tell(f"  {page}")
    if view.failures:
        raise click.ClickException(
            f"not measured, or not on all images: {', '.join(view.failures)}; see above why"
        ) from (view.unexpected)


def _evaluate(
    run: AnyRun,
    compute: Engine,
    builder: tfds.core.DatasetBuilder,
    out: Path,
    batch_size: int,
    board: _Board,
    label: str,
) -> tuple[dict[str, Any], str]:
    """What ``run.json`` holds of a run, done now or earlier, and which of the two."""
    from padim_jax.evaluation.evaluate import evaluate
    from padim_jax.evaluation.run import earlier, finished

    record = finished(run, compute.backbone, builder, out)
    if record is not None:
        return record, "there already"
    if outdated := earlier(run, compute.backbone, builder, out):
        say(f"{label}: run again; {outdated} is of an earlier version, which did not calibrate, and stays")
    options = {"batch_size": batch_size, "progress": partial(board.stage, label), "engine": compute}
    try:
        record = evaluate(run, compute.backbone, builder, out, **options, remark=lambda text: say(f"{label}: {text}"))
    except UnreadableImage as error:
        raise click.ClickException(f"{run.category.folder}: {error} (mend or remove it)") from error
    return record, f"in {sum(record['seconds'].values()):.1f} s"


class _Networks:
    """Engines by the network they hold; one that can't be loaded is asked for once."""

    def __init__(self, weights: str | None, mesh: Mesh | None) -> None:
        self._weights, self._mesh = weights, mesh
        self._engines: dict[str, Engine] = {}
        self._faults: dict[str, Exception] = {}

    def get(self, name: str, board: _Board, label: str) -> Engine:
        """The engine of a network; raises what loading it raised, each time anew."""
        if name in self._faults:
            raise self._faults[name]
        if name not in self._engines:
            progress = megabytes(board.bar(f"{label}: loading {name}", unit="MB"))
            try:
                self._engines[name] = engine(load_backbone(name, self._weights, progress=progress), self._mesh)
            except Exception as error:
                self._faults[name] = error
                raise
        return self._engines[name]


class _Board:
    """The table so far, with a progress bar below it."""

    def __init__(self, view: Overview | Comparison) -> None:
        self.lines: list[Summary] = []
        self._view = view
        self._progress = new_progress()

    def show(self) -> Live:
        """Context in which the board is shown; lines can be printed above it."""
        return Live(get_renderable=self._render, console=screen, transient=True)

    def bar(self, what: str, total: int | None = None, unit: str = "images") -> Advance:
        return add_bar(self._progress, what, total, unit)

    def stage(self, label: str, stage: str, total: int) -> Advance:
        return self.bar(f"{label}: {stage}", total)

    def _render(self) -> Group:
        return Group(*([self._view.render(self.lines)] if self.lines else []), self._progress)


@contextmanager
def _state_progress(out: Path, records: list[dict[str, Any]], total: int) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        finished = f"{len(records)} of {total} runs are in {out}"
        raise click.ClickException(f"interrupted; {finished}, and the same command goes on from there") from error
