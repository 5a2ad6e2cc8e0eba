"""``padim score``."""

import os
from collections.abc import Callable
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Literal, get_args

import click

from padim_jax.artifact import load
from padim_jax.commands.lazy_click import Command
from padim_jax.commands.terminal import Notes, batch_option, debug_option, note_ignored, progress_bar, roi_option, say
from padim_jax.data import UnreadableImage, find_images, read_roi_of
from padim_jax.files import (
    ResultSpool,
    Row,
    ScoredImage,
    common_folder,
    is_replaceable,
    replaced,
    result_place,
    score_files,
    write_heatmap,
    write_map,
    write_mask,
    write_scores,
    write_table,
)
from padim_jax.scoring import narrowed

Where = Literal["crop", "original"]
_WHERE = click.Choice(get_args(Where))
UNREADABLE = "unreadable.csv"


@click.command("score", cls=Command, example="padim score bracket.padim new_parts/ --out result")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--heatmaps/--no-heatmaps", default=True, show_default=True, help="Write a picture for each image.")
@click.option(
    "--colour-range",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    help="Distances at the ends of the colour scale. Default: the calibration's, with the threshold in the middle.",
)
@click.option(
    "--masks",
    type=_WHERE,
    help="Write a mask of what is above the pixel threshold, in these pixels.",
)
@click.option("--maps", type=_WHERE, help="Write the distances as a float TIFF, in these pixels.")
@roi_option
@batch_option
@debug_option
def score_command(
    model: Path,
    paths: tuple[Path, ...],
    out: Path,
    heatmaps: bool,
    colour_range: tuple[float, float] | None,
    masks: Where | None,
    maps: Where | None,
    roi: Path | None,
    batch_size: int,
) -> None:
    """Score images, or folders of them, with MODEL.

    Writes DIR/scores.csv (path; score, higher is further from normal; p_value, how rarely a good image scores as much;
    verdict, normal or anomalous) and DIR/heatmaps/, in place of those of an earlier run. All heat maps share the
    calibration's colour scale. Files that can't be read are named, on the terminal and in DIR/unreadable.csv, get no
    score, and make the exit code 1. --masks original and --maps original are in the pixels of the image files; what
    the crop leaves out is 0 in masks and NaN in maps.
    """
    if colour_range is not None and not -inf < colour_range[0] < colour_range[1] < inf:
        raise click.UsageError(f"--colour-range {colour_range[0]:g} {colour_range[1]:g}: LOW must be below HIGH")
    found = find_images(paths, exclude=out)
    if inside := [path for path in found.paths if os.path.abspath(path).startswith(os.path.abspath(out) + os.sep)]:
        raise click.UsageError(f"--out {out} holds images to score ({inside[0]}); choose another folder")
    wanted = [name for name, asked in (("heatmaps", heatmaps), ("masks", masks), ("maps", maps)) if asked]
    for folder in (out / name for name in wanted):
        if not is_replaceable(folder):
            raise click.UsageError(f"{folder} is there already and not ours to replace; choose another --out")
    note_ignored(found.ignored)
    fitted = load(model)
    if masks is not None and fitted.calibration is None:
        raise click.UsageError("--masks takes a calibrated model, for its pixel threshold (see padim calibrate)")
    if roi is not None:
        fitted = narrowed(fitted, read_roi_of(roi, fitted.config, found.paths))
    out.mkdir(parents=True, exist_ok=True)
    unreadable: list[UnreadableImage] = []
    notes = Notes()
    with closing(ResultSpool(out)) as spool:
        scored: list[Row] = []
        with progress_bar("score", len(found.paths)) as advance:
            for item in score_files(
                fitted, found.paths, batch_size=batch_size, unreadable=unreadable.append, advance=advance, note=notes
            ):
                scored.append(Row(item.path, item.score, item.p_value, item.anomalous))
                if wanted:
                    spool.add(item)
        write_scores(out / "scores.csv", scored)
        if unreadable:
            write_table(out / UNREADABLE, ("path", "reason"), [(error.path, error.reason) for error in unreadable])
        else:
            (out / UNREADABLE).unlink(missing_ok=True)  # an earlier run's
        if wanted and scored:
            known = fitted.calibration
            scale = spool.scale() if known is None else (float(known.colour_scale[0]), float(known.colour_scale[1]))
            writers: dict[str, Callable[[Path, ScoredImage], None]] = {
                "heatmaps": lambda path, item: write_heatmap(path, item, colour_range or scale),
                "masks": lambda path, item: write_mask(path, item, threshold, fitted.config, masks == "original"),
                "maps": lambda path, item: write_map(path, item, fitted.config, maps == "original"),
            }
            threshold = float("nan") if known is None else float(known.pixel_threshold)
            for name in wanted:
                _write_all(spool, out / name, common_folder(found.paths), writers[name], len(scored))
    notes.say()
    for error in unreadable:
        say(f"not scored: {error.path}: {error.reason}")
    for row in sorted(scored, key=lambda row: -row.score)[:5]:
        click.echo(
            f"{row.score:10.3f}  {row.verdict:9}  {row.path}" if row.verdict else f"{row.score:10.3f}  {row.path}"
        )
    anomalous = "" if fitted.calibration is None else f", {sum(bool(row.anomalous) for row in scored)} anomalous"
    click.echo(
        f"{out / 'scores.csv'}: {len(scored)} scored, {len(unreadable)} unreadable{anomalous}; highest scores above"
    )
    if fitted.calibration is None:
        say("the model is not calibrated: no p-values, no verdicts (see padim calibrate)")
    if unreadable:
        raise click.ClickException(f"{len(unreadable)} of {len(found.paths)} files could not be read and have no score")


def _write_all(
    spool: ResultSpool, folder: Path, root: Path, write: Callable[[Path, ScoredImage], None], count: int
) -> None:
    """Write a file for every result beside ``folder``, then put them in place of an earlier run's."""
    suffix = ".tif" if folder.name == "maps" else ".png"
    with replaced(folder) as fresh, progress_bar(folder.name.replace("heatmaps", "heat maps"), count) as advance:
        for item in spool:
            write(fresh / result_place(item.path, root, suffix), item)
            advance(1)
