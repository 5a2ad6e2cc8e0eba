"""The table of an evaluation: its cells, and the table as Markdown, LaTeX or CSV."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_jax.config import TableFormat
from padim_jax.evaluation.results import Summary, setting_text
from padim_jax.runs.tables import table_line
from weights_conversion.atomic import write_atomically

FILES: Mapping[TableFormat, str] = {"markdown": "table.md", "latex": "table.tex", "csv": "table.csv"}
SEPARATION = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pro": "PRO",
}
AT_THRESHOLDS = {
    "recall_at_1_percent": "found, 1 %",
    "false_alarms_at_1_percent": "alarms, 1 %",
    "recall_at_5_percent": "found, 5 %",
    "false_alarms_at_5_percent": "alarms, 5 %",
}
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"±": r"$\pm$", "–": "--"},
    }
)
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|"})


@dataclass(frozen=True)
class Table:
    """Names and metrics as text.

    Attributes:
      names: headings of the columns that say what a row is of.
      metrics: headings of the columns with metrics.
      rows: cells in the order of the headings.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def make_table(lines: Sequence[Summary], metrics: Mapping[str, str]) -> Table:
    """The table of ``lines``, in percent with the spread over seeds and, in brackets, published figures.

    Its columns of names are the data (where there are several), the preset or method, each setting that
    varies and the category; those of metrics are the first of ``metrics`` and the others that any line defines.

    Args:
      lines: one or more lines of :func:`padim_jax.evaluation.results.summarise`.
      metrics: headings by the metrics' names.
    """
    several_data = len({(line.data, line.protocol) for line in lines}) > 1
    defined = _defined(lines, metrics)
    rows = tuple((*_names(line, several_data), *(_percentages(line, name) for name in defined)) for line in lines)
    headings = tuple(heading.replace("_", " ") for heading in _headings(lines, several_data))
    return Table(headings, tuple(metrics[name] for name in defined), rows)


def percent(value: float | None) -> str:
    """A rate in percent, with one decimal; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def data_text(line: Summary) -> str:
    """The data of a line, with the protocol where it is not the standard one."""
    return line.data if line.protocol == "standard" else f"{line.data}, {line.protocol}"


def write_tables(out: Path, lines: Sequence[Summary], formats: Iterable[TableFormat]) -> list[Path]:
    """Write the table of ``lines`` to ``out`` as ``table.md``, ``table.tex`` or ``table.csv``; returns the paths.

    The first two hold percentages, as on the terminal; CSV holds every metric as a number in [0, 1], with its standard
    deviation over the seeds beside it.
    """
    paths = []
    for name in formats:
        paths.append(out / FILES[name])
        write_atomically(paths[-1], _WRITERS[name](lines).encode(errors="backslashreplace"))
    return paths


def _markdown(lines: Sequence[Summary]) -> str:
    table = make_table(lines, SEPARATION | AT_THRESHOLDS)
    alignments = [":--"] * len(table.names) + ["--:"] * len(table.metrics)
    rows = [(*table.names, *table.metrics), *table.rows]
    texts = [[_one_line(cell).translate(_MARKDOWN) for cell in row] for row in rows]
    body = "".join(f"| {' | '.join(row)} |\n" for row in (texts[0], alignments, *texts[1:]))
    return f"{_one_line(_caption(lines)).translate(_MARKDOWN)}\n\n{body}"


def _latex(lines: Sequence[Summary]) -> str:
    table = make_table(lines, SEPARATION | AT_THRESHOLDS)
    rows = [(*table.names, *table.metrics), *table.rows]
    head, *body = (" & ".join(_one_line(cell).translate(_LATEX) for cell in row) + r" \\" for row in rows)
    columns = "l" * len(table.names) + "r" * len(table.metrics)
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([f"% {_one_line(_caption(lines))}", begin, r"\hline", head, r"\hline", *body, r"\hline", end, ""])


def _caption(lines: Sequence[Summary]) -> str:
    published = "; in brackets, published figures" if any(line.published for line in lines) else ""
    data = ", ".join(dict.fromkeys(map(data_text, lines)))
    return f"{data}: percent, ± the standard deviation over seeds{published}"


def _csv(lines: Sequence[Summary]) -> str:
    metrics = _defined(lines, SEPARATION | AT_THRESHOLDS)
    head = [*_headings(lines, True), "seeds", *(column for name in metrics for column in (name, f"{name}.spread"))]
    rows = []
    for line in lines:
        values = [value for name in metrics for value in (line.mean[name], line.spread[name])]
        rows.append((*_names(line, True), len(line.seeds), *values))
    return b"".join(map(table_line, (head, *rows))).decode()


_WRITERS: Mapping[TableFormat, Callable[[Sequence[Summary]], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}


def _defined(lines: Sequence[Summary], metrics: Mapping[str, str]) -> list[str]:
    first = next(iter(metrics))
    return [name for name in metrics if name == first or any(line.mean[name] is not None for line in lines)]


def _headings(lines: Sequence[Summary], with_data: bool) -> tuple[str, ...]:
    name = "preset" if all(line.method == "padim" for line in lines) else "method"
    return ("data",) * with_data + (name, *lines[0].settings, "category")


def _names(line: Summary, with_data: bool) -> tuple[str, ...]:
    return (data_text(line),) * with_data + (line.preset, *map(setting_text, line.settings.values()), line.category)


def _percentages(line: Summary, name: str) -> str:
    spread, reference = line.spread[name], line.published.get(name)
    text = percent(line.mean[name]) + ("" if spread is None else f" ±{100 * spread:.1f}")
    return text if reference is None else f"{text} ({100 * reference.value:.1f})"


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
