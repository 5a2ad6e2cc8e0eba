"""Question: how often does drift give a false alarm, and how soon is a change of the camera or the light found.

    python benchmarks/drift.py DIR [DIR ...]                      # folders in MVTec AD's layout
    python benchmarks/drift.py pill_qc/ --runs 10 --align none    # and solar cells, where elpv-dataset is installed
    python benchmarks/drift.py DIR [DIR ...] --grids --runs 6

Of each set, a model is fitted on one half of the good images, at most 150, and the other half is drawn from, again and
again, as a line's images in any order: real images of real parts, though few, so that many come twice. The false alarms
of 200 such lines of 500 images, and of 200 generated ones, whose quantities depend on each other, are counted at a
stated rate of 5 %. Then, after 1000 images, each further one is seen with a lamp 5 % darker, shifted by 3 of the 256
pixels that are seen, or blurred by a standard deviation of 1 of them; the images until the alarm are counted, at a rate
of 1 %, and the days at 1000 images a day. Models take parts as they lie, or align them by shifts. Prints what a look at
an image adds to a decision, a row for each set, and exits 1 where there are more alarms than the rate gives with a
probability of 99.9 %. With --grids it compares grids of places and statistics of the map in each, by the images until
places alone alarm, for the shift and a stain on the lens.
"""

import argparse
import hashlib
import importlib.util
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from alternate import Row, show, split_batches
from PIL import Image, ImageFilter
from scipy.stats import binom

import padim_jax as padim
from padim_jax.data.elpv import demo_split
from padim_jax.images.decode import open_image, read_file
from padim_jax.images.image import centre_crop, resize
from padim_jax.line.appearance import Appearance, complete, measure
from padim_jax.line.drift import QUANTITIES, Drift, find_drifts
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.martingale import Martingale
from padim_jax.line.ranks import Ranks
from padim_jax.line.records import Scored
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates

MOST, BEFORE, LONGEST, A_DAY = 150, 1000, 1000, 1000  # images
RATE, STRICT = 0.05, 0.01
CONFIG = padim.PadimConfig()


def dark(image: Image.Image) -> Image.Image:
    """A lamp that gives 5 % less."""
    return image.point([round(0.95 * value) for value in range(256)] * 3)


def moved(image: Image.Image) -> Image.Image:
    """A camera that was moved by 3 pixels; what comes in lies beyond what is seen."""
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 3, 0, 1, 0))


def blurred(image: Image.Image) -> Image.Image:
    """A lens out of focus."""
    return image.filter(ImageFilter.GaussianBlur(1))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {"darker": dark, "shifted": moved, "blurred": blurred}


def good_images(folder: Path | None) -> list[Image.Image]:
    """The good images of a set, as they are before the middle is cut out; of solar cells where there is no folder."""
    if folder is None:
        split = demo_split()
        paths = sorted([*split.fit, *split.good])
    else:
        paths = sorted([*folder.glob("train/good/*"), *folder.glob("test/good/*")])
    order = np.random.default_rng(0).permutation(len(paths))[: 2 * MOST]
    return [resize(paths[i], open_image(paths[i], read_file(paths[i]), lambda _, text: None), CONFIG) for i in order]


def seen(images: list[Image.Image]) -> np.ndarray:
    """What the network sees."""
    return np.stack([np.asarray(centre_crop(image, CONFIG)) for image in images])


def look(model: padim.Padim, pixels: np.ndarray) -> list[Scored]:
    """What a store would keep of images."""
    found, turns = list[Scored](), model.config.align == "rigid"
    for batch in split_batches(pixels, 16):
        scores = padim.score(model, np.concatenate([batch, batch[:1].repeat(16 - len(batch), 0)]))
        maps, values, poses = np.asarray(scores.anomaly_map), np.asarray(scores.image_score), scores.poses
        for index, image in enumerate(batch):
            pose = None
            if poses is not None:
                pose = float(poses.angle[index]), float(poses.shift[index, 0]), float(poses.shift[index, 1])
            appearance = complete(measure(image), maps[index], pose, turns=turns)
            found.append(Scored(0, "", "", "s", "m", "m", float(values[index]), appearance))
    return found


def drawn(rng: np.random.Generator, pool: list[Scored], count: int, run: object, start: int = 0) -> list[Scored]:
    """Images of a line, in an order of their own."""
    return [
        replace(pool[i], sequence=start + n + 1, id=hashlib.sha256(f"{run} {start + n}".encode()).hexdigest())
        for n, i in enumerate(rng.integers(len(pool), size=count))
    ]


