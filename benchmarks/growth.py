"""Question: how do time and memory grow with the number of good images, for PaDiM and for those that keep patches.

    python benchmarks/growth.py --plot growth.png
    python benchmarks/growth.py part/good --counts 50 100 200 --rounds 3
    python benchmarks/growth.py --counts 4 8 --size 64 --batch 2 --methods padim patchcore:share=0.05

PaDiM's model is a Gaussian for each position, whatever the number of images; SPADE keeps every image, PatchCore a share
of all patches, of which its paper has 25, 10 and 1 %. Fits each on 50 to 3200 generated images of 224×224 (or those of
a folder, as far as they go) with EfficientNet-Lite0, and measures processor seconds of a fit without reading files and
processor milliseconds an image of a score, of all cores together, which other programs on the computer change less than
the clock; megabytes of the model beside the network in memory, and of its folder with the network. A method is left out
from the number of images on for which its fit would take over ``--limit`` processor seconds, judged by the one before
(twice the images, four times as long), or its data more than ``--limit-gb``; the program says so.

A fit that takes less than ten seconds is run twice, and the second one, which compiles nothing, counts. Of scores the
median of ``--rounds`` counts, of those that take over five seconds one. Prints a table, the slopes of the logarithms by
least squares with their standard errors (0: doesn't grow; 1: in proportion; 2: with the square), and one JSON line per
row; ``--from-rows`` draws the rows that ``--json`` has written before, without measuring. Judges nothing.
"""

import argparse
import importlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from alternate import Row, add_options, new_figure, show, split_batches

import padim_jax as padim
from padim_jax import baselines
from padim_jax.artifact.arrays import disk_bytes
from padim_jax.baselines.patchcore import published_taps
from padim_jax.baselines.registry import parse_method
from padim_jax.images import find_images, load_batches

MEASURED = {
    "fit_cpu_s": "processor seconds of a fit",
    "score_cpu_ms": "processor ms an image of a score",
    "mb": "MB of the model beside the network",
    "file_mb": "MB of its folder",
}
WARM = 10  # seconds: a fit that takes less is run again, so that compiling doesn't count
LONG = 5  # seconds: a score that takes more is taken once


