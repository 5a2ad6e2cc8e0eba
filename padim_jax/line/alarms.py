"""Drift that was told: each change once for a source of a state of a model, whoever looks and however often it dies.

An alarm and who is to get it are recorded in one step, by the last decision that was looked at. It waits in the outbox
as that decision would (:mod:`padim_jax.line.outbox`), under the name of an output of its own
(:class:`padim_jax.line.outputs.drift_events.DriftEvents`), so it is handed on at least once, and kept until then.

Who only says alarms, as a service does in its log, keeps marks of its own instead, so that of a service and a watch on
one store each tells, whoever looks first.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from padim_jax.line.database import Database
from padim_jax.line.drift import Alarm, Drift, Quantity
from padim_jax.line.drift_words import offer, sentences
from padim_jax.line.records import time_text
from padim_jax.runs.tables import escape_bytes


class Alarms:
    """What a store knows of drift that was told.

    Args:
      database: of the store.
      clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def record(self, drift: Drift, outputs: Iterable[str] = ()) -> dict[str, Any] | None:
        """Record what of a drift is new, and who is to get it; gives the event, None where nothing is new.

        A change that began before the last one that was told of the same quantity, source and state was seen is not
        new, as where retention has moved the beginning since. Nothing is recorded where the last decision is gone, or
        has told of an alarm already: it will be by a later one.

        Args:
          drift: of a source of a state of a model.
          outputs: names of those that get it.

        Raises:
          StoreError: it can't be written; nothing is recorded.
        """
        if not drift.alarms:
            return None
        sequence, source = drift.last.sequence, escape_bytes(drift.source_name)
        state = escape_bytes(drift.model), drift.model_digest, source
        with self._database.transaction() as connection:
            told = connection.execute(
                "SELECT event FROM alarms WHERE model = ? AND model_digest = ? AND source IN (?, '')", state
            ).fetchall()
            last = dict[tuple[str, Any], int]()
            for (text,) in told:
                event = json.loads(text)
                # a source may be called as those that are followed together are; older events tell of all sources
                for finding in event["findings"] if event.get("source", drift.source) == drift.source else ():
                    last[_key(finding)] = max(finding["alarm"]["sequence"], last.get(_key(finding), 0))
            new = [one for one in drift.alarms if one.since.sequence > last.get(_key(one.record()), 0)]
            is_there = connection.execute("SELECT 1 FROM decisions WHERE sequence = ?", (sequence,)).fetchone()
            is_taken = connection.execute("SELECT 1 FROM alarms WHERE sequence = ?", (sequence,)).fetchone()
            if not new or not is_there or is_taken:
                return None
            now = time_text(self._clock())
            found = _event(drift, new, now)
            values = sequence, now, *state, json.dumps(found)
            names = "sequence, time, model, model_digest, source, event"
            connection.execute(f"INSERT INTO alarms ({names}) VALUES (?, ?, ?, ?, ?, ?)", values)
            rows = [(output, sequence) for output in outputs]
            connection.executemany("INSERT OR IGNORE INTO outbox (output, sequence) VALUES (?, ?)", rows)
        return found

    def event(self, sequence: int) -> dict[str, Any] | None:
        """The event that was recorded by the decision of this sequence; None where there is none."""
        for (text,) in self._database.read("SELECT event FROM alarms WHERE sequence = ?", sequence):
            return json.loads(text)
        return None

    def untold(self, teller: str, drift: Drift) -> list[Alarm]:
        """Changes that a teller has not marked as told, in their order; which are new is as for :meth:`record`.

        Args:
          teller: who tells, such as ``serve``; each has marks of its own, and :meth:`record` neither reads nor sets
            them.
          drift: of a source of a state of a model.

        Raises:
          StoreError: the store can't be read.
        """
        query = "SELECT quantity, sequence FROM told WHERE teller = ? AND model = ? AND model_digest = ?"
        told = dict(self._database.read(query, teller, escape_bytes(drift.model), drift.model_digest))
        return [one for one in drift.alarms if one.since.sequence > told.get(_mark(drift, one.quantity), 0)]

    def mark(self, teller: str, drift: Drift) -> None:
        """Mark all changes of a drift as told by a teller, until retention has deleted the decisions they were seen at.

        Args:
          teller: as of :meth:`untold`.
          drift: likewise.

        Raises:
          StoreError: it can't be written; nothing is marked.
        """
        whose = teller, escape_bytes(drift.model), drift.model_digest
        rows = [(*whose, _mark(drift, one.quantity), one.at.sequence) for one in drift.alarms]
        query = (
            "INSERT INTO told (teller, model, model_digest, quantity, sequence) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET sequence = max(sequence, excluded.sequence)"
        )
        with self._database.transaction() as connection:
            connection.executemany(query, rows)


def _mark(drift: Drift, quantity: Quantity) -> str:
    """A quantity of a source; JSON, because the sources that are followed together are null and have no name."""
    return json.dumps([drift.source, quantity.kind, quantity.place])


def _key(finding: dict[str, Any]) -> tuple[str, Any]:
    return finding["kind"], finding["place"] and tuple(finding["place"])


def _event(drift: Drift, new: list[Alarm], now: str) -> dict[str, Any]:
    key = json.dumps([drift.model, drift.model_digest, drift.last.sequence])
    said = {finding.quantity: finding.record() for finding in drift.findings}
    return {
        "event": "drift",
        "id": hashlib.sha256(key.encode()).hexdigest()[:32],
        "time": now,
        "model": drift.model,
        "model_digest": drift.model_digest,
        "source": drift.source,
        "images": drift.images,
        "rate": drift.rate,
        "words": sentences(new),
        "findings": [said[alarm.quantity] | alarm.record() for alarm in new],
        "offer": offer(drift),
    }
