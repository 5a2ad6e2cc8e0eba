"""The connections that threads share, and how decisions stand in its rows."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from padim_jax.line.appearance import Appearance
from padim_jax.line.records import Correction, Decision, Scored, regions_text
from padim_jax.line.schema import PATIENCE, StoreError, connect, in_words
from padim_jax.runs.tables import escape_bytes, unescape_bytes

T = TypeVar("T")
_OWN = (
    *("sequence", "time", "source", "item", "stamp", "image_digest", "model", "model_digest"),
    *("score", "p_value", "verdict", "reason", "regions", "appearance"),
)
_SCORED = ("sequence", "id", "time", "source", "model", "model_digest", "score", "appearance")
CORRECTION = ("number", "decision", "time", "who", "verdict", "note", "undone_at", "undone_by")
TABLES = """decisions d LEFT JOIN corrections c ON c.number =
    (SELECT max(number) FROM corrections WHERE decision = d.id AND undone_at = '')"""
SELECT = f"""
SELECT {", ".join(f"d.{name}" for name in _OWN)}, {", ".join(f"c.{name}" for name in CORRECTION)}
FROM {TABLES}
"""


class Database:
    """A store's file, written by one thread at a time, and read by another meanwhile: reading holds up no writing.

    Attributes:
      path: of the file.

    Raises:
      FileNotFoundError, NotAStore, StoreError: as :func:`padim_jax.line.schema.connect`.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path, self._connection, self._lock = path, connect(path, create=create), threading.RLock()
        self._writing = 0  # the thread whose transaction is open
        try:
            self._reader, self._reading = connect(path, create=False), threading.Lock()
        except BaseException:
            self._connection.close()
            raise
        self._reader.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._reading:
            self._reader.close()  # first: the last one to close writes the log into the file
            self._connection.close()

    def read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows that a query gives, within a transaction of this thread as they are in it.

        Raises:
          StoreError: the store can't be read.
        """
        if self._writing == threading.get_ident():
            with in_words(self.path):
                return self._connection.execute(query, values).fetchall()
        with self._reading, in_words(self.path):
            return self._reader.execute(query, values).fetchall()

    def read_decisions(self, rest: str, *values: Any) -> list[Decision]:
        """Decisions, by what follows :data:`SELECT`.

        Raises:
          StoreError: the store can't be read, or is damaged.
        """
        return self._parsed(_decision, self.read(f"{SELECT} {rest}", *values))

    def read_scores(self, rest: str, *values: Any) -> list[Scored]:
        """What is needed of decisions to find drift, by what follows FROM.

        Raises:
          StoreError: as :meth:`read_decisions`.
        """
        return self._parsed(_scored, self.read(f"SELECT {', '.join(_SCORED)} FROM decisions {rest}", *values))

    def _parsed(self, parse: Callable[[tuple[Any, ...]], T], rows: list[tuple[Any, ...]]) -> list[T]:
        try:
            return [parse(row) for row in rows]
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"store: {self.path} is damaged: a row holds no decision ({error})") from error

    def free_disk(self) -> None:
        """Give the disk back what deleted rows took."""
        with self._lock, in_words(self.path):  # as a script: a statement frees one page each time it is asked for rows
            self._connection.executescript("PRAGMA incremental_vacuum;")
            try:  # who reads, as a backup does, is not waited for: the log is emptied another time
                self._connection.executescript("PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE);")
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * PATIENCE)}")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ((pages,),) = self.read("PRAGMA page_count")
        ((page,),) = self.read("PRAGMA page_size")
        return int(pages) * int(page)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done within, or nothing.

        Raises:
          StoreError: the store can't be written.
        """
        with self._lock, in_words(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._writing = threading.get_ident()
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself may have ended it, as where the disk is full
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._writing = 0


def row_of(decision: Decision) -> dict[str, Any]:
    """A decision's columns but for sequence and time; file names as text that is UTF-8 throughout."""
    regions = None if decision.regions is None else regions_text(decision.regions)
    appearance = None if decision.appearance is None else decision.appearance.pack()
    own = {name: getattr(decision, name) for name in _OWN[2:]}
    found = {"id": decision.id} | own | {"regions": regions, "appearance": appearance}
    return {name: escape_bytes(value) if isinstance(value, str) else value for name, value in found.items()}


def correction_of(row: tuple[Any, ...]) -> Correction:
    """The correction in a row of :data:`CORRECTION`."""
    fields: dict[str, Any] = dict(zip(CORRECTION, row, strict=True))
    fields.update({name: unescape_bytes(fields[name]) for name in ("who", "note", "undone_by")})
    return Correction(**fields)


def _decision(row: tuple[Any, ...]) -> Decision:
    own = dict(zip(_OWN, row, strict=False))
    own["regions"] = None if own["regions"] is None else tuple(json.loads(own["regions"]))
    own["appearance"] = _appearance(own["appearance"])
    for name in ("source", "item", "model", "reason"):
        own[name] = unescape_bytes(own[name])
    number = row[len(_OWN)]
    return Decision(**own, correction=None if number is None else correction_of(row[len(_OWN) :]))


def _scored(row: tuple[Any, ...]) -> Scored:
    sequence, id, time, source, model, digest, score, appearance = row
    names = unescape_bytes(source), unescape_bytes(model)
    return Scored(sequence, id, time, *names, digest, score, _appearance(appearance))


def _appearance(content: bytes | None) -> Appearance | None:
    return None if content is None else Appearance.unpack(content)
