"""A table that grows: CSV or JSON lines, each decision once."""

import os
import re
from pathlib import Path
from typing import ClassVar

from padim_jax.line.outputs.output import Picture
from padim_jax.line.records import VERDICTS, Decision
from padim_jax.line.tables import check_table
from padim_jax.runs.tables import complete_length, escape_bytes

_TAIL = 2**22  # bytes at the end of a table that show which decisions are in it already
# how a row begins: its sequence, and its decision's id
_CSV_START = re.compile(rb"^[0-9]+,([0-9a-f]{32}),", re.MULTILINE)
_JSON_START = re.compile(rb'^\{"sequence":[0-9]+,"id":"([0-9a-f]{32})"', re.MULTILINE)


class Table:
    """A file that a row is added to for each decision, whole or not at all.

    What a process that died has written without noting it in the store is found at the end of the file, and not written
    again; a row that was cut short is. A file that was moved away is begun anew.

    Args:
      path: of the file, .csv or .jsonl, as :mod:`padim_jax.line.tables` writes it.

    Raises:
      ValueError: another suffix.
      NotOurs: another file is there.
      OSError: it can't be written.
    """

    is_far: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.verdicts = path, f"table {escape_bytes(os.path.abspath(path))}", frozenset(VERDICTS)
        self._header, self._line = check_table(path, "watch")
        self._start = _CSV_START if self._header else _JSON_START
        self._file, self._written = -1, set[str]()
        self._open()

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Add a row, unless it is there."""
        if decision.id in self._written:
            return
        if not self._is_there():
            self.close()
            self._open()
        self._add(self._line(decision))
        self._written.add(decision.id)

    def flush(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file)
        self._written.clear()  # the store will know

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        check_table(self.path, "watch")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags, 0o666)
        size, starts = os.fstat(self._file).st_size, list[re.Match[bytes]]()
        begin, tail = size, b""
        while begin and not starts:  # more of it, where one row takes all that was read
            begin = max(0, begin - max(_TAIL, len(tail)))
            os.lseek(self._file, begin, os.SEEK_SET)
            tail = b"".join(iter(lambda: os.read(self._file, 2**20), b""))
            starts = list(self._start.finditer(tail))
        skip = starts[0].start() if begin else 0  # the tail may begin within a row, whose quotes can't be counted
        end = skip + (complete_length(tail[skip:]) if self._header else tail[skip:].rfind(b"\n") + 1)
        if end < len(tail):  # cut short
            os.ftruncate(self._file, begin + end)
        if not os.fstat(self._file).st_size:
            self._add(self._header)
        self._written = {start[1].decode() for start in starts if start.start() < end}

    def _add(self, line: bytes) -> None:
        """Add a line, whole or not at all."""
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:  # a full disk takes a part
            if written:
                os.ftruncate(self._file, size)
            raise

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))  # noqa: PTH116 - of the same kind
        except OSError:
            return False
