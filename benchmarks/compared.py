"""Question: what do the methods that PaDiM is compared with find on real parts, and what do they cost.

    python benchmarks/compared.py DIR [DIR ...]                  # folders in MVTec AD's layout
    python benchmarks/compared.py DIR --methods lite0-plus patchcore:share=0.01 dn2 --elpv --out rows.json
    python benchmarks/compared.py --elpv --methods spade --without-maps

Each preset and each method (as ``padim evaluate --list-methods`` names them) is fitted on all good images with
EfficientNet-Lite0, which sees the whole image at 224 pixels; a method that trains a network of its own sees it at 128,
and is left out on generated parts. ELPV's solar cells are the monocrystalline ones. Thresholds come from good images
alone: a preset leaves each out, a method scores ``--folds`` folds by models of the others, whose maps are not drawn.
Prints a table for each set: image AUROC, pixel AUROC and PRO where there are masks and maps, the share of defective
and, in the next column, of good images above the threshold for 5 % false alarms, seconds of a fit without reading
files, milliseconds an image of a score, and megabytes of the model beside the network. Both times are of all processor
cores together, which other programs on the computer change less than the clock, and without compiling: a fit that takes
under 20 s is run again, and the first batch that is scored doesn't count. SPADE needs seconds for the map of an image:
``--without-maps`` scores images alone, and ``--most N`` takes N good and N defective test images at most, drawn with a
seed. A row says both behind the name of its method. With --out all rows are written as JSON.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from alternate import facts, split_batches
from lite0_local import DataSet, elpv, generated
from sharper import read_folder

import padim_jax as padim
from padim_jax import baselines
from padim_jax.baselines.records import named_arrays
from padim_jax.baselines.registry import parse_method
from padim_jax.data.protocol import STANDARD
from padim_jax.evaluation.detector import padim_scorer
from padim_jax.evaluation.metrics import PixelScores, image_metrics
from padim_jax.method.calibration import calibration
from padim_jax.presets import PRESETS, preset
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fit_method import method_scorer
from padim_jax.runs.folds import FOLDS, deal, score_folds
from padim_jax.runs.scorer import Scorer

BATCH = 16
RATE = 0.05
LITE0 = preset("lite0").members[0]
PATIENCE = 20  # processor seconds: what takes less is run again, so that compiling doesn't count
DEFAULT = ("lite0", "lite0-plus", *baselines.METHODS, "ae:loss=l2")
COLUMNS = {
    "image_auroc": ("image AUROC", "{:.3f}"),
    "pixel_auroc": ("pixel AUROC", "{:.3f}"),
    "pro": ("PRO", "{:.3f}"),
    "found": ("found", "{:.0%}"),
    "alarms": ("alarms", "{:.0%}"),
    "fit_cpu_s": ("fit, CPU s", "{:.2f}"),
    "score_cpu_ms": ("CPU ms an image", "{:.1f}"),
    "mb": ("MB", "{:.3g}"),
}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` gives, and its processor seconds, of a second run where the first takes little."""
    start = time.process_time()
    result = jax.block_until_ready(work())
    seconds = time.process_time() - start
    if seconds > PATIENCE:
        return result, seconds
    del result
    start = time.process_time()
    return jax.block_until_ready(work()), time.process_time() - start


def measure_preset(name: str, data: DataSet, backbone: padim.Backbone) -> tuple[Scorer, float | None, dict[str, Any]]:
    """A preset's scorer, its threshold, and what it costs."""
    config, good = preset(name).members[0], split_batches(data.fit, BATCH)
    fitted, seconds = timed(lambda: padim.fit(backbone, good, config))
    model = padim.calibrate(fitted, good, false_alarm_rate=RATE)
    assert model.calibration is not None
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.gaussian))
    scorer = padim_scorer(OneDevice(backbone), [model], BATCH)
    return scorer, float(model.calibration.threshold), {"fit_cpu_s": seconds, "mb": size / 1e6}


def measure_method(
    text: str, data: DataSet, backbone: padim.Backbone, *, n_folds: int, maps: bool
) -> tuple[Scorer, float | None, dict[str, Any]]:
    """A method's scorer, its threshold, and what it costs."""
    found, own = parse_method(text)
    settings = found.settings(config=found.shared(LITE0, {}), **own)
    model, seconds = timed(lambda: found.fit(backbone, split_batches(data.fit, BATCH), settings))
    threshold = None
    if n_folds:
        scores, pixels = score_folds(
            deal(len(data.fit), n_folds, settings.config.seed),
            lambda among: iter(split_batches(data.fit[list(among)], BATCH)),
            lambda batches: image_scorer(found, found.fit(backbone, batches, settings)),
        )
        threshold = float(calibration(scores, pixels.counts, "folds", RATE).threshold)
    size = sum(array.nbytes for array in named_arrays(model).values())
    scorer = method_scorer(found, model, BATCH) if maps else image_scorer(found, model)
    return scorer, threshold, {"fit_cpu_s": seconds, "mb": size / 1e6}


