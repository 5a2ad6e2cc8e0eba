"""Question: how much longer do many models in one run take than their computations alone.

    python benchmarks/fit_many.py
    python benchmarks/fit_many.py --models 6 --images 20 --rounds 1 --n-channels 20

Generates folders of PNG files of 256×256, one of them with a damaged file. Times, in turns, ``fit_many`` of them all
(read, fit, calibrate, save), in a process that has fitted one before, and what they compute: fit and calibration of
the same images held in memory, one model after the other, by the same programs. Prints a table and one JSON line per
row; exits 1 where any but the damaged one fails, where anything is compiled after the first model, or where the
run takes more than 1.3 times as long as the computations.
"""

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
from alternate import Row, add_options, alternate, judge, medians, show, summary
from PIL import Image

import padim_jax as padim
from padim_jax.fleet import Journal, Outcome, Terms, fit_many
from padim_jax.fleet.tables import Job
from padim_jax.images import find_images, load_batches
from padim_jax.method.fitting import accumulate

LIMIT = 1.3
SIDE = 256  # pixels


def write_jobs(root: Path, models: int, images: int) -> list[Job]:
    """Write a folder of images for each model, the second with a damaged file."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    jobs = []
    for model in range(models):
        good, rng = root / f"good-{model}", np.random.default_rng(model)
        good.mkdir()
        waves = rng.uniform(3, 20, 3)
        body = np.stack([120 + 80 * np.cos(wave * (x + place * y)) for place, wave in enumerate(waves)], axis=-1)
        for index in range(images):
            pixels = np.clip(body + rng.normal(0, 3, body.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(good / f"{index:03}.png", compress_level=3)
        jobs.append(Job(f"part-{model}", good))
    (jobs[1].good / "damaged.png").write_bytes(b"no image")
    return jobs


def run(backbone: padim.Backbone, jobs: list[Job], terms: Terms, out: Path, outcomes: list[Outcome]) -> None:
    """Fit all jobs into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    outcomes[:] = fit_many(backbone, jobs, terms, out, Journal(out))


def compute(backbone: padim.Backbone, parts: list[list[np.ndarray]], terms: Terms) -> None:
    """Do the computations of the jobs."""
    for batches in parts:
        moments = padim.init(backbone, terms.config)
        for later in accumulate(backbone, moments, batches):
            moments = later
        model = padim.calibrate(padim.finalize(backbone, moments), batches)
        jax.block_until_ready(model.gaussian.mean)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Seconds of many models in one run.")
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--images", type=int, default=40, help="of each (%(default)s)")
    parser.add_argument("--n-channels", type=int, default=100)
    add_options(parser, rounds=3)
    options = parser.parse_args()
    backbone = padim.load_backbone("efficientnet_lite0")
    terms = Terms(padim.PadimConfig(n_channels=options.n_channels))
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        jobs, outcomes = write_jobs(root, options.models, options.images), list[Outcome]()
        run(backbone, jobs[:1], terms, root / "first", outcomes)
        compiled_before = len(compiled)
        run(backbone, jobs[1:], terms, root / "models", outcomes)
        compiled_after = len(compiled) - compiled_before
        readable = [find_images([job.good]).paths for job in jobs if job is not jobs[1]]
        parts = [[b.images for b in load_batches(p, terms.config, terms.batch_size)] for p in readable]
        works = {
            "run": partial(run, backbone, jobs, terms, root / "models", outcomes),
            "compute": partial(compute, backbone, parts, terms),
        }
        seconds = alternate(works, options.rounds)
        failed = {outcome.name for outcome in outcomes if outcome.status == "failed"}
    middle = medians(seconds)
    facts = {"models": options.models, "images": options.images, "d": options.n_channels}
    facts["compiled_after_first"] = compiled_after
    rows: list[Row] = [{"work": name} | facts | summary(values) for name, values in seconds.items()]
    show(rows, ["work", "models", "images", "d", "ms", "q1", "q3", "timed", "compiled_after_first"], options.json)
    return judge(
        [
            (f"{LIMIT} times the compute over the run", LIMIT * middle["compute"] / middle["run"], 1.0),
            ("only the damaged one failed", float(failed == {jobs[1].name}), 1.0),
            ("nothing compiled after the first model", float(compiled_after == 0), 1.0),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
