"""Question: what false-alarm rate do thresholds from good images alone have on unseen good images.

    python benchmarks/false_alarms.py --splits 20

Splits the good monocrystalline cells of ELPV at random, fits and calibrates on 300, and counts how many of the others
are called anomalous at a false-alarm rate of 5 %; beside it, the same with a threshold from the training scores of the
fitted images, as is often done. Exits 1 unless the rate over all splits lies within the binomial 99 % interval around
5 % and the rate with training scores does not.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import jax
import numpy as np
from alternate import split_batches
from scipy.stats import binom

import padim_jax as padim
from padim_jax.data.elpv import demo_split
from padim_jax.images import load_batches
from padim_jax.method.calibration import calibration

RATE = 0.05


@dataclass(frozen=True)
class Split:
    """The counts of images and alarms of one split."""

    fitted: int
    unseen: int
    false_alarms: int
    false_alarms_by_training_scores: int


def measure(config: padim.PadimConfig, splits: int, fitted: int = 300, batch_size: int = 16) -> Iterator[Split]:
    """Fit, calibrate and count, split by split."""
    split = demo_split()
    paths = sorted([*split.fit, *split.good])
    cells = np.concatenate([batch.images for batch in load_batches(paths, config, 64)])
    backbone = padim.load_backbone("efficientnet_lite0")
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(cells))
        good, unseen = (split_batches(cells[part], batch_size) for part in (order[:fitted], order[fitted:]))
        model = padim.calibrate(padim.fit(backbone, good, config), good, false_alarm_rate=RATE)
        scores = np.concatenate([np.asarray(padim.score(model, batch).image_score) for batch in unseen])
        training = np.concatenate([np.asarray(padim.score(model, batch).image_score) for batch in good])
        left_out = model.calibration
        assert left_out is not None
        naive = calibration(training, np.asarray(left_out.pixels), "held-out", RATE)
        counts = (int((scores > np.asarray(compared.threshold)).sum()) for compared in (left_out, naive))
        yield Split(fitted, len(scores), *counts)


def interval(count: int, confidence: float = 0.99) -> tuple[float, float]:
    """Rates among ``count`` images that a true rate of 5 % gives with ``confidence``."""
    tail = (1 - confidence) / 2
    return float(binom.ppf(tail, count, RATE) / count), float(binom.ppf(1 - tail, count, RATE) / count)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--crop-size", type=int, default=224)
    parser.add_argument("--image-score", default="max", help="as of padim fit, such as top-1%%")
    options = parser.parse_args()
    sizes = {"image_size": options.image_size, "crop_size": options.crop_size}
    config = padim.PadimConfig(**sizes, image_score=options.image_score)
    rows = []
    for row in measure(config, options.splits):
        rows.append(row)
        print(json.dumps(asdict(row)), flush=True)
    unseen = sum(row.unseen for row in rows)
    rate = sum(row.false_alarms for row in rows) / unseen
    naive = sum(row.false_alarms_by_training_scores for row in rows) / unseen
    low, high = interval(unseen)
    is_within = [interval(row.unseen)[0] <= row.false_alarms / row.unseen <= interval(row.unseen)[1] for row in rows]
    print(
        f"leave-one-out {rate:.4f}, training scores {naive:.4f}; binomial 99 % interval of all {unseen} decisions "
        f"{low:.4f} to {high:.4f}; {sum(is_within)} of {len(rows)} splits within their own; "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, Python {platform.python_version()}"
    )
    return 0 if low <= rate <= high and not low <= naive <= high else 1


if __name__ == "__main__":
    sys.exit(main())
