"""``padim score``."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from pathlib import Path

import click

from padim_jax.artifact import load
from padim_jax.artifact.folder import MANIFEST
from padim_jax.artifact.ownership import locked
from padim_jax.commands.judging import Where
from padim_jax.commands.terminal import (
    Notes,
    interruption,
    note_ignored,
    progress_bar,
    say,
    tell,
    wrong_use,
)
from padim_jax.images import UnreadableImage, find_images, read_roi_of
from padim_jax.images.folder import digest_file
from padim_jax.method.calibration import Calibration
from padim_jax.method.records import Padim
from padim_jax.method.scoring import narrowed
from padim_jax.runs.outputs import (
    ResultSpool,
    Row,
    common_folder,
    result_places,
    write_heatmap,
    write_map,
    write_mask,
    written,
)
from padim_jax.runs.score import FittedOn, ScoredImage, score_files
from padim_jax.runs.unfinished import (
    SCORES,
    UNFINISHED,
    Unfinished,
    check_results,
    find_position,
    identity,
    in_one_line,
    remove_leftovers,
)

_FITTED_ON = "was among the images the model was fitted on"
_OTHER_SIZE = "another size than every image the model was fitted on"
_NAMED = 3  # of such images
_SUFFIXES = {"heatmaps": ".png", "masks": ".png", "maps": ".tif"}
_OTHER = {"model": "another model", "options": "other options", "files": "other images"}


@dataclass(frozen=True)
class _Wanted:
    """What is to be written, and how."""

    heatmaps: bool
    colour_range: tuple[float, float] | None
    masks: Where | None
    maps: Where | None

    @property
    def folders(self) -> list[str]:
        return [name for name, asked in vars(self).items() if asked and name != "colour_range"]


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
    """Do what ``padim score`` says it does."""
    if colour_range is not None and not -inf < colour_range[0] < colour_range[1] < inf:
        raise click.UsageError(f"--colour-range {colour_range[0]:g} {colour_range[1]:g}: LOW must be below HIGH")
    if (model / MANIFEST).exists():  # else loading tells
        refuse_nested(out, model)
    wanted = _Wanted(heatmaps, colour_range, masks, maps)
    with locked(out, "score"):
        found = find_images(paths, exclude=out)
        if inside := [path for path in found.paths if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(out))]:
            raise click.UsageError(f"--out {out} holds images to score ({inside[0]}); choose another folder")
        with wrong_use():
            check_results(out, wanted.folders)
        note_ignored(found.ignored)
        fitted = load(model)
        if masks is not None and fitted.calibration is None:
            raise click.UsageError("--masks takes a calibrated model, for its pixel threshold (see padim calibrate)")
        if roi is not None:
            fitted = narrowed(fitted, read_roi_of(roi, fitted.config, found.paths))
        remove_leftovers(out)
        options = {**vars(wanted), "roi": None if roi is None else digest_file(roi), "batch_size": batch_size}
        run = identity([model / MANIFEST], [("", path) for path in found.paths], options)
        with in_one_line("score", out), closing(Unfinished(out, run, wanted.folders)) as kept:
            rows, unreadable = _score(fitted, FittedOn.read(model), found.paths, kept, wanted, batch_size)
    _report(out, rows, unreadable, fitted.calibration)
    if unreadable:
        raise click.ClickException(f"{len(unreadable)} of {len(found.paths)} files could not be read and have no score")


def refuse_nested(out: Path, models: Path) -> None:
    """Refuse results in a folder of models, and models in a folder of results, which is replaced."""
    at, other = out.resolve(), models.resolve()
    if at == other or other in at.parents:
        raise click.UsageError(f"--out {out} lies in {models}, which results must not be mixed with; choose another")
    if at in other.parents:
        raise click.UsageError(f"--out {out} holds {models}; results take the place of what is there: choose another")


def say_where(kept: Unfinished, passed: int, total: int) -> None:
    """Say where a run goes on, or why it does not."""
    if kept.other:
        say(f"{kept.folder} has results of {' and '.join(_OTHER[key] for key in kept.other)}; starting anew")
    elif passed:
        say(f"going on: {passed} of {total} images are done already, in {kept.folder}")


def stopped_at(out: Path, done: int, total: int) -> click.ClickException:
    """The error that ends an interrupted run."""
    return click.ClickException(
        f"interrupted; {done} of {total} images are done, in {out / UNFINISHED}; the same command goes on from there"
    )


def _score(
    model: Padim, fitted_on: FittedOn, paths: Sequence[Path], kept: Unfinished, wanted: _Wanted, batch_size: int
) -> tuple[list[Row], list[tuple[Path, str]]]:
    """Write everything; gives the rows of the table, and files without a score with the reasons."""
    rows = [Row.read(cells) for cells in kept.rows]
    lost = [(Path(path), reason) for path, reason in kept.lost]
    at = find_position(paths, [row.path for row in rows], [path for path, _ in lost], batch=batch_size)
    say_where(kept, len(rows) + len(lost), len(paths))
    root, images = common_folder(paths), [("", path) for path in paths]
    places = {name: result_places(images, root, _SUFFIXES[name]) for name in wanted.folders}
    known, notes = model.calibration, Notes()
    threshold = None if known is None else float(known.threshold)
    scale = wanted.colour_range
    if scale is None and known is not None:
        scale = float(known.colour_scale[0]), float(known.colour_scale[1])

    def draw(item: ScoredImage) -> None:
        if scale is not None:
            target = kept.folder / "heatmaps" / places["heatmaps"]["", item.path]
            write_heatmap(target, item, scale, config=model.config, threshold=threshold, note=notes)

    def write(item: ScoredImage) -> None:
        if wanted.heatmaps:
            draw(item)
        if wanted.masks and known is not None:
            target, level = kept.folder / "masks" / places["masks"]["", item.path], float(known.pixel_threshold)
            write_mask(target, item, level, model.config, wanted.masks == "original")
        if wanted.maps:
            write_map(
                kept.folder / "maps" / places["maps"]["", item.path], item, model.config, wanted.maps == "original"
            )

    def unreadable(error: UnreadableImage) -> None:
        if at.lost[error.path]:
            at.lost[error.path] -= 1
        else:
            lost.append((error.path, error.reason))
            kept.lose((error.path, error.reason))

    with kept.spool() as file, interruption() as stopped:
        spool = ResultSpool(file) if wanted.heatmaps and scale is None else None
        if spool is not None:
            spool.restore([(row.path, row.notes) for row in rows], model.config.crop)
        with progress_bar("score", len(paths)) as advance:
            advance(at.start)
            scored = score_files(
                model,
                paths[at.start :],
                batch_size=batch_size,
                unreadable=unreadable,
                advance=advance,
                note=notes,
                total=len(paths),
                stopped=stopped,
            )
            for item in written(islice((noted(item, fitted_on) for item in scored), at.rows, None), write):
                place = f"heatmaps/{places['heatmaps']['', item.path].as_posix()}" if wanted.heatmaps else ""
                if spool is not None:
                    spool.add(item)
                rows.append(Row.of(item, model.config, threshold, place))
                kept.add(rows[-1].cells)
        if len(rows) + len(lost) < len(paths):
            raise stopped_at(kept.out, len(rows) + len(lost), len(paths))
        if spool is not None and rows:
            scale = spool.scale()
            with progress_bar("heat maps", len(rows)) as advance:
                for _ in written(spool, draw):
                    advance(1)
                    if stopped():
                        raise stopped_at(kept.out, len(paths), len(paths))
    kept.finish(lost)
    notes.say()
    return rows, lost


def noted(item: ScoredImage, fitted_on: FittedOn) -> ScoredImage:
    """The same result, with what the files that the model was fitted on tell of it."""
    notes, (width, height) = list(item.notes), item.size
    if item.digest in fitted_on.digests:
        notes.append(_FITTED_ON)
    if fitted_on.is_other_size(item.size):
        aspect = " and another aspect ratio" if fitted_on.is_other_aspect(item.size) else ""
        notes.append(f"{width}×{height} pixels, {_OTHER_SIZE}{aspect}")
    return replace(item, notes=tuple(notes))


def say_notes(rows: Sequence[Row]) -> None:
    """Say of which images the scores tell less than they seem to."""
    _say_of(
        [row for row in rows if _FITTED_ON in row.notes],
        len(rows),
        "were among those the model was fitted on",
        "they score lower than new images would",
    )
    others = [row for row in rows if any(_OTHER_SIZE in note for note in row.notes)]
    what = f"are of {_OTHER_SIZE}" + " or aspect ratio" * any("aspect" in note for row in others for note in row.notes)
    _say_of(others, len(rows), what, "is it the same camera, and the same part of the picture?")


def _say_of(rows: Sequence[Row], total: int, what: str, then: str) -> None:
    if rows:
        names = ", ".join(str(row.path) for row in rows[:_NAMED]) + (" …" if len(rows) > _NAMED else "")
        say(f"warning: {len(rows)} of {total} images {what} ({names}): {then}")


def _report(out: Path, rows: Sequence[Row], unreadable: Sequence[tuple[Path, str]], known: Calibration | None) -> None:
    """Say what came of it."""
    for path, reason in unreadable:
        say(f"not scored: {path}: {reason}")
    say_notes(rows)
    for row in sorted(rows, key=lambda row: -row.score)[:5]:
        tell(f"{row.score:10.3f}  {f'{row.verdict:9}  ' if row.verdict else ''}{row.path}")
    anomalous = f", {sum(bool(row.anomalous) for row in rows)} anomalous" if known is not None else ""
    told = f"{len(rows)} scored, {len(unreadable)} unreadable{anomalous}; highest scores above"
    tell(f"{out / SCORES}: {told}")
    if known is not None and known.threshold_source == "set":
        say(f"the threshold, {float(known.threshold):.4g}, was set by hand (padim calibrate --threshold)")
    if known is None:
        say("the model is not calibrated: no p-values, no verdicts (see padim calibrate)")
