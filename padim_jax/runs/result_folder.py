"""Score image files into a folder of results that a run which was stopped goes on from."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from jax.sharding import Mesh

from padim_jax.images import UnreadableImage
from padim_jax.method.records import Padim
from padim_jax.runs.outputs import LateHeatmaps, Output, write_each
from padim_jax.runs.places import common_folder, result_places
from padim_jax.runs.rows import Row
from padim_jax.runs.score import FittedOn, ScoredImage, score_files
from padim_jax.runs.unfinished import Unfinished, find_position
from padim_jax.runs.watch import Interrupted, Watch


@dataclass(frozen=True)
class Results:
    """What a run has written.

    Attributes:
      rows: of the table of scores, in the order of the files.
      lost: files without a score, with the reason.
    """

    rows: list[Row]
    lost: list[tuple[Path, str]]


def score_into(
    unfinished: Unfinished,
    model: Padim,
    paths: Sequence[Path],
    outputs: Sequence[Output],
    *,
    fitted_on: FittedOn,
    batch_size: int = 16,
    watch: Watch | None = None,
    mesh: Mesh | None = None,
) -> Results:
    """Score files into the folder of ``unfinished``, from where an earlier run of the same files was stopped.

    Args:
      unfinished: the folder, with what is in it already.
      model: any.
      paths: image files.
      outputs: what is written beside the table.
      fitted_on: what the model knows of its own files, to note in the table which results that concerns.
      batch_size: images computed at once.
      watch: follows the work, in stages "score" and "heat maps". Where ``watch.unreadable`` returns, the file gets no
        score.
      mesh: as of :func:`padim_jax.runs.score.score_files`.

    Raises:
      Interrupted: ``watch`` has stopped it; what is done stays in the folder.
      UnreadableImage: from ``watch.unreadable``.
      FloatingPointError: as :func:`padim_jax.runs.score.score_files`.
      OSError: something can't be written.
    """
    watch = watch or Watch()
    rows = [Row.read(cells) for cells in unfinished.rows]
    lost = [(Path(path), reason) for path, reason in unfinished.lost]
    position = find_position(paths, [row.path for row in rows], [path for path, _ in lost], batch=batch_size)
    if text := unfinished.describe_start(len(rows) + len(lost), len(paths)):
        watch.remark(text)
    root, images = common_folder(paths), [("", path) for path in paths]
    places = {output.folder: result_places(images, root, output.suffix) for output in outputs}
    threshold = None if model.calibration is None else float(model.calibration.threshold)

    def target(output: Output, path: Path) -> Path:
        return unfinished.folder / output.folder / places[output.folder]["", path]

    def write(item: ScoredImage) -> None:
        for output in outputs:
            output.write(target(output, item.path), item)

    def unreadable(error: UnreadableImage) -> None:
        if position.lost[error.path]:
            position.lost[error.path] -= 1  # an earlier run has met it
            return
        watch.unreadable(error)
        lost.append((error.path, error.reason))
        unfinished.lose(lost[-1])

    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output.open(unfinished.folder, rows))
        with watch.progress("score", len(paths)) as advance:
            advance(position.start)
            scored = score_files(
                model,
                paths[position.start :],
                batch_size=batch_size,
                unreadable=unreadable,
                advance=advance,
                note=watch.note,
                total=len(paths),
                stopped=watch.stopped,
                mesh=mesh,
            )
            for item in write_each(islice(map(fitted_on.annotate, scored), position.rows, None), write):
                for output in outputs:
                    output.add(item)
                heatmap = places["heatmaps"]["", item.path] if "heatmaps" in places else None
                rows.append(Row.of(item, model.config, threshold, f"heatmaps/{heatmap.as_posix()}" if heatmap else ""))
                unfinished.add(rows[-1].cells)
        if len(rows) + len(lost) < len(paths):
            raise unfinished.interrupted(len(rows) + len(lost), len(paths))
        for output in outputs:
            if isinstance(output, LateHeatmaps) and rows:
                _draw(output, partial(target, output), len(rows), unfinished.interrupted(len(paths), len(paths)), watch)
    unfinished.finish(lost)
    return Results(rows, lost)


def _draw(
    heatmaps: LateHeatmaps, place: Callable[[Path], Path], total: int, interrupted: Interrupted, watch: Watch
) -> None:
    with watch.progress("heat maps", total) as advance:
        for _ in heatmaps.draw(place):
            advance(1)
            if watch.stopped():
                raise interrupted
