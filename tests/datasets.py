"""Data sets drawn on the spot, in the layouts in which the real ones are published."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from PIL import Image

GREY = ("grid", "screw", "zipper")  # the categories that MVTec AD publishes with one channel
DEFECTS = {  # published names of the defect types
    "bottle": "broken_large broken_small contamination",
    "cable": "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation missing_cable missing_wire poke_insulation",
    "capsule": "crack faulty_imprint poke scratch squeeze",
    "carpet": "color cut hole metal_contamination thread",
    "grid": "bent broken glue metal_contamination thread",
    "hazelnut": "crack cut hole print",
    "leather": "color cut fold glue poke",
    "metal_nut": "bent color flip scratch",
    "pill": "color combined contamination crack faulty_imprint pill_type scratch",
    "screw": "manipulated_front scratch_head scratch_neck thread_side thread_top",
    "tile": "crack glue_strip gray_stroke oil rough",
    "toothbrush": "defective",
    "transistor": "bent_lead cut_lead damaged_case misplaced",
    "wood": "color combined hole liquid scratch",
    "zipper": "broken_teeth combined fabric_border fabric_interior rough split_teeth squeezed_teeth",
}
DISTINCT = 4  # images drawn for each folder; the rest are links to them


def write_mvtec(root: Path, category: str, counts: tuple[int, int, int], size: int = 1024) -> Path:
    """Category of MVTec AD: parts on a background, the defective ones with a spot where their mask is white.

    Args:
      root: of the categories.
      category: published name.
      counts: train good, test good, test defective; the last is shared among the defect types.
      size: of the square images, in pixels.

    Returns:
      The category's folder.
    """
    folder = root / category
    defects = DEFECTS[category].split()[: counts[2]]  # no empty folder
    train, good, defective = counts
    write_parts(folder / "train" / "good", None, train, size, category in GREY, seed=0)
    write_parts(folder / "test" / "good", None, good, size, category in GREY, seed=1)
    for index, defect in enumerate(defects):
        count = len(range(index, defective, len(defects)))
        masks = folder / "ground_truth" / defect
        write_parts(folder / "test" / defect, masks, count, size, category in GREY, seed=2 + index)
    return folder


def write_parts(folder: Path, masks: Path | None, count: int, size: int, grey: bool, seed: int) -> None:
    """``000.png``, ``001.png``, ...; defective, with ``000_mask.png`` in ``masks``, if that is given."""
    folder.mkdir(parents=True)
    if masks is not None:
        masks.mkdir(parents=True)
    for index in range(count):
        image = folder / f"{index:03}.png"
        mask = masks / f"{index:03}_mask.png" if masks is not None else None
        if index >= DISTINCT:
            os.link(folder / f"{index % DISTINCT:03}.png", image)
            if masks is not None and mask is not None:
                os.link(masks / f"{index % DISTINCT:03}_mask.png", mask)
            continue
        pixels, spot = part(size, np.random.default_rng([seed, index]), defective=mask is not None)
        drawn = Image.fromarray(pixels)
        (drawn.convert("L") if grey else drawn).save(image, compress_level=1)
        if mask is not None:
            Image.fromarray(np.where(spot, np.uint8(255), np.uint8(0))).save(mask, compress_level=1)


def part(size: int, rng: np.random.Generator, defective: bool) -> tuple[np.ndarray, np.ndarray]:
    """Image (size, size, 3) of a round part, and where its spot is (size, size)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    centre_y, centre_x = 0.5 + rng.uniform(-0.01, 0.01, 2)
    distance = np.hypot(y - centre_y, x - centre_x)
    inside = np.clip((0.35 - distance) * 40, 0, 1)[..., None]
    body = np.stack([120 + 90 * np.cos(9 * distance), 110 + 60 * y, 90 + 60 * x], axis=-1)
    pixels = 40 * (1 - inside) + inside * body + rng.uniform(-6, 6)
    spot = np.zeros((size, size), bool)
    if defective:
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.25)
        radius = rng.uniform(0.03, 0.08)
        spot = np.hypot(y - 0.5 - far * np.sin(angle), x - 0.5 - far * np.cos(angle)) < radius
        pixels[spot] = (235, 235, 60)
    return np.clip(pixels, 0, 255).astype(np.uint8), spot


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Pixels as a file of the kind that the name's suffix says, its folders with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_shanghaitech(
    root: Path, training: Mapping[str, int], testing: Mapping[str, int], size: tuple[int, int] = (64, 48)
) -> Path:
    """ShanghaiTech Campus: a grey square walks; in the middle third of a test video a bright one stands, abnormal.

    Args:
      root: of the data set.
      training: frames of each training video, by name: ``{"01_001": 12}``.
      testing: the same of test videos: ``{"01_0014": 9}``.
      size: of the frames, (width, height) in pixels.

    Returns:
      The data set's folder, ``root``.
    """
    for name, count in training.items():
        write_video(root / "training" / "videos" / f"{name}.avi", [campus_frame(i, size) for i in range(count)])
    for name, count in testing.items():
        abnormal = np.array([count // 3 <= index < 2 * count // 3 for index in range(count)])
        masks = np.zeros((count, size[1], size[0]), np.uint8)
        masks[abnormal, 4:16, 8:24] = 1
        for index in range(count):
            pixels = campus_frame(index, size)
            pixels[masks[index] > 0] = (250, 230, 20)
            write_image(root / "testing" / "frames" / name / f"{index:03}.jpg", pixels)
        for kind, array in (("test_frame_mask", abnormal.astype(np.int8)), ("test_pixel_mask", masks)):
            (root / "testing" / kind).mkdir(parents=True, exist_ok=True)
            np.save(root / "testing" / kind / f"{name}.npy", array)
    return root


def campus_frame(index: int, size: tuple[int, int]) -> np.ndarray:
    """Frame (height, width, 3) with its number as the brightness of a square, 20 + 5 ``index``, to be read back."""
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    left = 24 + index % 16
    pixels[24:40, left : left + 16] = 20 + 5 * index
    return pixels


def write_video(path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4", **options: str) -> Path:
    """Frames as an AVI file of high quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream(codec, rate=24, options={"qmin": "1", "qmax": "2", **options}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path
