"""Question: does the memory of a fit depend on how many images it sees.

    python benchmarks/peak_memory.py
    python benchmarks/peak_memory.py --backbone wide_resnet50_2 --counts 16 64 --limit-gb 12

Runs ``padim fit`` and ``padim score`` as a user would, on folders of generated PNG files, each in a process of
its own, and reads the process's peak resident memory from the kernel. Weights are random, which does not change
memory. Prints a table and one JSON line per row; exits 1 when the fit on the most images takes over 1.1 times
the memory of the fit on the fewest, or anything takes more than ``--limit-gb``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

TOLERANCE = 1.10
# the process measures itself: what wait4 tells of a child is no less than its parent had when it was started
_RUN = """
import re, sys
from pathlib import Path
from padim_jax.cli import main
code = main(sys.argv[2:])
status = Path("/proc/self/status").read_text()
Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
sys.exit(code)
"""


def write_images(folder: Path, count: int) -> Path:
    """Write ``count`` smooth random images of 256×256."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{index:06}.png", compress_level=1)
    return folder


def peak_of(arguments: list[str]) -> tuple[float, float]:
    """Peak resident memory in GB and seconds of ``padim`` run with ``arguments`` to its end."""
    start = time.perf_counter()
    with tempfile.NamedTemporaryFile("r") as peak_file:
        subprocess.run([sys.executable, "-c", _RUN, peak_file.name, *arguments], check=True)
        return int(peak_file.read()) * 1024 / 1e9, time.perf_counter() - start


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Peak memory of padim fit and padim score.")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--batch-size", default="16")
    parser.add_argument("--limit-gb", type=float, default=float("inf"))
    options = parser.parse_args()
    facts = {name: version(name) for name in ("padim-jax", "jax", "jaxlib")} | {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "backbone": options.backbone,
        "batch_size": int(options.batch_size),
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for count in options.counts:
            images, model = write_images(root / f"images{count}", count), str(root / f"model{count}")
            batch = ["--batch-size", options.batch_size]
            fit = ["fit", str(images), "--out", model, "--backbone", options.backbone, "--weights", "random", *batch]
            score = ["score", model, str(images), "--out", str(root / f"out{count}"), *batch]
            for work, arguments in (("fit", fit), ("score", score)):
                peak, seconds = peak_of(arguments)
                rows.append({"work": work, "images": count, "peak_gb": round(peak, 3), "seconds": round(seconds, 1)})
    print(f"{'work':8}{'images':>8}{'peak GB':>10}{'seconds':>10}")
    for row in rows:
        print(f"{row['work']:8}{row['images']:8}{row['peak_gb']:10.3f}{row['seconds']:10.1f}")
    for row in rows:
        print(json.dumps(row | facts))
    fits = [row["peak_gb"] for row in rows if row["work"] == "fit"]
    ratio = fits[-1] / fits[0]
    print(f"fit on {options.counts[-1]} images: {ratio:.3f} times the memory of {options.counts[0]}")
    return int(ratio > TOLERANCE or max(row["peak_gb"] for row in rows) > options.limit_gb)


if __name__ == "__main__":
    sys.exit(main())
