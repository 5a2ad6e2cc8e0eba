"""Which images of a source need no decision any more: they have one, or they were dropped."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from padim_jax.line.database import Database
from padim_jax.line.records import time_text
from padim_jax.runs.tables import escape_bytes, unescape_bytes

_PAGE = 500  # images looked for at a time
_OF_MODEL = "(? IS NULL OR model IN (?, ''))"  # empty: recorded by a version that did not note it


@dataclass(frozen=True)
class Dropped:
    """An image that nobody decided on.

    Attributes:
      source, item, stamp: as :class:`padim_jax.line.records.Decision` has them.
      reason: why.
      time: when, UTC in ISO 8601; empty before it is recorded.
      model: name of the model that would have judged it; empty where nobody knows.
    """

    source: str
    item: str
    stamp: str
    reason: str
    time: str = ""
    model: str = ""


class Seen:
    """What a store knows of images, decisions that retention has deleted among them.

    Args:
      database: of the store.
      clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def is_known(self, source: str, item: str, stamp: str, model: str | None = None) -> bool:
        """Whether this file, as it is now, has a decision or was dropped; it need not be read to know.

        The decision of a model of another name does not count; with None for ``model``, all do.
        """
        key = escape_bytes(source), escape_bytes(item), stamp, *_of(model)
        which = f"WHERE source = ? AND item = ? AND stamp = ? AND {_OF_MODEL}"
        query = " UNION ALL ".join(f"SELECT 1 FROM {table} {which}" for table in ("decisions", "retired", "dropped"))
        return bool(self._database.read(f"{query} LIMIT 1", *key * 3))

    def is_decided(self, source: str, item: str, image_digest: str | None, model: str | None) -> bool:
        """Whether these bytes of this item have a decision by a model of this name, in whatever state it was.

        None for any bytes, and for any model.
        """
        which = "WHERE source = ? AND item = ? AND (? IS NULL OR image_digest = ?) AND (? IS NULL OR model = ?)"
        query = " UNION ALL ".join(f"SELECT 1 FROM {table} {which}" for table in ("decisions", "retired"))
        key = escape_bytes(source), escape_bytes(item), image_digest, image_digest, *_of(model)
        return bool(self._database.read(f"{query} LIMIT 1", *key * 2))

    def earlier_items(
        self, source: str, item: str, stamp: str, model: str | None = None, image_digest: str | None = None
    ) -> list[str]:
        """Other items under which a file of this stamp had its decision: it was moved, if it is none of them any more.

        A file may have got the number of another that is gone: of these bytes alone, the same file is meant. An item
        whose bytes were not noted counts for any.
        """
        key = escape_bytes(source), stamp, escape_bytes(item), *_of(model), image_digest, image_digest
        which = (
            f"WHERE source = ? AND stamp = ? AND item != ? AND {_OF_MODEL} AND (? IS NULL OR image_digest IN (?, ''))"
        )
        query = " UNION ".join(f"SELECT item FROM {table} {which}" for table in ("decisions", "retired"))
        return [unescape_bytes(found) for (found,) in self._database.read(query, *key * 2)]

    def drop(self, images: Iterable[Dropped]) -> None:
        """Record images that nobody will decide on."""
        with self._database.transaction() as connection:
            now = time_text(self._clock())
            connection.executemany(
                "INSERT INTO dropped (source, item, stamp, reason, model, time) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (*map(escape_bytes, (image.source, image.item, image.stamp, image.reason, image.model)), now)
                    for image in images
                ],
            )

    def dropped(self, *, last: int | None = None) -> list[Dropped]:
        """All images that were dropped, or the ``last`` ones, in their order."""
        query = "SELECT source, item, stamp, reason, time, model FROM dropped ORDER BY sequence DESC LIMIT ?"
        rows = self._database.read(query, -1 if last is None else last)
        return [Dropped(*map(unescape_bytes, row)) for row in reversed(rows)]

    def count_dropped(self) -> int:
        """How many images were dropped."""
        ((count,),) = self._database.read("SELECT count(*) FROM dropped")
        return int(count)

    def forget_gone(self, source: str, is_there: Callable[[str], bool]) -> int:
        """Forget what retention has deleted of files that are not there any more; gives how many."""
        count, after = self.forget_some(source, is_there)
        while after:
            more, after = self.forget_some(source, is_there, after)
            count += more
        return count

    def forget_some(self, source: str, is_there: Callable[[str], bool], after: str = "") -> tuple[int, str]:
        """Do a part of :meth:`forget_gone`; gives how many are forgotten, and what to go on after, empty at the end."""
        query = "SELECT id, item FROM retired WHERE source = ? AND id > ? ORDER BY id LIMIT ?"
        rows = self._database.read(query, escape_bytes(source), after, _PAGE)
        gone = [(id,) for id, item in rows if not is_there(unescape_bytes(item))]
        if gone:
            with self._database.transaction() as connection:
                connection.executemany("DELETE FROM retired WHERE id = ?", gone)
        return len(gone), rows[-1][0] if len(rows) == _PAGE else ""


def _of(model: str | None) -> tuple[str | None, str | None]:
    name = None if model is None else escape_bytes(model)
    return name, name
