"""How far the part of each image is turned and shifted against a reference: edge images correlated, coarse to fine."""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex64, Float, Float32, Int, Num

from padim_jax.method.correlation import REFUSED, correlate, edge_image, shrinking, turned_spectra
from padim_jax.method.warping import Poses, warp

_COARSE = 4  # fine angles, which are a degree apart or less, from one coarse angle to the next
REACH = 3  # fine angles on either side of a coarse one that are tried
REFINED = 4  # coarse angles that are refined, besides 0
SAME_QUALITY, CHANCE = 0.01, 0.03  # qualities above the best q - 0.01 - 0.03 (1 - q) may be as good but for noise
FLAT = 0.005  # a quality that varies by less over ±3° does not tell the angle; that of pills varies by 0.01
_MAX_SHIFT = 0.25  # of height and width
REFERENCE_IMAGES = 16  # images that a reference is made of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reference:
    """The edge images of a reference, turned by many angles: what images are correlated with.

    Attributes:
      coarse: conjugated spectra, at half the resolution of ``fine``.
      fine: conjugated spectra, at each angle that can be found.
      size: (height, width) of the reference in pixels; static.
      max_angle: the largest angle that can be found, in degrees; static.
      max_shift: the largest shift that can be found, as a share of height and width; static.
    """

    coarse: Complex64[Array, "coarse_angles k l"]
    fine: Complex64[Array, "fine_angles m o"]
    size: tuple[int, ...] = field(metadata={"static": True})
    max_angle: float = field(metadata={"static": True})
    max_shift: float = field(metadata={"static": True})


def estimate_pose(
    reference: Num[Array | np.ndarray, "height width c"],
    images: Num[Array | np.ndarray, "n height width c"],
    *,
    max_angle: float = 180.0,
    max_shift: float = _MAX_SHIFT,
) -> Poses:
    """Find how the parts of images lie relative to that of a reference image.

    An edge image is the square root of the gradient's magnitude, less its mean, faded out towards the borders. The
    pose is the rotation and the shift at which the correlation of both edge images, ``Σ a b / √(Σ a² Σ b²)``, is
    largest; the correlation is the quality. Of angles that fit equally well, as those of a disc do, it is the smallest.

    Args:
      reference: of the images' size.
      images: uint8 or floating-point.
      max_angle: largest angle that can be found, in degrees; 0 finds shifts alone.
      max_shift: largest shift that can be found, as a share of height and width.

    Raises:
      ValueError: sizes that differ, or bounds out of range.
    """
    return estimate_prepared(prepare_reference(reference, max_angle=max_angle, max_shift=max_shift), images)


@partial(jax.jit, static_argnames=("max_angle", "max_shift"))
def prepare_reference(
    image: Num[Array | np.ndarray, "height width c"], *, max_angle: float = 180.0, max_shift: float = _MAX_SHIFT
) -> Reference:
    """Turn a reference's edge image by all angles, once for all images; arguments as for :func:`estimate_pose`."""
    if not (0 <= max_angle <= 180 and 0 <= max_shift <= 0.5):
        raise ValueError(
            f"prepare_reference: max_angle={max_angle}, max_shift={max_shift}; wanted an angle from 0 to 180 degrees "
            "and a share from 0 to 0.5"
        )
    image, angles = jnp.asarray(image), Angles.up_to(max_angle)
    factor = shrinking(image.shape[:2])
    coarse = turned_spectra(image, angles.fine[angles.coarse], 2 * factor, max_shift)
    fine = turned_spectra(image, angles.fine, factor, max_shift)
    return Reference(coarse, fine, image.shape[:2], max_angle, max_shift)


@jax.jit
def estimate_prepared(reference: Reference, images: Num[Array | np.ndarray, "n height width c"]) -> Poses:
    """Find poses as :func:`estimate_pose` does, against a reference from :func:`prepare_reference`.

    Raises:
      ValueError: images of another size than the reference.
    """
    return estimate_with_shifts("estimate_prepared", reference, images)[0]


@partial(jax.jit, static_argnames="call")
def estimate_with_shifts(
    call: str, reference: Reference, images: Num[Array | np.ndarray, "n height width c"]
) -> tuple[Poses, Poses]:
    """Poses as of :func:`estimate_prepared`, and the best ones without turning; errors name ``call``."""
    if images.shape[1:3] != reference.size:
        raise ValueError(
            f"{call}: images are {images.shape[1:3]} pixels large, wanted {reference.size}, as the reference is; "
            "resize them alike"
        )
    return jax.lax.map(partial(_estimate, reference), images)


