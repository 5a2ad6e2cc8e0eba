"""The table of an evaluation: its cells, and the table as Markdown, LaTeX or CSV."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from padim_jax.config import TableFormat
from padim_jax.evaluation.results import COSTS, Summary, setting_text
from padim_jax.runs.tables import table_line
from weights_conversion.atomic import write_atomically

_SUFFIXES: Mapping[TableFormat, str] = {"markdown": "md", "latex": "tex", "csv": "csv"}
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
class Layout:
    """What a written table has beside its lines.

    Attributes:
      name: of its files, without the suffix.
      metrics: headings by the metrics' names.
      caption: None for what the lines say of themselves.
      notes: sentences below the table; CSV has a column for what they say of a line.
    """

    name: str = "table"
    metrics: Mapping[str, str] = field(default_factory=lambda: SEPARATION | AT_THRESHOLDS)
    caption: str | None = None
    notes: tuple[str, ...] = ()

    def file(self, kind: TableFormat) -> str:
        """The name of the file in one format."""
        return f"{self.name}.{_SUFFIXES[kind]}"


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
    rows = tuple((*_names(line, several_data), *(_cell(line, name) for name in defined)) for line in lines)
    headings = tuple(heading.replace("_", " ") for heading in _headings(lines, several_data))
    return Table(headings, tuple(metrics[name] for name in defined), rows)


def percent(value: float | None, decimals: int = 1) -> str:
    """A rate in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{decimals}f}"


def data_text(line: Summary) -> str:
    """The data of a line, with the protocol where it is not the standard one."""
    return line.data if line.protocol == "standard" else f"{line.data}, {line.protocol}"


def write_tables(
    out: Path, lines: Sequence[Summary], formats: Iterable[TableFormat], layout: Layout | None = None
) -> list[Path]:
    """Write the table of ``lines`` to ``out`` as ``table.md``, ``table.tex`` or ``table.csv``; returns the paths.

    The first two hold percentages, as on the terminal; CSV holds every metric as a number in [0, 1], with its standard
    deviation over the seeds beside it, and what has been published. Costs are in their own units in all of them.

    Args:
      out: the folder.
      lines: one or more.
      formats: which files.
      layout: None for all metrics, in files called ``table``.
    """
    layout, paths = layout or Layout(), []
    for name in formats:
        paths.append(out / layout.file(name))
        write_atomically(paths[-1], _WRITERS[name](lines, layout).encode(errors="backslashreplace"))
    return paths


def _markdown(lines: Sequence[Summary], layout: Layout) -> str:
    table = make_table(lines, layout.metrics)
    alignments = [":--"] * len(table.names) + ["--:"] * len(table.metrics)
    rows = [(*table.names, *table.metrics), *table.rows]
    texts = [[_one_line(cell).translate(_MARKDOWN) for cell in row] for row in rows]
    body = "".join(f"| {' | '.join(row)} |\n" for row in (texts[0], alignments, *texts[1:]))
    notes = "".join(f"- {_one_line(note).translate(_MARKDOWN)}\n" for note in layout.notes)
    return f"{_one_line(_caption(lines, layout)).translate(_MARKDOWN)}\n\n{body}" + (notes and f"\n{notes}")


def _latex(lines: Sequence[Summary], layout: Layout) -> str:
    table = make_table(lines, layout.metrics)
    rows = [(*table.names, *table.metrics), *table.rows]
    head, *body = (" & ".join(_one_line(cell).translate(_LATEX) for cell in row) + r" \\" for row in rows)
    columns = "l" * len(table.names) + "r" * len(table.metrics)
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    above, below = f"% {_one_line(_caption(lines, layout))}", [f"% {_one_line(note)}" for note in layout.notes]
    return "\n".join([above, begin, r"\hline", head, r"\hline", *body, r"\hline", end, *below, ""])


def _caption(lines: Sequence[Summary], layout: Layout) -> str:
    if layout.caption is not None:
        return layout.caption
    published = "; in brackets, published figures" if any(line.published for line in lines) else ""
    data = ", ".join(dict.fromkeys(map(data_text, lines)))
    return f"{data}: percent, ± the standard deviation over seeds{published}"


def _csv(lines: Sequence[Summary], layout: Layout) -> str:
    columns: dict[str, Callable[[Summary], float | str | None]] = {"seeds": lambda line: len(line.seeds)}
    for name in _defined(lines, layout.metrics):
        columns[name] = lambda line, name=name: line.mean[name]
        columns[f"{name}.spread"] = lambda line, name=name: line.spread[name]
        if any(name in line.published for line in lines):
            columns[f"{name}.published"] = lambda line, name=name: (
                line.published[name].value if name in line.published else None
            )
    shown = {name for name in layout.metrics if f"{name}.published" in columns}
    if shown:
        columns["source"] = lambda line: "; ".join(
            dict.fromkeys(figure.source for name, figure in line.published.items() if name in shown)
        )
    if any(line.note for line in lines):
        columns["note"] = lambda line: line.note
    head = [*_headings(lines, True), *columns]
    rows = [(*_names(line, True), *(value(line) for value in columns.values())) for line in lines]
    return b"".join(map(table_line, (head, *rows))).decode()


_WRITERS: Mapping[TableFormat, Callable[[Sequence[Summary], Layout], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}


def _defined(lines: Sequence[Summary], metrics: Mapping[str, str]) -> list[str]:
    first = next(iter(metrics))
    is_known = {name: any(line.mean[name] is not None or name in line.published for line in lines) for name in metrics}
    return [name for name in metrics if name == first or is_known[name]]


def _headings(lines: Sequence[Summary], with_data: bool) -> tuple[str, ...]:
    name = "preset" if all(line.method == "padim" for line in lines) else "method"
    return ("data",) * with_data + (name, *lines[0].settings, "category")


def _names(line: Summary, with_data: bool) -> tuple[str, ...]:
    return (data_text(line),) * with_data + (line.preset, *map(setting_text, line.settings.values()), line.category)


def _cell(line: Summary, name: str) -> str:
    spread, reference = line.spread[name], line.published.get(name)
    text = _value(name, line.mean[name]) + ("" if spread is None else f" ±{_value(name, spread)}")
    return text if reference is None else f"{text} ({_value(name, reference.value, reference.decimals)})"


def _value(name: str, value: float | None, decimals: int = 1) -> str:
    """A rate in percent; a cost in its own unit, with three digits."""
    return percent(value, decimals) if value is None or name not in COSTS else f"{value:.3g}"


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
