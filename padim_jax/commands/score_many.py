"""``padim score-many``."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path

import click

from padim_jax.artifact.manifest import MANIFEST
from padim_jax.artifact.ownership import locked
from padim_jax.commands.score import end_on_interruption, refuse_nested
from padim_jax.commands.terminal import note_ignored, say, tell, wrong_use
from padim_jax.commands.watching import follow_run
from padim_jax.fleet.serving import WINDOW, Fleet
from padim_jax.fleet.tables import Route, read_routes
from padim_jax.images import UnreadableImage, find_images
from padim_jax.runs.outputs import Heatmaps, write_each
from padim_jax.runs.places import common_folder, result_places
from padim_jax.runs.rows import Row, remarks
from padim_jax.runs.score import FittedOn, ScoredImage
from padim_jax.runs.unfinished import (
    SCORES,
    Unfinished,
    check_results,
    find_position,
    identity,
    in_one_line,
    remove_leftovers,
)
from padim_jax.runs.watch import Watch

Lost = list[tuple[str, Path, str]]  # name of the model, image or folder, and why there is no score
_REMEMBERED = 64  # models whose lists of images are kept at a time


def score_many_command(models: Path, table: Path, out: Path, memory: int, heatmaps: bool, batch_size: int) -> None:
    """Do what ``padim score-many`` says it does."""
    refuse_nested(out, models)
    with wrong_use():
        wanted = read_routes(table)
    folders = ["heatmaps"] if heatmaps else []
    with locked(out, "score-many"):
        with wrong_use():
            check_results(out, folders)
        missing: Lost = []
        routes = _files(wanted, out, missing)
        remove_leftovers(out)
        manifests = [models / name / MANIFEST for name in dict.fromkeys(name for name, _ in routes)]
        run = identity(manifests, routes, {"heatmaps": heatmaps, "batch_size": batch_size})
        fleet = Fleet(models, memory)
        with (
            in_one_line("score-many", out),
            closing(Unfinished(out, run, folders, named=True)) as unfinished,
            end_on_interruption(),
            follow_run() as watch,
        ):
            rows, lost = _score(fleet, routes, unfinished, missing, batch_size, heatmaps, watch)
    reasons = Counter((name, reason) for name, _, reason in lost)
    for name, path, reason in lost:
        if more := reasons.pop((name, reason), 0):
            say(f"not scored: {path} by {name}: {reason}" + f" (and {more - 1} more for that)" * (more > 1))
    for text in remarks([row for _, row in rows]):
        say(f"warning: {text}")
    if heatmaps and (bare := {name for name, row in rows if row.threshold is None}):
        say(f"no heat maps of models that are not calibrated: {', '.join(sorted(bare))}")
    told = f"{len(rows)} scored, {len(lost)} not; {sum(bool(row.anomalous) for _, row in rows)} anomalous"
    tell(f"{out / SCORES}: {told}; {fleet.loads} times a model was loaded")
    if lost:
        raise click.ClickException(f"{len(lost)} of {len(rows) + len(lost)} images have no score")


def _score(
    fleet: Fleet,
    routes: Sequence[tuple[str, Path]],
    unfinished: Unfinished,
    missing: Lost,
    batch_size: int,
    heatmaps: bool,
    watch: Watch,
) -> tuple[list[tuple[str, Row]], Lost]:
    """Write everything; gives the rows of the table, and what has no score, ``missing`` first."""
    rows = [(name, Row.read(cells)) for name, *cells in unfinished.rows]
    lost: Lost = [(name, Path(path), reason) for name, path, reason in unfinished.lost]
    done = [(name, row.path) for name, row in rows]
    at = find_position(routes, done, [(name, path) for name, path, _ in lost], window=WINDOW)
    if text := unfinished.describe_start(len(rows) + len(lost), len(routes)):
        watch.remark(text)
    places = result_places(routes, common_folder([path for _, path in routes])) if routes else {}
    fitted_on = lru_cache(_REMEMBERED)(lambda name: FittedOn.read(fleet.folder / name))

    def failed(name: str, path: Path, error: Exception) -> None:
        if at.lost[name, path]:
            at.lost[name, path] -= 1
            return
        lost.append((name, path, error.reason if isinstance(error, UnreadableImage) else str(error)))
        unfinished.lose(lost[-1])

    def results(stream: Iterator[tuple[str, ScoredImage]]) -> Iterator[tuple[str, ScoredImage]]:
        return ((name, fitted_on(name).annotate(item)) for name, item in stream)

    def write(result: tuple[str, ScoredImage]) -> None:
        name, item = result
        if heatmaps and (scale := fleet.colour_scale(name)) is not None:
            pictures = Heatmaps(fleet.config(name), scale, fleet.threshold(name), watch.note)
            pictures.write(unfinished.folder / pictures.folder / places[name, item.path], item)

    with watch.progress("score", len(routes)) as advance:
        advance(at.start)
        stream = fleet.score_files(
            takewhile(lambda _: not watch.stopped(), routes[at.start :]),
            batch_size=batch_size,
            window=WINDOW,
            failed=failed,
            advance=advance,
            note=watch.note,
        )
        for name, item in write_each(islice(results(stream), at.rows, None), write):
            threshold = fleet.threshold(name)
            shown = heatmaps and threshold is not None
            place = f"heatmaps/{places[name, item.path].as_posix()}" if shown else ""
            rows.append((name, Row.of(item, fleet.config(name), threshold, place)))
            unfinished.add((name, *rows[-1][1].cells))
    if len(rows) + len(lost) < len(routes):
        raise unfinished.interrupted(len(rows) + len(lost), len(routes))
    order = {route: index for index, route in reversed(list(enumerate(routes)))}
    lost = [*missing, *sorted(lost, key=lambda one: order[one[0], one[1]])]
    unfinished.finish(lost)
    return rows, lost


def _files(wanted: Sequence[Route], out: Path, lost: Lost) -> list[tuple[str, Path]]:
    """Names of models and image files, folders searched; what is not there goes to ``lost``."""
    routes: list[tuple[str, Path]] = []
    for route in wanted:
        try:
            found = find_images([route.path], exclude=out)
        except (ValueError, OSError) as error:
            lost.append((route.name, route.path, str(error)))
            continue
        note_ignored(found.ignored, str(route.path))
        routes += [(route.name, path) for path in found.paths]
    return routes
