"""What became of every model of a fleet, in a file beside them that outlasts the run and a power cut."""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Status = Literal["fitted", "kept", "failed"]  # kept: it was there already, made from the same files and settings


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
      name: of the model.
      status: see ``Status``.
      images: it was fitted on.
      skipped: files that could not be read.
      threshold: of its calibration, in units of the scores; None without.
      false_alarm_rate: that the threshold attains; None without.
      seconds: it took.
      notes: what a reader should know, each in one line: why it failed, what was left out or decided.
    """

    name: str
    status: Status
    images: int = 0
    skipped: int = 0
    threshold: float | None = None
    false_alarm_rate: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Journal:
    """Outcomes of this run and of those before, a line each; the last of a name counts.

    Args:
      folder: of the models.
      part: which of how many runs this is, from 1; each writes a file of its own.
    """

    def __init__(self, folder: Path, part: tuple[int, int] = (1, 1)) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._path = folder / f".models.{part[0]}-of-{part[1]}.jsonl"
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):  # torn by a power cut
            self._path.write_bytes(self._path.read_bytes() + b"\n")

    def add(self, outcome: Outcome) -> None:
        """Record an outcome so that it outlasts a power cut; threads may do so at the same time."""
        line = json.dumps(asdict(outcome) | {"at": time.time()})
        with self._lock, self._path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def last(self) -> dict[str, Outcome]:
        """The last outcome of every model, of whatever part."""
        latest: dict[str, tuple[float, Outcome]] = {}
        for path in self._folder.glob(".models.*.jsonl"):
            for line in path.read_text("utf-8").splitlines():
                try:
                    read = json.loads(line)
                    at, outcome = float(read.pop("at")), Outcome(**read | {"notes": tuple(read["notes"])})
                except (ValueError, TypeError, KeyError, AttributeError):  # torn
                    continue
                if outcome.name not in latest or at >= latest[outcome.name][0]:
                    latest[outcome.name] = at, outcome
        return {name: outcome for name, (_, outcome) in latest.items()}
