"""How much a store keeps: by age and by size, and never at the cost of what a person has said.

Clocks are wrong at times: that of a small computer begins in 1970 until it is on the network, and people set one by
hand. The order of decisions is never wrong. So an age deletes only what comes before every decision that is young
enough, and leaves the newest decisions as they are; and it counts back from the oldest of those where the clock says
that it is later. A clock that is ahead has to be so for as many decisions before it is believed, and one that was
behind takes nothing away.
"""

import math
import sqlite3
from dataclasses import dataclass
from datetime import datetime

from padim_jax.line.database import Database
from padim_jax.line.records import time_text

NEWEST = 100  # decisions that stay, whatever they take
_OLD = "sequence <= (SELECT sequence FROM decisions ORDER BY sequence DESC LIMIT 1 OFFSET ?)"


@dataclass(frozen=True)
class Retained:
    """What came of it.

    Attributes:
      deleted: decisions that are gone.
      kept_corrected: decisions that would have gone, and were corrected by a person.
      kept_waiting: decisions that would have gone, and are still to be handed on.
      size: bytes that the store takes.
      forgotten: images that are not remembered any more to be decided or dropped; they are decided again where they
        still lie at the next start.
    """

    deleted: int
    kept_corrected: int
    kept_waiting: int
    size: int
    forgotten: int = 0


def retain(
    database: Database, now: float, max_seconds: float | None, max_bytes: int | None, corrected_too: bool = False
) -> Retained:
    """Delete the oldest decisions: those of more than an age, and as many as make the store small enough.

    Decisions that wait to be handed on stay, and so do those that were ever corrected, unless ``corrected_too``. A
    deleted decision leaves its id, so that its image is not decided again as long as it lies where it lay. Of these
    ids, and of what is known of dropped images, a size takes the oldest in the same measure; it leaves the newest
    decisions, as an age does.

    Args:
      database: of the store.
      now: seconds since 1970.
      max_seconds: age; None for any. It counts from ``now``, or from the oldest of the newest :data:`NEWEST` decisions
        where that is earlier.
      max_bytes: size of the file; None for any. It is not reached where what has to stay, the newest :data:`NEWEST`
        decisions among it, takes more.
      corrected_too: delete corrected decisions, and what was said of them, too.

    Raises:
      ValueError: an age or a size that is not positive.
      StoreError: the store can't be written.
    """
    for name, value in (("max_seconds", max_seconds), ("max_bytes", max_bytes)):
        if value is not None and value <= 0:
            raise ValueError(f"Store.retain: {name}={value!r}, wanted a number above 0")
    deleted, kept_corrected, kept_waiting = 0, 0, 0
    if max_seconds is not None:
        with database.transaction() as connection:
            first = _first_young(connection, "decisions", now, max_seconds)
            deleted = _delete(connection, "sequence < ?", first, corrected_too)
            young_drop = _first_young(connection, "dropped", now, max_seconds)
            connection.execute("DELETE FROM dropped WHERE sequence < ?", (young_drop,))
            left = "SELECT count(*) FROM decisions WHERE sequence < ? AND"
            corrected = "id IN (SELECT decision FROM corrections)"
            (kept_corrected,) = connection.execute(f"{left} {corrected}", (first,)).fetchone()
            (kept_waiting,) = connection.execute(f"{left} NOT {corrected}", (first,)).fetchone()
        database.free_disk()
    forgotten = 0
    while max_bytes is not None and (size := database.size) > max_bytes:
        share = 1 - max_bytes / size
        with database.transaction() as connection:
            more = _delete(connection, _OLD, NEWEST, corrected_too, _part(connection, "decisions", share))
            less = sum(_forget(connection, table, _part(connection, table, share)) for table in ("retired", "dropped"))
        deleted, forgotten = deleted + more, forgotten + less
        database.free_disk()
        if not more + less:
            corrected = "SELECT count(DISTINCT decision) FROM corrections"
            waiting = "SELECT count(DISTINCT sequence) FROM outbox"
            ((kept_corrected,), (kept_waiting,)) = (*database.read(corrected), *database.read(waiting))
            break
    return Retained(deleted, kept_corrected, kept_waiting, database.size, forgotten)


def _first_young(connection: sqlite3.Connection, table: str, now: float, max_seconds: float) -> int:
    """The sequence before which everything is too old."""
    newest = connection.execute(f"SELECT sequence, time FROM {table} ORDER BY sequence DESC LIMIT ?", (NEWEST,))
    spared = newest.fetchall()
    if len(spared) < NEWEST:
        return 0
    first, present = spared[-1] if spared else (2**63 - 1, time_text(now))
    end = datetime.fromisoformat(min(present, time_text(now))).timestamp()
    young = f"SELECT sequence FROM {table} WHERE time >= ? AND time <= ? ORDER BY sequence LIMIT 1"
    cutoff = time_text(max(0.0, end - max_seconds))
    # a time that has not come yet is of a clock that was ahead, and would hold the others up for as long
    for until in (time_text(now), "9"):
        for (sequence,) in connection.execute(young, (cutoff, until)):
            return min(first, sequence)
    return first


def _part(connection: sqlite3.Connection, table: str, share: float) -> int:
    (total,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return math.ceil(total * share)


def _forget(connection: sqlite3.Connection, table: str, limit: int) -> int:
    key = {"retired": "id", "dropped": "sequence"}[table]
    chosen = f"SELECT {key} FROM {table} ORDER BY sequence LIMIT ?"
    return connection.execute(f"DELETE FROM {table} WHERE {key} IN ({chosen})", (limit,)).rowcount


def _delete(connection: sqlite3.Connection, which: str, value: str | int, corrected_too: bool, limit: int = -1) -> int:
    free = "" if corrected_too else "AND id NOT IN (SELECT decision FROM corrections)"
    chosen = (
        f"SELECT sequence FROM decisions WHERE {which} AND sequence NOT IN (SELECT sequence FROM outbox) {free} "
        "ORDER BY sequence LIMIT ?"
    )
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (sequence INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM chosen")
    connection.execute(f"INSERT INTO chosen {chosen}", (value, limit))
    these = "WHERE sequence IN (SELECT sequence FROM chosen)"
    last = "SELECT coalesce(max(sequence), 0) FROM chosen"
    connection.execute(f"UPDATE deleted SET last = max(last, ({last}))")
    # whoever looks from now on begins after that decision, and can't find again what was told by then
    connection.execute("DELETE FROM told WHERE sequence <= (SELECT last FROM deleted)")
    columns = "id, source, item, stamp, image_digest, model, sequence"
    connection.execute(
        f"INSERT OR IGNORE INTO retired ({columns}) SELECT {columns} FROM decisions {these} AND stamp != ''"
    )
    connection.execute(f"DELETE FROM corrections WHERE decision IN (SELECT id FROM decisions {these})")
    return connection.execute(f"DELETE FROM decisions {these}").rowcount