def image_scorer(found: baselines.Method, model: Any) -> Scorer:
    """Scores of images alone: what only their maps need is not computed."""
    program = jax.jit(lambda model, images: found.score(model, images).image_score)
    return Scorer(lambda images: (program(model, images), None), BATCH)


def judge(scorer: Scorer, threshold: float | None, data: DataSet) -> dict[str, Any]:
    """How well a scorer tells the test images apart, and how long it takes for one of a batch."""
    scores, pixels, has_maps, times = list[float](), PixelScores(), False, list[float]()
    batches = split_batches(data.images, BATCH)
    masks = split_batches(data.labels[:, None] if data.masks is None else data.masks, BATCH)
    for batch, mask in zip(batches, masks, strict=True):
        start = time.process_time()
        values, maps = scorer.finish(scorer.start(batch), len(batch))
        times.append(time.process_time() - start)
        scores += values.tolist()
        has_maps = maps is not None and data.masks is not None
        for anomaly_map, one in zip(maps if has_maps else (), mask, strict=False):  # type: ignore[arg-type]
            pixels.add(anomaly_map, one)
    found = pixels.metrics() if has_maps else None
    values = np.asarray(scores)
    shares = (
        [None, None]
        if threshold is None
        else [float(np.mean(values[kind] > threshold)) for kind in (data.labels, ~data.labels)]
    )
    return {
        "image_auroc": image_metrics(data.labels, values).auroc,
        "pixel_auroc": found and found.auroc,
        "pro": found and found.pro,
        "found": shares[0],
        "alarms": shares[1],
        "score_cpu_ms": 1000 * statistics.median(times[1:] or times) / scorer.size,
    }


def at_most(data: DataSet, most: int | None) -> DataSet:
    """The same set with ``most`` good and ``most`` defective test images, drawn with a seed; all for None."""
    if most is None:
        return data
    rng = np.random.default_rng(0)
    kinds = (np.flatnonzero(data.labels), np.flatnonzero(~data.labels))
    kept = np.sort(np.concatenate([rng.permutation(kind)[:most] for kind in kinds]))
    masks = None if data.masks is None else data.masks[kept]
    return replace(data, images=data.images[kept], labels=data.labels[kept], masks=masks)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Other methods than PaDiM, with one network.")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--methods", nargs="+", default=DEFAULT, help="presets, and methods as NAME:SETTING=VALUE")
    parser.add_argument("--elpv", action="store_true", help="solar cells too")
    parser.add_argument("--generated", action="store_true", help="generated parts too")
    parser.add_argument("--folds", type=int, default=FOLDS, help="for thresholds of methods; 0 for none (%(default)s)")
    parser.add_argument("--most", type=int, metavar="N", help="take N good and N defective test images at most")
    parser.add_argument("--without-maps", action="store_true", help="score images alone by methods")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    backbone, rows = padim.load_backbone("efficientnet_lite0"), list[dict[str, Any]]()
    sets: list[Callable[[padim.PadimConfig], DataSet]] = [partial(read_folder, folder) for folder in options.folders]
    sets += [partial(elpv, "mono", STANDARD)] * options.elpv
    for read in [*sets, *[None] * options.generated]:
        data = at_most(generated() if read is None else read(LITE0), options.most)
        n_good = int((~data.labels).sum())
        print(f"\n{data.name}: {len(data.fit)} to fit, {n_good} good and {int(data.labels.sum())} defective\n")
        print("| method | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |")
        print("| --- |" + " ---: |" * len(COLUMNS))
        for name in options.methods:
            seen, note = data, ""
            if name in PRESETS:
                scorer, threshold, costs = measure_preset(name, data, backbone)
            else:
                found, _ = parse_method(name)
                if not found.uses_backbone:
                    if read is None:
                        continue
                    seen = at_most(read(found.shared(LITE0, {})), options.most)
                maps = found.has_map and not options.without_maps
                note = " (images alone)" if found.has_map and not maps else ""
                scorer, threshold, costs = measure_method(name, seen, backbone, n_folds=options.folds, maps=maps)
            row = costs | judge(scorer, threshold, seen)
            shown = name + note + ("" if options.most is None else f" (of {len(seen.labels)} images)")
            rows.append({"data": data.name, "method": shown, "folds": options.folds} | row | facts())
            cells = ["–" if row[key] is None else form.format(row[key]) for key, (_, form) in COLUMNS.items()]
            print(f"| {shown} | " + " | ".join(cells) + " |", flush=True)
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
