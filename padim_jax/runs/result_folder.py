"""Score image files into a folder of results that a run which was stopped goes on from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from jax.sharding import Mesh

from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage
from padim_jax.method.records import Padim
from padim_jax.runs.baseline import Baseline
from padim_jax.runs.outputs import Heatmaps, LateHeatmaps, Output, write_each
from padim_jax.runs.places import common_folder, result_places
from padim_jax.runs.regions import RegionSearch
from padim_jax.runs.rows import Row
from padim_jax.runs.score import FittedOn, ScoredImage, score_files
from padim_jax.runs.unfinished import Lost, Unfinished, find_position
from padim_jax.runs.watch import Advance, Watch

Named = Sequence[tuple[str, Path]]  # image files, each with the name of its model
Decide = Callable[[ScoredImage], ScoredImage]
Failed = Callable[[str, Path, Exception], None]  # told of a model's name, a file that has no score, and why


@dataclass(frozen=True)
class Described:
    """What the results of a model are written with.

    Attributes:
      config: its settings.
      threshold: score above which an image is anomalous; None where the model is not calibrated.
      fitted_on: what the model knows of its own files, to note in the table which results that concerns.
      outputs: what is written beside the table.
      decide: gives a result, with its notes, one of the three verdicts; None leaves it with the two.
    """

    config: PadimConfig
    threshold: float | None
    fitted_on: FittedOn
    outputs: Sequence[Output]
    decide: Decide | None = None

    def complete(self, item: ScoredImage) -> ScoredImage:
        """The same result with notes and, where asked for, a verdict."""
        annotated = self.fitted_on.annotate(item)
        return annotated if self.decide is None else self.decide(annotated)


def score_into(
    unfinished: Unfinished,
    model: Padim | Baseline,
    paths: Sequence[Path],
    outputs: Sequence[Output],
    *,
    fitted_on: FittedOn,
    batch_size: int = 16,
    watch: Watch | None = None,
    mesh: Mesh | None = None,
    regions: RegionSearch | None = None,
    decide: Decide | None = None,
) -> None:
    """Score files into the folder of ``unfinished``, from where an earlier run of the same files was stopped.

    Args:
      unfinished: the folder, with what is in it already.
      model: any.
      paths: image files.
      outputs: what is written beside the table.
      fitted_on: as of :class:`Described`.
      batch_size: images computed at once.
      watch: follows the work, in stages "score" and "heat maps". Where ``watch.unreadable`` returns, the file gets no
        score.
      mesh: as of :func:`padim_jax.runs.score.score_files`.
      regions: likewise, where ``unfinished`` has a table of regions.
      decide: as of :class:`Described`.

    Raises:
      Interrupted: ``watch`` has stopped it; what is done stays in the folder.
      UnreadableImage: from ``watch.unreadable``.
      FloatingPointError: as :func:`padim_jax.runs.score.score_files`.
      OSError: something can't be written.
    """
    watch = watch or Watch()
    threshold = None if model.calibration is None else float(model.calibration.threshold)
    described = Described(model.config, threshold, fitted_on, outputs, decide)

    def score(files: Named, failed: Failed, advance: Advance) -> Iterator[tuple[str, ScoredImage]]:
        items = score_files(
            model,
            [path for _, path in files],
            batch_size=batch_size,
            unreadable=lambda error: failed("", error.path, error),
            advance=advance,
            note=watch.note,
            total=len(paths),
            stopped=watch.stopped,
            mesh=mesh,
            regions=regions,
        )
        return (("", item) for item in items)

    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output.open(unfinished.folder, [row for _, row in unfinished.rows]))
        score_each(unfinished, [("", path) for path in paths], score, lambda _: described, watch, batch=batch_size)
        for output in outputs:
            if isinstance(output, LateHeatmaps) and unfinished.rows:
                _draw(unfinished, output, watch)
    unfinished.finish()


def score_each(
    unfinished: Unfinished,
    files: Named,
    score: Callable[[Named, Failed, Advance], Iterator[tuple[str, ScoredImage]]],
    describe: Callable[[str], Described],
    watch: Watch,
    *,
    lost: Sequence[Lost] = (),
    batch: int = 1,
    window: int = 1,
) -> None:
    """Score files, each by the model of its name, into a folder of results, which is not finished yet.

    ``score`` gives the results of files in order and tells of each file that has none. ``describe`` says what the
    results of a model are written with, once there is one. What is ``lost`` from the start is listed first.
    """
    done, lost_before = [(name, row.path) for name, row in unfinished.rows], [entry[:2] for entry in unfinished.lost]
    position = find_position(files, done, lost_before, batch=batch, window=window)
    if text := unfinished.describe_start(len(files)):
        watch.remark(text)

    @lru_cache
    def places(suffix: str) -> dict[tuple[str, Path], Path]:
        return result_places(files, common_folder([path for _, path in files]), suffix)

    def place(output: Output, name: str, path: Path) -> Path:
        return Path(output.folder, places(output.suffix)[name, path])

    def failed(name: str, path: Path, error: Exception) -> None:
        if position.lost[name, path]:
            position.lost[name, path] -= 1  # an earlier run has met it
            return
        if isinstance(error, UnreadableImage):
            watch.unreadable(error)
        unfinished.lose(name, path, error.reason if isinstance(error, UnreadableImage) else str(error))

    def write(result: tuple[str, ScoredImage]) -> None:
        name, item = result
        for output in describe(name).outputs:
            output.write(unfinished.folder / place(output, name, item.path), item)

    with watch.progress("score", len(files)) as advance:
        advance(position.start)
        results = score(files[position.start :], failed, advance)
        completed = ((name, describe(name).complete(item)) for name, item in results)
        for name, item in write_each(islice(completed, position.rows, None), write):
            model, heatmap = describe(name), ""
            for output in model.outputs:
                output.add(item)
                if output.folder == Heatmaps.folder:
                    heatmap = place(output, name, item.path).as_posix()
            unfinished.add_regions(name, item.path, item.regions or ())
            unfinished.add(name, Row.of(item, model.config, model.threshold, heatmap))
    if unfinished.done < len(files):
        raise unfinished.interrupted(len(files))
    order = {file: index for index, file in reversed(list(enumerate(files)))}
    unfinished.lost = [*lost, *sorted(unfinished.lost, key=lambda entry: order[entry[0], entry[1]])]


def _draw(unfinished: Unfinished, heatmaps: LateHeatmaps, watch: Watch) -> None:
    places = {row.path: unfinished.folder / row.heatmap for _, row in unfinished.rows}
    with watch.progress("heat maps", len(places)) as advance:
        for _ in heatmaps.draw(places.__getitem__):
            advance(1)
            if watch.stopped():
                raise unfinished.interrupted(unfinished.done)
