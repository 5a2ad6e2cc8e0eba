"""Watch a line: images come, are judged, recorded, and handed on, until somebody stops it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from padim_jax.line.backlog import Arrival, Backlog, WhenFull
from padim_jax.line.courier import Courier
from padim_jax.line.drift import Drift
from padim_jax.line.drift_words import CAUSES
from padim_jax.line.judge import Begun, Judge, Judged, Photo
from padim_jax.line.observer import Observer
from padim_jax.line.outputs.bad_folder import BadFolder
from padim_jax.line.outputs.drift_events import DriftEvents
from padim_jax.line.outputs.output import Output, Picture, hand_on, names_for, refuse_twins
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.remarks import Seldom
from padim_jax.line.retention import NEWEST
from padim_jax.line.seen import Dropped
from padim_jax.line.sources.source import Source, stamp_of
from padim_jax.line.store import Store

PATIENCE = 10.0  # seconds without a change after which a file that can't be read will not become readable
QUEUE = 1000  # images that wait at most
FRAMES = 32  # the same of frames, which wait in memory
_AGAIN = 0.25  # seconds until a file that can't be read yet is read again
_IDLE = 0.2  # seconds to wait for an image before looking at other things
_LOOK = 1.0  # seconds between two looks at the model
_MOMENT = 0.1  # seconds that a thread which has read paths may take to tell of them
_FAREWELL = 10.0  # seconds that the thread which finds images may take to end
_DROPS = 10.0  # seconds between two words on images that are dropped
_TIDY = 600.0  # seconds between two looks at what the store need not keep


@dataclass(frozen=True)
class Limits:
    """How much waits, and how long something is kept.

    Attributes:
      queue: most images that wait.
      when_full: what to do with one more.
      patience: seconds without a change after which a file that can't be read is given up.
      max_seconds, max_bytes: as of :meth:`padim_jax.line.store.Store.retain`; None for any.
    """

    queue: int = QUEUE
    when_full: WhenFull = "wait"
    patience: float = PATIENCE
    max_seconds: float | None = None
    max_bytes: int | None = None


@dataclass
class Summary:
    """What came of a watch.

    Attributes:
      verdicts: how many decisions of each.
      dropped: images that nobody decided on.
      known: images that had a decision already.
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    dropped: int = 0
    known: int = 0


