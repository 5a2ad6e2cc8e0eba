"""Which images of a source need no decision any more: they have one, or they were dropped."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from padim_jax.line.database import Database
from padim_jax.line.records import time_text
from padim_jax.runs.tables import escape_bytes, unescape_bytes


@dataclass(frozen=True)
class Dropped:
    """An image that nobody decided on.

    Attributes:
      source, item, stamp: as :class:`padim_jax.line.records.Decision` has them.
      reason: why.
      time: when, UTC in ISO 8601; empty before it is recorded.
    """

    source: str
    item: str
    stamp: str
    reason: str
    time: str = ""


class Seen:
    """What a store knows of images, decisions that retention has deleted among them.

    Args:
      database: of the store.
      clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def is_known(self, source: str, item: str, stamp: str) -> bool:
        """Whether this file, as it is now, has a decision or was dropped; it need not be read to know."""
        key = escape_bytes(source), escape_bytes(item), stamp
        which = "WHERE source = ? AND item = ? AND stamp = ?"
        query = " UNION ALL ".join(f"SELECT 1 FROM {table} {which}" for table in ("decisions", "retired", "dropped"))
        return bool(self._database.read(f"{query} LIMIT 1", *key * 3))

    def is_decided(self, source: str, item: str, image_digest: str, model: str) -> bool:
        """Whether these bytes of this item have a decision by a model of this name, in whatever state it was."""
        query = "SELECT 1 FROM decisions WHERE source = ? AND item = ? AND image_digest = ? AND model = ? LIMIT 1"
        return bool(
            self._database.read(query, escape_bytes(source), escape_bytes(item), image_digest, escape_bytes(model))
        )

    def earlier_items(self, source: str, item: str, stamp: str) -> list[str]:
        """Other items under which this very file had its decision: it was moved, if none of them is there any more."""
        key = escape_bytes(source), stamp, escape_bytes(item)
        which = "WHERE source = ? AND stamp = ? AND item != ?"
        query = " UNION ".join(f"SELECT item FROM {table} {which}" for table in ("decisions", "retired"))
        return [unescape_bytes(found) for (found,) in self._database.read(query, *key * 2)]

    def drop(self, images: Iterable[Dropped]) -> None:
        """Record images that nobody will decide on."""
        with self._database.transaction() as connection:
            now = time_text(self._clock())
            connection.executemany(
                "INSERT INTO dropped (time, source, item, stamp, reason) VALUES (?, ?, ?, ?, ?)",
                [
                    (now, escape_bytes(image.source), escape_bytes(image.item), image.stamp, escape_bytes(image.reason))
                    for image in images
                ],
            )

    def dropped(self) -> list[Dropped]:
        """All images that were dropped, in their order."""
        rows = self._database.read("SELECT source, item, stamp, reason, time FROM dropped ORDER BY sequence")
        return [Dropped(unescape_bytes(source), unescape_bytes(item), *rest) for source, item, *rest in rows]

    def forget_gone(self, source: str, is_there: Callable[[str], bool]) -> int:
        """Forget what retention has deleted of files that are not there any more; gives how many."""
        rows = self._database.read("SELECT id, item FROM retired WHERE source = ?", escape_bytes(source))
        gone = [(id,) for id, item in rows if not is_there(unescape_bytes(item))]
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM retired WHERE id = ?", gone)
        return len(gone)
