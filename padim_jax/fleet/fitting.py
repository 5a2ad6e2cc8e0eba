"""Many models in one run: one network in memory, one compiled program, models shared out over devices.

A run goes on when a model fails, and says which did. Every model remembers what it was made from, so that the same run,
started again, fits only what failed, is new or has changed. What became of each stands in a journal beside them.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.manifest import is_whole, read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.fleet.journal import Journal, Outcome
from padim_jax.fleet.places import Places
from padim_jax.fleet.tables import Job
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.images import find_images, find_value_range, read_roi_of, stop_at_unreadable
from padim_jax.images.decode import Note
from padim_jax.images.folder import describe
from padim_jax.method.calibration import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.method.embedding import draw_embedding
from padim_jax.method.positions import n_gaussians
from padim_jax.runs.calibrate import Terms as Calibrating
from padim_jax.runs.checkpoint import Checkpoint, identity
from padim_jax.runs.choosing import choose_files
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fit import Fitted, fit_files
from padim_jax.runs.watch import Interrupted, Watch, skip_unreadable, warn_of_file

AT_ONCE_BYTES = 2**30  # of moments and factors: up to here a device fits two models at a time
_FEW = 3  # skipped files that are named


@dataclass(frozen=True)
class Terms:
    """What all models of a run have in common.

    Attributes:
      config: the settings; those without a value range find it model by model.
      batch_size: images computed at once.
      calibrate: whether models are calibrated, on the images they were fitted on or a job's own others.
      false_alarm_rate, pixel_rate: as of :func:`padim_jax.calibrate`.
      replace_changed: fit models anew that were updated, calibrated or made otherwise since; without, they are kept and
        named.
      trusted: calibrate on a job's other images even where they score much higher than those fitted on.
      skip_unreadable: fit without files that can't be read; otherwise their model fails, as it does where one of a
        job's calibration folder can't be.
      candidates: settings of which each model's images choose one, the first of them ``config``; nothing where nothing
        is chosen.
    """

    config: PadimConfig
    batch_size: int = 16
    calibrate: bool = True
    false_alarm_rate: float = FALSE_ALARM_RATE
    pixel_rate: float = PIXEL_RATE
    skip_unreadable: bool = False
    replace_changed: bool = False
    trusted: bool = False
    candidates: tuple[PadimConfig, ...] = ()


def fit_many(
    backbone: Backbone,
    jobs: Sequence[Job],
    terms: Terms,
    out: Path,
    journal: Journal,
    *,
    devices: Sequence[Any] | None = None,
    note: Note = warn_of_file,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[Outcome]:
    """Fit, calibrate and save a model for each job.

    The first model of a device is fitted alone, so that what it compiles is there for the others; smaller batches are
    filled up, so that they all run the same program.

    Args:
      backbone: of all models.
      jobs: what to fit; names must differ.
      terms: what they have in common.
      out: folder of the models.
      journal: of that folder; is told of every outcome, except of models that are kept and that it already lists.
      devices: to share the models out over; None for the default one.
      note: as of :func:`padim_jax.images.load_batches`; called by several threads.
      stopped: is asked after every batch, by several threads; once it is true, models under way are kept unfinished
        and no other is begun.

    Yields:
      Outcomes as they come.

    Raises:
      ValueError: settings that the network does not have.
      OSError: the journal can't be written.
      Interrupted: ``stopped`` has become true before all was done.
    """
    states = 6 if terms.candidates else 1  # as :func:`padim_jax.method.choosing.compare` takes
    at_once = 2 if 2 * states * _state_bytes(backbone, terms.config) <= AT_ONCE_BYTES else 1
    places = Places(backbone, devices or jax.devices()[:1], at_once)
    abandoned, last = threading.Event(), journal.last()

    def ended() -> bool:
        return abandoned.is_set() or stopped()

    def run(job: Job) -> Outcome:
        with places.lend() as place:
            if ended():
                raise Interrupted("interrupted before it was begun")
            outcome = _attempt(job, place.backbone, terms, out, note, ended)
            place.warm = place.warm or outcome.status == "fitted"
        earlier = last.get(job.name)
        if outcome.status != "kept" or earlier is None or earlier.status == "failed":
            journal.add(outcome)
        return outcome

    interrupted = False
    with ThreadPoolExecutor(places.total, thread_name_prefix="fit") as pool:
        try:
            for future in _in_turn(pool, run, jobs, places.total):
                try:
                    yield future.result()
                except Interrupted:
                    interrupted = True
        finally:
            abandoned.set()  # whoever asked for outcomes asks for no more: what runs stops after its batch
    if interrupted:
        raise Interrupted("interrupted; models that are done are kept, and what others have read")


def _in_turn(
    pool: ThreadPoolExecutor, run: Callable[[Job], Outcome], jobs: Sequence[Job], limit: int
) -> Iterator[Future[Outcome]]:
    """Outcomes of all jobs as they come; no more than ``limit`` are under way."""
    running: set[Future[Outcome]] = set()
    for job in jobs:
        running.add(pool.submit(run, job))
        if len(running) == limit:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from done
    yield from as_completed(running)


def _attempt(job: Job, backbone: Backbone, terms: Terms, out: Path, note: Note, stopped: Callable[[], bool]) -> Outcome:
    """The outcome of a job, failure or not."""
    start = time.perf_counter()
    try:
        outcome = _fit(job, backbone, terms, out, note, stopped)
    except Interrupted:
        raise
    except Exception as error:  # whatever ails one model must not end the others
        foreseen = isinstance(error, ValueError | OSError | ArithmeticError)
        reason = (str(error) if foreseen else f"{type(error).__name__}: {error}").replace("\n", " ")
        stays = () if _read_origin(out / job.name) is None else ("the model of an earlier fit is still there",)
        outcome = Outcome(job.name, "failed", notes=(reason, *stays))
    return replace(outcome, seconds=time.perf_counter() - start)


def _fit(job: Job, backbone: Backbone, terms: Terms, out: Path, note: Note, stopped: Callable[[], bool]) -> Outcome:
    """The outcome of a job: a fit, unless there is a model that stays."""
    target, config, notes = out / job.name, terms.config, list[str]()
    with locked(target, "fit-many"):
        images = find_images([job.good], exclude=out)
        if images.ignored:
            notes.append(f"ignored other files: {describe(images.ignored)}")
        if config.value_range is None and (value_range := find_value_range(images.paths)) is not None:
            config = replace(config, value_range=value_range)
            notes.append("values {:.12g} to {:.12g} are black to white".format(*value_range))
        others = None if job.calibration is None else find_images([job.calibration], exclude=out).paths
        digest = _identity(job, backbone, replace(terms, config=config), images.paths, others)
        # names with a dot are none of a table's
        checkpoint = Checkpoint(target.with_name(f".{target.name}.unfinished"), digest)
        checkpoint.check()
        if (kept := _keep(job.name, target, terms, checkpoint)) is not None:
            return kept
        check_writable(target)
        roi = None if job.roi is None else read_roi_of(job.roi, config, images.paths)
        calibrating = Calibrating(terms.false_alarm_rate, terms.pixel_rate, others, terms.trusted)
        target.parent.mkdir(parents=True, exist_ok=True)
        watch = Watch(
            note=note,
            remark=lambda text: notes.append(text.removeprefix("note: ")),
            unreadable=skip_unreadable if terms.skip_unreadable else stop_at_unreadable,
            stopped=stopped,
        )
        candidates = [replace(one, value_range=config.value_range) for one in terms.candidates or (config,)]
        config = choose_files(backbone, images.paths, candidates, terms.batch_size, watch, roi=roi)
        fitted = fit_files(
            OneDevice(backbone, full=True),
            images.paths,
            config,
            target,
            checkpoint,
            terms.batch_size,
            watch,
            roi=roi,
            terms=calibrating if terms.calibrate else None,
            progress={"identity": digest},
        )
    return _describe(job.name, fitted, notes)


def _keep(name: str, target: Path, terms: Terms, checkpoint: Checkpoint) -> Outcome | None:
    """The outcome of a job whose model is there and stays; None where it has to be fitted."""
    origin = _read_origin(target)
    if origin is None:
        return None
    counts = int(origin.get("images", 0)), int(origin.get("skipped", 0))
    if not terms.replace_changed and (changes := _describe_changes(origin)):
        text = f"it was {changes} since it was fitted, and is kept as it is; --replace-changed fits it anew"
        return Outcome(name, "kept", *counts, notes=(text,))
    unchanged = "since" not in origin and origin.get("identity") == checkpoint.identity
    if not unchanged or (counts[1] and not terms.skip_unreadable):
        return None
    checkpoint.remove()
    return Outcome(name, "kept", *counts)


def _describe(name: str, fitted: Fitted, notes: Sequence[str]) -> Outcome:
    """The outcome of a fit, with ``notes`` and with those on what it left out."""
    skipped = [f"skipped {path}: {reason}" for path, reason in fitted.skipped.items()]
    more = [f"skipped {len(skipped) - _FEW} more"] * (len(skipped) > _FEW)
    uncalibrated = [f"not calibrated: {fitted.uncalibrated}"] * bool(fitted.uncalibrated)
    calibration = fitted.calibration
    return Outcome(
        name,
        "fitted",
        fitted.count,
        len(skipped),
        None if calibration is None else float(calibration.threshold),
        None if calibration is None else calibration.attained_rate,
        notes=(*notes, *skipped[:_FEW], *more, *uncalibrated),
    )


def _identity(job: Job, backbone: Backbone, terms: Terms, paths: Sequence[Path], others: Sequence[Path] | None) -> str:
    """Digest of all that a job's model follows from; ``terms`` with the settings it is fitted with."""
    groups = [paths, others, None if job.roi is None else [job.roi]]
    of_files = [None if group is None else identity(backbone, terms.config, group) for group in groups]
    calibrating = (terms.calibrate, terms.false_alarm_rate, terms.pixel_rate)
    choosing = [[asdict(one) for one in terms.candidates]] if terms.candidates else []
    return hashlib.sha256(json.dumps([of_files, calibrating, *choosing]).encode()).hexdigest()


def _read_origin(folder: Path) -> dict[str, Any] | None:
    """What a model remembers of what it was made from, nothing where it was made otherwise; None: no whole model."""
    try:
        manifest = read_manifest(folder)
        return dict(manifest.get("progress") or {}) if is_whole(folder, manifest) else None
    except (ArtifactError, TypeError, ValueError):
        return None


def _describe_changes(origin: dict[str, Any]) -> str:
    """What was done to a model since this command made it, in words; nothing where it is as it was."""
    if "identity" not in origin and "since" not in origin:
        return "made by another command"
    return ", ".join(dict.fromkeys(map(str, origin.get("since", ()))))


def _state_bytes(backbone: Backbone, config: PadimConfig) -> int:
    """Of the moments or the factors of one model, much the same."""
    embedding = draw_embedding(backbone, config)
    state = jax.eval_shape(lambda: gaussian_moments.init(n_gaussians(config, embedding), embedding.dimension))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
