"""Photos of awkward sizes, and the ways to read them, for readers of photos in other languages."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim

# width and height: smaller and larger than the image size, of either orientation, far from square; of the last one, a
# box whose length single precision rounds matters
SIZES = [(300, 200), (97, 61), (56, 40), (64, 64), (48, 47), (70, 1200), (1000, 701), (506, 703)]


def npm_packages(*names: str) -> Path:
    """The folder of packages of npm that the environment names; skips where it names none, or lacks one of these."""
    folder = Path(os.environ.get("NPM_PACKAGES", "nowhere")) / "node_modules"
    if missing := [name for name in names if not (folder / name).is_dir()]:
        pytest.skip(f"compares with Node.js: NPM_PACKAGES names no folder in which npm installed {missing[0]}")
    return folder


def photo(size: tuple[int, int]) -> np.ndarray:
    """Noise over blocks, uint8 (height, width, 3)."""
    rng = np.random.default_rng(size[0])
    width, height = size
    coarse = rng.integers(0, 256, (-(-height // 12), -(-width // 12), 3)).repeat(12, 0).repeat(12, 1)
    return np.clip(coarse[:height, :width] + rng.integers(-40, 41, (height, width, 3)), 0, 255).astype(np.uint8)


def write_with_gamma(path: Path, pixels: np.ndarray) -> None:
    """A PNG that says its pixels are linear, which padim does not heed."""
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, "PNG")
    content = plain.getvalue()
    chunk = b"gAMA" + struct.pack(">I", 100000)
    end = 8 + 25  # the signature and the header
    path.write_bytes(
        content[:end] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[end:]
    )


def readings() -> Iterator[padim.PadimConfig]:
    """Every way to resize, to two sizes."""
    for resize in ("stretch", "shorter-side", "pad"):
        for interpolation in ("bilinear", "bicubic"):
            for image_size, crop_size in (((40, 56), (32, 48)), ((48, 48), (33, 33))):
                yield padim.PadimConfig(
                    image_size=image_size, crop_size=crop_size, resize=resize, interpolation=interpolation
                )
