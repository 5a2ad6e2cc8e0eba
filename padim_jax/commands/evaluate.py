"""``padim evaluate`` and ``padim report``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from padim_jax.artifact import ownership
from padim_jax.baselines.registry import parse_method
from padim_jax.commands.comparison import (
    Comparison,
    check_data,
    compare_with_paper,
    protocol_of,
    refuse_without_folder,
)
from padim_jax.commands.devices import MeshOptions
from padim_jax.commands.evaluating import REPORT, evaluate_all
from padim_jax.commands.grid import MethodChoice, Subject, expand_grid, plan_runs
from padim_jax.commands.overview import Overview
from padim_jax.commands.terminal import tell, wrong_use
from padim_jax.config import PaperTableName, ProtocolName, TableFormat
from padim_jax.evaluation.paper import TABLES
from padim_jax.evaluation.results import claim
from padim_jax.presets import preset as find_preset

if TYPE_CHECKING:  # TFDS, Grain and scikit-learn take seconds to import, which other commands need not wait for
    from padim_jax.data.catalogue import Category

_WITH_DEFAULTS = {"--folds": "folds", "--batch-size": "batch_size", "--no-report": "report"}
_PROBE = 2**20  # bytes, less than a page with pictures


def evaluate_command(
    folder: Path | None,
    out: Path | None,
    preset_names: tuple[str, ...],
    method_texts: tuple[str, ...],
    table: PaperTableName | None,
    folds: int,
    category_names: tuple[str, ...],
    protocol: ProtocolName | None,
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
    if folder is None:
        measuring = {"--preset": preset_names, "--method": method_texts, "--category": category_names}
        measuring |= {"--protocol": protocol, "--seeds": seeds, "--weights": weights, "--devices": devices}
        measuring |= {"--prepared": prepared} | {option: _is_given(option) for option in _WITH_DEFAULTS}
        measuring |= {f"--{name.replace('_', '-')}": values for name, values in settings.items()}
        _show_published(table, measuring, out, table_formats)
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")

    import padim_jax.evaluation.evaluate  # noqa: F401 - a package that is missing shows before anything is written
    from padim_jax.data.catalogue import find_categories

    seed_values = tuple(dict.fromkeys(settings.pop("seed")))
    if seed_values and seeds is not None:
        raise click.UsageError("--seeds counts seeds from 0 and --seed names them; give one of the two")
    prepared, mesh = prepared or out / "prepared", MeshOptions(devices).mesh()
    with wrong_use():
        grid = expand_grid(settings)
        if table is None:
            view: Overview | Comparison = Overview()
            subjects = _subjects(preset_names, method_texts, folds)
            protocol = protocol or "standard"
        else:
            view = compare_with_paper(table, preset_names, method_texts, folds, grid, weights)
            subjects, protocol = view.subjects, protocol_of(view.table, protocol)
        if mesh is not None and any(isinstance(subject, MethodChoice) for subject in subjects):
            raise ValueError("--devices is of PaDiM; the methods of --method are fitted on one device: leave it out")
        categories = find_categories(folder, prepared, category_names)
        if isinstance(view, Comparison):
            check_data(view.table, categories)
        networks = {one.preset.backbone if isinstance(one, MethodChoice) else one.backbone for one in subjects}
        if weights is not None and len(networks) > 1:
            raise ValueError("--weights is of one backbone, but the presets have several; evaluate them one by one")
        _check_apart(categories, {"--out": out, "--prepared": prepared})
        runs = view.order(plan_runs(categories, subjects, grid, protocol, seed_values or range(seeds or 0), weights))
    with ownership.locked(out, "evaluate"):
        claim(out, view.files(table_formats))
        _check_room(out)
        evaluate_all(
            runs, grid, view, out, weights, mesh, batch_size=batch_size, report=report, table_formats=table_formats
        )


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(_WITH_DEFAULTS[option])
    return source is not ParameterSource.DEFAULT


def _subjects(preset_names: Sequence[str], method_texts: Sequence[str], folds: int) -> list[Subject]:
    """Presets and then methods, which take the network of the first preset; the default preset where there is none."""
    presets = [find_preset(name) for name in dict.fromkeys(preset_names)]
    choices = {repr(choice): choice for choice in map(parse_method, method_texts)}.values()
    network = presets[0] if presets else find_preset("lite0")
    methods = [MethodChoice(method, own, network, folds) for method, own in choices]
    return [*presets, *methods] or [network]


def _show_published(
    name: PaperTableName | None, measuring: dict[str, Any], out: Path | None, formats: Sequence[TableFormat]
) -> None:
    """Show, and write where there is an ``out``, what has been published of one of the paper's tables."""
    if name is None:
        raise click.UsageError("Missing argument 'FOLDER'.")
    refuse_without_folder(measuring)
    if formats and out is None:
        raise click.UsageError("--table-format writes into --out, which is missing")
    table = TABLES[name]
    view = Comparison(table, [(row, None) for row in table.rows])
    lines = view.lines([], [])
    view.show(lines)
    if out is not None:
        with ownership.locked(out, "evaluate"):
            claim(out, view.files(formats))
            tell(", ".join(map(str, view.write(out, lines, formats))))


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
