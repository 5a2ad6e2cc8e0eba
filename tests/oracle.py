"""PaDiM in slow, obvious float64 NumPy: what the fast code is held against."""

import numpy as np
import scipy.ndimage

import padim_jax as padim
from padim_jax.method.embedding import Embedding


def embeddings(
    backbone: padim.Backbone, embedding: Embedding, images: np.ndarray, projection: np.ndarray | None = None
) -> np.ndarray:
    """(n, h, w, d): normalise, run the network, average, upsample every channel, concatenate, select or project."""
    mean, std = np.array(backbone.spec.mean), np.array(backbone.spec.std)
    normalised = ((images / 255 - mean) / std).astype(np.float32)
    taps = padim.extract(backbone, normalised, embedding.taps)
    height, width = embedding.grid
    parts = []
    for name in embedding.taps:
        tap = neighbourhood_means(np.asarray(taps[name], np.float64), embedding.neighbourhood)
        grown = np.empty((len(images), height, width, tap.shape[3]))
        for i in range(height):
            for j in range(width):
                grown[:, i, j] = tap[:, i * tap.shape[1] // height, j * tap.shape[2] // width]
        parts.append(grown)
    chosen = np.concatenate(parts, axis=-1)[..., list(embedding.channels)]
    return chosen if projection is None else chosen @ np.asarray(projection, np.float64)


def neighbourhood_means(tap: np.ndarray, side: int) -> np.ndarray:
    """Mean of the cells within a square of ``side`` around each, as far as there are cells."""
    reach, out = side // 2, np.empty_like(tap)
    for i in range(tap.shape[1]):
        for j in range(tap.shape[2]):
            square = tap[:, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            out[:, i, j] = square.mean(axis=(1, 2))
    return out


def distance_grid(train: np.ndarray, test: np.ndarray, ridge: float) -> np.ndarray:
    """(n, h, w) Mahalanobis distances of ``test`` embeddings under Gaussians of ``train`` embeddings."""
    n, height, width, d = test.shape
    out = np.empty((n, height, width))
    for i in range(height):
        for j in range(width):
            x = train[:, i, j]
            covariance = np.cov(x, rowvar=False, ddof=1).reshape(d, d) + ridge * np.eye(d)
            inverse = np.linalg.inv(covariance)
            for k in range(n):
                difference = test[k, i, j] - x.mean(axis=0)
                out[k, i, j] = np.sqrt(difference @ inverse @ difference)
    return out


def upsample_bilinear(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One map by the textbook formula: half-pixel centres, clamped at the edges."""
    height, width = grid.shape
    out = np.empty(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
            i, j = int(v), int(u)
            below, right = min(i + 1, height - 1), min(j + 1, width - 1)
            a, b = v - i, u - j
            top = grid[i, j] * (1 - b) + grid[i, right] * b
            bottom = grid[below, j] * (1 - b) + grid[below, right] * b
            out[y, x] = top * (1 - a) + bottom * a
    return out


def anomaly_maps(grids: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """(n, height, width): upsampled, then blurred by SciPy."""
    maps = [scipy.ndimage.gaussian_filter(upsample_bilinear(grid, size), sigma, mode="reflect") for grid in grids]
    return np.stack(maps)
