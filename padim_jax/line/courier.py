"""A thread that hands decisions on to an output whose other end may be away, so that no image waits for it."""

import contextlib
import threading
import time
from collections.abc import Callable

from padim_jax.line.outputs.output import Output, hand_on
from padim_jax.line.store import Store

_LONGEST = 5.0  # seconds between two looks at what waits
_FAREWELL = 5.0  # seconds that the end waits for what is under way


class Courier:
    """Hands on what waits for one output, from its start to its end.

    Args:
      store: in which it waits; the thread has a connection of its own.
      output: that takes it.
      remark: told what is amiss.
    """

    def __init__(self, store: Store, output: Output, remark: Callable[[str], None]) -> None:
        self._path, self._output, self._remark = store.path, output, remark
        self._wake, self._is_ending = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=f"courier {output.name}", daemon=True)
        store.outbox.make_due(output.name)
        self._thread.start()

    def wake(self) -> None:
        """Tell that something waits."""
        self._wake.set()

    def end(self) -> None:
        """Try once more what waits, and end; what is not taken waits for the next start."""
        self._is_ending = True
        self._wake.set()
        self._thread.join(_FAREWELL)

    def _run(self) -> None:
        try:
            with Store.open(self._path, create=False) as store:
                self._work(store)
        except Exception as error:
            self._remark(f"{self._output.name}: {_words(error)}; nothing is handed on any more until the next start")
        finally:
            with contextlib.suppress(Exception):
                self._output.close()

    def _work(self, store: Store) -> None:
        not_before, told = 0.0, ""
        while True:
            is_last, now = self._is_ending, time.monotonic()
            self._wake.clear()
            try:
                if is_last or now >= not_before:
                    not_before = now + hand_on(store, self._output, {}, self._remark)
                    told = ""
            except Exception as error:  # of the store, most likely; whatever it is, what waits is tried again
                not_before = now + _LONGEST
                if told != (told := _words(error)):  # not each time
                    self._remark(f"{self._output.name}: {told}; it is tried again in {_LONGEST:.0f} s")
            if is_last:
                return
            left = not_before - time.monotonic()
            self._wake.wait(min(left, _LONGEST) if left > 0 else _LONGEST)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
