"""Question: what does it cost to align images in an exported program, and how often does it find another pose.

    python benchmarks/aligned_exports.py metal_plate/ pill_qc/

Each folder is in MVTec's layout. Lite0 at d = 100 and 224×224, calibrated, is fitted on its good images as they lie,
shifted and turned back, and exported in 32 bits. ``ms`` is an image from uint8 pixels to score, map, verdict and mask,
sides taking turns; ``cpu_ms`` the processors' time of it, which other load changes less. Then all images are scored by
the program and by the model: ``largest`` is the largest difference of a map, relative to its scale, and ``others`` the
images that are off by more than the certificate's bound, as those whose pose is another. Prints a table and one JSON
line per row; exits 1 where more than 1 % of the images of a folder are others.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from alternate import Row, add_options, alternate, cpu_ms, judge, medians, show

import padim_jax as padim
from padim_jax.export import export_model
from padim_jax.export.compare import BOUND, Run, map_scales
from padim_jax.export.runtimes import open_runtimes
from padim_jax.images import find_images, read_image

MOST_OTHERS = 0.01
_BATCH = 8


def main() -> int:
    """Fit, export, measure, print, judge."""
    parser = argparse.ArgumentParser(description="What aligning costs in exported programs.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--aligns", nargs="+", default=["none", "shift", "rigid"])
    add_options(parser, rounds=5)
    options = parser.parse_args()
    rows: list[Row] = []
    bounds: list[tuple[str, float, float]] = []
    config = padim.PadimConfig(image_size=224, crop_size=224)
    backbone = padim.load_backbone("efficientnet_lite0")
    for place in options.folders:
        good, every = _read(place / "train" / "good", config), _read(place, config)
        for align in options.aligns:
            model = padim.fit(backbone, [good], replace(config, align=align))
            model = padim.calibrate(model, [good])
            with tempfile.TemporaryDirectory() as folder:
                export_model(model, Path(folder, "out"))
                sides = {runtime.name: runtime.run for runtime in open_runtimes(Path(folder, "out"), "onnx")}
            largest = {side: _differences(model, run, every) for side, run in sides.items()}
            works: dict[str, Callable[[], object]] = {
                "padim_jax": lambda model=model, one=every[:1]: padim.score(model, one).anomaly_map.block_until_ready()
            }
            works |= {side: partial(run, every[:1]) for side, run in sides.items()}
            middle = medians(alternate(works, options.rounds, repeats=10, settle=True))
            for side, work in works.items():
                row: Row = {"set": place.name, "align": align, "side": side, "ms": 1e3 * middle[side]}
                row |= {"cpu_ms": cpu_ms(work), "images": len(every)}
                if side in largest:
                    others = int((largest[side] > BOUND).sum())
                    row |= {"others": others, "largest": float(largest[side][largest[side] <= BOUND].max())}
                    bounds.append((f"{place.name}, {align}, {side}", MOST_OTHERS * len(every) / max(1, others), 1))
                rows.append(row)
    show(rows, ["set", "align", "side", "ms", "cpu_ms", "images", "others", "largest"], options.json)
    return judge(bounds)


def _differences(model: padim.Padim, run: Run, images: np.ndarray) -> np.ndarray:
    """Of each image's map, relative to its scale."""
    found = []
    for start in range(0, len(images), _BATCH):
        shown = np.take(images, range(start, start + _BATCH), axis=0, mode="clip")
        maps = np.asarray(padim.score(model, shown).anomaly_map)
        gaps = np.abs(run(shown)["anomaly_map"] - maps).max(axis=(1, 2))
        found.append(gaps / map_scales(model, maps))
    return np.concatenate(found)[: len(images)]


def _read(folder: Path, config: padim.PadimConfig) -> np.ndarray:
    paths = [path for path in find_images([folder]).paths if "ground_truth" not in path.parts]
    return np.stack([read_image(path, config) for path in paths])


if __name__ == "__main__":
    sys.exit(main())