def generated(rng: np.random.Generator, count: int) -> list[Scored]:
    """Images whose quantities depend on each other, and are distributed in many ways."""
    numbers = rng.normal(size=(count, len(QUANTITIES))) + rng.normal(size=(count, 1)) * rng.random(len(QUANTITIES))
    numbers[:, ::2] = np.exp(numbers[:, ::2])
    return [
        Scored(0, "", "", "s", "m", "m", row[0], Appearance(*row[1:7], places=tuple(row[7:])))
        for row in numbers.tolist()
    ]


def alarmed(decisions: list[Scored], rate: float) -> Drift:
    """What is said of a line."""
    (drift,) = find_drifts(decisions, rate)
    return drift


def false_alarms(name: str, line: Callable[[np.random.Generator], list[Scored]], runs: int) -> Row:
    """How many of some lines that stay as they are give an alarm."""
    count = sum(bool(alarmed(line(np.random.default_rng(run)), RATE).alarms) for run in range(runs))
    return {"set": name, "runs": runs, "alarms": count, "rate": count / runs, "at_most": binom.ppf(0.999, runs, RATE)}


def detections(name: str, align: str, states: dict[str, list[Scored]], runs: int) -> Iterator[Row]:
    """Images until the alarm, for each change."""
    for change in CHANGES:
        waits, first = list[float](), Counter[str]()
        for run in range(runs):
            rng = np.random.default_rng(run)
            decisions = drawn(rng, states["good"], BEFORE, run) + drawn(rng, states[change], LONGEST, run, BEFORE)
            found = [one for one in alarmed(decisions, STRICT).alarms if one.at.sequence > BEFORE]
            if not found:
                waits.append(np.inf)
                continue
            waits.append(found[0].at.sequence - BEFORE)
            way = "+" if found[0].is_higher else "-"
            first[f"{found[0].quantity.kind}{way}"] += 1
        middle, late = np.quantile(waits, [0.5, 0.9], method="higher")
        told = ", ".join(f"{kind} {count}" for kind, count in first.most_common(3))
        yield {"set": name, "align": align, "change": change, "found": float(np.isfinite(waits).mean())} | {
            "images": float(middle), "images_90": float(late), "days": float(middle / A_DAY), "first": told
        }  # fmt: skip


def stained(image: Image.Image) -> Image.Image:
    """Dirt on the lens: a spot of some 16 pixels, darker by up to 10 %."""
    pixels = np.asarray(image, np.float32)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    spot = np.exp(-(((y - 150) / 8) ** 2) - ((x - 150) / 8) ** 2)
    return Image.fromarray(np.round(pixels * (1 - 0.1 * spot[..., None])).astype(np.uint8))


