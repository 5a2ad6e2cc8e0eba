"""Good images with small defects drawn on them, by which kinds of models can be compared where no real defect is known.

No simulated defect is like all real ones, so there are six families, each with its own places, sizes and contrasts; a
comparison averages over them. CutPaste (Li et al., arXiv 2104.04015) and DRAEM (Zavrtanik et al., arXiv 2108.07610)
train networks on such images; here they only rank models of good images.

A defect follows from the seed, the family and the pixels of its image, not from the order of the images; the piece
that "paste" takes comes from another image of the same call. All is NumPy on the host.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

Pixels = UInt8[np.ndarray, "height width 3"]
Values = Float32[np.ndarray, "_h _w 3"]
Weights = Float[np.ndarray, "_h _w"]

_TRIES = 8  # places, until a defect can be seen
_LEAST_CHANGE = 6.0  # grey levels, in the mean over the pixels that changed
_SQUARE_ROOT_OF_3 = 3**0.5


@dataclass(frozen=True)
class PseudoDefects:
    """Images with one pseudo-defect each.

    Attributes:
      images: uint8 (n, height, width, 3), RGB.
      masks: bool (n, height, width), the pixels that differ from those of the good image.
      strengths: float (n,), from 0 (small and faint) to 1 (large and strong).
    """

    images: UInt8[np.ndarray, "n height width 3"]
    masks: Bool[np.ndarray, "n height width"]
    strengths: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class _Window:
    """The part of an image around a defect, and where its pixels are relative to the defect's centre."""

    image: Pixels
    other: Pixels
    rows: slice
    columns: slice
    centre: Float[np.ndarray, "2"]

    @property
    def values(self) -> Values:
        return self.image[self.rows, self.columns].astype(np.float32)

    @property
    def offsets(self) -> tuple[Weights, Weights]:
        """Rows and columns from the centre, in pixels."""
        y, x = np.mgrid[self.rows, self.columns].astype(np.float64)
        return y - self.centre[0], x - self.centre[1]


# a family takes the window, its reach in pixels, the strength and the generator, and gives weights and new values
_Family = Callable[[_Window, float, float, np.random.Generator], tuple[Weights, Values]]


