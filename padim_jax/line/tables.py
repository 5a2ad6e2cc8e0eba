"""Decisions as tables: CSV for spreadsheets, JSON lines for programs, Parquet for analyses."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from padim_jax.artifact.ownership import NotOurs
from padim_jax.line.parquet import import_arrow, is_parquet_of_decisions, write_parquet
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
PARQUET = ".parquet"


def check_table(path: Path, call: str) -> tuple[bytes, Callable[[Decision], bytes]]:
    """First line and writer of the growing table that a file's name asks for.

    Raises:
      ValueError: another suffix than .csv or .jsonl.
      NotOurs: something is there that is no such table.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{call}: {path} ends in {path.suffix!r}, wanted {' or '.join(FORMATS)}")
    header, line = FORMATS[path.suffix.lower()]
    _refuse_other(path, call, lambda: _is_ours(path, header))
    return header, line


def _refuse_other(path: Path, call: str, is_ours: Callable[[], bool]) -> None:
    if os.path.lexists(path) and not (path.is_file() and is_ours()):
        raise NotOurs(f"{call}: {path} already exists and is no table of decisions; move it away, or name another file")


def export(decisions: Iterable[Decision], path: Path, call: str = "results") -> int:
    """Write a table, CSV, JSON lines or Parquet, in one step, in place of an earlier one.

    Returns:
      How many decisions are in it. They are read as they are written, not held.

    A process that is killed meanwhile leaves what it has written as ``.NAME.LETTERS.tmp`` beside ``path``. The folder
    is not padim's and nothing in it is locked, so that file is never removed by itself.

    Raises:
      ValueError: another suffix than .csv, .jsonl or .parquet.
      NotOurs: something is there that is no such table.
      ModuleNotFoundError: Parquet, and pyarrow is not installed.
      OSError: it can't be written.
    """
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        import_arrow()
        _refuse_other(path, call, lambda: is_parquet_of_decisions(path))
        with _in_place_of(path) as stream:
            return write_parquet(decisions, stream)
    if suffix not in FORMATS:
        raise ValueError(f"{call}: {path} ends in {path.suffix!r}, wanted {', '.join(FORMATS)} or {PARQUET}")
    header, line = check_table(path, call)
    with _in_place_of(path) as stream:
        count = 0
        stream.write(header)
        for decision in decisions:
            stream.write(line(decision))
            count += 1
        return count


@contextmanager
def _in_place_of(path: Path) -> Iterator[IO[bytes]]:
    """A stream to a file beside ``path``, which takes its place at the end, and is removed after an error."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as stream:
        try:
            yield stream.file
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
