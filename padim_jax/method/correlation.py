"""Correlation of edge images at every shift, by Fourier transforms: one image's with that of another, turned."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex64, Float, Float32, Num

from padim_jax.method.warping import bilinear, pixel_grid, turn

REFUSED = -1.0  # the correlation at shifts that are too large
_SIDE = 112  # pixels, about, of the shorter side of edge images at the fine resolution
_TAPER = 0.15  # share of a side over which the window rises from 0 to 1
FAINT = 1e-4  # share of the image's largest value that a gradient has to exceed; rounding does not


def correlate(
    spectra: Complex64[Array, "a k l"], edges: Float[Array, "h w"], max_shift: float
) -> Float[Array, "a height width"]:
    """Correlation with each reference at every shift, cyclic; ``REFUSED`` at shifts that are too large."""
    shape = padded_shape(edges.shape, max_shift)
    surfaces = jnp.fft.irfft2(spectra * jnp.fft.rfft2(_normalise(edges), s=shape)[None], s=shape)
    rows, columns = (
        np.abs(np.fft.fftfreq(length, 1 / length)) <= max_shift * side
        for length, side in zip(shape, edges.shape, strict=True)
    )
    return jnp.where(jnp.asarray(rows[:, None] & columns)[None], surfaces, REFUSED)


def turned_spectra(
    image: Num[Array, "height width c"], angles: Float[np.ndarray, " a"], factor: int, max_shift: float
) -> Complex64[Array, "a k l"]:
    """Conjugated spectra of the image's edge image turned about the image's centre."""
    edges = edge_image(image, factor)
    grid = pixel_grid(edges.shape)
    centre = jnp.asarray(((np.array(image.shape[:2]) / factor - 1) / 2).reshape(1, 1, 2), jnp.float32)

    def spectrum(angle: Array) -> Array:
        points = turn(grid - centre, -angle) + centre
        inside = jnp.all((points >= 0) & (points <= grid[-1:, -1:]), axis=-1)
        turned = jnp.where(inside, bilinear(edges[..., None], points)[..., 0], 0)
        return jnp.conj(jnp.fft.rfft2(_normalise(turned), s=padded_shape(edges.shape, max_shift)))

    return jax.lax.map(spectrum, jnp.asarray(angles, jnp.float32))


def edge_image(image: Num[Array, "height width c"], factor: int) -> Float32[Array, "h w"]:
    """Windowed edge image of the image's means over ``factor`` × ``factor`` pixels."""
    height, width, channels = image.shape
    pixels = jnp.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge").astype(jnp.float32)
    means = pixels.reshape(-(-height // factor), factor, -(-width // factor), factor, channels).mean(axis=(1, 3))
    x = jnp.pad(means, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth_rows, smooth_columns = x[:-2] + 2 * x[1:-1] + x[2:], x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    down, across = smooth_columns[2:] - smooth_columns[:-2], smooth_rows[:, 2:] - smooth_rows[:, :-2]
    gradient = jnp.sqrt(jnp.sum(down**2 + across**2, axis=-1))
    # the square root keeps outlines from drowning the finer edges that tell a part's angle
    magnitude = jnp.sqrt(jnp.where(gradient > FAINT * jnp.max(jnp.abs(means)), gradient, 0))
    window = jnp.asarray(window_of(magnitude.shape))
    return window * (magnitude - jnp.sum(window * magnitude) / jnp.sum(window))


def shrinking(size: tuple[int, ...]) -> int:
    """Side of the squares whose means are the pixels of the fine resolution."""
    return max(1, round(min(size) / _SIDE))


def window_of(shape: tuple[int, ...]) -> Float32[np.ndarray, "h w"]:
    """What edges are faded out by towards the borders of an edge image."""
    rows, columns = (
        np.sin(np.pi / 2 * np.minimum(1, (0.5 + np.minimum(np.arange(n), np.arange(n)[::-1])) / (_TAPER * n))) ** 2
        for n in shape
    )
    return np.outer(rows, columns).astype(np.float32)


def _normalise(edges: Float[Array, "h w"]) -> Float[Array, "h w"]:
    norm = jnp.sqrt(jnp.sum(edges**2))
    return edges / jnp.where(norm > 0, norm, 1)


def padded_shape(shape: tuple[int, ...], max_shift: float) -> tuple[int, ...]:
    """Shape at which shifts that are allowed do not wrap around, and Fourier transforms are fast."""
    from scipy.fft import next_fast_len  # takes a fifth of a second to import, which images that lie still need not

    lengths = [math.ceil(length * (1 + max_shift)) for length in shape]
    return tuple(int(next_fast_len(length, real=True)) for length in lengths)  # pyright: ignore[reportArgumentType]
