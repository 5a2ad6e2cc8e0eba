"""Question: how far is `padim estimate` from what a fit and a score take.

    python benchmarks/estimate.py
    python benchmarks/estimate.py --shapes lite0 wr50 --images 96

Runs ``padim estimate``, ``padim fit`` and ``padim score`` on generated PNG files, each in a process of its own.
Prints estimate and measurement of peak memory, size on disk and seconds, and one JSON line per row; exits 1 when peak
memory is missed by more than 15 %. Seconds depend on what else the computer does; they are shown, not judged.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from peak_memory import peak_of, write_images

TOLERANCE = 0.15
SHAPES = {
    "lite0": [],
    "lite0-d200": ["--n-channels", "200", "--image-size", "160x224", "--crop-size", "160x224"],
    "r18": ["--backbone", "resnet18", "--weights", "random"],
    "wr50": ["--backbone", "wide_resnet50_2", "--weights", "random"],
}


def main() -> int:
    """Estimate, measure, compare."""
    parser = argparse.ArgumentParser(description="padim estimate against padim fit and padim score.")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["lite0", "lite0-d200", "r18"])
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    facts = {name: version(name) for name in ("padim-jax", "jax", "jaxlib")} | {"cpus": os.cpu_count()}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        good = write_images(root / "good", options.images)
        for shape in options.shapes:
            model, settings = root / shape, SHAPES[shape]
            command = [sys.executable, "-m", "padim_jax.cli", "estimate", str(good), "--json", *settings]
            estimate = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            fit_peak = peak_of(["fit", str(good), "--out", str(model), *settings])
            disk = sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) / 1e9
            score_peak = peak_of(["score", str(model), str(good), "--out", str(root / f"{shape}-out")])
            for work, (peak, seconds) in (("fit", fit_peak), ("score", score_peak)):
                rows.append((shape, work, "peak GB", max(phase["host"] for phase in estimate[work]) / 1e9, peak))
                rows.append((shape, work, "seconds", sum(estimate[f"{work}_seconds"].values()), seconds))
            rows.append((shape, "fit", "disk GB", estimate["disk"]["updatable"] / 1e9, disk))
    print(f"{'shape':12}{'work':7}{'what':9}{'estimate':>10}{'measured':>10}{'miss':>8}")
    for shape, work, what, expected, measured in rows:
        print(f"{shape:12}{work:7}{what:9}{expected:10.3f}{measured:10.3f}{expected / measured - 1:+8.1%}")
    for row in rows:
        print(json.dumps(dict(zip(("shape", "work", "what", "estimate", "measured"), row, strict=True)) | facts))
    return int(any(abs(row[3] / row[4] - 1) > TOLERANCE for row in rows if row[2] == "peak GB"))


if __name__ == "__main__":
    sys.exit(main())
