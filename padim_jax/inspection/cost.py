"""What one compiled program costs: XLA's account of it, and what this process is seen to take besides."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import psutil

from padim_jax.method.checks import run_exclusively

_PROCESS = psutil.Process()  # made once: it is asked every 2 ms


@dataclass(frozen=True)
class Cost:
    """What one program takes.

    Attributes:
      temporary: bytes of XLA's own account.
      output: bytes, likewise.
      code: bytes that the process keeps after compiling.
      compiling: seconds.
      hidden: bytes beyond XLA's account while it runs: its libraries pack matrices on the side.
      seconds: of one run.
    """

    temporary: int
    output: int
    code: int = 0
    compiling: float = 0.0
    hidden: int = 0
    seconds: float = 0.0


def measure_compiling(function: Any, *arguments: Any) -> Cost:
    """Cost of compiling a jitted function for ``arguments``, which may be shapes alone; nothing is run."""
    before, start = resident(), time.perf_counter()
    program = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    analysis = program.memory_analysis()
    return Cost(
        analysis.temp_size_in_bytes, analysis.output_size_in_bytes, max(0, resident() - before), compiling=seconds
    )


def measure_run(function: Any, *arguments: Any) -> tuple[Any, Cost]:
    """Result of the compiled function, and what a run takes: memory at the first, seconds at the second."""
    before = _wait_for_memory()
    program = function.lower(*arguments).compile()
    analysis = program.memory_analysis()
    with PeakMemory() as memory:
        result = run_exclusively(program, *arguments)
    temporary, output = analysis.temp_size_in_bytes, analysis.output_size_in_bytes
    start = time.perf_counter()
    second_result = run_exclusively(program, *arguments)
    seconds = time.perf_counter() - start
    del second_result
    hidden = max(0, memory.peak - before - output - temporary)
    return result, Cost(temporary, output, hidden=hidden, seconds=seconds)


class PeakMemory:
    """The process's largest resident memory while inside, looked at every 2 ms."""

    def __enter__(self) -> "PeakMemory":
        self.peak, self._done = resident(), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, resident())

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, resident())


def _wait_for_memory() -> int:
    """Resident memory once the runtime has given temporaries back, which it does a little after a result is ready."""
    lowest = resident()
    for _ in range(10):
        time.sleep(0.02)
        lowest = min(lowest, resident())
    return lowest


def resident() -> int:
    """Resident memory of this process in bytes."""
    return _PROCESS.memory_info().rss
