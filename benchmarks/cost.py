"""Question: how does the cost of a score grow with the dimension d and the size of images.

    python benchmarks/cost.py --plot cost.png
    python benchmarks/cost.py --dimensions 25 100 --sizes 128 224 --rounds 3

First d from 25 to 550 at 224×224 on Wide-ResNet50-2, which has the channels for it, then square images of 128 to 512
pixels at d = 100 on EfficientNet-Lite0; one image each. Inverse factors and Wide-ResNet50-2's weights are random,
which does not change the time. Sides are ours and, where PyTorch is installed, our own PyTorch version. Prints a table
and one JSON line per row, and draws milliseconds against d and against the side with ``--plot``, in two files. Judges
nothing.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from alternate import Row, add_options, alternate, plot, show, summary
from peers import Ours, build, load, make_random_model, random_images

import padim_jax as padim


def measure(model: str, config: padim.PadimConfig, size: int, options: argparse.Namespace) -> list[Row]:
    """One row per side for these settings."""
    backbone = load(model)
    random_model = make_random_model(backbone, config)
    sides = build(options.sides, backbone, config)
    for side in sides.values():
        if isinstance(side, Ours):
            side.model = random_model
        else:
            side.use_model(random_model)  # pyright: ignore[reportAttributeAccessIssue]
    images = random_images(options.batch, size)
    works = {name: partial(side.score, images) for name, side in sides.items()}
    seconds = alternate(works, options.rounds, repeats=3, settle=True)
    settings: Row = {"model": model, "d": random_model.embedding.dimension, "size": size, "batch": options.batch}
    return [settings | {"side": name} | summary(values) for name, values in seconds.items()]


def main() -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description="Seconds of a score against dimension and size.")
    parser.add_argument("--dimensions", type=int, nargs="*", default=[25, 50, 100, 200, 300, 400, 550])
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 224, 320, 416, 512])
    parser.add_argument("--d-model", default="wide_resnet50_2", help="backbone of the dimensions (%(default)s)")
    parser.add_argument("--size-model", default="lite0", help="backbone of the sizes (%(default)s)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=["ours", "torch", "compiled"], default=["ours", "torch"])
    add_options(parser, rounds=5)
    options = parser.parse_args()
    rows: list[Row] = []
    for d in options.dimensions:
        rows += measure(options.d_model, padim.PadimConfig(n_channels=d), 224, options)
    n_dimension_rows = len(rows)
    for size in options.sizes:
        rows += measure(options.size_model, padim.PadimConfig(image_size=size, crop_size=size), size, options)
    show(rows, ["model", "d", "size", "batch", "side", "ms", "q1", "q3"], options.json)
    for key, part in (("d", rows[:n_dimension_rows]), ("size", rows[n_dimension_rows:])):
        path: Path | None = options.plot and options.plot.with_stem(f"{options.plot.stem}-{key}")
        lines = {name: [row for row in part if row["side"] == name] for name in options.sides}
        points = {name: ([row[key] for row in line], [row["ms"] for row in line]) for name, line in lines.items()}
        series = {name: point for name, point in points.items() if point[0]}
        if series:
            plot(path, series, {"d": "dimension d", "size": "side of the image in pixels"}[key], "ms per score")
    return 0


if __name__ == "__main__":
    sys.exit(main())
