"""What people changed of models: parts that were learned, images that were taken out, and what was undone.

A change is noted before the model is written, and once more after it. So whoever began one is known however the process
ends; whether an image is part of a model, the model itself says.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from padim_jax.line.database import Database
from padim_jax.line.records import time_text
from padim_jax.runs.tables import escape_bytes, unescape_bytes

Kind = Literal["learn", "forget", "undo"]
Way = Literal["in", "out"]  # of an image, into a model or out of it
_COLUMNS = ("number", "time", "who", "model", "kind", "before", "after", "calibration", "images", "gone")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM changes"


@dataclass(frozen=True)
class Change:
    """A change of a model.

    Attributes:
      number: of the change, ascending in a store.
      time: when it was begun, UTC in ISO 8601.
      who: the person.
      model: its name.
      kind: what was done.
      before: digest of the model that it started from.
      after: of the model that it gave; empty where the process ended before that was noted.
      calibration: digest of the calibration that the model had before.
      images: digests of the images that came in or went out.
      gone: of an undo, those of them that went out; None where an older version did not note it, and of other kinds.
    """

    number: int
    time: str
    who: str
    model: str
    kind: Kind
    before: str
    after: str
    calibration: str
    images: tuple[str, ...]
    gone: tuple[str, ...] | None = None

    def way_of(self, digest: str) -> Way | None:
        """Which way one of its images went; None where that is not known, as of a change that may only be begun."""
        if not self.after or (self.kind == "undo" and self.gone is None):
            return None
        return "out" if self.kind == "forget" or digest in (self.gone or ()) else "in"

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: getattr(self, name) for name in ("number", "time", "who", "kind", "before", "after")}


class Changes:
    """What a store knows of changes of models.

    Args:
      database: of the store.
      clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def begin(
        self,
        model: str,
        kind: Kind,
        *,
        who: str,
        before: str,
        calibration: str = "",
        images: Sequence[str] = (),
        gone: Sequence[str] | None = None,
    ) -> int:
        """Note that somebody is about to change a model; gives the number of the change.

        Raises:
          StoreError: it can't be written.
        """
        values = time_text(self._clock()), escape_bytes(who), escape_bytes(model), kind, before, calibration
        digests = json.dumps(list(images)), None if gone is None else json.dumps(list(gone))
        names = "time, who, model, kind, before, calibration, images, gone"
        with self._database.transaction() as connection:
            done = connection.execute(
                f"INSERT INTO changes ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, *digests)
            )
        return int(done.lastrowid or 0)

    def finish(self, number: int, after: str) -> None:
        """Note what model a change gave.

        Raises:
          StoreError: it can't be written.
        """
        with self._database.transaction() as connection:
            connection.execute("UPDATE changes SET after = ? WHERE number = ?", (after, number))

    def abandon(self, number: int) -> None:
        """Take back that a change was begun, as it was not made.

        Raises:
          StoreError: it can't be written.
        """
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM changes WHERE number = ? AND after = ''", (number,))

    def of_image(self, model: str, digest: str) -> list[Change]:
        """The changes of a model that were about an image, in their order.

        Raises:
          StoreError: the store can't be read.
        """
        return self._read("WHERE model = ? AND instr(images, ?) ORDER BY number", escape_bytes(model), digest)

    def between(self, model: str, one: str, other: str) -> list[Change]:
        """The lessons and removals that led from one of two states of a model to the other, the last one first.

        One that may only be begun is among them where it started from one of the two.

        Raises:
          StoreError: the store can't be read.
        """
        which = "WHERE model = ? AND kind != 'undo' AND before IN (?, ?) AND after IN (?, ?, '') ORDER BY number DESC"
        return self._read(which, escape_bytes(model), *(one, other) * 2)

    def learned(self, model: str, calibration: str, state: str) -> set[str]:
        """Digests of images that were learned while a model had its calibration, which therefore does not know them.

        Where images were taken out whose scores the calibration then lost, it is what was left of an earlier one, and
        does not know what was learned with that one either.

        Args:
          model: its name.
          calibration: digest of the calibration that it has now.
          state: digest of the model as it is now.

        Raises:
          StoreError: the store can't be read.
        """
        changes = self._read("WHERE model = ? ORDER BY number DESC", escape_bytes(model))
        calibrations, states = {calibration}, {state}
        for change in changes:
            if change.kind == "forget" and change.after in states:
                calibrations.add(change.calibration)
            if change.calibration in calibrations:
                states.add(change.before)
        of_these = [change for change in changes if change.kind == "learn" and change.calibration in calibrations]
        return {digest for change in of_these for digest in change.images}

    def taken_out(self, model: str) -> dict[str, str]:
        """Digests of images that were taken out of a model and not learned since, with when.

        What was undone counts too: whether an image is back in the model, the model itself says.

        Raises:
          StoreError: the store can't be read.
        """
        found = dict[str, str]()
        for change in self._read("WHERE model = ? AND kind != 'undo' ORDER BY number", escape_bytes(model)):
            for digest in change.images:
                found.pop(digest, None)
                if change.kind == "forget":
                    found[digest] = change.time
        return found

    def taken_out_elsewhere(self, model: str, state: str) -> dict[str, str]:
        """Digests of images that something else than the service took out, where the model lacks them, with times.

        They came in by a change that is noted, and went out by none, or by an undo that took back no lesson. What
        people said before these times, they said before the images were taken out.

        Args:
          model: its name.
          state: digest of the model as it is now; what came in from that very state was undone elsewhere.

        Raises:
          StoreError: the store can't be read.
        """
        found, lessons = dict[str, str](), set[tuple[str, str]]()
        for change in self._read("WHERE model = ? AND after != '' ORDER BY number", escape_bytes(model)):
            if change.kind == "learn":
                lessons.add((change.before, change.after))
            takes_back = change.kind == "undo" and (change.after, change.before) in lessons
            for digest in change.images:
                found.pop(digest, None)
                way = change.way_of(digest)
                is_in = way == "in" and change.before != state
                if is_in or (way == "out" and change.kind == "undo" and not takes_back):
                    found[digest] = change.time
        return found

    def _read(self, rest: str, *values: str) -> list[Change]:
        found = list[Change]()
        for row in self._database.read(f"{_SELECT} {rest}", *values):
            fields: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
            fields |= {name: unescape_bytes(fields[name]) for name in ("who", "model")}
            fields["images"] = tuple(json.loads(fields["images"]))
            fields["gone"] = None if fields["gone"] is None else tuple(json.loads(fields["gone"]))
            found.append(Change(**fields))
        return found