def generated(n: int, size: int) -> np.ndarray:
    """Images of one smooth part that varies a little: (n, size, size, 3), uint8."""
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (-(-size // 16), -(-size // 16), 3)).repeat(16, axis=0).repeat(16, axis=1)
    images = np.empty((n, size, size, 3), np.uint8)
    for index in range(n):
        moved = np.roll(part, rng.integers(-2, 3, 2), axis=(0, 1))[:size, :size]
        images[index] = np.clip(moved + rng.normal(0, 12, (size, size, 3)), 0, 255)
    return images


def from_folder(folder: Path, most: int, config: padim.PadimConfig) -> np.ndarray:
    """At most so many images of a folder, as the network sees them."""
    paths = find_images([folder]).paths[:most]
    return np.concatenate([batch.images for batch in load_batches(paths, config, 16)])


def sides(
    backbone: padim.Backbone, config: padim.PadimConfig, methods: Sequence[str]
) -> Mapping[str, tuple[Any, Any, Any]]:
    """What fits, scores and saves, by method."""
    chosen = dict[str, tuple[Any, Any, Any]]()
    for text in methods:
        if text == "padim":
            chosen[text] = (lambda batches: padim.fit(backbone, batches, config), padim.score, padim.save)
            continue
        method, own = parse_method(text)
        if not method.uses_backbone:
            sys.exit(f"{text} trains a network, whose size and steps do not grow with the images; leave it out")
        settings = method.settings(config=config, **own)
        chosen[text] = (_fit_of(method, backbone, settings), method.score, baselines.save)
    return chosen


def _fit_of(method: baselines.Method, backbone: padim.Backbone, settings: Any) -> Callable[[Any], Any]:
    return lambda batches: method.fit(backbone, batches, settings)


def measure(name: str, side: tuple[Any, Any, Any], images: np.ndarray, options: argparse.Namespace) -> Row:
    """One row: a method on so many images."""
    fit, score, save = side
    batches = split_batches(images, 16)

    model, seconds = timed(lambda: fit(batches))
    if seconds < WARM:
        model, seconds = timed(lambda: fit(batches))
    test, times = images[: options.batch], list[float]()
    timed(lambda: score(model, test))
    while len(times) < options.rounds and (not times or times[0] < LONG):
        times.append(timed(lambda: score(model, test))[1])
    network = sum(leaf.nbytes for leaf in jax.tree.leaves(model.backbone))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model)) - network
    with tempfile.TemporaryDirectory() as root:
        save(model, Path(root) / "model")
        folder = disk_bytes(Path(root) / "model")
    return {"method": name, "n": len(images), "fit_cpu_s": seconds} | {
        "score_cpu_ms": 1e3 * statistics.median(times) / len(test),
        "mb": held / 1e6,
        "file_mb": folder / 1e6,
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` gives, and its processor seconds."""
    start = time.process_time()
    return jax.block_until_ready(work()), time.process_time() - start


def slope(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope of log y over log x by least squares, and its standard error; not a number where there are too few."""
    if len(xs) < 2:
        return math.nan, math.nan
    x, y = np.log(xs) - np.log(xs).mean(), np.log(ys) - np.log(ys).mean()
    found = float(x @ y / (x @ x))
    if len(xs) < 3:
        return found, math.nan
    return found, float(np.sqrt(((y - found * x) ** 2).sum() / (len(xs) - 2) / (x @ x)))


def slopes(rows: Iterable[Row]) -> list[Row]:
    """For each method and measure, how it grows."""
    rows, found = list(rows), []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        line: Row = {"method": name, "from": own[0]["n"], "to": own[-1]["n"]}
        for measured in MEASURED:
            value, error = slope([row["n"] for row in own], [row[measured] for row in own])
            line |= {measured: f"{value:.2f} ± {error:.2f}", f"{measured}_slope": value, f"{measured}_error": error}
        found.append(line)
    return found


def draw(path: Path | None, rows: Sequence[Row]) -> None:
    """Each measure against the number of images, on logarithmic axes; nothing where ``path`` is None."""
    if path is None or (figure := new_figure(9, 6.5)) is None:
        return
    ticker: Any = importlib.import_module("matplotlib.ticker")
    counts = sorted({row["n"] for row in rows})
    panels = figure.subplots(2, 2).flat
    for axes, (measured, label) in zip(panels, MEASURED.items(), strict=True):
        for name in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == name]
            axes.loglog([row["n"] for row in own], [row[measured] for row in own], marker="o", label=name)
        axes.set(xlabel="good images", title=label)
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=130)


def main() -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description="Time and memory against the number of images.")
    parser.add_argument("folder", type=Path, nargs="?", help="of good images; generated ones without")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200, 400, 800, 1600, 3200])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["padim", "spade", "patchcore", "patchcore:share=0.01"],
        help="padim, and methods as NAME:SETTING=VALUE",
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="images scored at once (%(default)s)")
    parser.add_argument("--limit", type=float, default=1800, help="processor seconds of a fit (%(default)s)")
    parser.add_argument("--limit-gb", type=float, default=6, help="GB of what a fit gathers (%(default)s)")
    add_options(parser, rounds=3)
    parser.add_argument(
        "--from-rows", type=Path, nargs="+", metavar="FILE", help="of --json, to draw without measuring"
    )
    options = parser.parse_args()
    if options.from_rows:
        lines = [line for path in options.from_rows for line in path.read_text(encoding="utf-8").splitlines()]
        report(sorted(map(json.loads, lines), key=lambda row: (row["method"], row["n"])), options.plot)
        return 0
    backbone = padim.load_backbone("efficientnet_lite0")
    config = padim.PadimConfig(image_size=options.size, crop_size=options.size)
    counts = sorted(set(options.counts))
    most = from_folder(options.folder, counts[-1], config) if options.folder else generated(counts[-1], options.size)
    if len(most) < counts[-1]:
        print(f"{options.folder} has {len(most)} images; larger numbers are left out", flush=True)
    available, rows = sides(backbone, config, options.methods), list[Row]()
    for name in available:
        last: Row | None = None
        for n in (n for n in counts if n <= len(most)):
            ratio = 1.0 if last is None else n / last["n"]
            if last is not None and name != "padim" and last["fit_cpu_s"] * ratio**2 > options.limit:
                limit = f"{options.limit:g} processor seconds"
                print(f"{name} is left out from {n} images on: a fit would take over {limit}", flush=True)
                break
            gathered = n * gathered_bytes(backbone, config, name)
            if gathered > options.limit_gb * 1e9:
                print(f"{name} is left out from {n} images on: it gathers {gathered / 1e9:.1f} GB", flush=True)
                break
            last = measure(name, available[name], most[:n], options)
            rows.append(last)
            seconds, ms = f"{last['fit_cpu_s']:.2f} s of processors", f"{last['score_cpu_ms']:.3g} ms"
            print(f"{name}, {n} images: {seconds}, {ms} an image, {last['mb']:.3g} MB", flush=True)
            if options.json:
                options.json.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report(rows, options.plot, options.json)
    return 0


def report(rows: Sequence[Row], plot: Path | None, json_path: Path | None = None) -> None:
    """Print rows and slopes; write and draw the rows where there are paths for that."""
    show(rows, ["method", "n", *MEASURED], json_path)
    print("\nslopes on logarithmic axes")
    show(slopes(rows), ["method", "from", "to", *MEASURED])
    draw(plot, rows)


def gathered_bytes(backbone: padim.Backbone, config: padim.PadimConfig, name: str) -> int:
    """Bytes that a fit gathers of one image's activations; at its end, there are two copies of all."""
    spec = backbone.spec
    if name == "spade":
        cells = {tap: math.prod(spec.grid((tap,), config.crop)) for tap in spec.select(None)}
        return 2 * 4 * sum(tap.channels * n for tap, n in cells.items())
    if name.partition(":")[0] == "patchcore":
        taps = spec.select(published_taps(spec))
        return 2 * 4 * math.prod(spec.grid(taps, config.crop)) * sum(tap.channels for tap in taps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
