"""Question: at which size the network should see an image, and which network should.

    python benchmarks/resolution.py DIR [DIR ...]                # folders in MVTec AD's layout
    python benchmarks/resolution.py DIR --sizes 224 260 --backbones efficientnet_lite0 efficientnet_lite2

A size is the side to which the whole image is resized; 256/224 resizes it to 256 pixels and sees the middle 224. Beside
each folder's own defects, two kinds are drawn on its good test images as ``masks.py`` draws them, each kind judged
with the good test images: scratches, 1 % of the shorter side wide and 8 % long, and specks, 0.5 % and 2 %. One model a
folder, calibrated by leaving each good image out. A folder is left out at sizes that its photos do not have.

Prints a table of quality: image AUROC (pixel AUROC, PRO, where there are masks; at the crop's own pixels), then the
share of defective and, after the slash, of good images above the threshold for 5 % false alarms; and a table of the
price: seconds of a fit on 32 images in memory, milliseconds an image for batches of 1 and of 16, the least of several
turns that all settings take in alternation, and megabytes of means and factors. With --out it writes every run as JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from alternate import alternate, facts
from lite0_local import DataSet
from masks import write_scratches
from sharper import BATCH, fit, judge, read_folder, read_tests

import padim_jax as padim
from padim_jax.images import find_images
from padim_jax.images.image import measure
from padim_jax.presets import preset

SIZES = ["224", "256/224", "320", "384", "448", "512"]
DRAWN = {"scratches": (0.01, 0.08), "specks": (0.005, 0.02)}  # width and length over the shorter side
FIT_IMAGES = 32  # of the timed fit


def with_size(config: padim.PadimConfig, size: str) -> padim.PadimConfig:
    """Settings with a size of the command line."""
    image_size, _, crop_size = size.partition("/")
    return replace(config, image_size=int(image_size), crop_size=int(crop_size or image_size))


def read_sets(folder: Path, config: padim.PadimConfig, drawn: Sequence[str]) -> list[DataSet]:
    """A folder with its own defects and with each kind that is drawn; none where its photos are too small."""
    photo = measure(find_images([folder / "train" / "good"]).paths[0])
    if min(photo) < max(config.crop):
        return []
    own = read_folder(folder, config)
    good = own.images[~own.labels]
    sets = [own]
    for name in drawn:
        width, length = DRAWN[name]
        with tempfile.TemporaryDirectory() as place:
            images, _, masks = read_tests(write_scratches(Path(place), folder, width=width, length=length), config)
        assert masks is not None
        labels = np.arange(len(good) + len(images)) >= len(good)
        all_masks = np.concatenate([np.zeros((len(good), *config.crop), bool), masks])
        sets.append(DataSet(f"{folder.name}, {name}", own.fit, np.concatenate([good, images]), labels, all_masks))
    return sets


def time_all(sides: Sequence[tuple[padim.Backbone, padim.PadimConfig]], rounds: int) -> list[dict[str, float]]:
    """What each side costs: the least of its turns."""
    works: dict[str, Callable[[], object]] = {}
    sizes = list[int]()
    for number, (backbone, config) in enumerate(sides):
        pixels = np.random.default_rng(0).integers(0, 256, (FIT_IMAGES, *config.crop, 3), np.uint8)
        model = padim.fit(backbone, [pixels[:BATCH], pixels[BATCH:]], config)
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(model.gaussian)))
        if config.is_standardised:
            model = padim.calibrate(model, [pixels[:BATCH], pixels[BATCH:]])
        for batch in (1, BATCH):
            works[f"{number}: score {batch}"] = partial(_score, model, pixels[:batch])
        works[f"{number}: fit"] = partial(_fit, backbone, [pixels[:BATCH], pixels[BATCH:]], config)
    least = {name: min(seconds) for name, seconds in alternate(works, rounds).items()}
    return [
        {
            "fit_seconds": round(least[f"{number}: fit"], 2),
            "ms_1": round(1000 * least[f"{number}: score 1"], 1),
            "ms_16": round(1000 * least[f"{number}: score {BATCH}"] / BATCH, 1),
            "megabytes": round(size / 1e6, 1),
        }
        for number, size in enumerate(sizes)
    ]


def _score(model: padim.Padim, images: np.ndarray) -> None:
    jax.tree.map(np.asarray, padim.score(model, images))


def _fit(backbone: padim.Backbone, batches: Sequence[np.ndarray], config: padim.PadimConfig) -> None:
    jax.block_until_ready(padim.fit(backbone, batches, config))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Sizes of images, and networks.")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--backbones", nargs="+", default=["efficientnet_lite0"], choices=padim.BACKBONES)
    parser.add_argument("--presets", nargs="+", default=["lite0-local"], help="whose settings are taken (%(default)s)")
    parser.add_argument("--drawn", nargs="*", default=list(DRAWN), choices=DRAWN, help="defects beside a folder's own")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side for its price; 0 leaves it out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    backbones = {name: padim.load_backbone(name) for name in options.backbones}
    rows = list[dict[str, Any]]()
    for size in options.sizes:
        for folder in options.folders:
            sets = read_sets(folder, with_size(padim.PadimConfig(), size), options.drawn)
            for name in options.presets if sets else ():
                config = with_size(preset(name).members[0], size)
                for backbone in backbones.values():
                    model, _ = fit(sets[0], backbone, config)
                    for data in sets:
                        key = {"backbone": backbone.spec.name, "preset": name, "size": size, "data": data.name}
                        rows.append(key | judge(model, data) | facts())
                        print(describe(rows[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sides = [(b, n, s) for b in backbones for n in options.presets for s in options.sizes]
    settings = [(backbones[b], with_size(preset(n).members[0], s)) for b, n, s in sides]
    for side, price in zip(sides, time_all(settings, options.rounds) if options.rounds else (), strict=False):
        print("| " + " | ".join(map(str, (*side, *price.values()))) + " |")
    return 0


def describe(row: dict[str, Any]) -> str:
    """A line of the table of quality."""
    pixels = "" if row["pixel_auroc"] is None else f" ({row['pixel_auroc']:.3f}, {row['pro']:.3f})"
    found = f"{row['found_at_0.05']:.0%} / {row['false_alarms_at_0.05']:.0%}"
    setting = " | ".join(row[key] for key in ("backbone", "preset", "size", "data"))
    return f"| {setting} | {row['image_auroc']:.3f}{pixels}; {found} |"


if __name__ == "__main__":
    sys.exit(main())
