"""Question: how long does a score take, one image at a time and in batches, beside other implementations of PaDiM.

    python benchmarks/latency.py
    python benchmarks/latency.py --models lite0 --batches 1 --rounds 5 --sides ours torch

ResNet18 and EfficientNet-Lite0 at d = 100, from uint8 images of 224×224 in memory to scores and maps in memory. Ours
is ``padim_jax.score`` as a user calls it; the others are those of ``peers.py`` and ``torch_padim.py``, on as many
threads. A side's maps are first compared with ours. Prints a table and one JSON line per row; exits 1, naming each
bound missed, unless it beats anomalib by the factors below, and both of our PyTorch versions.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from alternate import Row, add_options, alternate, judge, medians, plot_bars, show, summary
from peers import MODELS, SIDES, fit_sides, load, random_images

import padim_jax as padim

BOUNDS = {  # times as fast as anomalib
    ("r18", 1): 3.0,
    ("r18", 16): 1.8,
    ("lite0", 1): 5.0,
    ("lite0", 16): 5.0,
}
AHEAD = {"torch": 1.0, "compiled": 1.0}
NAMES = {
    "r18": "ResNet18",
    "lite0": "Lite0",
    "ours": "padim_jax",
    "anomavision": "AnomaVision",
    "torch": "PyTorch",
    "compiled": "torch.compile",
}


def main() -> int:
    """Compare, measure, print, judge."""
    parser = argparse.ArgumentParser(description="Seconds of a score.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--repeats", type=int, help="timed calls of a turn (10 of one image, 3 of more)")
    add_options(parser, rounds=7)
    options = parser.parse_args()
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    for model in options.models:
        backbone = load(model)
        images = random_images(max(*options.batches, 4), seed=1)
        sides, differences = fit_sides(options.sides, backbone, padim.PadimConfig(), [random_images(16)], images[:4])
        for batch in options.batches:
            works = {name: partial(side.score, images[:batch]) for name, side in sides.items()}
            repeats = options.repeats or (10 if batch == 1 else 3)
            seconds = alternate(works, options.rounds, repeats=repeats, settle=True)
            middle = medians(seconds)
            for name, values in seconds.items():
                row: Row = {"model": model, "batch": batch, "side": name} | summary(values)
                row["images_per_s"] = batch / middle[name]
                ratio = middle[name] / middle["ours"] if "ours" in middle else None
                row |= {"ours_is_faster": ratio, "apart": differences[name], "taps": sides[name].comparable.taps}
                rows.append(row)
                bound = BOUNDS.get((model, batch)) if name == "anomalib" else AHEAD.get(name)
                if bound is not None and ratio is not None:
                    bounds.append((f"{model} batch {batch}: times as fast as {name}", ratio, bound))
    show(rows, ["model", "batch", "side", "ms", "q1", "q3", "images_per_s", "ours_is_faster", "apart"], options.json)
    draw(options.plot, rows)
    return judge(bounds)


def draw(path: Path | None, rows: Sequence[Row]) -> None:
    """Draw images per second under the names that readers know; the legend says which models a side can't score."""
    models = {side: list(dict.fromkeys(row["model"] for row in rows if row["side"] == side)) for side in SIDES}
    most = max(map(len, models.values()))
    only = {
        side: "" if len(own) == most else f" ({', '.join(NAMES[model] for model in own)} only)"
        for side, own in models.items()
    }
    named = [
        {
            "group": f"{NAMES[row['model']]},\nbatch of {row['batch']}",
            "side": f"{NAMES.get(row['side'], row['side'])}{only[row['side']]}",
            "images_per_s": row["images_per_s"],
        }
        for row in rows
    ]
    label = f"images per second, {os.cpu_count()} CPU cores"
    plot_bars(path, named, ("group",), y="images_per_s", label=label)


if __name__ == "__main__":
    sys.exit(main())
