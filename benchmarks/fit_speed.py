"""Question: how long does a fit take, beside other implementations of PaDiM.

    python benchmarks/fit_speed.py
    python benchmarks/fit_speed.py --models lite0 --images 32 --rounds 1 --sides ours anomalib

200 uint8 images of 224×224 in memory, in batches of 16, to a model that is ready to score: extraction and Gaussians,
at d = 100, on ResNet18 and EfficientNet-Lite0; sides as in ``latency.py``. A first fit of each side, which compiles,
is not timed; its maps are compared with ours. Prints a table and one JSON line per row; exits 1, naming each bound
missed, unless it beats anomalib by the factors below, and both of our PyTorch versions.
"""

import argparse
import sys
from functools import partial

from alternate import Row, add_options, alternate, judge, medians, plot_bars, show, split_batches, summary
from peers import MODELS, SIDES, fit_sides, load, random_images

import padim_jax as padim

BOUNDS = {"r18": 2.0, "lite0": 4.0}  # times as fast as anomalib
AHEAD = {"torch": 1.0, "compiled": 1.0}


def main() -> int:
    """Compare, measure, print, judge."""
    parser = argparse.ArgumentParser(description="Seconds of a fit.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    add_options(parser, rounds=3)
    options = parser.parse_args()
    images = random_images(options.images)
    batches = split_batches(images, options.batch_size)
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    for model in options.models:
        compared = random_images(4, seed=1)
        sides, differences = fit_sides(options.sides, load(model), padim.PadimConfig(), batches, compared)
        works = {name: partial(side.fit, batches) for name, side in sides.items()}
        seconds = alternate(works, options.rounds, warmup=0)
        middle = medians(seconds)
        for name, values in seconds.items():
            row: Row = {"model": model, "images": len(images), "side": name} | summary(values)
            ratio = middle[name] / middle["ours"] if "ours" in middle else None
            row |= {"ours_is_faster": ratio, "apart": differences[name], "taps": sides[name].comparable.taps}
            rows.append(row)
            bound = BOUNDS[model] if name == "anomalib" else AHEAD.get(name)
            if bound is not None and ratio is not None:
                bounds.append((f"{model}: times as fast as {name}", ratio, bound))
    show(rows, ["model", "images", "side", "ms", "q1", "q3", "ours_is_faster", "apart"], options.json)
    plot_bars(options.plot, rows, ("model",))
    return judge(bounds)


if __name__ == "__main__":
    sys.exit(main())
