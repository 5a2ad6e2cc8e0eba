"""Question: which ingredients find more defects, on real parts that lie still, a little differently, or at any angle.

    python benchmarks/sharper.py DIR [DIR ...]                  # folders in MVTec AD's layout
    python benchmarks/sharper.py DIR --variants lite0-plus pooled --seeds 3 --elpv --generated

A folder has train/good, test/good, other folders under test, and perhaps ground_truth. Each variant is fitted on all
good images, calibrated by leaving each out, and scores the test images. Prints a table: image AUROC (pixel AUROC,
where there are masks), then the share of defective and, after the slash, of good images above the thresholds for 1 %
and 5 % false alarms, which only good images of the fit are asked for; means over the seeds. With --out it writes every
run as JSON, with the numbers that were chosen, seconds of the fit, milliseconds an image and bytes.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from alternate import facts, split_batches
from lite0_local import DataSet, elpv, generated
from misaligned import generate_turned
from PIL import Image

import padim_jax as padim
from padim_jax.data.protocol import Protocol
from padim_jax.evaluation.metrics import PixelScores, image_metrics
from padim_jax.images import find_images, load_batches
from padim_jax.images.image import centre_crop, find_defective, resize_mask
from padim_jax.method.calibration import at_rates
from padim_jax.presets import preset

LOCAL = preset("lite0-local").members[0]
PLUS = preset("lite0-plus").members[0]
POOLED = preset("lite0-pooled").members[0]
SHARED = preset("lite0-shared").members[0]
VARIANTS = {
    "lite0": preset("lite0").members[0],
    "lite0-local": LOCAL,
    "ridge 0.1": replace(LOCAL, ridge=0.1),
    "ridge auto": replace(LOCAL, ridge="auto"),
    "ledoit-wolf": replace(LOCAL, covariance="ledoit-wolf"),
    "pooled": POOLED,
    "standardised": replace(LOCAL, anomaly_map="standardised"),
    "combined": replace(LOCAL, anomaly_map="combined"),
    "pooled, standardised": replace(POOLED, anomaly_map="standardised"),
    "lite0-plus": PLUS,
    "shared": replace(LOCAL, positions="shared"),
    "shared, 16": replace(SHARED, covariance="ridge", prior_images="auto"),
    "shared, 4, pooled": replace(SHARED, n_components=4),
    "shared, 16, pooled": SHARED,
    "shared, 64, pooled": replace(SHARED, n_components=64),
    "lite0, pooled": replace(preset("lite0").members[0], covariance="pooled", ridge="auto"),
    "shifted back": replace(LOCAL, ridge="auto", align="shift"),
    "turned back": replace(LOCAL, ridge="auto", align="rigid"),
    "turned back, standardised": replace(LOCAL, ridge="auto", align="rigid", anomaly_map="standardised"),
    "turned back, pooled, standardised": replace(POOLED, align="rigid", anomaly_map="standardised"),
    "turned back, lite0-plus": replace(PLUS, align="rigid"),
    "top 1 %": replace(LOCAL, image_score="top-1%"),
    "pooled, top 1 %": replace(POOLED, image_score="top-1%"),
    "lite0-plus, top 1 %": replace(PLUS, image_score="top-1%"),
}
RATES = (0.01, 0.05)
BATCH = 16


def at_any_angle(data: DataSet) -> DataSet:
    """The same parts, each turned about the centre by an angle drawn at random, its border mirrored."""
    rng = np.random.default_rng(0)

    def turn(pixels: np.ndarray, angle: float) -> np.ndarray:
        height, width = pixels.shape[:2]
        margin = [(height, height), (width, width)] + [(0, 0)] * (pixels.ndim - 2)
        wide = Image.fromarray(np.pad(pixels, margin, mode="constant" if pixels.ndim == 2 else "reflect"))
        kind = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.BICUBIC
        return np.asarray(wide.rotate(angle, kind))[height : 2 * height, width : 2 * width]

    fit = np.stack(
        [turn(image, angle) for image, angle in zip(data.fit, rng.uniform(0, 360, len(data.fit)), strict=True)]
    )
    angles = rng.uniform(0, 360, len(data.images))
    images = np.stack([turn(image, angle) for image, angle in zip(data.images, angles, strict=True)])
    masks = data.masks
    if masks is not None:
        masks = np.stack([turn(mask, angle) for mask, angle in zip(masks, angles, strict=True)])
    return replace(data, name=f"{data.name}, at any angle", fit=fit, images=images, masks=masks)


def turned() -> DataSet:
    """Generated parts at any angle, some with a scratch."""
    train, test = generate_turned(100, 0, seed=1), generate_turned(60, 60, seed=2)
    return DataSet("turned", train.images, test.images, test.labels, test.masks)


def read_folder(folder: Path, config: padim.PadimConfig = PLUS) -> DataSet:
    """The images of a folder in MVTec AD's layout, as models with the sizes of ``config`` see them."""
    return DataSet(folder.name, read_images(folder / "train" / "good", config)[1], *read_tests(folder, config))


