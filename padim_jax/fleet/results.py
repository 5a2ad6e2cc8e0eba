"""Score a mixed stream of image files by many models into one folder of results."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile

from padim_jax.fleet.serving import WINDOW, Fleet
from padim_jax.runs.outputs import Heatmaps
from padim_jax.runs.regions import RegionSearch
from padim_jax.runs.result_folder import Described, Failed, Named, score_each
from padim_jax.runs.score import FittedOn, ScoredImage
from padim_jax.runs.unfinished import Lost, Unfinished
from padim_jax.runs.watch import Advance, Watch

_REMEMBERED = 64  # models whose lists of images are kept at a time


def score_fleet_into(
    unfinished: Unfinished,
    fleet: Fleet,
    files: Named,
    missing: Sequence[Lost],
    *,
    heatmaps: bool,
    regions: RegionSearch | None = None,
    batch_size: int,
    watch: Watch,
) -> None:
    """Score files, each by the model of its name, as :func:`padim_jax.runs.result_folder.score_into` does with one.

    What is ``missing`` is listed first among the files without a score. Heat maps and regions are of models that are
    calibrated.
    """

    def score(files: Named, failed: Failed, advance: Advance) -> Iterator[tuple[str, ScoredImage]]:
        going_on = takewhile(lambda _: not watch.stopped(), files)
        options = {"batch_size": batch_size, "window": WINDOW, "regions": regions}
        return fleet.score_files(going_on, failed=failed, advance=advance, note=watch.note, **options)

    @lru_cache(_REMEMBERED)
    def describe(name: str) -> Described:
        config, threshold, scale = fleet.config(name), fleet.threshold(name), fleet.colour_scale(name)
        outputs = [Heatmaps(config, scale, threshold, watch.note)] if heatmaps and scale is not None else []
        return Described(config, threshold, FittedOn.read(fleet.folder / name), outputs)

    score_each(unfinished, files, score, describe, watch, lost=missing, window=WINDOW)
    unfinished.finish()
