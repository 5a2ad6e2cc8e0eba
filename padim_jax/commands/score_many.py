"""``padim score-many``."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.score import UNREADABLE
from padim_jax.commands.terminal import (
    Notes,
    batch_option,
    debug_option,
    interruption,
    note_ignored,
    progress_bar,
    say,
    wrong_use,
)
from padim_jax.data import UnreadableImage, find_images
from padim_jax.files import Row, common_folder, is_replaceable, replaced, result_place, write_heatmap, write_table
from padim_jax.fleet import Fleet
from padim_jax.manifest import Route, read_routes

_UNITS = {"MB": 10**6, "GB": 10**9}


class Bytes(click.ParamType):
    """``500MB``, ``4GB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB)", str(value), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is no size such as 500MB or 4GB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].upper()])


@click.command("score-many", cls=Command, example="padim score-many models stream.csv --out result --memory 4GB")
@click.argument("models", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--memory", type=Bytes(), default="4GB", show_default=True, help="What models may take while loaded.")
@click.option("--heatmaps/--no-heatmaps", default=True, show_default=True, help="Write a picture for each image.")
@batch_option
@debug_option
def score_many_command(models: Path, table: Path, out: Path, memory: int, heatmaps: bool, batch_size: int) -> None:
    """Score images, each by the one of MODELS that TABLE names for it.

    MODELS is a folder of models, as padim fit-many writes it. TABLE is in CSV; its columns are model,path: the name of
    a model and an image, or a folder of them, relative to the table. Images may come in any order: models are loaded
    when they are asked for, and those not used for longest make room.

    Writes DIR/scores.csv (model,path,score,p_value,verdict, in the table's order) and DIR/heatmaps/MODEL/ for models
    that are calibrated. Files that can't be read and models that can't be loaded are named, on the terminal and in
    DIR/unreadable.csv, and make the exit code 1.
    """
    with wrong_use():
        wanted = read_routes(table)
    if heatmaps and not is_replaceable(out / "heatmaps"):
        raise click.UsageError(f"{out / 'heatmaps'} is there already and not ours to replace; choose another --out")
    lost: list[tuple[str, Path, str]] = []
    routes = _files(wanted, out, lost)
    out.mkdir(parents=True, exist_ok=True)
    fleet, notes, rows = Fleet(models, memory), Notes(), list[tuple[str, Row]]()

    def failed(name: str, path: Path, error: Exception) -> None:
        lost.append((name, path, error.reason if isinstance(error, UnreadableImage) else str(error)))

    with replaced(out / "heatmaps") if heatmaps else nullcontext(out) as fresh, interruption() as stopped:
        root = common_folder([path for _, path in routes]) if routes else out
        with progress_bar("score", len(routes)) as advance:
            for name, item in fleet.score_files(
                takewhile(lambda _: not stopped(), routes),
                batch_size=batch_size,
                failed=failed,
                advance=advance,
                note=notes,
            ):
                rows.append((name, Row(item.path, item.score, item.p_value, item.anomalous)))
                if heatmaps and (scale := fleet.colour_scale(name)) is not None:
                    write_heatmap(fresh / name / result_place(item.path, root), item, scale)
        columns = ("model", "path", "score", "p_value", "verdict")
        write_table(out / "scores.csv", columns, [(name, *row.cells) for name, row in rows])
        if lost:
            write_table(out / UNREADABLE, ("model", "path", "reason"), lost)
        else:
            (out / UNREADABLE).unlink(missing_ok=True)  # an earlier run's
    notes.say()
    reasons = Counter((name, reason) for name, _, reason in lost)
    for name, path, reason in lost:
        if more := reasons.pop((name, reason), 0):
            say(f"not scored: {path} by {name}: {reason}" + f" (and {more - 1} more for that)" * (more > 1))
    if heatmaps and (bare := {name for name, _ in rows if fleet.colour_scale(name) is None}):
        say(f"no heat maps of models that are not calibrated: {', '.join(sorted(bare))}")
    click.echo(
        f"{out / 'scores.csv'}: {len(rows)} scored, {len(lost)} not; {sum(bool(row.anomalous) for _, row in rows)} "
        f"anomalous; {fleet.loads} times a model was loaded"
    )
    if stopped():
        raise click.ClickException(f"interrupted; {len(rows)} of {len(routes)} images were scored")
    if lost:
        raise click.ClickException(f"{len(lost)} of {len(rows) + len(lost)} images have no score")


def _files(wanted: Sequence[Route], out: Path, lost: list[tuple[str, Path, str]]) -> list[tuple[str, Path]]:
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