def find_reference(
    images: Num[Array | np.ndarray, "n height width c"], *, max_angle: float = 180.0, sample: int = REFERENCE_IMAGES
) -> Float32[Array, "height width c"]:
    """Make a reference of images: that which matches the others best, then twice the mean of those aligned to it.

    The mean is of the half that matches best, so that images unlike the others do not blur it.

    Args:
      images: uint8 or floating-point; of many, ``sample`` evenly spaced ones are used.
      max_angle: as for :func:`estimate_pose`.
      sample: images used.

    Returns:
      The reference, in the images' units.

    Raises:
      ValueError: no images.
    """
    if not len(images):
        raise ValueError("find_reference: images is empty; give one image or more")
    indices = np.linspace(0, len(images) - 1, min(len(images), sample)).round().astype(int)
    some = jnp.asarray(images)[indices].astype(jnp.float32)
    reference = some[jnp.argmax(jnp.sum(_similarities(some, max_angle=max_angle), axis=1))]
    for _ in range(2):
        reference = _mean_of_aligned(some, estimate_pose(reference, some, max_angle=max_angle), reference)
    return reference


@jax.jit
def _mean_of_aligned(
    images: Float32[Array, "n height width c"], poses: Poses, reference: Float32[Array, "height width c"]
) -> Float32[Array, "height width c"]:
    moved, inside = warp(images, poses)
    weights = (inside & (poses.quality >= jnp.median(poses.quality))[:, None, None])[..., None].astype(jnp.float32)
    total = jnp.sum(weights, axis=0)
    return jnp.where(total > 0, jnp.sum(weights * moved, axis=0) / jnp.maximum(total, 1), reference)


@partial(jax.jit, static_argnames="max_angle")
def _similarities(images: Float32[Array, "n height width c"], *, max_angle: float) -> Float[Array, "n n"]:
    """Quality of each image's match with each other one, at the coarse resolution."""
    angles, factor = Angles.up_to(max_angle), 2 * shrinking(images.shape[1:3])

    def of_one(image: Array) -> Array:
        spectra = turned_spectra(image, angles.fine[angles.coarse], factor, _MAX_SHIFT)
        return jax.lax.map(lambda other: jnp.max(correlate(spectra, edge_image(other, factor), 0.25)), images)

    return jax.lax.map(of_one, images)


@dataclass(frozen=True)
class Angles:
    """Angles that are tried: the fine ones in degrees, the indices of the coarse ones, those of the ones near each."""

    fine: Float[np.ndarray, " fine_angles"]
    coarse: Int[np.ndarray, " coarse_angles"]
    near: Int[np.ndarray, "coarse_angles reach"]
    full_circle: bool

    @staticmethod
    def up_to(max_angle: float) -> "Angles":
        """Those up to an angle in degrees, on either side of 0."""
        n, full_circle = math.ceil(max_angle), max_angle == 180
        reach = np.arange(-min(n, REACH), min(n, REACH) + 1)
        if full_circle:
            coarse = np.arange(0, 2 * n, _COARSE)
            return Angles(np.arange(-n, n).astype(float), coarse, (coarse[:, None] + reach) % (2 * n), True)
        steps = max(0, math.ceil((n - REACH + 1) / _COARSE))
        coarse = np.unique(np.clip(n + _COARSE * np.arange(-steps, steps + 1), 0, 2 * n))
        fine = np.linspace(-max_angle, max_angle, 2 * n + 1)
        return Angles(fine, coarse, np.clip(coarse[:, None] + reach, 0, 2 * n), False)


def _estimate(reference: Reference, image: Num[Array, "height width c"]) -> tuple[Poses, Poses]:
    angles, factor = Angles.up_to(reference.max_angle), shrinking(reference.size)
    near = jnp.asarray(angles.near)[_coarse_candidates(reference, angles, image)]
    surfaces = correlate(reference.fine[near.reshape(-1)], edge_image(image, factor), reference.max_shift)
    shifts, qualities = jax.vmap(_peak)(surfaces)
    sizes = jnp.asarray(np.abs(angles.fine), jnp.float32)[near]
    candidate, place, offset = _best_angle(qualities.reshape(near.shape), sizes)
    step = angles.fine[1] - angles.fine[0] if len(angles.fine) > 1 else 0
    angle = jnp.asarray(angles.fine, jnp.float32)[near[candidate, place]] + jnp.float32(step) * offset
    # the parabola may lead half a step beyond the bounds, or past the half-turn
    limit = reference.max_angle
    angle = jnp.where(angle < -180, angle + 360, angle) if angles.full_circle else jnp.clip(angle, -limit, limit)
    index = candidate * near.shape[1] + place
    # the first candidate is the coarse angle nearest to 0, which 0 itself is near
    unturned = jnp.argmin(sizes[0])
    return (
        Poses(angle, factor * shifts[index], qualities[index]),
        Poses(jnp.zeros_like(angle), factor * shifts[unturned], qualities[unturned]),
    )