def grids(name: str, model: padim.Padim, images: list[Image.Image], runs: int) -> Iterator[Row]:
    """Images until places alone alarm, for several grids and statistics of the map in each place."""

    def maps(alter: Callable[[Image.Image], Image.Image]) -> np.ndarray:
        batches = split_batches(seen([alter(image) for image in images]), 16)
        return np.concatenate([np.asarray(padim.score(model, batch).anomaly_map) for batch in batches])

    states = {"good": maps(lambda image: image), "shifted": maps(moved), "stained": maps(stained)}
    for side, (statistic, fold) in product((4, 8), {"mean": np.mean, "maximum": np.max}.items()):
        places = {
            state: fold(found.reshape(len(found), side, found.shape[1] // side, side, -1), axis=(2, 4)).reshape(
                len(found), -1
            )
            for state, found in states.items()
        }
        row: Row = {"set": name, "grid": side, "statistic": statistic}
        for change in ("shifted", "stained"):
            waits = list[float]()
            for run in range(runs):
                rng = np.random.default_rng(run)
                parts = [places[state][rng.integers(len(images), size=400)] for state in ("good", change)]
                numbers, u = np.concatenate(parts).astype(float), rng.random(800)
                ranks = np.stack([Ranks().add(column, u) for column in numbers.T], axis=1)
                capital = Martingale(side**2).bet(ranks).value[400:] / 8 / side**2
                reached = np.flatnonzero((capital >= 1 / STRICT).any(1))
                waits.append(float(reached[0]) + 1 if len(reached) else np.inf)
            row[change] = float(np.median(waits))
        yield row


def cost(model: padim.Padim, fitted: np.ndarray) -> Row:
    """Milliseconds of a decision, from the bytes of a PNG to the disk, and of a look at what its image is like."""
    model, image = padim.calibrate(model, split_batches(fitted, 16)), Image.fromarray(fitted[0])
    anomaly_map = np.asarray(padim.score(model, fitted[:1]).anomaly_map)[0]
    stream = io.BytesIO()
    image.save(stream, "PNG")
    times: dict[str, list[float]] = {"decision_ms": [], "look_ms": []}
    with tempfile.TemporaryDirectory() as scratch, Store.open(Path(scratch) / "line.db") as store:
        padim.save(replace(model, config=replace(model.config, image_size=model.config.crop_size)), f"{scratch}/m")
        judge = Judge(Path(scratch) / "m", Rates(None, 0.2), batch_size=1)
        judge.warm_up()
        for number in range(100):
            start = time.perf_counter()
            photo = Photo("camera", f"{number}", Path("x"), content=stream.getvalue())
            store.record(one.decision for one in judge.judge([photo]))
            middle = time.perf_counter()
            complete(measure(fitted[0]), anomaly_map, None, turns=False).pack()
            times["decision_ms"].append(1000 * (middle - start))
            times["look_ms"].append(1000 * (time.perf_counter() - middle))
    found = {name: float(np.median(values)) for name, values in times.items()}
    return found | {"share": found["look_ms"] / found["decision_ms"]}


def speed(count: int = 100_000) -> Row:
    """Seconds that a look at many decisions takes."""
    rng = np.random.default_rng(0)
    pool = generated(rng, 1000)
    decisions = drawn(rng, pool, count, "speed")
    start = time.perf_counter()
    alarmed(decisions, STRICT)
    return {"decisions": count, "seconds": time.perf_counter() - start}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="False alarms of drift, and images until a change is found.")
    parser.add_argument("folders", nargs="*", type=Path, help="in MVTec AD's layout")
    parser.add_argument("--runs", type=int, default=20, help="lines of each change (%(default)s)")
    parser.add_argument(
        "--steady", type=int, default=200, help="lines that stay as they are, of each set (%(default)s)"
    )
    parser.add_argument("--align", nargs="*", default=["none", "shift"], help="as of padim fit (%(default)s)")
    parser.add_argument("--grids", action="store_true", help="compare grids of places instead")
    parser.add_argument("--json", type=Path, help="also write the rows of detections to this file")
    options = parser.parse_args()
    sets: dict[str, Path | None] = {folder.name: folder for folder in options.folders}
    if importlib.util.find_spec("elpv_dataset"):
        sets["solar cells"] = None
    backbone = padim.load_backbone("efficientnet_lite0")
    if options.grids:
        rows = list[Row]()
        for name, folder in sets.items():
            images = good_images(folder)
            half = len(images) // 2
            model = padim.fit(backbone, split_batches(seen(images[:half]), 16), CONFIG)
            rows += grids(name, model, images[half:], options.runs)
        show(rows, ["set", "grid", "statistic", "shifted", "stained"], options.json)
        return 0
    show([speed()], ["decisions", "seconds"])
    kept = [false_alarms("generated", lambda rng: drawn(rng, generated(rng, 500), 500, rng.random()), options.steady)]
    rows, costs = list[Row](), list[Row]()
    for name, folder in sets.items():
        images = good_images(folder)
        half = len(images) // 2
        fitted, others = seen(images[:half]), {"good": seen(images[half:])}
        others |= {change: seen([alter(image) for image in images[half:]]) for change, alter in CHANGES.items()}
        for align in options.align:
            model = padim.fit(backbone, split_batches(fitted, 16), replace(CONFIG, align=align))
            states = {state: look(model, pixels) for state, pixels in others.items()}
            pool = states["good"]
            line = f"{name}, {len(pool)} images" + (f", {align}" if align != "none" else "")
            kept.append(false_alarms(line, lambda rng, pool=pool: drawn(rng, pool, 500, rng.random()), options.steady))
            rows += detections(name, align, states, options.runs)
            if not costs:
                costs.append(cost(model, fitted))
            print(line, flush=True)
    show(kept, ["set", "runs", "alarms", "rate", "at_most"])
    show(costs, ["decision_ms", "look_ms", "share"])
    show(rows, ["set", "align", "change", "found", "images", "images_90", "days", "first"], options.json)
    return int(any(row["alarms"] > row["at_most"] for row in kept))


if __name__ == "__main__":
    sys.exit(main())
