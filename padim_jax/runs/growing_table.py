"""A table on disk that grows by rows, and holds all of them but a last one that was cut short, however a run ended."""

import os
from collections.abc import Sequence
from pathlib import Path

from padim_jax.runs.tables import original_text, read_lines, table_line


class GrowingTable:
    """A table that rows are added to, whenever the process dies; a last row that was cut short is dropped.

    Attributes:
      columns: names of the columns. A file with others is begun anew.
      rows: those that were there at the start, as text.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.columns = columns
        path.touch()
        self._file = path.open("r+b", buffering=0)
        lines, end = read_lines(self._file.read() or b"")
        if not lines or lines[0] != list(columns):
            lines, end = [], 0
        self.rows = [[original_text(cell) for cell in cells] for cells in lines[1:]]
        self._file.truncate(end)
        self._file.seek(end)
        if not lines:
            self.add(columns)

    def add(self, *rows: Sequence[object]) -> None:
        """Write rows at the end."""
        buffer = memoryview(b"".join(map(table_line, rows)))
        while buffer:  # a disk that is almost full takes a part
            buffer = buffer[self._file.write(buffer) :]

    def cut(self, count: int) -> None:
        """Keep only the first ``count`` of :attr:`rows`, before any is added."""
        self.rows = self.rows[:count]
        end = sum(len(table_line(cells)) for cells in (self.columns, *self.rows))
        self._file.truncate(end)
        self._file.seek(end)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
