"""``padim score``."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from math import inf
from pathlib import Path

import click

from padim_jax.artifact import load
from padim_jax.artifact.manifest import MANIFEST
from padim_jax.artifact.ownership import locked
from padim_jax.baselines.manifest import is_baseline
from padim_jax.commands.devices import MeshOptions
from padim_jax.commands.inputs import find_inputs
from padim_jax.commands.terminal import say, tell, wrong_use
from padim_jax.commands.watching import follow_run
from padim_jax.images import read_roi_of
from padim_jax.images.folder import digest_file
from padim_jax.line.verdict import Decider, Rates
from padim_jax.method.calibration import Calibration
from padim_jax.method.scoring import check_standard
from padim_jax.method.variants import with_smaller_roi
from padim_jax.runs.baseline import Baseline
from padim_jax.runs.outputs import Pixels, choose_outputs
from padim_jax.runs.regions import RegionSearch
from padim_jax.runs.result_folder import score_into
from padim_jax.runs.rows import remarks
from padim_jax.runs.score import FittedOn
from padim_jax.runs.unfinished import SCORES, Unfinished, check_results, identity, in_one_line, remove_leftovers
from padim_jax.runs.watch import Interrupted, skip_unreadable

_HIGHEST = 5  # scores that are printed


def score_command(
    model: Path,
    paths: tuple[Path, ...],
    out: Path,
    heatmaps: bool,
    colour_range: tuple[float, float] | None,
    masks: Pixels | None,
    maps: Pixels | None,
    look_rate: float | None,
    regions: bool,
    min_area: int | None,
    tight_masks: bool,
    roi: Path | None,
    devices: int | None,
    batch_size: int,
) -> None:
    """Do what ``padim score`` says it does."""
    if colour_range is not None and not -inf < colour_range[0] < colour_range[1] < inf:
        raise click.UsageError(f"--colour-range {colour_range[0]:g} {colour_range[1]:g}: LOW must be below HIGH")
    if tight_masks and not (masks or regions):
        raise click.UsageError("--tight-masks is of masks and regions; add --masks or --regions")
    search = region_search(regions, min_area, tight_masks)
    if (model / MANIFEST).exists():  # otherwise loading raises an error
        refuse_nested(out, model)
    mesh = MeshOptions(devices).mesh()
    baseline = Baseline.load(model) if is_baseline(model) else None
    if baseline is not None:
        _check_baseline(
            baseline, {"--roi": roi, "--devices": mesh}, {"--regions": regions, "--masks": masks, "--maps": maps}
        )
        heatmaps = heatmaps and baseline.method.has_map
        if heatmaps and baseline.calibration is None and colour_range is None:
            heatmaps = False
            say("the model is not calibrated: no heat maps; --colour-range says which values their colours are of")
    folders = [name for name, value in (("heatmaps", heatmaps), ("masks", masks), ("maps", maps)) if value]
    options = {
        "heatmaps": heatmaps,
        "colour_range": colour_range,
        "masks": masks,
        "maps": maps,
        "tight_masks": tight_masks,
    }
    with locked(out, "score"):
        images = find_inputs(paths, out).paths
        with wrong_use():
            check_results(out, folders, regions=regions)
        fitted = baseline or load(model)
        if (regions or masks is not None) and fitted.calibration is None:
            name = "--masks" if masks is not None else "--regions"
            raise click.UsageError(f"{name} takes a calibrated model, for its pixel threshold ({_advice(baseline)})")
        fitted_on, decider = FittedOn.read(model), None
        if look_rate is not None:
            with wrong_use():
                rates = Rates(false_alarm_rate=None, look_rate=look_rate)
                decider = Decider.of("score", fitted.calibration, rates, fitted_on)
        if not isinstance(fitted, Baseline):
            check_standard("score", fitted)
            if roi is not None:
                fitted = with_smaller_roi(fitted, read_roi_of(roi, fitted.config, images))
        remove_leftovers(out)
        settings = {**options, "roi": None if roi is None else digest_file(roi), "batch_size": batch_size}
        settings |= {"min_area": None if search is None else search.min_area}
        settings |= {} if devices is None else {"devices": devices}
        settings |= {} if look_rate is None else {"look_rate": look_rate}
        run = identity([model / MANIFEST], [("", path) for path in images], settings)
        with (
            in_one_line("score", out),
            closing(Unfinished(out, run, folders, regions=regions)) as unfinished,
            end_on_interruption(),
            follow_run(skip_unreadable) as watch,
        ):
            score_into(
                unfinished,
                fitted,
                images,
                choose_outputs(fitted, **options, note=watch.note),
                fitted_on=fitted_on,
                batch_size=batch_size,
                watch=watch,
                mesh=mesh,
                regions=search,
                decide=None if decider is None else decider.decide,
            )
    _report(unfinished, fitted.calibration, decider, baseline)
    if unfinished.lost:
        raise click.ClickException(f"{len(unfinished.lost)} of {len(images)} files could not be read and have no score")


def _check_baseline(model: Baseline, of_padim: Mapping[str, object], of_maps: Mapping[str, object]) -> None:
    """Refuse options that a method can't do: those of PaDiM alone, and where it has no maps, those of maps."""
    name, has_map = model.method.name, model.method.has_map
    for option, value in of_padim.items():
        if value is not None:
            raise click.UsageError(f"{option} is of models of PaDiM, and this is one of {name}; leave it out")
    for option, value in of_maps.items():
        if value and not has_map:
            raise click.UsageError(f"{option} takes maps, and {name} judges whole images; leave it out")
    if not has_map:
        say(f"{name} judges whole images: scores and verdicts, but no heat maps")


