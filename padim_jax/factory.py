"""Many models in one run: one network in memory, one compiled program, models shared out over devices.

A run goes on when a model fails, and says which did. What was fitted stands in a journal beside the models, by which
the same run, started again, fits only what is missing or has changed.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import jax

from padim_jax import gaussian
from padim_jax.backbones import Backbone
from padim_jax.calibration import FALSE_ALARM_RATE, PIXEL_RATE
from padim_jax.config import PadimConfig
from padim_jax.data import find_images, find_value_range, read_roi_of, stop_at_unreadable
from padim_jax.data.decode import Note
from padim_jax.embedding import draw_embedding
from padim_jax.fitting import Checkpoint, Interrupted, calibrate_files, calibration_files, finish, fit_files, identity
from padim_jax.manifest import Job
from padim_jax.model import Padim
from padim_jax.storage import ArtifactError, check_writable, read_manifest

Status = Literal["fitted", "kept", "failed"]  # kept: it was there already, of the same files and settings

AT_ONCE_BYTES = 2**30  # of moments and factors: up to here a device fits two models at a time


@dataclass(frozen=True)
class Terms:
    """What all models of a run have in common.

    Attributes:
      config: the settings; those without a value range find it model by model.
      batch_size: images computed at once.
      calibrate: whether models are calibrated, on the images they were fitted on or a job's own others.
      false_alarm_rate, pixel_rate: as of :func:`padim_jax.calibrate`.
      skip_unreadable: leave out files that can't be read; otherwise the model with the first of them fails.
    """

    config: PadimConfig
    batch_size: int = 16
    calibrate: bool = True
    false_alarm_rate: float = FALSE_ALARM_RATE
    pixel_rate: float = PIXEL_RATE
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
      name: of the model.
      status: see ``Status``.
      identity: digest of files and settings; "" where it failed before they were known.
      images: fitted on.
      skipped: files that could not be read.
      threshold: of its calibration, in units of distance; None without.
      seconds: it took.
      reason: why it failed, in one line.
    """

    name: str
    status: Status
    identity: str = ""
    images: int = 0
    skipped: int = 0
    threshold: float | None = None
    seconds: float = 0.0
    reason: str = ""


