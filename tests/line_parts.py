"""Parts on a line: alike but for noise, some with a defect; and a model of the good ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import padim_jax as padim
from tests.conftest import SMALL, images

SEEN = replace(SMALL, image_size=SMALL.crop_size)  # files of the crop's size are taken as they are


def parts(n: int, seed: int = 0, *, defect: bool = False) -> np.ndarray:
    """Images of one part, each with noise of its own; with a bright square where they have a defect."""
    rng = np.random.default_rng(seed)
    pixels = images(1, SMALL) // 2 + 60 + rng.integers(-12, 13, (n, *SMALL.crop, 3))
    if defect:
        pixels[:, 10:20, 20:32] = rng.integers(200, 256, (n, 10, 12, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def fit_model(folder: Path, *, seed: int = 0, n: int = 24, calibrated: bool = True) -> Path:
    """Write a calibrated model of good parts to ``folder``."""
    good = parts(n, seed)
    model = padim.fit(padim.load_backbone("efficientnet_lite0"), [good], SEEN)
    padim.save(padim.calibrate(model, [good], false_alarm_rate=0.04) if calibrated else model, folder)
    return folder
