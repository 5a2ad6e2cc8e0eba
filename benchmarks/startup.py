"""Question: how long does it take from the shell until one image is scored.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 1 --sides ours

`padim score` on one PNG image of 1024×1024 with a fitted Lite0 model, as a process of its own: cold, with an empty
cache folder (``PADIM_JAX_CACHE``), and warm, with what the previous run left there. Beside it anomalib on ResNet18, the
same way: its exported model, loaded and put to the image by its ``TorchInferencer`` (`peers.py score`). Processes
take turns. Prints a table and one JSON line per row; exits 1 where the warm start takes more than 4 s.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alternate import Row, add_options, alternate, judge, plot_bars, show, summary
from folder import padim, peer, run, write_parts
from peers import INSTALL, installed

LIMIT = 4.0  # seconds, warm


def main() -> int:
    """Fit, measure, print, judge."""
    parser = argparse.ArgumentParser(description="Seconds from the shell to one scored image.")
    parser.add_argument("--sides", nargs="+", choices=["ours", "anomalib"], default=["ours", "anomalib"])
    parser.add_argument("--fit-images", type=int, default=20)
    add_options(parser, rounds=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        good = write_parts(root / "parts", options.fit_images)
        image, cache = good / "0000.png", root / "cache"
        works: dict[str, Callable[[], object]] = {}
        if "ours" in options.sides:
            model, out = root / "model", root / "out"
            run(padim("fit", good, "--out", model), cache)
            score = padim("score", model, image, "--out", out)
            empty = (root / f"empty{number}" for number in range(10**6))
            works["padim, cold"] = lambda: run(score, next(empty))
            works["padim, warm"] = partial(run, score, cache)
        if "anomalib" in options.sides and installed("anomalib"):
            exported = root / "anomalib"
            run(peer("fit", good, exported), cache)
            works["anomalib"] = partial(run, peer("score", exported, image), cache)
        elif "anomalib" in options.sides:
            print(f"anomalib is left out: {INSTALL['anomalib']}")
        seconds = alternate(works, options.rounds)
    models = {"anomalib": "r18"}
    rows: list[Row] = [{"side": name, "model": models.get(name, "lite0")} | summary(v) for name, v in seconds.items()]
    show(rows, ["side", "model", "ms", "q1", "q3", "timed"], options.json)
    plot_bars(options.plot, rows, ())
    warm = seconds.get("padim, warm")
    return judge([("limit over seconds, warm", LIMIT / statistics.median(warm), 1.0)] if warm else [])


if __name__ == "__main__":
    sys.exit(main())