class Journal:
    """Outcomes of earlier runs and of this one, a line each; the last of a name counts.

    Args:
      folder: of the models.
      part: of how many this run is one, from 1; each writes a file of its own, and reads all.
    """

    def __init__(self, folder: Path, part: tuple[int, int] = (1, 1)) -> None:
        self._path = folder / ("models.jsonl" if part == (1, 1) else f"models.{part[0]}-of-{part[1]}.jsonl")
        self.last: dict[str, Outcome] = {}
        files = sorted(folder.glob("models*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        for path in files:
            for line in path.read_text("utf-8").splitlines():
                try:
                    outcome = Outcome(**json.loads(line))
                except (ValueError, TypeError):  # torn by a power cut: that model is fitted again
                    continue
                self.last[outcome.name] = outcome

    def add(self, outcome: Outcome) -> None:
        """Write one down, so that it outlasts a power cut."""
        self.last[outcome.name] = outcome
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("\n" * torn + json.dumps(asdict(outcome)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def fit_many(
    backbone: Backbone,
    jobs: Sequence[Job],
    terms: Terms,
    out: Path,
    journal: Journal,
    *,
    devices: Sequence[Any] | None = None,
    note: Note | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Fit, calibrate and save a model for each job.

    The first model of a device is fitted alone, so that what it compiles is there for the others; smaller batches are
    filled up, so that they all run the same program.

    Args:
      backbone: of all models.
      jobs: what to fit; names must differ.
      terms: what they have in common.
      out: folder of the models.
      journal: of that folder; told of every outcome.
      devices: to share the models out over; None for the default one.
      note: as of :func:`padim_jax.data.load_batches`.
      stopped: asked after every batch; once true, models under way are kept unfinished and no other is begun.

    Yields:
      Outcomes as they come.

    Raises:
      Interrupted: ``stopped`` has become true.
    """
    many = 2 if 2 * _state_bytes(backbone, terms.config) <= AT_ONCE_BYTES else 1
    places: SimpleQueue[_Place] = SimpleQueue()
    made = [_Place(device, _on(device, backbone)) for device in devices or jax.devices()[:1]]
    for place in made * many:
        places.put(place)

    def run(job: Job) -> Outcome:
        place, start = places.get(), time.perf_counter()
        try:
            with nullcontext() if place.warm else place.alone, jax.default_device(place.device):
                start = time.perf_counter()
                outcome = _fit(job, place.backbone, terms, out, journal.last.get(job.name), note, stopped)
                place.warm = place.warm or outcome.status == "fitted"
        except Interrupted:
            raise
        except Exception as error:  # whatever ails one model must not end the others
            foreseen = isinstance(error, ValueError | OSError | ArithmeticError)
            outcome = Outcome(job.name, "failed", reason=str(error) if foreseen else f"{type(error).__name__}: {error}")
        finally:
            places.put(place)
        return replace(outcome, seconds=time.perf_counter() - start)

    waiting, running = iter(jobs), set[Future[Outcome]]()
    interrupted: Interrupted | None = None
    with ThreadPoolExecutor(len(made) * many, thread_name_prefix="fit") as pool:
        while True:
            while not stopped() and len(running) < len(made) * many and (job := next(waiting, None)) is not None:
                running.add(pool.submit(run, job))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    outcome = future.result()
                except Interrupted as error:
                    interrupted = error
                else:
                    if outcome.status != "kept":
                        journal.add(outcome)
                    yield outcome
    if interrupted is not None or stopped():
        raise Interrupted("interrupted; models that are done are kept")


@dataclass(eq=False)
class _Place:
    """A device, with the network on it."""

    device: Any
    backbone: Backbone
    alone: threading.Lock = field(default_factory=threading.Lock)
    warm: bool = False  # whether a model was fitted here


def _on(device: Any, backbone: Backbone) -> Backbone:
    """The network on ``device``, as what is made there by default: bound to it, it would take programs of its own."""
    with jax.default_device(device):
        return jax.device_put(jax.device_get(backbone))


def _fit(
    job: Job,
    backbone: Backbone,
    terms: Terms,
    out: Path,
    before: Outcome | None,
    note: Note | None,
    stopped: Callable[[], bool],
) -> Outcome:
    target, config = out / job.name, terms.config
    paths = find_images([job.good], exclude=out).paths
    others = None if job.calibration is None else find_images([job.calibration], exclude=out).paths
    if config.value_range is None:
        config = replace(config, value_range=find_value_range(paths))
    known = _identity(job, backbone, replace(terms, config=config), paths, others)
    if before is not None and before.identity == known and before.status == "fitted" and _is_model(target):
        return replace(before, status="kept")
    check_writable(target)
    region = None if job.roi is None else read_roi_of(job.roi, config, paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(target.with_name(f"{target.name}.unfinished"), known)
    folded = fit_files(
        backbone,
        paths,
        config,
        batch_size=terms.batch_size,
        unreadable=(lambda error: None) if terms.skip_unreadable else stop_at_unreadable,
        note=note,
        checkpoint=checkpoint,
        stopped=stopped,
        least=terms.batch_size,
    )

    def calibrated(model: Padim) -> Padim:
        fitted = [path for path in paths if str(path) not in folded.skipped]
        chosen = calibration_files(model, fitted, folded.images, others) if terms.calibrate else None
        if chosen is None:
            return model
        return calibrate_files(
            model,
            *chosen,
            batch_size=terms.batch_size,
            false_alarm_rate=terms.false_alarm_rate,
            pixel_rate=terms.pixel_rate,
            stopped=stopped,
            least=terms.batch_size,
        )

    calibration, count = finish(backbone, folded, target, checkpoint, region, calibrated)
    threshold = None if calibration is None else float(calibration.threshold)
    return Outcome(job.name, "fitted", known, count, len(folded.skipped), threshold)


def _identity(job: Job, backbone: Backbone, terms: Terms, paths: Sequence[Path], others: Sequence[Path] | None) -> str:
    """Digest of all that a job's model follows from; ``terms`` with the settings it is fitted with."""
    of_images = identity(backbone, terms.config, paths)
    of_others = None if others is None else identity(backbone, terms.config, others)
    of_roi = None if job.roi is None else identity(backbone, terms.config, [job.roi])
    rest = (terms.calibrate, terms.false_alarm_rate, terms.pixel_rate, terms.skip_unreadable)
    return hashlib.sha256(json.dumps([of_images, of_others, of_roi, rest]).encode()).hexdigest()


def _is_model(folder: Path) -> bool:
    try:
        return bool(read_manifest(folder))
    except ArtifactError:
        return False


def _state_bytes(backbone: Backbone, config: PadimConfig) -> int:
    """Of the moments or the factors of one model, much the same."""
    embedding = draw_embedding(backbone, config)
    state = jax.eval_shape(lambda: gaussian.init(embedding.n_positions, embedding.dimension))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
