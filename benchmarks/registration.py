"""Question: how exactly and how fast are known shifts and turns of real images found.

    python benchmarks/registration.py bottle/train/good screw/train/good

Good images of each folder are read at 224×224 and each is a reference. Pillow turns and shifts it by poses drawn from
``--seed``, continuing its border outwards, and its brightness and a camera's noise vary. A pose is correct within 1°
and 1 pixel. A part with rotational symmetry has no defined angle: a wrong pose counts too, in a column of its own
(`same`), where the image warped by it is as near to the reference, to half a grey level, as by the true pose.
`ms` is the CPU time of an image with its pose, user and system, `prepare ms` that of a reference, programs compiled.
The range of angles is a whole turn, 15°, and none. Prints a table and one JSON line per row; exits 1 where less than
99 % are correct or an image takes more than 8 ms.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from alternate import Row, judge, show
from PIL import Image

from padim_jax.images import find_images, read_image
from padim_jax.method.registration import estimate_prepared, prepare_reference
from padim_jax.method.warping import Poses, warp
from padim_jax.presets import preset

SHIFT, ANGLES = 25.0, (180.0, 15.0, 0.0)  # pixels; degrees
NOISE, BRIGHTNESS = 3.0, 0.1  # standard deviation in grey levels; share
DEGREE, PIXEL, GREY = 1.0, 1.0, 0.5  # errors up to which a pose is correct, and an image the same
CORRECT, MILLISECONDS = 0.99, 8.0
_MARGIN = 128  # pixels, more than a corner moves outwards


def place(image: np.ndarray, angle: float, shift: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image turned counter-clockwise about its centre, then shifted by (rows, columns)."""
    height, width = image.shape[:2]
    wide = np.pad(image, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), mode="edge")
    turned = Image.fromarray(wide).rotate(angle, Image.Resampling.BICUBIC, translate=(shift[1], shift[0]))
    pixels = np.asarray(turned, np.float64)[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]
    pixels = pixels * rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS) + rng.normal(0, NOISE, (height, width, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def distances(reference: np.ndarray, images: np.ndarray, poses: Poses) -> np.ndarray:
    """Mean difference of each warped image from the reference, in grey levels, inside the photo."""
    moved, inside = (np.asarray(array) for array in warp(images, poses))
    difference = np.abs(moved.astype(np.float64) - reference).mean(axis=-1)
    return np.array([image[mask].mean() for image, mask in zip(difference, inside, strict=True)])


def measure(folder: Path, max_angle: float, options: argparse.Namespace) -> Row:
    """A row: errors and times of one folder's images, turned by up to ``max_angle``."""
    config = preset("lite0").members[0]
    paths = find_images([folder]).paths
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), options.images)).round().astype(int)
    rng = np.random.default_rng(options.seed)
    turned, moved, same, seconds = [], [], [], {"prepare": 0.0, "estimate": 0.0}
    for path in [paths[index] for index in chosen]:
        image = read_image(path, config)
        angles = rng.uniform(-max_angle, max_angle, options.poses)
        shifts = rng.uniform(-SHIFT, SHIFT, (options.poses, 2))
        images = np.stack([place(image, angle, shift, rng) for angle, shift in zip(angles, shifts, strict=True)])
        if not turned:  # compiles
            estimate_prepared(prepare_reference(image, max_angle=max_angle), images)
        start = time.process_time()
        reference = jax.block_until_ready(prepare_reference(image, max_angle=max_angle))
        seconds["prepare"] += time.process_time() - start
        start = time.process_time()
        poses = jax.block_until_ready(estimate_prepared(reference, images))
        seconds["estimate"] += time.process_time() - start
        truth = Poses(jnp.asarray(angles, jnp.float32), jnp.asarray(shifts, jnp.float32), poses.quality)
        turned.append(np.abs((np.asarray(poses.angle) - angles + 180) % 360 - 180))
        moved.append(np.abs(np.asarray(poses.shift) - shifts).max(axis=1))
        same.append(distances(image, images, poses) <= distances(image, images, truth) + GREY)
    turn, shift = np.concatenate(turned), np.concatenate(moved)
    correct = (turn <= DEGREE) & (shift <= PIXEL)
    return {
        "folder": folder.as_posix() if len(folder.parts) < 3 else "/".join(folder.parts[-3:]),
        "max_angle": max_angle,
        "poses": len(correct),
        "correct": float(correct.mean()),
        "same": float((np.concatenate(same) & ~correct).mean()),
        "degrees": float(np.median(turn)),
        "pixels": float(np.median(shift)),
        "ms": 1e3 * seconds["estimate"] / len(correct),
        "prepare ms": 1e3 * seconds["prepare"] / len(turned),
    }


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Errors and times of poses that are known.")
    parser.add_argument("folders", nargs="+", type=Path, help="good images of one kind of part each")
    parser.add_argument("--images", type=int, default=20, help="references of each folder (%(default)s)")
    parser.add_argument("--poses", type=int, default=16, help="drawn for each reference (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the poses (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too, one JSON object a line")
    options = parser.parse_args()
    rows = [measure(folder, max_angle, options) for folder in options.folders for max_angle in ANGLES]
    columns = ["folder", "max_angle", "poses", "correct", "same", "degrees", "pixels", "ms", "prepare ms"]
    show(rows, columns, options.json)
    bounds = [
        bound
        for row in rows
        for bound in (
            (f"{row['folder']}, ±{row['max_angle']:g}°: correct", row["correct"] + row["same"], CORRECT),
            (f"{row['folder']}, ±{row['max_angle']:g}°: {MILLISECONDS:g} ms an image", MILLISECONDS / row["ms"], 1.0),
        )
    ]
    return judge(bounds)


if __name__ == "__main__":
    sys.exit(main())
