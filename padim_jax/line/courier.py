"""A thread that hands decisions on to an output whose other end may be away, so that no image waits for it."""

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
        with Store.open(self._path, create=False) as store:
            not_before = 0.0
            while True:
                is_last, now = self._is_ending, time.monotonic()
                self._wake.clear()
                try:
                    if is_last or now >= not_before:
                        not_before = now + hand_on(store, self._output, {}, self._remark)
                except OSError as error:  # of the store
                    self._remark(f"{self._output.name}: {error}")
                if is_last:
                    break
                left = not_before - time.monotonic()
                self._wake.wait(min(left, _LONGEST) if left > 0 else _LONGEST)
        self._output.close()
