"""What is still to be handed on: decisions wait for each output in the store, until it has taken them.

A decision is handed on at least once. It is twice only where a process dies between the output's taking it and the
store's noting that; its id is the same then, by which the other end can tell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from padim_jax.line.database import Database
from padim_jax.line.records import Decision
from padim_jax.runs.tables import escape_bytes

LONGEST_WAIT = 300.0  # seconds between two attempts
_FIRST_WAIT = 1.0


@dataclass(frozen=True)
class Waiting:
    """What waits for one output.

    Attributes:
      output: its name.
      count: decisions.
      error: why the last attempt failed; empty where there was none.
    """

    output: str
    count: int
    error: str


class Outbox:
    """What waits in a store.

    Args:
      database: of the store.
      clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def pending(self, output: str, *, limit: int = 64) -> list[tuple[Decision, int]]:
        """Decisions that are due for an output, the oldest first, each with how often it was tried in vain."""
        now = self._clock()  # a wait that seems longer than any is of a clock that was set back since
        which = "WHERE output = ? AND (due <= ? OR due > ?) ORDER BY sequence LIMIT ?"
        values = output, now, now + LONGEST_WAIT, limit
        tried = dict(self._database.read(f"SELECT sequence, attempts FROM outbox {which}", *values))
        rest = f"WHERE d.sequence IN (SELECT sequence FROM outbox {which}) ORDER BY d.sequence"
        found = self._database.read_decisions(rest, *values)
        return [(decision, int(tried.get(decision.sequence, 0))) for decision in found]

    def delivered(self, output: str, decisions: Sequence[Decision]) -> None:
        """Note that an output has taken these."""
        with self._database.transaction() as connection:
            rows = [(output, decision.sequence) for decision in decisions]
            connection.executemany("DELETE FROM outbox WHERE output = ? AND sequence = ?", rows)

    def postpone(self, output: str, decision: Decision, error: str, *, others_too: bool = False) -> float:
        """Note that an output could not take a decision; gives the seconds until the next attempt, which double.

        Args:
          output: its name.
          decision: that it was offered.
          error: why it did not take it.
          others_too: it will not take others either until then.
        """
        with self._database.transaction() as connection:
            key = output, decision.sequence
            row = connection.execute("SELECT attempts FROM outbox WHERE output = ? AND sequence = ?", key).fetchone()
            attempts = int(row[0]) if row else 0
            wait = min(LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempts, 30))
            if others_too:  # so that the order stays, they are due again together
                due = self._clock() + wait, output
                connection.execute("UPDATE outbox SET due = max(due, ?) WHERE output = ?", due)
            connection.execute(
                "UPDATE outbox SET attempts = ?, due = ?, error = ? WHERE output = ? AND sequence = ?",
                (attempts + 1, self._clock() + wait, escape_bytes(error), *key),
            )
        return wait

    def make_due(self, output: str) -> None:
        """Try what waits for an output at once, as at a new start; the store knows the output from then on."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO outputs (name) VALUES (?)", (output,))
            connection.execute("UPDATE outbox SET due = 0 WHERE output = ?", (output,))

    def abandon(self, output: str) -> int:
        """Give up what waits for an output that will not come back, and forget it; gives how many decisions waited."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM outputs WHERE name = ?", (output,))
            return connection.execute("DELETE FROM outbox WHERE output = ?", (output,)).rowcount

    def outputs(self) -> list[str]:
        """All outputs that were ever handed on to, and not abandoned since."""
        rows = self._database.read("SELECT name FROM outputs UNION SELECT output FROM outbox ORDER BY 1")
        return [str(name) for (name,) in rows]

    def waiting(self) -> list[Waiting]:
        """What waits for each output."""
        rows = self._database.read("SELECT output, count(*), max(error) FROM outbox GROUP BY output ORDER BY output")
        return [Waiting(output, int(count), error) for output, count, error in rows]
