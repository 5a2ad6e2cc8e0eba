"""A tiny random network for the baselines, images for it, and its features by NumPy, slow and obvious."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import padim_jax as padim
from tests.conftest import images

CONFIG = padim.PadimConfig(image_size=(32, 48), crop_size=(32, 48), sigma=1.5)
GOOD, TEST = images(9, CONFIG), images(3, CONFIG, seed=5)
CHANNELS = {"fine": 6, "middle": 5, "coarse": 7}


def _cells(x: jax.Array, side: int) -> jax.Array:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, side, side, 1), (1, side, side, 1), "valid") / side**2


def _network(parameters: Any, x: jax.Array) -> dict[str, jax.Array]:
    fine = jnp.tanh(_cells(x, 4) @ parameters["fine"])  # 8×12 cells
    middle = jnp.tanh(_cells(fine, 2) @ parameters["middle"])  # 4×6
    return {"fine": fine, "middle": middle, "coarse": jnp.tanh(_cells(middle, 2) @ parameters["coarse"])}  # 2×3


def _weights() -> dict[str, np.ndarray]:
    rng, widths = np.random.default_rng(0), (3, *CHANNELS.values())
    shapes = itertools.pairwise(widths)
    return {name: rng.normal(0, 2, shape).astype(np.float32) for name, shape in zip(CHANNELS, shapes, strict=True)}


BACKBONE = padim.own_backbone("tiny", _network, _weights(), image_size=(32, 48))


def activations(pixels: np.ndarray) -> list[np.ndarray]:
    """Of the fine, the middle and the coarse tap, float64."""
    found = padim.extract(BACKBONE, pixels.astype(np.float32) / 255)
    return [np.asarray(found[name], np.float64) for name in CHANNELS]


def pooled(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=(1, 2))


def upsampled(x: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres, cell by cell; beyond the outermost centres the value of these."""
    for axis, length in enumerate(grid, start=1):
        rows = []
        for index in range(length):
            place = np.clip((index + 0.5) * x.shape[axis] / length - 0.5, 0, x.shape[axis] - 1)
            low = int(place)
            high, share = min(low + 1, x.shape[axis] - 1), place - low
            rows.append((1 - share) * x.take(low, axis) + share * x.take(high, axis))
        x = np.stack(rows, axis)
    return x


def local_mean(x: np.ndarray, side: int) -> np.ndarray:
    """Mean over the square around each cell, with zeros outside of the grid."""
    reach = side // 2
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    return windows.mean(axis=(-2, -1))


def rows_of(parts: list[np.ndarray], grid: tuple[int, int]) -> np.ndarray:
    """Patches (n, p, d): all parts on one grid."""
    on_grid = np.concatenate([upsampled(part, grid) for part in parts], axis=-1)
    return on_grid.reshape(len(on_grid), -1, on_grid.shape[-1])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between all rows of both."""
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