def region_search(regions: bool, min_area: int | None, tight_masks: bool) -> RegionSearch | None:
    """The regions that are asked for."""
    if min_area is not None and not regions:
        raise click.UsageError("--min-area is of regions; add --regions")
    return RegionSearch(min_area or 1, tight_masks) if regions else None


@contextmanager
def end_on_interruption() -> Iterator[None]:
    """Say in one line how far an interrupted run came and where it is kept."""
    try:
        yield
    except Interrupted as error:
        raise click.ClickException(str(error)) from error


def refuse_nested(out: Path, models: Path) -> None:
    """Refuse results in a folder of models, and models in a folder of results, whose content is replaced."""
    results_folder, models_folder = out.resolve(), models.resolve()
    if results_folder == models_folder or models_folder in results_folder.parents:
        raise click.UsageError(f"--out {out} lies in {models}, which results must not be mixed with; choose another")
    if results_folder in models_folder.parents:
        raise click.UsageError(f"--out {out} holds {models}; results take the place of what is there: choose another")


def _advice(baseline: Baseline | None) -> str:
    return "see padim calibrate" if baseline is None else "fit it again, without --no-calibrate"


def _report(
    results: Unfinished, calibration: Calibration | None, decider: Decider | None, baseline: Baseline | None
) -> None:
    """Print the results of a run."""
    rows, lost = [row for _, row in results.rows], results.lost
    for _, path, reason in lost:
        say(f"not scored: {path}: {reason}")
    for text in remarks(rows):
        say(f"warning: {text}")
    for row in sorted(rows, key=lambda row: -row.score)[:_HIGHEST]:
        tell(f"{row.score:10.3f}  {f'{row.verdict:9}  ' if row.verdict else ''}{row.path}")
    words = () if calibration is None else ("anomalous",) if decider is None else ("bad", "look", "good")
    counts = "".join(f", {sum(row.verdict == word for row in rows)} {word}" for word in words)
    tell(f"{results.out / SCORES}: {len(rows)} scored, {len(lost)} unreadable{counts}; highest scores above")
    if decider is not None and decider.remark:
        say(f"warning: {decider.remark}")
    if calibration is not None and calibration.threshold_source == "set":
        say(f"the threshold, {float(calibration.threshold):.4g}, was set by hand (padim calibrate --threshold)")
    if calibration is None:
        say(f"the model is not calibrated: no p-values, no verdicts ({_advice(baseline)})")