def pseudo_defects(images: UInt8[Array | np.ndarray, "n height width 3"], family: str, seed: int) -> PseudoDefects:
    """Draw one defect of a family on each image: ``image + weights · (new - image)`` around a uniform place.

    Sizes and contrasts grow geometrically with a strength that is uniform in [0, 1]. A place where the defect changes
    the pixels that it touches by less than 6 grey levels is drawn again, 7 times at most, and the best one is kept.
    Images without colour stay without.

    Args:
      images: good ones, RGB, each different; "paste" needs two of them or more to take a piece of another one, and
        takes it from the same image otherwise.
      family: one of :data:`FAMILIES`.
      seed: 0 or more.

    Raises:
      ValueError: images of another shape or type, an unknown family or a negative seed.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise ValueError(
            f"pseudo_defects: images are {images.dtype} {images.shape}, wanted uint8 (n, height, width, 3), RGB"
        )
    if family not in FAMILIES:
        raise ValueError(f"pseudo_defects: family={family!r}, wanted one of {', '.join(FAMILIES)}")
    if seed < 0:
        raise ValueError(f"pseudo_defects: seed={seed}, wanted an integer from 0")
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    others = _others(digests)
    drawn, strengths = np.empty_like(images), np.empty(len(images))
    for i, (image, digest) in enumerate(zip(images, digests, strict=True)):
        rng = _generator(seed, family, digest)
        strengths[i], which = rng.uniform(size=2)
        other = images[others[i][int(which * len(others[i]))]] if others[i] else image
        drawn[i] = _draw(image, other, family, strengths[i], rng)
    return PseudoDefects(drawn, (drawn != images).any(axis=3), strengths)


def _generator(seed: int, family: str, digest: bytes) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}\0{family}\0".encode() + digest).digest()
    return np.random.default_rng(int.from_bytes(key, "little"))


def _others(digests: Sequence[bytes]) -> list[list[int]]:
    """For each image, those with other pixels, in an order that follows from the pixels alone."""
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return [[j for j in order if digests[j] != digest] for digest in digests]


def _draw(image: Pixels, other: Pixels, family: str, strength: float, rng: np.random.Generator) -> Pixels:
    best, most = image, -1.0
    for _ in range(_TRIES):
        attempt = _attempt(image, other, family, strength, rng)
        difference = np.abs(attempt.astype(np.int16) - image).max(axis=2)
        change = float(difference[difference > 0].mean()) if difference.any() else 0.0
        if change > most:
            best, most = attempt, change
        if most >= _LEAST_CHANGE:
            break
    return best


def _attempt(image: Pixels, other: Pixels, family: str, strength: float, rng: np.random.Generator) -> Pixels:
    size = np.array(image.shape[:2])
    side = float(np.sqrt(size.prod()))
    low, high, draw = FAMILIES[family]
    reach = side * _between(low, high, strength)
    centre = rng.uniform(0.03, 0.97, 2) * size
    margin = 2 * reach + 4
    first = np.clip(np.floor(centre - margin), 0, size - 1).astype(int)
    last = np.clip(np.ceil(centre + margin) + 1, first + 1, size).astype(int)
    window = _Window(image, other, slice(first[0], last[0]), slice(first[1], last[1]), centre)
    weights, new = draw(window, reach, strength, rng)
    old = window.values
    result = image.copy()
    result[window.rows, window.columns] = np.clip(np.rint(old + weights[..., None] * (new - old)), 0, 255)
    return result


def _paste(window: _Window, reach: float, strength: float, rng: np.random.Generator) -> tuple[Weights, Values]:
    """A piece of another image, turned."""
    weights = _ellipse(window, reach, 1.0, rng)
    source = rng.uniform(0.05, 0.95, 2) * window.other.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    (y, x), c, s = window.offsets, np.cos(angle), np.sin(angle)
    return weights, _values_at(window.other, source[0] + c * y - s * x, source[1] + s * y + c * x)


def _scratch(window: _Window, reach: float, strength: float, rng: np.random.Generator) -> tuple[Weights, Values]:
    """A thin line of four straight pieces from the centre, darker, lighter or of another colour."""
    width, angle = _between(0.8, 2.2, strength), rng.uniform(0, 2 * np.pi)
    (y, x), start = window.offsets, np.zeros(2)
    distance = np.full(y.shape, np.inf)
    for _ in range(4):
        angle += 0.4 * rng.normal()
        step = reach / 2 * np.array([np.sin(angle), np.cos(angle)])
        along = np.clip(((y - start[0]) * step[0] + (x - start[1]) * step[1]) / (step @ step), 0, 1)
        distance = np.minimum(distance, np.hypot(y - start[0] - along * step[0], x - start[1] - along * step[1]))
        start = start + step
    return np.clip((width + 1) / 2 - distance, 0, 1), _recoloured(window, _between(15, 90, strength), rng)


def _smear(window: _Window, reach: float, strength: float, rng: np.random.Generator) -> tuple[Weights, Values]:
    """A blurred place."""
    sigma = _between(1.5, 6, strength)
    from scipy import ndimage  # takes a third of a second to import, which a fit that has nothing to choose need not

    return _ellipse(window, reach, 3.0, rng), ndimage.gaussian_filter(window.values, (sigma, sigma, 0), mode="nearest")


def _stain(window: _Window, reach: float, strength: float, rng: np.random.Generator) -> tuple[Weights, Values]:
    """A place with a soft edge, darker, lighter or of another colour."""
    return _ellipse(window, reach, 3.0, rng), _recoloured(window, _between(8, 50, strength), rng)


def _specks(window: _Window, reach: float, strength: float, rng: np.random.Generator) -> tuple[Weights, Values]:
    """Two to seven dots of one colour."""
    y, x = window.offsets
    weights = np.zeros(y.shape)
    for _ in range(int(rng.integers(2, 8))):
        dy, dx = np.clip(rng.normal(size=2), -1.5, 1.5) * reach
        radius = _between(0.7, 2.5, strength) * np.exp(0.2 * rng.normal())
        weights = np.maximum(weights, np.clip(radius + 0.5 - np.hypot(y - dy, x - dx), 0, 1))
    return weights, _recoloured(window, _between(15, 90, strength), rng)


def _gap(window: _Window, reach: float, strength: float, rng: np.random.Generator) -> tuple[Weights, Values]:
    """A missing piece, filled with what is beside it."""
    angle, distance = rng.uniform(0, 2 * np.pi), reach * rng.uniform(1.5, 3)
    y, x = window.offsets
    rows = y + window.centre[0] + distance * np.sin(angle)
    return _ellipse(window, reach, 2.0, rng), _values_at(
        window.image, rows, x + window.centre[1] + distance * np.cos(angle)
    )


FAMILIES: dict[str, tuple[float, float, _Family]] = {  # the reach at strength 0 and 1, as a share of the image's side
    "paste": (0.015, 0.15, _paste),
    "scratch": (0.02, 0.125, _scratch),
    "smear": (0.03, 0.1, _smear),
    "stain": (0.025, 0.09, _stain),
    "specks": (0.02, 0.05, _specks),
    "gap": (0.02, 0.15, _gap),
}


def _between(low: float, high: float, strength: float) -> float:
    return low * (high / low) ** strength


def _ellipse(window: _Window, radius: float, softness: float, rng: np.random.Generator) -> Weights:
    """1 inside of an ellipse of any direction and an aspect from 1/2 to 2; its edge is ``softness`` pixels wide."""
    angle, aspect = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.7, 0.7))
    (y, x), c, s = window.offsets, np.cos(angle), np.sin(angle)
    across, along = radius / aspect**0.5, radius * aspect**0.5
    distance = np.hypot((c * x + s * y) / along, (c * y - s * x) / across)
    return np.clip((1 - distance) * min(across, along) / softness + 0.5, 0, 1)


def _recoloured(window: _Window, contrast: float, rng: np.random.Generator) -> Values:
    """All pixels changed by one colour, ``contrast`` grey levels in the root mean square of its channels."""
    brightness = rng.choice([-1.0, 1.0]) / _SQUARE_ROOT_OF_3
    direction = rng.normal(size=3)
    shift = direction / np.linalg.norm(direction) + brightness
    if (window.image == window.image[..., :1]).all():
        shift = np.full(3, brightness)
    return window.values + (contrast * _SQUARE_ROOT_OF_3 * shift / np.linalg.norm(shift)).astype(np.float32)


def _values_at(image: Pixels, rows: Weights, columns: Weights) -> Values:
    """Bilinear; beyond the image, its border goes on."""
    rows, columns = (np.clip(at, 0, length - 1) for at, length in zip((rows, columns), image.shape, strict=False))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    down, across = (rows - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return (upper * (1 - down) + lower * down).astype(np.float32)
