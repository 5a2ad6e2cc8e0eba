"""Parts on a line: alike but for noise, some with a defect; a model of the good ones, and videos of them."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

import padim_jax as padim
from padim_jax.line.judge import Judge
from padim_jax.line.verdict import Rates
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


def open_judge(model: Path) -> Judge:
    """A judge that is ready, for tests that leave the model alone."""
    judge = Judge(model, Rates(None, 0.2), batch_size=4)
    judge.warm_up()
    return judge


def write_frames(path: Path, frames: np.ndarray, times: Sequence[int] | None = None) -> Path:
    """Write frames (n, height, width, 3) as a video without loss; ``times`` in ms, or one frame each 40 ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream("ffv1", rate=25))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = "bgr0", Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = times[index] if times else index * 40, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
