"""Decisions as a Parquet file, whose columns have types (``pip install 'padim-jax[parquet]'``)."""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from padim_jax.lazy import extra
from padim_jax.line.records import COLUMNS, Decision
from padim_jax.runs.tables import escape_bytes

ROWS = 10_000  # of a row group, which is what is held in memory
_TIMES = ("time", "corrected_at")
_NUMBERS = ("score", "p_value")
_WHOLE = ("left", "top", "width", "height", "area", "row", "column")  # of a region
_REAL = ("peak", "p_value")


def write_parquet(decisions: Iterable[Decision], stream: IO[bytes]) -> int:
    """Write decisions, a row group at a time; gives how many.

    The columns are :data:`padim_jax.line.records.COLUMNS`: the sequence int64, times as timestamps in milliseconds,
    UTC, score and p-value float64, regions as a list of structs, everything else text, escaped as
    :mod:`padim_jax.runs.tables` says.

    Raises:
      ModuleNotFoundError: pyarrow is not installed.
      OSError: the stream can't be written.
    """
    arrow, count = import_arrow(), 0
    schema, rest = _schema(arrow), iter(decisions)
    with arrow.parquet.ParquetWriter(stream, schema) as writer:
        while rows := [_row(decision) for decision in islice(rest, ROWS)]:
            writer.write_batch(arrow.RecordBatch.from_pylist(rows, schema))
            count += len(rows)
    return count


def is_parquet_of_decisions(path: Path) -> bool:
    """Whether a file is a Parquet file with the columns of decisions; its footer alone is read."""
    arrow = import_arrow()
    try:
        return set(COLUMNS) <= {*arrow.parquet.read_schema(path).names}
    except (arrow.ArrowException, OSError):
        return False


def import_arrow() -> ModuleType:
    """Pyarrow with its Parquet.

    Raises:
      ModuleNotFoundError: with the extra that brings it.
    """
    with extra("parquet"):
        import pyarrow.parquet
    return pyarrow


def _schema(arrow: Any) -> Any:
    types = dict.fromkeys(COLUMNS, arrow.string()) | {"sequence": arrow.int64()}
    types |= dict.fromkeys(_TIMES, arrow.timestamp("ms", tz="UTC")) | dict.fromkeys(_NUMBERS, arrow.float64())
    region = {name: arrow.int64() for name in _WHOLE} | {name: arrow.float64() for name in _REAL}
    types["regions"] = arrow.list_(arrow.struct(list(region.items())))
    return arrow.schema(list(types.items()))


def _row(decision: Decision) -> dict[str, Any]:
    row = decision.record()
    for name, value in row.items():
        if name in _TIMES:
            row[name] = datetime.fromisoformat(value) if value else None
        elif isinstance(value, str):
            row[name] = escape_bytes(value)
    return row
