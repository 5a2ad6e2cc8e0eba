"""Images moved into the pose of a reference, and maps moved back: a rotation about the image's centre, then a shift.

Pixels are rounded to bytes, so a pose that is off by rounding changes some of them by a grey level, and a map by up to
2e-3 of its scale. Every device and runtime is to move an image alike, to the last bit: sines and cosines come from a
table, with so few bits that products with them are exact in float32, and images are sampled at 128ths of a pixel.
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Num

ANGLES = 32  # angles in a degree, to which angles are rounded
SAMPLES = 128  # places between two pixels, along either axis, at which images are sampled
_MANTISSA = 24  # bits of a float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Poses:
    """How the parts of n images lie, relative to that of a reference.

    The point p of the reference, as (row, column), lies in the image at ``q = R (p - c) + c + s``, where c is the
    image's centre, ``((height - 1) / 2, (width - 1) / 2)``, s the shift, and ``R = [[cos a, -sin a], [sin a, cos a]]``
    turns by the angle a, counter-clockwise for who looks at the image.

    Attributes:
      angle: a in degrees, from -180 to 180; images are turned by the nearest 32nd of a degree.
      shift: s in pixels, rows and columns.
      quality: how well the image matches the reference, from -1 to 1; 0 where one of both has no edges.
    """

    angle: Float32[Array, " n"]
    shift: Float32[Array, "n 2"]
    quality: Float32[Array, " n"]


@jax.jit
def warp(
    images: Num[Array | np.ndarray, "n height width c"], poses: Poses
) -> tuple[Num[Array, "n height width c"], Bool[Array, "n height width"]]:
    """Move images into the pose of the reference, bilinearly.

    The result at p is the image at ``q = R (p - c) + c + s`` (:class:`Poses`).

    Args:
      images: uint8 or floating-point.
      poses: theirs.

    Returns:
      The images, of the same type, and which of their pixels come from inside the photo. The others are those of the
      photo's border, continued.
    """

    def moved(image: Array, angle: Array, shift: Array) -> tuple[Array, Array]:
        grid, centre = pixel_grid(image.shape[:2]), centre_of(image.shape)
        points = rotate(grid - centre, *rotation(angle, image.shape)) + centre + shift.reshape(1, 1, 2)
        values = bilinear(image, jnp.round(points * SAMPLES) / SAMPLES)
        return (jnp.round(values) if image.dtype == jnp.uint8 else values).astype(image.dtype), _inside(points)

    return jax.vmap(moved)(jnp.asarray(images), poses.angle, poses.shift)


@jax.jit
def unwarp_map(
    maps: Float[Array | np.ndarray, "n height width"], poses: Poses
) -> tuple[Float[Array, "n height width"], Bool[Array, "n height width"]]:
    """Move maps of what :func:`warp` gave back to the images' own pixels, bilinearly.

    The result at q is the map at ``p = Rᵀ (q - c - s) + c`` (:class:`Poses`), the inverse of :func:`warp`.

    Args:
      maps: of the images' size.
      poses: those of the images.

    Returns:
      The maps, 0 where the warped image did not reach, and which of their pixels it reached.
    """

    def moved(values: Array, angle: Array, shift: Array) -> tuple[Array, Array]:
        grid, centre = pixel_grid(values.shape), centre_of(values.shape)
        cosine, sine = rotation(angle, values.shape)
        points = rotate(grid - centre - shift.reshape(1, 1, 2), cosine, -sine) + centre
        inside = _inside(points)
        return jnp.where(inside, bilinear(values[..., None], points)[..., 0].astype(values.dtype), 0), inside

    return jax.vmap(moved)(jnp.asarray(maps), poses.angle, poses.shift)


def turn(points: Float[Array, "height width 2"], angle: Float[Array, ""]) -> Float[Array, "height width 2"]:
    """Turn points about the origin by an angle in degrees: ``R p``, as in :class:`Poses`."""
    return rotate(points, jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle)))


def rotate(
    points: Float[Array, "height width 2"], cosine: Float[Array, ""], sine: Float[Array, ""]
) -> Float[Array, "height width 2"]:
    """Turn points about the origin by the angle of a cosine and a sine."""
    rows, columns = points[..., 0], points[..., 1]
    return jnp.stack([cosine * rows - sine * columns, sine * rows + cosine * columns], axis=-1)


def rotation(angle: Float[Array, ""], shape: tuple[int, ...]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cosine and sine of an angle in degrees, as :func:`rotations` has them for images of a shape."""
    table = jnp.asarray(rotations(shape))
    found = table[jnp.round(angle * ANGLES).astype(jnp.int32) % len(table)]
    return found[0], found[1]


@functools.lru_cache(maxsize=16)
def rotations(shape: tuple[int, ...]) -> Float32[np.ndarray, "angles 2"]:
    """Cosine and sine of all angles, from 0 to below 360 degrees, for images of a shape.

    They have so many bits that ``R p`` is exact in float32 at each pixel p from the centre, half a whole number.
    """
    bits = _MANTISSA - 1 - math.ceil(math.log2(1.5 * max(shape[:2])))
    angles = np.deg2rad(np.arange(360 * ANGLES) / ANGLES)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return (np.round(table * 2**bits) / 2**bits).astype(np.float32)


def pixel_grid(shape: tuple[int, ...]) -> Float32[Array, "height width 2"]:
    """Row and column of each pixel's centre."""
    return jnp.asarray(np.moveaxis(np.indices(shape), 0, -1), jnp.float32)


def bilinear(image: Num[Array, "h w c"], points: Float[Array, "height width 2"]) -> Float32[Array, "height width c"]:
    """Values of an image at points, between its pixels; outside the image, those of its nearest pixels."""
    height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge").reshape(-1, channels)  # each pixel has a next one
    rows, columns = jnp.clip(points[..., 0], 0, height - 1), jnp.clip(points[..., 1], 0, width - 1)
    first = rows.astype(jnp.int32) * (width + 1) + columns.astype(jnp.int32)
    down, across = (rows - jnp.floor(rows))[..., None], (columns - jnp.floor(columns))[..., None]

    def values(offset: int) -> Array:
        return padded.at[first + offset].get(mode="promise_in_bounds").astype(jnp.float32)

    upper = values(0) * (1 - across) + values(1) * across
    lower = values(width + 1) * (1 - across) + values(width + 2) * across
    return upper * (1 - down) + lower * down


def centre_of(shape: tuple[int, ...]) -> Float32[Array, "1 1 2"]:
    """Row and column of an image's centre."""
    return jnp.asarray([[[(shape[0] - 1) / 2, (shape[1] - 1) / 2]]], jnp.float32)


def _inside(points: Float[Array, "height width 2"]) -> Bool[Array, "height width"]:
    """Which points lie on the pixels of an image that has as many."""
    end = jnp.asarray(points.shape[:2], jnp.float32).reshape(1, 1, 2) - 0.5
    return jnp.all((points >= -0.5) & (points <= end), axis=-1)
