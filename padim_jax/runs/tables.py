r"""Tables in CSV that hold any file name, are harmless in a spreadsheet, and can be read back.

Two things are escaped in cells of text; numbers stay as they are:

* A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break would be a formula to a spreadsheet. It gets
  an apostrophe in front, and so does one that begins with apostrophes followed by one of these. A negative number does
  not, whatever it stands for.
* Bytes of a name that are not UTF-8 are written as ``\xff``, lone surrogates as ``\udfff``. In a text that holds any of
  these, be it by itself, backslashes are doubled; in others they are not.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from weights_conversion.atomic import write_atomically

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED_FORMULA = re.compile(r"'+[=+\-@\t\r\n]")
_NUMBER = re.compile(r"-[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")  # begins like a formula, and is none
_NO_TEXT = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(x[89a-f][0-9a-f]|ud[89a-f][0-9a-f]{2})")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file in one step, its cells escaped as this module says."""
    write_atomically(path, b"".join(table_line(row) for row in (columns, *rows)))


def table_line(cells: Sequence[object]) -> bytes:
    """One row as UTF-8 with its line end; None is an empty cell."""
    return (",".join(_quoted(cell_text(cell)) for cell in cells) + "\n").encode()


def cell_text(value: object) -> str:
    """What stands in a cell, before it is quoted."""
    if not isinstance(value, str | Path):
        return "" if value is None else str(value)
    text = escape_bytes(str(value))
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original_text(cell: str) -> str:
    """The text, as a file's name, that :func:`cell_text` made ``cell`` of."""
    return unescape_bytes(cell[1:] if _ESCAPED_FORMULA.match(cell) else cell)


def escape_bytes(text: str) -> str:
    """Text that is UTF-8 throughout, from one that may hold bytes of a name that are not."""
    if _NO_TEXT.search(text) or _ESCAPE.search(text):
        return _NO_TEXT.sub(_escaped, text.replace("\\", "\\\\"))
    return text


def unescape_bytes(text: str) -> str:
    """The text that :func:`escape_bytes` made this one of."""
    if not _ESCAPE.search(text):
        return text
    return re.sub(r"\\\\|\\x([0-9a-f]{2})|\\u([0-9a-f]{4})", _unescaped, text)


def read_lines(content: bytes) -> tuple[list[list[str]], int]:
    """Cells of the complete rows of a table that may have been cut short, and the bytes they take.

    Raises:
      ValueError: no UTF-8, or no CSV.
    """
    end = complete_length(content)
    try:
        rows = list(csv.reader(io.StringIO(content[:end].decode(), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"not a CSV table: {error}") from error
    return rows, end


def complete_length(content: bytes) -> int:
    """Bytes that the complete rows of a table take, which may have been cut short; a newline in quotes ends no row."""
    end = place = quotes = 0
    for line in io.BytesIO(content):
        place, quotes = place + len(line), quotes + line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:
            end = place
    return end


def _quoted(text: str) -> str:
    """With quotes where a reader needs them; Python's own writer leaves a lone carriage return bare."""
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return chr(0xDC00 + int(match[1], 16))
    return chr(int(match[2], 16)) if match[2] else "\\"
