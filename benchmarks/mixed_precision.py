"""Question: how does a backbone in bfloat16 change scores and speed.

    python benchmarks/mixed_precision.py
    python benchmarks/mixed_precision.py --images 64

Fits Lite0 at d = 100 on the good solar cells of the demo and scores the others (``pip install 'padim-jax[demo]'``), in
float32 and in bfloat16. Prints, for each, image AUROC, the largest change of a score relative to float32, and images a
second of scoring from memory in turns; one JSON line per row with the device. Exits 1 when AUROC falls by more than
0.005.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np
from alternate import Row, add_options, alternate, judge, plot_bars, show, split_batches, summary
from sklearn.metrics import roc_auc_score

import padim_jax as padim
from padim_jax.config import Precision
from padim_jax.data.elpv import demo_split
from padim_jax.images import load_batches

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
TOLERANCE = 0.005


def read(paths: tuple[Path, ...], config: padim.PadimConfig) -> np.ndarray:
    """Read all images as a model takes them."""
    return np.concatenate([batch.images for batch in load_batches(paths, config, 16)])


def main() -> int:
    """Fit, score, compare."""
    parser = argparse.ArgumentParser(description="A backbone in bfloat16 beside float32.")
    parser.add_argument("--images", type=int, help="of each kind at most (default: all)")
    parser.add_argument("--batch", type=int, default=16, help="images in a call (%(default)s)")
    add_options(parser, rounds=3)
    options = parser.parse_args()
    split = demo_split()
    backbone, plain = padim.load_backbone("efficientnet_lite0"), padim.PadimConfig()
    fit, good, bad = (read(paths[: options.images], plain) for paths in (split.fit, split.good, split.defective))
    test = np.concatenate([good, bad])
    labels = np.arange(len(test)) >= len(good)

    fit_batches, test_batches = (split_batches(images, options.batch) for images in (fit, test))
    models = {name: padim.fit(backbone, fit_batches, padim.PadimConfig(precision=name)) for name in PRECISIONS}
    scores = {
        name: np.concatenate([np.asarray(padim.score(model, images).image_score) for images in test_batches])
        for name, model in models.items()
    }
    works = {
        name: partial(lambda model: jax.block_until_ready(padim.score(model, test[: options.batch])), model)
        for name, model in models.items()
    }
    seconds = alternate(works, options.rounds, repeats=3, settle=True)
    reference, rows = scores["float32"], list[Row]()
    for name in PRECISIONS:
        row: Row = {"precision": name, "auroc": float(roc_auc_score(labels, scores[name]))}
        row["score_changes"] = float(np.max(np.abs(scores[name] / reference - 1)))
        rows.append(row | summary(seconds[name]))
    show(rows, ["precision", "auroc", "score_changes", "ms", "q1", "q3"], options.json)
    plot_bars(options.plot, rows, (), "precision")
    change = rows[1]["auroc"] - rows[0]["auroc"]
    return judge([("AUROC in bfloat16 less that in float32", change, -TOLERANCE)])


if __name__ == "__main__":
    raise SystemExit(main())
