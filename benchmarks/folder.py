"""Question: how long do a fit and a score of a folder of files take.

    python benchmarks/folder.py
    python benchmarks/folder.py --count 16 --rounds 1 --sides ours

PNG files of 1024×1024 (generated parts with a camera's noise), `padim fit` and `padim score` on ResNet18 and Lite0,
each as a process of its own. Beside them anomalib on ResNet18 as its documentation has it: ``Engine.fit`` with a
``Folder`` datamodule and ``Engine.export``, and the exported model's ``TorchInferencer`` on each file (`peers.py
fit`, `peers.py score`). Engine fits only with images to validate on; a tenth of the files is held back from the fit
for that. Both sides read every file once, ours twice where it calibrates too (`ours, calibrated`, the default of
`padim fit`); our score writes heat maps and CSV besides. Images are resized by each side's own rules. Processes take
turns. Prints a table and one JSON line per row; exits 1 where ours is slower than anomalib on ResNet18.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from alternate import Row, add_options, alternate, judge, medians, plot_bars, show, summary
from peers import INSTALL, MODELS, installed
from PIL import Image

SIDE, NOISE = 1024, 3.0  # pixels; standard deviation in grey levels


def write_parts(folder: Path, count: int) -> Path:
    """Write ``count`` images of one part with a camera's noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    body = np.stack([120 + 80 * np.cos(20 * x), 110 + 60 * y, 90 + 60 * np.sin(15 * (x + y))], axis=-1)
    for index in range(count):
        pixels = np.clip(body + rng.normal(0, NOISE, body.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04}.png", compress_level=3)
    return folder


def padim(*arguments: object) -> list[str]:
    """The command line of ``padim`` with these arguments."""
    return [sys.executable, "-m", "padim_jax.cli", *map(str, arguments)]


def peer(*arguments: object) -> list[str]:
    """The command line of ``peers.py`` with these arguments."""
    return [sys.executable, str(Path(__file__).with_name("peers.py")), *map(str, arguments)]


def run(command: list[str], cache: Path) -> None:
    """Run a command quietly with ``cache`` as padim_jax's cache folder; show its output where it fails."""
    environment = os.environ | {"PADIM_JAX_CACHE": str(cache)}
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stdout[-2000:]}")


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Seconds of a fit and a score of a folder of files.")
    parser.add_argument("--count", type=int, default=100, help="files (%(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sides", nargs="+", choices=["ours", "anomalib"], default=["ours", "anomalib"])
    add_options(parser, rounds=3)
    options = parser.parse_args()
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        good, cache = write_parts(root / "parts/good", options.count), root / "cache"
        works: dict[str, dict[tuple[str, str], list[str]]] = {"fit": {}, "score": {}}
        if "ours" in options.sides:
            for name in options.models:
                model, backbone = root / f"model-{name}", ("--backbone", MODELS[name])
                weights = () if name == "lite0" else ("--weights", "random")
                fit = padim("fit", good, "--out", model, *backbone, *weights)
                works["fit"]["ours", name] = [*fit, "--no-calibrate"]
                works["fit"]["ours, calibrated", name] = fit
                works["score"]["ours", name] = padim("score", model, good, "--out", root / f"out-{name}")
        if "anomalib" in options.sides and installed("anomalib"):
            exported = root / "anomalib"
            works["fit"]["anomalib", "r18"] = peer("fit", good, exported)
            works["score"]["anomalib", "r18"] = peer("score", exported, good)
        elif "anomalib" in options.sides:
            print(f"anomalib is left out: {INSTALL['anomalib']}")
        for work, commands in works.items():
            calls: dict[str, Callable[[], object]] = {
                " ".join(key): partial(run, command, cache) for key, command in commands.items()
            }
            seconds = alternate(calls, options.rounds, warmup=1)  # fills the compilation cache, if there is one
            middle = medians(seconds)
            for side, model in commands:
                timed = seconds[f"{side} {model}"]
                row: Row = {"work": work, "side": side, "model": model, "files": options.count} | summary(timed)
                rows.append(row | {"files_per_s": options.count / middle[f"{side} {model}"]})
            if {"ours r18", "anomalib r18"} <= middle.keys():
                bounds.append((f"{work}: times as fast as anomalib", middle["anomalib r18"] / middle["ours r18"], 1.0))
    show(rows, ["work", "side", "model", "files", "ms", "q1", "q3", "timed", "files_per_s"], options.json)
    plot_bars(options.plot, rows, ("work", "model"))
    return judge(bounds)


if __name__ == "__main__":
    sys.exit(main())
