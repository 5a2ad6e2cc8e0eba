"""A store of decisions: one SQLite file, which several processes may read and write at a time.

An image is recorded once: the same bytes of the same item by the same state of a model are one decision, however often
they are offered, and whenever a process died. What a decision is to be handed on to is recorded with it, in one
transaction, so nothing is decided that is not handed on (:mod:`padim_jax.line.outbox`). Decisions are not changed;
what a person says of one is kept beside it.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from padim_jax.line.alarms import Alarms
from padim_jax.line.changes import Changes
from padim_jax.line.database import CORRECTION, TABLES, Database, correction_of, row_of
from padim_jax.line.outbox import Outbox
from padim_jax.line.records import VERDICTS, Correction, Decision, Scored, Verdict, parse_time, time_text
from padim_jax.line.retention import Retained, retain
from padim_jax.line.seen import Seen
from padim_jax.runs.tables import escape_bytes

_PAGE = 500  # decisions read at a time
_SCORES = 5000  # scores read at a time


class Overtaken(RuntimeError):
    """Somebody else said something of a decision, or took it back, after it was last looked at.

    Attributes:
      decision: as it is now.
    """

    def __init__(self, decision: Decision) -> None:
        self.decision, standing = decision, decision.correction
        said = f"corrected to {standing.verdict} by {standing.who}" if standing else "is not corrected any more"
        super().__init__(f"{decision.item} {'was ' * bool(standing)}{said} since you looked; look again")


class Store:
    """Decisions in a file; threads may share one, processes each open their own.

    Attributes:
      path: of the file.

    >>> store = Store.open(folder / "line.db")
    >>> (recorded,) = store.record([Decision("camera", "1.png", "0a", "bracket", "0b", "bad", "p = 0.01")])
    >>> store.correct(recorded.id, "good", who="Ada").number
    1
    >>> [decision.correction.verdict for decision in store.decisions(verdict="bad")]
    ['good']
    >>> store.close()
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.path, self._database, self._clock = database.path, database, clock

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, create: bool = True, clock: Callable[[], float] = time.time
    ) -> "Store":
        """Open the store at ``path``.

        Args:
          path: of the file; a local disk, because SQLite's log does not work over a network.
          create: make a new store where there is none.
          clock: seconds since 1970.

        Raises:
          FileNotFoundError: there is none, and none is to be made.
          NotAStore: another file, or a store that a newer version wrote.
          StoreError: it can't be opened or written.
        """
        return cls(Database(Path(path), create=create), clock)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def record(
        self, decisions: Iterable[Decision], outputs: Callable[[Decision], Iterable[str]] = lambda decision: ()
    ) -> list[Decision]:
        """Record decisions, all or none, and who is to get them.

        Args:
          decisions: in the order of the images.
          outputs: gives the names of the outputs that a decision is handed on to.

        Returns:
          Those that were not there already, with their sequence and time.

        Raises:
          ValueError: an unknown verdict.
          StoreError: they can't be written; none is recorded.
        """
        recorded = list[Decision]()
        with self._database.transaction() as connection:
            now = time_text(self._clock())
            for decision in decisions:
                if decision.verdict not in VERDICTS:
                    raise ValueError(f"Store.record: verdict={decision.verdict!r}, wanted one of {', '.join(VERDICTS)}")
                if connection.execute("SELECT 1 FROM retired WHERE id = ?", (decision.id,)).fetchone():
                    continue
                values = row_of(decision) | {"time": now}
                names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
                done = connection.execute(f"INSERT OR IGNORE INTO decisions ({names}) VALUES ({marks})", values)
                if done.rowcount:
                    sequence = int(done.lastrowid or 0)
                    rows = [(output, sequence) for output in outputs(decision)]
                    connection.executemany("INSERT INTO outbox (output, sequence) VALUES (?, ?)", rows)
                    recorded.append(replace(decision, sequence=sequence, time=now))
        return recorded

    def decisions(
        self,
        *,
        verdict: Verdict | None = None,
        model: str | None = None,
        source: str | None = None,
        since: str | None = None,
        until: str | None = None,
        corrected: bool | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Decision]:
        """Decisions in the order of their sequence, read a page at a time; each page is as the store is then.

        Args:
          verdict: as it was decided, not as it was corrected to.
          model: name.
          source: as recorded.
          since: time from which on, in ISO 8601 (see :func:`padim_jax.line.records.parse_time`).
          until: time before which.
          corrected: only those that a standing correction is of, or only the others.
          after: only those with a higher sequence.
          before: only those with a lower sequence.
          limit: how many at most.
          newest_first: in reverse.

        Raises:
          ValueError: a time that is none.
          StoreError: the store can't be read.
        """
        where, values = _filters(verdict, model, source, since, until)
        if corrected is not None:
            where.append(f"c.number IS {'NOT ' * corrected}NULL")
        bounds = after, 2**63 - 1 if before is None else before
        return self._pages(where, values, bounds, limit, newest_first)

    def _pages(
        self,
        where: Sequence[str],
        values: Sequence[str],
        bounds: tuple[int, int],
        limit: int | None,
        newest_first: bool,
    ) -> Iterator[Decision]:
        (low, high), left = bounds, limit
        order = "DESC" if newest_first else "ASC"
        text = " AND ".join(["d.sequence > ?", "d.sequence < ?", *where])
        while left is None or left > 0:
            count = _PAGE if left is None else min(_PAGE, left)
            query = f"WHERE {text} ORDER BY d.sequence {order} LIMIT {count}"
            page = self._database.read_decisions(query, low, high, *values)
            yield from page
            if len(page) < count:
                return
            left = None if left is None else left - count
            low, high = (low, page[-1].sequence) if newest_first else (page[-1].sequence, high)

    def scores(
        self, *, model: str | None = None, source: str | None = None, since: str | None = None, after: int = 0
    ) -> Iterator[Scored]:
        """The finite scores of decisions in their order, as far back as none is missing (:attr:`last_deleted`).

        Args:
          model: name.
          source: as recorded.
          since: as of :meth:`decisions`.
          after: likewise.

        Raises:
          ValueError, StoreError: as :meth:`decisions`.
        """
        low = max(after, self.last_deleted)
        name, place = (None if given is None else escape_bytes(given) for given in (model, source))
        first = since and parse_time(since)
        which = (
            "WHERE sequence > ? AND abs(score) <= 1.7976931348623157e308 AND (? IS NULL OR model = ?) "
            f"AND (? IS NULL OR source = ?) AND (? IS NULL OR time >= ?) ORDER BY sequence LIMIT {_SCORES}"
        )
        while True:
            page = self._database.read_scores(which, low, name, name, place, place, first, first)
            yield from page
            if len(page) < _SCORES:
                return
            low = page[-1].sequence

    def decision(self, id: str) -> Decision:
        """The decision of this id.

        Raises:
          KeyError: there is none.
        """
        for decision in self._database.read_decisions("WHERE d.id = ?", id):
            return decision
        raise KeyError(f"Store.decision: there is no decision {id!r} in {self.path}")

    def count(
        self,
        *,
        verdict: Verdict | None = None,
        model: str | None = None,
        source: str | None = None,
        since: str | None = None,
        until: str | None = None,
        corrected: bool | None = None,
    ) -> dict[Verdict, int]:
        """How many decisions there are of each verdict; arguments and errors are those of :meth:`decisions`."""
        where, values = _filters(verdict, model or None, source, since, until)
        if corrected is not None:
            where.append(f"c.number IS {'NOT ' * corrected}NULL")
        tables = "decisions d" if corrected is None else TABLES
        query = f"SELECT d.verdict, count(*) FROM {tables} WHERE {' AND '.join(['1', *where])} GROUP BY d.verdict"
        rows = self._database.read(query, *values)
        return dict.fromkeys(VERDICTS, 0) | {verdict: int(count) for verdict, count in rows}

    def correct(self, id: str, verdict: Verdict, *, who: str, note: str = "", seen: int | None = None) -> Correction:
        """Note that a decision should have been ``verdict``; an earlier correction of it is kept, and no longer counts.

        Args:
          id: of the decision.
          verdict: what it should have been.
          who: the person.
          note: what they add.
          seen: number of the correction that stood when they looked, 0 for none; None for whatever stands.

        Raises:
          Overtaken: another one stands by now than the one that was seen.
          KeyError: there is no such decision.
          ValueError: an unknown verdict, or nobody named.
        """
        if verdict not in VERDICTS:
            raise ValueError(f"Store.correct: verdict={verdict!r}, wanted one of {', '.join(VERDICTS)}")
        if not who.strip():
            raise ValueError("Store.correct: who is empty, wanted the name of the person")
        with self._database.transaction() as connection:
            decision = self.decision(id)
            if seen is not None and seen != (decision.correction.number if decision.correction else 0):
                raise Overtaken(decision)
            now = time_text(self._clock())
            values = id, now, escape_bytes(who), verdict, escape_bytes(note)
            done = connection.execute(
                "INSERT INTO corrections (decision, time, who, verdict, note) VALUES (?, ?, ?, ?, ?)", values
            )
            return Correction(int(done.lastrowid or 0), id, now, who, verdict, note)

    def undo(self, number: int, *, who: str) -> Correction:
        """Undo a correction, which is kept as undone; the one before it, if there is one that stands, counts again.

        Raises:
          KeyError: there is no such correction.
          ValueError: it is undone already, or nobody is named.
        """
        if not who.strip():
            raise ValueError("Store.undo: who is empty, wanted the name of the person")
        with self._database.transaction() as connection:
            rows = self._database.read(f"SELECT {', '.join(CORRECTION)} FROM corrections WHERE number = ?", number)
            if not rows:
                raise KeyError(f"Store.undo: there is no correction {number} in {self.path}")
            correction = correction_of(rows[0])
            if correction.undone_at:
                raise ValueError(f"Store.undo: correction {number} was undone at {correction.undone_at}")
            now = time_text(self._clock())
            connection.execute(
                "UPDATE corrections SET undone_at = ?, undone_by = ? WHERE number = ?", (now, escape_bytes(who), number)
            )
            return replace(correction, undone_at=now, undone_by=who)

    def corrections(self, id: str | None = None) -> list[Correction]:
        """All corrections, those that were undone too, or all of one decision, in their order."""
        query = f"SELECT {', '.join(CORRECTION)} FROM corrections WHERE ? IN ('', decision) ORDER BY number"
        return [correction_of(row) for row in self._database.read(query, id or "")]

    @property
    def outbox(self) -> Outbox:
        """What is still to be handed on."""
        return Outbox(self._database, self._clock)

    @property
    def alarms(self) -> Alarms:
        """Drift that was told."""
        return Alarms(self._database, self._clock)

    @property
    def changes(self) -> Changes:
        """What people changed of models."""
        return Changes(self._database, self._clock)

    @property
    def seen(self) -> Seen:
        """Which images need no decision any more."""
        return Seen(self._database, self._clock)

    @property
    def last_deleted(self) -> int:
        """The highest sequence of a decision that :meth:`retain` has deleted; none is missing after it."""
        ((last,),) = self._database.read("SELECT last FROM deleted")
        return int(last)

    def retain(
        self, *, max_seconds: float | None = None, max_bytes: int | None = None, corrected_too: bool = False
    ) -> Retained:
        """Delete the oldest decisions; see :func:`padim_jax.line.retention.retain`."""
        return retain(self._database, self._clock(), max_seconds, max_bytes, corrected_too)


def _filters(
    verdict: Verdict | None,
    model: str | None,
    source: str | None,
    since: str | None,
    until: str | None,
) -> tuple[list[str], list[str]]:
    """Terms of a query that all have to hold, and their values."""
    terms = {"d.verdict = ?": verdict, "d.model = ?": model, "d.source = ?": source}
    terms |= {"d.time >= ?": since and parse_time(since), "d.time < ?": until and parse_time(until)}
    where = [term for term, value in terms.items() if value is not None]
    return where, [escape_bytes(value) for value in terms.values() if value is not None]
