"""Decisions as tables: CSV for spreadsheets, JSON lines for programs."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from padim_jax.artifact.ownership import NotOurs
from padim_jax.line.records import COLUMNS, Decision
from padim_jax.runs.tables import table_line

HEADER = table_line(COLUMNS)


def csv_line(decision: Decision) -> bytes:
    """A row of :data:`padim_jax.line.records.COLUMNS`, its cells escaped as :mod:`padim_jax.runs.tables` says."""
    return table_line(decision.cells())


def json_line(decision: Decision) -> bytes:
    """An object with the keys :data:`padim_jax.line.records.COLUMNS`."""
    return (json.dumps(decision.record(), separators=(",", ":")) + "\n").encode()


FORMATS: dict[str, tuple[bytes, Callable[[Decision], bytes]]] = {
    ".csv": (HEADER, csv_line),
    ".jsonl": (b"", json_line),
}


def check_table(path: Path, call: str) -> tuple[bytes, Callable[[Decision], bytes]]:
    """First line and writer of the table that a file's name asks for.

    Raises:
      ValueError: another suffix than .csv or .jsonl.
      NotOurs: something is there that is no such table.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{call}: {path} ends in {path.suffix!r}, wanted {' or '.join(FORMATS)}")
    header, line = FORMATS[path.suffix.lower()]
    if os.path.lexists(path) and not (path.is_file() and _is_ours(path, header)):
        raise NotOurs(f"{call}: {path} already exists and is no table of decisions; move it away, or name another file")
    return header, line


def export(decisions: Iterable[Decision], path: Path, call: str = "results") -> int:
    """Write a table in one step, in place of an earlier one; gives how many decisions are in it.

    Raises:
      ValueError, NotOurs: as :func:`check_table`.
      OSError: it can't be written.
    """
    header, line = check_table(path, call)
    count = 0
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as stream:
        try:
            stream.write(header)
            for decision in decisions:
                stream.write(line(decision))
                count += 1
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            mask = os.umask(0)
            os.umask(mask)
            Path(stream.name).chmod(0o666 & ~mask)
            Path(stream.name).replace(path)
        except BaseException:
            stream.close()
            with contextlib.suppress(OSError):
                Path(stream.name).unlink()
            raise
    return count


def _is_ours(path: Path, header: bytes) -> bool:
    """Whether a file is empty or begins as a table of decisions does."""
    with path.open("rb") as stream:
        first = stream.readline(2**20)
    if not first or first == header:
        return True
    try:
        record = json.loads(first) if not header else None
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and set(COLUMNS) <= record.keys()
