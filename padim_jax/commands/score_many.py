"""``padim score-many``."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from padim_jax.artifact.manifest import MANIFEST
from padim_jax.artifact.ownership import locked
from padim_jax.commands.inputs import find_inputs
from padim_jax.commands.score import end_on_interruption, refuse_nested, region_search
from padim_jax.commands.terminal import say, tell, wrong_use
from padim_jax.commands.watching import follow_run
from padim_jax.fleet.results import score_fleet_into
from padim_jax.fleet.serving import Fleet
from padim_jax.fleet.tables import Route, read_routes
from padim_jax.runs.rows import remarks
from padim_jax.runs.unfinished import SCORES, Lost, Unfinished, check_results, identity, in_one_line, remove_leftovers
from padim_jax.runs.watch import skip_unreadable


def score_many_command(
    models: Path,
    table: Path,
    out: Path,
    memory: int,
    heatmaps: bool,
    regions: bool,
    min_area: int | None,
    tight_masks: bool,
    batch_size: int,
) -> None:
    """Do what ``padim score-many`` says it does."""
    if tight_masks and not regions:
        raise click.UsageError("--tight-masks is of regions; add --regions")
    search = region_search(regions, min_area, tight_masks)
    refuse_nested(out, models)
    with wrong_use():
        routes = read_routes(table)
    folders = ["heatmaps"] if heatmaps else []
    with locked(out, "score-many"):
        with wrong_use():
            check_results(out, folders, regions=regions)
        missing: list[Lost] = []
        files = _files(routes, out, missing)
        remove_leftovers(out)
        manifests = [models / name / MANIFEST for name in dict.fromkeys(name for name, _ in files)]
        options: dict[str, Any] = {"heatmaps": heatmaps, "batch_size": batch_size}
        run = identity(manifests, files, {**options, "regions": None if search is None else asdict(search)})
        fleet = Fleet(models, memory)
        with (
            in_one_line("score-many", out),
            closing(Unfinished(out, run, folders, named=True, regions=regions)) as unfinished,
            end_on_interruption(),
            follow_run(skip_unreadable) as watch,
        ):
            score_fleet_into(unfinished, fleet, files, missing, **options, regions=search, watch=watch)
    rows, lost = unfinished.rows, unfinished.lost
    reasons = Counter((name, reason) for name, _, reason in lost)
    for name, path, reason in lost:
        if more := reasons.pop((name, reason), 0):
            say(f"not scored: {path} by {name}: {reason}" + f" (and {more - 1} more for that)" * (more > 1))
    for text in remarks([row for _, row in rows]):
        say(f"warning: {text}")
    uncalibrated = ", ".join(sorted({name for name, row in rows if row.threshold is None}))
    for kind, is_asked_for in (("heat maps", heatmaps), ("regions", regions)):
        if is_asked_for and uncalibrated:
            say(f"no {kind} of models that are not calibrated: {uncalibrated}")
    anomalous = sum(bool(row.anomalous) for _, row in rows)
    tell(f"{out / SCORES}: {len(rows)} scored, {len(lost)} not; {anomalous} anomalous; {fleet.loads} loads of models")
    if lost:
        raise click.ClickException(f"{len(lost)} of {len(rows) + len(lost)} images have no score")


def _files(routes: Sequence[Route], out: Path, missing: list[Lost]) -> list[tuple[str, Path]]:
    """Names of models and image files, folders searched; what is not there goes to ``missing``."""
    files: list[tuple[str, Path]] = []
    for route in routes:
        try:
            images = find_inputs([route.path], out, str(route.path))
        except (ValueError, OSError) as error:
            missing.append((route.name, route.path, str(error)))
            continue
        files += [(route.name, path) for path in images.paths]
    return files
