"""What the benchmarks share: sides that take turns in one run, medians with quartiles, tables and plots.

Not a benchmark by itself. Sides take turns, A B A B, so that other load on the computer slows all of them alike.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

PACKAGES = ("padim-jax", "jax", "jaxlib", "numpy", "torch", "torchvision", "timm", "anomalib", "anomavision")
Row = dict[str, Any]


def alternate(
    sides: Mapping[str, Callable[[], object]], rounds: int, *, repeats: int = 1, warmup: int = 1, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds of every timed call by side: ``warmup`` untimed calls each, then ``rounds`` turns of ``repeats`` calls.

    With ``settle`` a turn begins with one more untimed call, after which the previous side's threads are asleep and its
    arrays out of the caches: for calls of milliseconds that a user makes in a row.
    """
    for work in sides.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            if settle:
                work()
            for _ in range(repeats):
                start = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def cpu_ms(work: Callable[[], object], calls: int = 9) -> float:
    """The median processor time of a call in milliseconds, over all threads."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each side's seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def summary(seconds: Sequence[float]) -> Row:
    """Median and quartiles of the timed calls, in milliseconds."""
    times = [1e3 * second for second in seconds]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"ms": _digits(middle), "q1": _digits(low), "q3": _digits(high), "timed": len(times)}


def split_batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches of ``size`` images; the last may have fewer."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def facts() -> Row:
    """Device, processor, threads and versions that every row carries."""
    row: Row = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            row[package] = version(package)
        except PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    row["machine"], row["cpu"] = platform.machine(), names[0] if names else platform.processor()
    row["cpus"], row["device"] = os.cpu_count(), jax.devices()[0].device_kind
    if "torch" in sys.modules:
        row["torch_threads"] = importlib.import_module("torch").get_num_threads()
    return row


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add ``--rounds``, ``--json`` and ``--plot``."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every side (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too, one JSON object a line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the rows with matplotlib")


def show(rows: Iterable[Row], columns: Sequence[str], path: Path | None = None) -> None:
    """Print a table of ``columns`` and one JSON line per row with the facts; write the lines to ``path`` too."""
    rows = list(rows)
    cells = [list(columns)] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    shared = facts()
    lines = [json.dumps(row | shared) for row in rows]
    print("\n".join(lines))
    if path is not None:
        path.write_text("\n".join(lines) + "\n")


def judge(bounds: Iterable[tuple[str, float, float]]) -> int:
    """Print each bound ``(what, measured, at least)`` and return the exit code: 1 where any is missed."""
    exit_code = 0
    for what, measured, bound in bounds:
        exit_code |= measured < bound
        verdict = "MISSED" if measured < bound else "met   "
        print(f"{verdict}  {what}: {measured:.3g}, wanted at least {bound:g}", flush=True)
    return exit_code


def plot(path: Path | None, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> None:
    """Draw lines ``{name: (xs, ys)}`` with the axes' labels; nothing where ``path`` is None."""
    if path is None or (figure := new_figure(6.4, 4)) is None:
        return
    axes = figure.subplots()
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, marker="o", label=name)
    axes.set(xlabel=x, ylabel=y, ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def plot_bars(
    path: Path | None,
    rows: Sequence[Row],
    group: Sequence[str],
    bar: str = "side",
    y: str = "ms",
    label: str | None = None,
) -> None:
    """Draw a bar per row, grouped by the ``group`` columns and coloured by ``bar``; nothing where ``path`` is None.

    ``label`` is the axis's where ``y``, the column, says too little.
    """
    if path is None or (figure := new_figure(8, 4)) is None:
        return
    groups = list(dict.fromkeys(" ".join(str(row[column]) for column in group) for row in rows))
    bars = list(dict.fromkeys(str(row[bar]) for row in rows))
    axes = figure.subplots()
    width = 0.85 / len(bars)
    for index, name in enumerate(bars):
        bar_rows = [row for row in rows if str(row[bar]) == name]
        centres = [groups.index(" ".join(str(row[column]) for column in group)) for row in bar_rows]
        offset = (index - (len(bars) - 1) / 2) * width
        axes.bar([centre + offset for centre in centres], [row[y] for row in bar_rows], width)
        axes.containers[-1].set_label(name)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel=label or y)
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches; None, with a message, where matplotlib is missing."""
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        print("no plot: pip install matplotlib")
        return None
    return figures.Figure(figsize=(width, height), layout="constrained")


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
