"""The one thread that computes, and the queue before it: requests that wait together share a batch."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from padim_jax.line.judge import Begun, Judge, Judged, Loaded, Photo
from padim_jax.line.records import Decision
from padim_jax.line.service.metrics import Metrics
from padim_jax.line.service.models import Models
from padim_jax.line.store import Store

_LOOK = 1.0  # seconds between two looks at the models on disk
_IDLE = 0.25  # seconds to wait for an image before looking at other things


class QueueFull(RuntimeError):
    """No more images may wait."""


class Stopped(RuntimeError):
    """The service is ending, or its worker failed."""


@dataclass(frozen=True)
class Answer:
    """What came of an image.

    Attributes:
      judged: with its map.
      decision: as it is in the store; one that can't be read is not recorded.
      is_new: whether it was recorded now; the same image of the same item may have had its decision before.
      state: of the model that judged.
      waited, computed: seconds.
    """

    judged: Judged
    decision: Decision
    is_new: bool
    state: Loaded
    waited: float
    computed: float


@dataclass(frozen=True)
class _Job:
    model: str
    photo: Photo
    future: Future[Answer]
    since: float = field(default_factory=time.monotonic)


Keep = Callable[[Loaded, Judged, bytes], None]


class Worker:
    """Judges images one batch at a time, records what it decides, and only then answers.

    Args:
      models: that judge.
      store: keeps the decisions.
      queue: most images that wait.
      batch_size: most images computed at once.
      metrics: count verdicts and seconds.
      keep: told of each image that was recorded now, its result and its bytes, after it was answered.
      remark: told what is worth knowing.

    Attributes:
      is_ready: whether models are loaded and compiled.
      failure: what ended the thread; None while nothing has.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        *,
        queue: int,
        batch_size: int,
        metrics: Metrics,
        keep: Keep | None = None,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._models, self._store, self._limit, self._batch_size = models, store, queue, batch_size
        self._metrics, self._keep, self._remark = metrics, keep, remark
        self._waiting, self._changed, self._is_closed = deque[_Job](), threading.Condition(), False
        self._taken = list[_Job]()  # out of those that wait, to be judged; some may be answered
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self.is_ready, self.failure = False, None
        self.failure: BaseException | None = None
        self._looked = time.monotonic()

    def start(self) -> None:
        """Begin: load and compile models, then judge what waits."""
        self._thread.start()

    def stop(self) -> None:
        """Judge what waits, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, model: str, photos: Sequence[Photo]) -> list[Future[Answer]]:
        """Let images wait, all or none.

        Raises:
          QueueFull: they are too many.
          Stopped: nobody will judge them.
        """
        jobs = [_Job(model, photo, Future[Answer]()) for photo in photos]
        with self._changed:
            if self._is_closed:
                raise Stopped("the service is ending")
            if len(self._waiting) + len(jobs) > self._limit:
                raise QueueFull(f"{len(self._waiting)} images wait already, and {self._limit} may")
            self._waiting += jobs
            self._changed.notify_all()
        return [job.future for job in jobs]

    def _run(self) -> None:
        begun: tuple[list[_Job], Judge, Begun] | None = None
        try:
            self._models.load_all(lambda: self._is_closed)
            self.is_ready = True
            while True:
                current = begun or self._begin(_IDLE)
                begun = None
                if current is not None:
                    begun = self._begin(0.0)  # is read while the others are computed
                    self._finish(*current)
                elif self._is_closed and not self._waiting:
                    return
                if time.monotonic() - self._looked >= _LOOK:
                    self._refresh()
        except BaseException as error:
            self.failure = error
        finally:
            self.is_ready = False
            with self._changed:
                self._is_closed = True
                left = [*self._taken, *self._waiting]
                self._waiting.clear()
            _fail(left, Stopped("the service is ending"))

    def _refresh(self) -> None:
        try:
            self._models.refresh()
        except Exception as error:  # of any kind: the models in memory go on
            self._remark(f"the models could not be looked at: {error}")
        self._looked = time.monotonic()

    def _begin(self, timeout: float) -> tuple[list[_Job], Judge, Begun] | None:
        """Begin to read the next batch, which is of the model that waits longest; None where nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed, timeout)
            if not self._waiting:
                return None
            name = self._waiting[0].model
            jobs = [job for job in self._waiting if job.model == name][: self._batch_size]
            taken = {id(job) for job in jobs}
            self._waiting = deque(job for job in self._waiting if id(job) not in taken)
            self._taken = [*(job for job in self._taken if not job.future.done()), *jobs]
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]  # who waited may be gone
        try:
            judge = self._models.judge(name)
            return (jobs, judge, judge.begin([job.photo for job in jobs])) if jobs else None
        except Exception as error:  # of any kind: it ends this batch, not the service
            _fail(jobs, error)
            return None

    def _finish(self, jobs: list[_Job], judge: Judge, begun: Begun) -> None:
        start = time.monotonic()
        try:
            judged = judge.finish(begun)
            state = judge.current  # only this thread replaces it
            readable = [found for found in judged if is_readable(found)]
            recorded = {decision.id: decision for decision in self._store.record(found.decision for found in readable)}
            pairs = list(zip(jobs, judged, strict=True))
        except Exception as error:  # as above
            _fail(jobs, error)
            return
        seconds, fresh = time.monotonic() - start, list[tuple[Judged, bytes]]()
        for job, found in pairs:
            decision = recorded.pop(found.decision.id, None)  # the first of equal ones is the new one
            is_new = decision is not None
            if is_new:
                fresh.append((found, job.photo.content or b""))
            try:
                if decision is None:
                    decision = self._earlier(found)
                self._metrics.count("padim_verdicts_total", model=job.model, verdict=found.decision.verdict)
                self._metrics.observe("padim_wait_seconds", start - job.since)
                job.future.set_result(Answer(found, decision, is_new, state, start - job.since, seconds))
            except Exception as error:  # of this image, as of a damaged row of the store; the others are answered
                _fail([job], error)
        for found, content in fresh if self._keep is not None else ():
            self._keep_one(state, found, content)
        self._metrics.observe("padim_batch_seconds", time.monotonic() - start)

    def _keep_one(self, state: Loaded, found: Judged, content: bytes) -> None:
        assert self._keep is not None
        try:
            self._keep(state, found, content)
        except Exception as error:  # of any kind: its decision is recorded and answered
            self._remark(f"a photo was not kept: {error}")

    def _earlier(self, found: Judged) -> Decision:
        """The decision that an image had already, or its own where it is not recorded.

        Raises:
          StoreError: the store can't be read.
        """
        try:
            return self._store.decision(found.decision.id) if is_readable(found) else found.decision
        except KeyError:  # retention has deleted it
            return found.decision


def is_readable(found: Judged) -> bool:
    """Whether an image was read to its end, so that it gets a decision."""
    return found.decision.verdict != "unreadable" and found.is_whole


def _fail(jobs: Sequence[_Job], error: BaseException) -> None:
    for job in jobs:
        with suppress(InvalidStateError):  # answered, or given up by who waited
            job.future.set_exception(error)