def watch_line(
    source: Source,
    judge: Judge,
    store: Store,
    outputs: Sequence[Output] = (),
    *,
    limits: Limits | None = None,
    looks_for_drift: bool = True,
    remark: Callable[[str], None] = lambda text: None,
    told: Callable[[Decision], None] = lambda decision: None,
    ready: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Judge every image of a source, once, and hand the decisions on.

    Whenever the process dies, what is recorded is what was decided, and the next start goes on with the rest: images of
    a folder that have no decision, and decisions that were not handed on.

    Args:
      source: finds the images.
      judge: gives verdicts.
      store: keeps them.
      outputs: get them.
      limits: of what waits and what is kept.
      looks_for_drift: whether to; only where there is one image of each part (:mod:`padim_jax.line.drift`).
      remark: told in a sentence what is worth knowing; threads call it.
      told: told of every decision once it is recorded.
      ready: called once everything is compiled, before the first image is taken.
      stopped: asked after each batch whether to end; what is being judged then is finished.

    Raises:
      StoreError: the store can't be written; what was being judged is not decided, and judged again at the next start.
      OSError: the source fails.
    """
    return _Watch(source, judge, store, outputs, limits or Limits(), looks_for_drift, remark, told).run(ready, stopped)


class _Watch:
    def __init__(
        self,
        source: Source,
        judge: Judge,
        store: Store,
        outputs: Sequence[Output],
        limits: Limits,
        looks_for_drift: bool,
        remark: Callable[[str], None],
        told: Callable[[Decision], None],
    ) -> None:
        self.looks_for_drift = looks_for_drift
        self.source, self.judge, self.store, self.limits, self.remark, self.told = (
            *(source, judge, store, limits),
            *(remark, told),
        )
        refuse_twins(outputs)
        self.near = [output for output in outputs if not output.is_far]
        self.names = names_for(outputs)
        self.far = [output for output in outputs if output.is_far]
        self.backlog, self.stop = Backlog(limits.queue, limits.when_full), threading.Event()
        self.begun: tuple[list[Arrival], Begun] | None = None
        self.again = list[tuple[float, Arrival]]()  # files that can't be read yet, and when to try again
        self.summary, self.failure, self.couriers = Summary(), list[BaseException](), list[Courier]()
        self.retry = dict.fromkeys((output.name for output in outputs), 0.0)
        self.is_fresh = False  # whether decisions were recorded that nobody was handed on yet
        self.looked, self.tidied = time.monotonic(), float("-inf")
        self.drops = Seldom(remark, _DROPS)

    def run(self, ready: Callable[[], None], stopped: Callable[[], bool]) -> Summary:
        self.judge.warm_up()
        thread = threading.Thread(target=self._find, name="find images", daemon=True)
        with ExitStack() as stack:
            for output in self.near:
                stack.callback(output.close)
                self.store.outbox.make_due(output.name)
            self._hand_on({})
            self.couriers = [Courier(self.store, output, self.remark) for output in self.far]
            for courier in self.couriers:
                stack.callback(courier.end)
            if self.looks_for_drift:
                model, source = self.judge.current.name, self.source.name
                observer = Observer(self.store, self._tell_drift, self.remark, model=model, source=source)
                stack.callback(observer.end)
            stack.callback(self._end)
            thread.start()
            ready()
            while (self.begun or self.again or not self.backlog.is_done) and not stopped():
                self._step()
            self.stop.set()
            while self.source.is_telling and not self.backlog.is_done:
                self._step()  # what it has read is nowhere else
            self._end()
            if self.begun:  # in hand
                self._hand_on(self._judge(*self.begun))
                self.begun = None
            while not self.source.lasts and (self.begun or self.again or len(self.backlog)):
                self._step()  # nobody would find these again
            # before the store is closed, which it reads; a stream may never wake
            thread.join(_FAREWELL if self.source.lasts else _MOMENT)
        if self.failure:
            raise self.failure[0]
        return self.summary

    def _end(self) -> None:
        self.stop.set()
        self.backlog.close()

    def _find(self) -> None:
        try:
            self.source.find(self._found, self.stop)
        except BaseException as error:  # told by the thread that judges
            self.failure.append(error)
        finally:
            self.backlog.close()

    def _found(self, arrival: Arrival) -> None:
        dropped = self.backlog.put(arrival)
        if dropped is not None and self.backlog.is_closed:
            if not self.source.lasts:  # nobody would find it again
                self._drop(arrival, "the watch ended before it was judged")
        elif dropped is not None:
            why = f"{self.limits.queue} images waited already (--when-full {self.limits.when_full})"
            self._drop(dropped, why)

    def _drop(self, arrival: Arrival, why: str) -> None:
        model = self.judge.current.name
        self.store.seen.drop([Dropped(arrival.source, arrival.item, arrival.stamp, why, model=model)])
        self.summary.dropped += 1
        self.drops.say(f"dropped {arrival.item}: {why}")  # a camera may come to drop many a second

    def _step(self) -> None:
        """Judge what waits, one batch at most, and look at other things where it is time to."""
        begun = self.begun or self._begin(min(_IDLE, _AGAIN if self.again else _IDLE))
        self.begun = self._begin(0.0) if begun else None  # is read while the others are computed
        if time.monotonic() - self.looked >= _LOOK:
            self.judge.refresh()
            self.looked = time.monotonic()
        self._hand_on(self._judge(*begun) if begun else {})
        self._tidy()

    def _begin(self, timeout: float) -> tuple[list[Arrival], Begun] | None:
        """Begin to read the next batch; None where nothing comes within ``timeout`` seconds."""
        now = time.monotonic()
        due = [arrival for at, arrival in self.again if at <= now][: self.judge.batch_size]
        self.again = [(at, arrival) for at, arrival in self.again if arrival not in due]
        arrivals = due + self.backlog.take(self.judge.batch_size - len(due), 0.0 if due else timeout)
        arrivals = list({(one.path, one.item): one for one in arrivals}.values())  # the newest, where one came again
        if not arrivals:
            return None
        return arrivals, self.judge.begin([_photo(arrival) for arrival in arrivals])

    def _judge(self, arrivals: Sequence[Arrival], begun: Begun) -> dict[str, Picture]:
        pairs = zip(arrivals, self.judge.finish(begun), strict=True)
        judged = [found for arrival, found in pairs if arrival.pixels is not None or self._is_whole(arrival, found)]
        frames = {photo.item: photo.pixels for photo in begun.photos}
        state = self.judge.current
        fresh = [found for found in judged if not self._is_decided(found.decision)]
        self._keep([found.decision for found in fresh], frames)
        recorded = self.store.record([found.decision for found in fresh], self.names)
        self.summary.known += len(judged) - len(recorded)
        results = {found.decision.id: found.result for found in fresh}
        pictures, self.is_fresh = dict[str, Picture](), bool(recorded)
        for decision in recorded:
            self.summary.verdicts[decision.verdict] += 1
            self.told(decision)
            result = results[decision.id]
            if result is not None:
                pictures[decision.id] = Picture.of(state, result, frames.get(decision.item))
        return pictures

    def _keep(self, decisions: Sequence[Decision], frames: Mapping[str, np.ndarray | None]) -> None:
        """Let bad folders keep frames that nobody would find again, before they are recorded."""
        for output in self.near if not self.source.lasts else ():
            for decision in decisions:
                pixels = frames.get(decision.item)
                if isinstance(output, BadFolder) and decision.verdict in output.verdicts and pixels is not None:
                    output.keep(decision, pixels)

    def _is_decided(self, decision: Decision) -> bool:
        """Whether the same bytes have a decision already, by an earlier state of the model too."""
        key = decision.source, decision.item, decision.image_digest, decision.model
        return self.store.seen.is_decided(*key)

    def _is_whole(self, arrival: Arrival, found: Judged) -> bool:
        """Whether a file was read as a whole, or never will be; one that may still be written is read again."""
        now, stamp = time.monotonic(), stamp_of(arrival.path)
        if stamp != found.decision.stamp:  # it was changed while it was read
            if stamp:
                self.again.append((now + _AGAIN, replace(arrival, stamp=stamp, since=now)))
                return False
            if found.decision.verdict != "unreadable":
                return True  # it was read, and then moved away
        if not stamp and self.source.lasts:
            # without its stamp, by which it would be known and passed over once it is back, as on a network drive
            self._drop(replace(arrival, stamp=""), "it was gone before it was read")
            self.source.forget(arrival)
            return False
        if not found.is_whole and now - arrival.since < self.limits.patience:
            self.again.append((now + _AGAIN, replace(arrival, stamp=stamp)))
            return False
        return True

    def _hand_on(self, pictures: Mapping[str, Picture]) -> None:
        for output in self.near:
            if time.monotonic() >= self.retry[output.name]:
                wait = hand_on(self.store, output, pictures, self.remark)
                self.retry[output.name] = time.monotonic() + wait
        for courier in self.couriers if self.is_fresh else ():
            courier.wake()
        self.is_fresh = False

    def _tell_drift(self, store: Store, drift: Drift) -> None:
        """Say what is new of a drift, and hand it on."""
        event = store.alarms.record(drift, [output.name for output in self.far if isinstance(output, DriftEvents)])
        if event is not None:
            changes = "; ".join(event["words"])
            more = f"padim drift {self.store.path} says more"
            self.remark(f"{drift.model} has drifted on images of {drift.source_name}: {changes}; {CAUSES} ({more})")
            for courier in self.couriers:
                courier.wake()

    def _tidy(self) -> None:
        """Delete what the store need not keep."""
        limits, now = self.limits, time.monotonic()
        if (limits.max_seconds or limits.max_bytes) and now - self.tidied >= _TIDY:
            kept = self.store.retain(max_seconds=limits.max_seconds, max_bytes=limits.max_bytes)
            self.tidied = now
            is_large = limits.max_bytes is not None and kept.size > limits.max_bytes
            if kept.deleted or kept.forgotten or is_large:
                stay = f"{kept.kept_corrected} corrected and {kept.kept_waiting} waiting ones stay"
                self.remark(f"{self.store.path}: deleted the {kept.deleted} oldest decisions; {stay}")
            if kept.forgotten:
                again = "files and videos that are still there are judged again at the next start"
                self.remark(f"{self.store.path}: forgot {kept.forgotten} images to keep its size; {again}")
            if is_large:
                why = f"the newest {NEWEST}, corrected and waiting decisions stay; raise --keep-size"
                self.remark(f"{self.store.path}: takes {kept.size} bytes, more than {limits.max_bytes}, for {why}")


def _photo(arrival: Arrival) -> Photo:
    if arrival.pixels is not None:
        return Photo(arrival.source, arrival.item, arrival.path, arrival.stamp, pixels=arrival.pixels)
    return Photo(arrival.source, arrival.item, arrival.path, stamp_of(arrival.path))  # from before it is read
