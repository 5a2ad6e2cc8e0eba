"""Question: do decoding and computing overlap while a category is evaluated.

    python benchmarks/overlap.py

160 PNG files of 1024×1024 (generated parts with camera noise), Lite0, batches of 16. Times, in alternation and
each as a median of ``--rounds``: decoding alone (examples read and dropped), computing alone (the same images from
memory: scores, pixel metrics, pictures), and both as ``padim evaluate`` runs them. Prints one JSON line a row; exits 1
when both together take more than 1.2 times the longer of the two alone.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from alternate import medians
from PIL import Image

import padim_jax as padim
from padim_jax.data.catalogue import find_categories, prepare
from padim_jax.data.examples import Examples, load_examples
from padim_jax.evaluation import evaluate
from padim_jax.evaluation.detector import padim_scorer
from padim_jax.runs.engines import OneDevice

TOLERANCE = 1.2
IMAGES, SIDE, BATCH = 160, 1024, 16


def write_category(folder: Path, noise: float) -> Path:
    """``IMAGES`` test images, half of them defective with a mask, and four to fit."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    body = np.stack([120 + 80 * np.cos(20 * x), 110 + 60 * y, 90 + 60 * np.sin(15 * (x + y))], axis=-1)
    spot = np.hypot(y - 0.4, x - 0.6) < 0.05
    mask = Image.fromarray(np.where(spot, np.uint8(255), np.uint8(0)))
    for place, count in (("train/good", 4), ("test/good", IMAGES // 2), ("test/spot", IMAGES // 2)):
        (folder / place).mkdir(parents=True)
        for index in range(count):
            pixels = body + rng.normal(0, noise, (SIDE, SIDE, 3))
            if place == "test/spot":
                pixels[spot] += 60
                (folder / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                mask.save(folder / f"ground_truth/spot/{index:03}_mask.png")
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                folder / place / f"{index:03}.png", compress_level=6
            )
    return folder


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Overlap of decoding and computing.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--noise", type=float, default=3.0, help="standard deviation of the camera's noise, grey levels"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_category(Path(scratch) / "part", options.noise)
        size = sum(path.stat().st_size for path in (folder / "test").rglob("*.png")) / IMAGES / 1e6
        (category,) = find_categories(folder, Path(scratch) / "prepared")
        builder = category.build()
        prepare(builder)
        config = padim.PadimConfig()
        backbone = padim.load_backbone("efficientnet_lite0")
        fit_images = np.concatenate([batch.images for batch in load_examples(builder, "train", config, BATCH)])
        model, engine = padim.fit(backbone, [fit_images], config), OneDevice(backbone)
        scorer = padim_scorer(engine, [model], BATCH)
        in_memory: list[Examples] = list(load_examples(builder, "test", config, BATCH))

        def decode() -> None:
            for _ in load_examples(builder, "test", config, BATCH):
                pass

        def compute() -> None:
            evaluate.score_batches(scorer, in_memory)

        def both() -> None:
            evaluate.score_batches(scorer, load_examples(builder, "test", config, BATCH))

        compute()  # compiles
        seconds: dict[str, list[float]] = {"decode": [], "compute": [], "both": []}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in seconds}  # of all threads
        for _ in range(options.rounds):
            for name, work in (("decode", decode), ("compute", compute), ("both", both)):
                start, cpu = time.perf_counter(), time.process_time()
                work()
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - cpu)
    facts = {name: version(name) for name in ("padim-jax", "jax", "jaxlib", "pillow", "grain")} | {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "images": IMAGES,
        "mb_per_image": round(size, 2),
    }
    median, cpu = medians(seconds), medians(cpu_seconds)
    for name, values in seconds.items():
        row = {"work": name, "seconds": round(median[name], 2), "all": [round(value, 2) for value in values]}
        print(json.dumps(row | {"cpu_seconds": round(cpu[name], 2)} | facts))
    floor = (cpu["decode"] + cpu["compute"]) / (os.cpu_count() or 1)
    print(f"one after the other {median['decode'] + median['compute']:.2f} s, both together {median['both']:.2f} s; ")
    print(f"with every core busy throughout it would be {floor:.2f} s")
    ratio = median["both"] / max(median["decode"], median["compute"])
    print(f"both together: {ratio:.2f} times the longer of the two alone, {IMAGES / median['both']:.1f} images/s")
    return int(ratio > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