def read_tests(folder: Path, config: padim.PadimConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Test images of a folder in that layout, which of them are defective, and masks where there are any."""
    images, labels, masks = [], [], []
    for kind in sorted(path for path in (folder / "test").iterdir() if path.is_dir()):
        paths, pixels = read_images(kind, config)
        images.append(pixels)
        labels += [kind.name != "good"] * len(paths)
        masks += [read_mask(folder / "ground_truth" / kind.name, path, config) for path in paths]
    has_masks = (folder / "ground_truth").is_dir()
    return np.concatenate(images), np.array(labels), np.stack(masks) if has_masks else None


def read_images(folder: Path, config: padim.PadimConfig) -> tuple[list[Path], np.ndarray]:
    """Paths and pixels of all images below a folder."""
    paths = list(find_images([folder]).paths)
    return paths, np.concatenate([batch.images for batch in load_batches(paths, config, BATCH)])


def read_mask(folder: Path, image: Path, config: padim.PadimConfig) -> np.ndarray:
    """The mask of a test image, as its crop sees it; nothing marked where there is none."""
    found = [path for suffix in ("", "_mask") for path in folder.glob(f"{image.stem}{suffix}.*")]
    if not found:
        return np.zeros(config.crop, bool)
    return find_defective(centre_crop(resize_mask(Image.open(found[0]).convert("L"), config), config))


def measure(data: DataSet, backbone: padim.Backbone, *candidates: padim.PadimConfig) -> dict[str, Any]:
    """One variant on one data set; of several settings its good images choose one."""
    start = time.perf_counter()
    choice = padim.choose(backbone, data.fit, candidates)
    seconds = round(time.perf_counter() - start, 2)
    chosen = {} if len(candidates) == 1 else {"choose_seconds": seconds, "chosen": choice.describe()}
    model, seconds = fit(data, backbone, choice.config)
    return judge(model, data) | {"fit_seconds": seconds} | chosen


def fit(data: DataSet, backbone: padim.Backbone, config: padim.PadimConfig) -> tuple[padim.Padim, float]:
    """A calibrated model of the good images, and the seconds of its fit alone."""
    good = split_batches(data.fit, BATCH)
    start = time.perf_counter()
    model = jax.block_until_ready(padim.fit(backbone, good, config))
    seconds = time.perf_counter() - start
    return padim.calibrate(model, good), round(seconds, 2)


def judge(model: padim.Padim, data: DataSet) -> dict[str, Any]:
    """How well a calibrated model tells the test images apart."""
    assert model.calibration is not None
    scores, pixels, start = list[np.ndarray](), PixelScores(), time.perf_counter()
    for batch, masks in zip(
        split_batches(data.images, BATCH),
        split_batches(data.labels[:, None] if data.masks is None else data.masks, BATCH),
        strict=True,
    ):
        padded = np.pad(batch, [(0, BATCH - len(batch)), (0, 0), (0, 0), (0, 0)])
        result = jax.tree.map(np.asarray, padim.score(model, padded))
        scores.append(result.image_score[: len(batch)])
        for anomaly_map, mask in zip(result.anomaly_map, masks if data.masks is not None else (), strict=False):
            pixels.add(anomaly_map, mask)
    values, found = np.concatenate(scores), None if data.masks is None else pixels.metrics()
    row: dict[str, Any] = {
        "ridge": model.config.ridge,
        "prior_images": model.config.prior_images,
        "image_auroc": image_metrics(data.labels, values).auroc,
        "pixel_auroc": found and found.auroc,
        "pro": found and found.pro,
        "ms_an_image": round(1000 * (time.perf_counter() - start) / len(values), 2),
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model.gaussian)),
    }
    for rate in RATES:
        threshold = float(at_rates(model.calibration, rate, model.calibration.pixel_rate).threshold)
        row[f"found_at_{rate:g}"] = float(np.mean(values[data.labels] > threshold))
        row[f"false_alarms_at_{rate:g}"] = float(np.mean(values[~data.labels] > threshold))
    return row


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Ingredients beyond the paper, each alone and together.")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS, "auto"], choices=[*VARIANTS, "auto"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--elpv", action="store_true", help="solar cells too: mono, mono rotated, poly")
    parser.add_argument("--generated", action="store_true", help="generated parts too")
    parser.add_argument("--any-angle", action="store_true", help="turn every image of the folders at random")
    parser.add_argument("--turned", action="store_true", help="generated parts too that lie at any angle, scratched")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sets = [read_folder(folder) for folder in options.folders]
    sets = [at_any_angle(data) for data in sets] if options.any_angle else sets
    sets += [generated()] * options.generated + [turned()] * options.turned
    if options.elpv:
        protocols = (("mono", "standard"), ("mono", "rotated"), ("poly", "standard"))
        sets += [elpv(kind, Protocol(name)) for kind, name in protocols]  # type: ignore[arg-type]
    backbone, rows = padim.load_backbone("efficientnet_lite0"), list[dict[str, Any]]()
    print("| variant | " + " | ".join(data.name for data in sets) + " |")
    print("| --- |" + " --- |" * len(sets))
    for name in options.variants:
        cells = []
        for data in sets:
            settings = preset("auto").candidates if name == "auto" else (VARIANTS[name],)
            runs = [
                measure(data, backbone, *(replace(config, seed=seed) for config in settings))
                for seed in range(options.seeds)
            ]
            rows += [
                {"variant": name, "data": data.name, "seed": seed} | run | facts() for seed, run in enumerate(runs)
            ]
            cells.append(describe(runs))
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


def describe(runs: list[dict[str, Any]]) -> str:
    """A cell of the table: means over seeds."""

    def mean(key: str) -> float:
        return float(np.mean([run[key] for run in runs]))

    pixel = f" ({mean('pixel_auroc'):.3f})" if runs[0]["pixel_auroc"] is not None else ""
    found = ", ".join(f"{mean(f'found_at_{rate:g}'):.0%} / {mean(f'false_alarms_at_{rate:g}'):.0%}" for rate in RATES)
    return f"{mean('image_auroc'):.3f}{pixel}; {found}"


if __name__ == "__main__":
    sys.exit(main())
