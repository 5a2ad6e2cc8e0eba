"""Question: which masks hug defects best, of several blurs and thresholds.

    python benchmarks/masks.py                                # generated parts, aligned and not
    python benchmarks/masks.py FOLDER … --preset lite0-plus   # categories in MVTec AD's layout besides

Of each folder that has masks its own defects are taken; of each folder also small scratches, drawn on the good test
images: a line of 1 % of the shorter side wide and 8 % long, 100 grey levels brighter or darker than the photo.
One model a set; it is calibrated anew for each standard deviation σ of the blur, all at one pixel rate. "Half" is
what ``padim score --tight-masks`` marks: inside each region above the pixel threshold, what reaches half of the way
from the good pixels' median to the region's peak. All in the photos' own pixels: the intersection over union of masks
with the true ones, of all defective images together and as the mean over them; the median of mask area over true area
among those where anything is marked; the share of true regions that a mask touches; and the share of the good test
images' pixels that are marked. Prints a table and one JSON line per row.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from misaligned import generate
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage

import padim_jax as padim
from padim_jax.images import find_images, mask_to_original
from padim_jax.presets import preset
from padim_jax.runs.regions import good_level, mask_above
from padim_jax.runs.score import score_files

SIGMAS = (4.0, 2.0, 1.0)


@dataclass
class Overlap:
    """Sums over test images."""

    intersection: int = 0
    union: int = 0
    ratios: list[float] = field(default_factory=list)
    area_ratios: list[float] = field(default_factory=list)
    n_regions: int = 0
    n_found: int = 0
    good_pixels: int = 0
    good_marked: int = 0

    def add(self, mask: np.ndarray, truth: np.ndarray | None) -> None:
        """Take in the mask of an image, with the true one where it is defective."""
        if truth is None:
            self.good_pixels, self.good_marked = self.good_pixels + mask.size, self.good_marked + int(mask.sum())
            return
        both, either = int((mask & truth).sum()), int((mask | truth).sum())
        self.intersection, self.union = self.intersection + both, self.union + either
        self.ratios.append(both / either)
        if mask.any():
            self.area_ratios.append(float(mask.sum() / truth.sum()))
        labels = np.zeros(truth.shape, np.int32)
        ndimage.label(truth, np.ones((3, 3)), output=labels)
        self.n_regions += int(labels.max())
        self.n_found += len(np.unique(labels[mask & truth]))

    def row(self) -> dict[str, float]:
        """What is printed."""
        return {
            "iou": round(self.intersection / self.union, 4),
            "mean_iou": round(float(np.mean(self.ratios)), 4),
            "area_ratio": round(float(np.median(self.area_ratios or [np.nan])), 2),
            "found": round(self.n_found / self.n_regions, 3),
            "good_marked": round(self.good_marked / max(1, self.good_pixels), 5),
        }


def write_generated(folder: Path, play: float) -> Path:
    """Write generated parts in MVTec AD's layout."""
    parts = {"train": generate(100, 0, seed=1, play=play), "test": generate(50, 80, seed=2, play=play)}
    for split, data in parts.items():
        for index, (image, mask, label) in enumerate(zip(data.images, data.masks, data.labels, strict=True)):
            places = {folder / split / ("flaw" if label else "good") / f"{index:03}.png": image}
            if label:
                places[folder / "ground_truth" / "flaw" / f"{index:03}_mask.png"] = mask.astype(np.uint8) * 255
            for place, pixels in places.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place)
    return folder


def write_scratches(folder: Path, category: Path, *, width: float = 0.01, length: float = 0.08) -> Path:
    """Write the good test images of a category with a scratch on each, in MVTec AD's layout.

    ``width`` and ``length`` of the scratches are shares of the shorter side.
    """
    rng = np.random.default_rng(0)
    for index, path in enumerate(find_images([category / "test" / "good"]).paths):
        photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        mask, side = Image.new("L", photo.size), min(photo.size)
        x, y = (rng.uniform(0.35, 0.65, 2) * photo.size).tolist()
        angle, along = rng.uniform(0, np.pi), length * side
        ends = (x, y, x + along * np.cos(angle), y + along * np.sin(angle))
        ImageDraw.Draw(mask).line(ends, fill=255, width=max(1, round(width * side)))
        pixels, marked = np.asarray(photo).astype(int), np.asarray(mask) > 0
        pixels[marked] += 100 if pixels[marked].mean() < 128 else -100
        places = {folder / "test" / "scratch" / f"{index:03}.png": np.clip(pixels, 0, 255)}
        places[folder / "ground_truth" / "scratch" / f"{index:03}_mask.png"] = np.asarray(mask)
        for place, values in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(place)
    return folder


def true_mask(category: Path, path: Path) -> np.ndarray | None:
    """The true mask of a test image; None of a good one."""
    if path.parent.name == "good":
        return None
    place = category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
    return np.asarray(Image.open(place).convert("L")) > 0


def measure(
    backbone: padim.Backbone, good: Sequence[Path], category: Path, config: padim.PadimConfig
) -> Iterator[dict[str, object]]:
    """A row for each way to a mask."""
    fitted, tests = padim.fit(backbone, good, config), find_images([category / "test"]).paths
    for sigma in SIGMAS:
        model = padim.calibrate(replace(fitted, config=replace(fitted.config, sigma=sigma)), good)
        calibration = model.calibration
        assert calibration is not None
        threshold = float(calibration.pixel_threshold)
        overlaps = {"threshold": Overlap(), "half": Overlap()}
        for item in score_files(model, tests, batch_size=16):
            truth = true_mask(category, item.path)
            if truth is not None and not truth.any():
                raise SystemExit(f"{item.path} has an empty mask")
            for name, overlap in overlaps.items():
                mask = mask_above(item.anomaly_map, threshold, good_level(calibration) if name == "half" else None)
                overlap.add(mask_to_original(mask, item.size, model.config), truth)
        for name, overlap in overlaps.items():
            yield {"data": category.name, "sigma": sigma, "masks": name, **overlap.row()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Which masks hug defects best.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--preset", default="lite0")
    options = parser.parse_args(arguments)
    config = preset(options.preset).members[0]
    backbone = padim.load_backbone("efficientnet_lite0")
    facts = {name: version(name) for name in ("padim-jax", "jax")}
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'data':22} {'σ':>3} {'masks':10} {'IoU':>7} {'mean':>7} {'area':>7} {'found':>6} {'good':>8}")
        parts = [write_generated(Path(folder, name), play) for name, play in (("aligned", 0.0), ("misaligned", 1.0))]
        sets = list[tuple[Path, Path]]()
        for category in (*parts, *options.folders):
            sets += [(category, category)] if (category / "ground_truth").is_dir() else []
            sets.append((category, write_scratches(Path(folder, f"{category.name}, scratches"), category)))
        for category, tests in sets:
            good = find_images([category / "train" / "good"]).paths
            for row in measure(backbone, good, tests, config):
                numbers = "{iou:7.3f} {mean_iou:7.3f} {area_ratio:7.2f} {found:6.3f} {good_marked:8.5f}".format(**row)
                print(f"{row['data']:22} {row['sigma']:3g} {row['masks']:10} {numbers}", flush=True)
                print(json.dumps({**row, "preset": options.preset, **facts}))


if __name__ == "__main__":
    main()
