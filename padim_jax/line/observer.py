"""A thread that follows a store's decisions and tells of drift, so that no image waits for it."""

import shlex
import threading
import time
from collections.abc import Callable
from itertools import islice

from padim_jax.line.drift import RATE, Drift, DriftTests
from padim_jax.line.records import time_text
from padim_jax.line.store import Store

EVERY = 60.0  # seconds between two looks
_TOGETHER = 256  # decisions looked at in one go, some milliseconds
_LEISURE = 4.0  # times as long as it works it rests, while there is much to catch up with
_FAREWELL = 10.0  # seconds that the last look may take
_MOMENT = 1.0  # seconds that the thread may take to say what it has found by then


class Observer:
    """Looks at what came to a store, every so often and at its end.

    A look that fails, as where another process holds the store for long, is made good by the next one. It begins with
    what the store has after the last decision that retention has deleted, and remembers what it has seen, whatever is
    deleted later.

    Args:
      store: path of it; the thread has a connection of its own.
      told: told of each source of a state of a model that has drifted, at every look; threads call it, with their
        store.
      remark: told what is amiss.
      model: name of the only model to look at; None for all.
      source: the only one to look at; None for all.
      every: seconds between two looks.
      rate: of false alarms.

    Attributes:
      drifts: what was found at the last look.
      looked: when that was, UTC in ISO 8601; empty before the first.
    """

    def __init__(
        self,
        store: Store,
        told: Callable[[Store, Drift], None],
        remark: Callable[[str], None],
        *,
        model: str | None = None,
        source: str | None = None,
        every: float = EVERY,
        rate: float = RATE,
    ) -> None:
        self._path, self._told, self._remark, self._every = store.path, told, remark, every
        self._which: dict[str, str | None] = {"model": model, "source": source}
        self._tests, self._last, self.drifts, self.looked = DriftTests(rate), 0, list[Drift](), ""
        self._wake, self._end, self._is_cut = threading.Event(), float("inf"), False
        self._thread = threading.Thread(target=self._run, name="observe drift", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look once more, and end; where that takes longer than a moment, it is cut off, which is said."""
        self._end = time.monotonic() + _FAREWELL
        self._wake.set()
        self._thread.join(_FAREWELL + _MOMENT)
        if self._thread.is_alive():
            self._say_cut()

    def _run(self) -> None:
        try:
            is_last = has_failed = False
            while not is_last:
                is_last = self._wake.is_set()
                try:
                    with Store.open(self._path, create=False) as store:
                        is_whole = self._look(store)
                except OSError as error:  # of the store, most likely, which may be there again
                    again = "" if is_last else f", which is tried again every {self._every:g} s"
                    if not has_failed:
                        self._remark(f"drift could not be looked for{again}: {error}")
                    has_failed, is_whole = True, not is_last
                else:
                    if has_failed:
                        self._remark("drift is looked for again, in all that was decided meanwhile")
                    has_failed = False
                if not is_whole:
                    self._say_cut()
                    return
                self._wake.wait(self._every)
        except Exception as error:  # nobody foresaw it; images are judged all the same
            self._remark(f"nobody looks for drift any more until the next start: {error}")

    def _look(self, store: Store) -> bool:
        """Look at what is new, and tell what is found; whether it was all looked at before the end."""
        scores, is_whole = store.scores(**self._which, after=self._last), True
        while part := list(islice(scores, _TOGETHER)):
            start = time.monotonic()
            if start > self._end:
                is_whole = False
                break
            self._tests.add(part)
            self._last = part[-1].sequence
            self._wake.wait(_LEISURE * (time.monotonic() - start))
        self.drifts, self.looked = self._tests.found(), time_text(time.time())
        for drift in self.drifts:
            if drift.alarms:
                self._told(store, drift)
        return is_whole

    def _say_cut(self) -> None:
        if self._is_cut:  # the thread has come to its end after all
            return
        self._is_cut = True
        rest = f"decisions after number {self._last} were not looked at for drift before the end"
        self._remark(f"{rest}; the next start looks at them, and so does padim drift {shlex.quote(str(self._path))}")