def _coarse_candidates(
    reference: Reference, angles: Angles, image: Num[Array, "height width c"]
) -> Int[Array, " candidates"]:
    """Coarse angles to refine: the one nearest to 0, and the highest peaks of the quality over the angle."""
    if len(angles.coarse) == 1:
        return jnp.zeros(1, jnp.int32)
    edges = edge_image(image, 2 * shrinking(reference.size))
    sizes = np.abs(angles.fine[angles.coarse])
    # of equally good peaks, which symmetric parts have many of, those of small angles are to be among the few refined
    quality = jnp.max(correlate(reference.coarse, edges, reference.max_shift), axis=(1, 2))
    quality = quality - jnp.asarray(SAME_QUALITY * sizes / 180, jnp.float32)
    ends = jnp.pad(quality, 1, mode="wrap") if angles.full_circle else jnp.pad(quality, 1, constant_values=-jnp.inf)
    is_peak = (quality >= ends[:-2]) & (quality >= ends[2:])
    ranks = jnp.where(is_peak, quality, quality - 4).at[sizes.argmin()].set(4)  # qualities differ by 2 at most
    return jax.lax.top_k(ranks, min(len(angles.coarse), 1 + REFINED))[1]


def _best_angle(
    quality: Float[Array, "candidates reach"], sizes: Float[Array, "candidates reach"]
) -> tuple[Int[Array, ""], Int[Array, ""], Float[Array, ""]]:
    """The candidate and the place in its reach with the best quality, and the peak's distance from it, in steps.

    Of peaks of the same quality, it is that with the smallest angle.
    """
    last = quality.shape[1] - 1
    # over fewer than ±3° a peak varies less, as a parabola does
    is_flat = jnp.ptp(quality, axis=1) <= FLAT * (last / (2 * REACH)) ** 2
    places = jnp.where(is_flat, jnp.argmin(sizes, axis=1), jnp.argmax(quality, axis=1))
    at_end = (places == 0) | (places == last)
    candidates = jnp.arange(len(places))
    heights = quality[candidates, places]
    # a quality that still rises at the end of the reach belongs to another candidate's peak
    best = jnp.max(heights)
    is_peak = is_flat | ~at_end | (heights == best)
    equal = is_peak & (heights >= best - SAME_QUALITY - CHANCE * (1 - best))
    candidate = jnp.argmin(jnp.where(equal, sizes[candidates, places], jnp.inf))
    place = places[candidate]
    before, after = quality[candidate, jnp.maximum(place - 1, 0)], quality[candidate, jnp.minimum(place + 1, last)]
    offset = _vertex(before, quality[candidate, place], after)
    return candidate, place, jnp.where(is_flat[candidate] | at_end[candidate], 0, offset)


def _peak(surface: Float[Array, "height width"]) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """Where a cyclic correlation is largest and its value there, between pixels by parabolas."""
    row = jnp.argmax(jnp.max(surface, axis=1))  # on a CPU many times as fast as one argmax of the whole
    column = jnp.argmax(surface[row])
    top, height, shift = surface[row, column], surface[row, column], []
    for place, line in ((row, surface[:, column]), (column, surface[row])):
        before, after = line[place - 1], line[(place + 1) % len(line)]
        # beyond the largest shift there are no values to draw a parabola through
        offset = jnp.where(jnp.minimum(before, after) > REFUSED, _vertex(before, top, after), 0)
        height += (after - before) * offset / 4
        shift.append(jnp.where(place > len(line) // 2, place - len(line), place).astype(jnp.float32) + offset)
    return jnp.stack(shift), jnp.clip(height, -1, 1)


def _vertex(before: Float[Array, ""], top: Float[Array, ""], after: Float[Array, ""]) -> Float[Array, ""]:
    """Where the parabola through values at -1, 0 and 1 is largest."""
    curvature = 2 * top - before - after
    return jnp.where(curvature > 1e-6, (after - before) / (2 * jnp.maximum(curvature, 1e-6)), 0).clip(-0.5, 0.5)
