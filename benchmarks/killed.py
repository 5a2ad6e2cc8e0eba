"""Question: does a fit of four processes survive the death of one, at any moment.

    python benchmarks/killed.py
    python benchmarks/killed.py --kills 2 --processes 2

Generated images, ``padim fit --num-processes 4`` on loopback, a checkpoint every 8 images. Ten times one of the four
is killed (SIGKILL) at a random moment of a run's length; the others must stop by themselves, saying why, within a
minute, and the same command, run again, must end in the model of one process: the same files, distances to 1e-4. Prints
a row per kill; exits 1 where one went wrong.
"""

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from alternate import Row, judge, show
from PIL import Image

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.artifact.manifest import read_manifest

SETTINGS = ["--n-channels", "20", "--image-size", "96", "--crop-size", "96", "--batch-size", "2", "--no-calibrate"]


def start(good: Path, out: Path, count: int) -> list[subprocess.Popen[str]]:
    """Start all processes of a fit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "padim_jax.cli", "fit", str(good), "--out", str(out), *SETTINGS]
    command += ["--checkpoint-every", "8", "--coordinator", coordinator, "--num-processes", str(count), "--process-id"]
    return [
        subprocess.Popen([*command, str(index)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for index in range(count)
    ]


def _count_finished(folder: Path) -> int:
    """Number of files that an unfinished fit has folded in or skipped."""
    return int(read_manifest(folder)["progress"]["done"]) if (folder / "model.json").exists() else 0


def main() -> int:
    """Kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write rows and facts here")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, rng = random.Random(options.seed), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        good, single, out = (Path(scratch) / name for name in ("good", "single", "out"))
        good.mkdir()
        for index in range(160):
            Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8)).save(good / f"{index:03}.png")
        test = rng.integers(0, 256, (4, 96, 96, 3), np.uint8)
        command = [sys.executable, "-m", "padim_jax.cli", "fit", str(good), "--out", str(single), *SETTINGS]
        subprocess.run(command, check=True, capture_output=True)
        expected_map, images = padim.score(padim.load(single), test).anomaly_map, load_updatable(single).images
        for process in start(good, out, options.processes):  # once to compile
            process.communicate(timeout=300)
        shutil.rmtree(out)
        start_time = time.perf_counter()
        for process in start(good, out, options.processes):
            process.communicate(timeout=300)
        length = time.perf_counter() - start_time
        rows: list[Row] = []
        for kill in range(options.kills):
            shutil.rmtree(out)
            moment, victim = chance.uniform(0, length), chance.randrange(options.processes)
            processes = start(good, out, options.processes)
            time.sleep(moment)
            processes[victim].kill()
            killed_at = time.perf_counter()
            outputs = [process.communicate(timeout=200)[1] for process in processes]
            stopped = time.perf_counter() - killed_at
            codes = [process.returncode for process in processes]
            finished = (out / "model.json").exists()
            kept_files = _count_finished(out.with_name(f"{out.name}.unfinished"))
            all_explained = all(
                code == 0 or "stops, because" in text or "distributed service" in text or "did not find" in text
                for index, (code, text) in enumerate(zip(codes, outputs, strict=True))
                if index != victim
            )
            for process in start(good, out, options.processes):
                process.communicate(timeout=300)
                if process.returncode:
                    print(f"kill {kill}: the restarted fit failed")
            anomaly_map = padim.score(padim.load(out), test).anomaly_map if (out / "model.json").exists() else np.nan
            difference = float(np.abs(np.asarray(anomaly_map) / np.asarray(expected_map) - 1).max())
            same = (out / "model.json").exists() and load_updatable(out).images == images
            rows.append(
                {
                    "kill": kill,
                    "victim": victim,
                    "at_s": moment,
                    "of_s": length,
                    "stopped_after_s": stopped,
                    "in_words": all_explained,
                    "had_finished": finished,
                    "kept_files": kept_files,
                    "apart": difference,
                    "same_files": same,
                }
            )
            print(rows[-1], flush=True)
            if not all_explained:
                print("\n".join(text[-600:] for text in outputs), file=sys.stderr)
        show(rows, list(rows[0]), options.json)
    slowest = max(float(row["stopped_after_s"]) for row in rows)
    right = sum(bool(row["same_files"]) and float(row["apart"]) <= 1e-4 for row in rows)
    return judge(
        [
            ("seconds in a minute over those until all had stopped", 60 / slowest, 1),
            ("kills after which all said why", sum(bool(row["in_words"]) for row in rows), len(rows)),
            ("kills after which the fit went on to the same model", right, len(rows)),
        ]
    )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
