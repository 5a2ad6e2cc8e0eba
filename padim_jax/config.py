"""What a fit is asked to do: one immutable record that travels inside moments and models."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Interpolation = Literal["bilinear", "bicubic"]
Covariance = Literal["ridge", "ledoit-wolf"]
Projection = Literal["random-channels", "semi-orthogonal", "principal-components"]
Resize = Literal["stretch", "shorter-side", "pad"]
Precision = Literal["float32", "bfloat16"]
Form = Literal["updatable", "triangle", "triangle-16bit", "low-rank", "low-rank-16bit"]  # of a model on disk
ProtocolName = Literal["standard", "rotated"]
Size = int | tuple[int, int]
_MOST_PIXELS = 89_478_485  # Pillow's limit: larger images are not read
_WIDEST = 255  # cells of a neighbourhood's side

FALSE_ALARM_RATE = 0.01
PIXEL_RATE = 0.001


@dataclass(frozen=True)
class PadimConfig:
    """Settings of the method (PaDiM, arXiv 2011.08785); hashable, checked when made.

    Attributes:
      n_channels: dimension d of the embedding; None takes the backbone's default.
      ridge: ε of Σ = S + ε I, in squared units of the embedding (section III-B; 0.01 there).
      seed: of the random channel selection (section III-C).
      image_size: images are resized to this (height, width), or to a square of this side, in
        pixels. A square is stored as its side.
      crop_size: centred crop of the resized image, what the network sees, in pixels.
      sigma: standard deviation of the map's Gaussian blur, in pixels; 0 switches it off.
      taps: layers to embed; None takes the backbone's default.
      interpolation: of images and maps: "bilinear", or "bicubic" as the paper has it.
      neighbourhood: odd side k of the square of cells, in each tap's own grid, over which activations are
        averaged before anything else: ``f̄(i, j) = mean of f(i + a, j + b), |a|, |b| ≤ (k - 1) / 2``, over the
        cells there are (as PatchCore, arXiv 2106.08265, section 3.1). 1 leaves them as they are.
      covariance: "ridge", ``Σ = S + ε I``; or "ledoit-wolf", ``Σ = (1 - ρ) S + ρ (tr S / d) I + ε I`` with ρ
        estimated at each position (see :mod:`padim_jax.gaussians.shrinkage`).
      projection: how the taps' C channels become d: "random-channels" keeps d of them (section III-C);
        "semi-orthogonal", x ↦ Wᵀx with W (C, d) uniform among those with ``WᵀW = I`` (arXiv 2105.14737);
        "principal-components", W the leading eigenvectors of the covariance over all patches (the paper's
        Table II), which takes a pass over the images of its own.
      resize: how an image meets ``image_size``: "stretch" does not keep the aspect ratio; "shorter-side" keeps it,
        covers ``image_size`` and takes the centre; "pad" keeps it, fits inside and leaves black around.
      value_range: None for images of 8 bits a channel; (low, high) for images of more bits or floats, whose
        values v become ``255 (v - low) / (high - low)``. Values outside are refused, never clipped.
      precision: of the backbone's weights and activations; "bfloat16" keeps 8 significant bits of each and is for GPUs
        and TPUs, which are faster in it (a CPU is slower). Statistics and distances are float32 in either.

    Raises:
      ValueError: naming the field, what was wanted and what came.

    >>> padim.PadimConfig(image_size=(300, 400), crop_size=256).crop
    (256, 256)
    >>> padim.PadimConfig(ridge=0)
    Traceback (most recent call last):
    ...
    ValueError: PadimConfig: ridge=0.0, wanted a positive number...
    """

    n_channels: int | None = None
    ridge: float = 0.01
    seed: int = 0
    image_size: Size = 256
    crop_size: Size = 224
    sigma: float = 4.0
    taps: tuple[str, ...] | None = None
    interpolation: Interpolation = "bilinear"
    neighbourhood: int = 1
    covariance: Covariance = "ridge"
    projection: Projection = "random-channels"
    resize: Resize = "stretch"
    value_range: tuple[float, float] | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for field in ("n_channels", "seed", "neighbourhood"):
            if isinstance(getattr(self, field), np.integer):
                object.__setattr__(self, field, int(getattr(self, field)))
        for field in ("image_size", "crop_size"):
            height, width = _pair(field, getattr(self, field))
            object.__setattr__(self, field, height if height == width else (height, width))
        for field in ("ridge", "sigma"):
            if _is_number(getattr(self, field)):
                object.__setattr__(self, field, float(getattr(self, field)))
        if isinstance(self.taps, str):
            raise ValueError(f"PadimConfig: taps={self.taps!r}, wanted a tuple of names: ({self.taps!r},)")
        if self.taps is not None:
            object.__setattr__(self, "taps", tuple(self.taps))
        if self.n_channels is not None and (not _is_int(self.n_channels) or self.n_channels < 1):
            raise ValueError(f"PadimConfig: n_channels={self.n_channels!r}, wanted a positive integer or None")
        if not _is_int(self.seed) or not 0 <= self.seed < 2**32:
            raise ValueError(f"PadimConfig: seed={self.seed!r}, wanted an integer from 0 to 2³² - 1")
        if not _is_number(self.ridge) or self.ridge <= 0:
            raise ValueError(
                f"PadimConfig: ridge={self.ridge!r}, wanted a positive number: without it the covariance of "
                "n ≤ d images has no inverse"
            )
        if not _is_number(self.sigma) or not 0 <= self.sigma <= max(self.crop):
            raise ValueError(
                f"PadimConfig: sigma={self.sigma!r}, wanted a number of pixels from 0 to the crop's {max(self.crop)}"
            )
        if not _is_int(self.neighbourhood) or self.neighbourhood % 2 == 0 or not 1 <= self.neighbourhood <= _WIDEST:
            raise ValueError(
                f"PadimConfig: neighbourhood={self.neighbourhood!r}, wanted an odd number of cells from 1 to {_WIDEST}"
            )
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _range(self.value_range))
        for field, choices in (
            ("interpolation", get_args(Interpolation)),
            ("covariance", get_args(Covariance)),
            ("projection", get_args(Projection)),
            ("resize", get_args(Resize)),
            ("precision", get_args(Precision)),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(f"PadimConfig: {field}={getattr(self, field)!r}, wanted one of {', '.join(choices)}")
        if any(crop > image for crop, image in zip(self.crop, self.image, strict=True)):
            raise ValueError(
                f"PadimConfig: image_size={self.image} is smaller than crop_size={self.crop}; "
                "raise image_size or lower crop_size"
            )

    @property
    def image(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return _pair("image_size", self.image_size)

    @property
    def crop(self) -> tuple[int, int]:
        """``crop_size`` as (height, width)."""
        return _pair("crop_size", self.crop_size)

    @property
    def computed(self) -> "PadimConfig":
        """The same without what only reading files depends on, so that models that differ in it share a program."""
        return self if self.value_range is None else dataclasses.replace(self, value_range=None)

    @property
    def passes(self) -> int:
        """How many times a fit reads its images."""
        return 2 if self.projection == "principal-components" else 1


def differences(a: object, b: object) -> str:
    """Fields in which two dataclass instances of one type differ, as ``name: a against b``."""
    pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]  # type: ignore[arg-type]
    return "; ".join(f"{name}: {_short(x)} against {_short(y)}" for name, x, y in pairs if x != y)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _pair(field: str, size: Any) -> tuple[int, int]:
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) == 2 and all(_is_int(length) and length > 0 for length in pair):
        if pair[0] * pair[1] > _MOST_PIXELS:
            raise ValueError(f"PadimConfig: {field}={size!r}, wanted at most {_MOST_PIXELS / 1e6:.0f} megapixels")
        return int(pair[0]), int(pair[1])
    raise ValueError(f"PadimConfig: {field}={size!r}, wanted a positive integer or a (height, width) pair")


def _range(given: Any) -> tuple[float, float]:
    pair = tuple(given) if isinstance(given, tuple | list) else ()
    if len(pair) == 2 and all(_is_number(end) for end in pair) and pair[0] < pair[1]:
        return float(pair[0]), float(pair[1])
    raise ValueError(f"PadimConfig: value_range={given!r}, wanted (low, high), two numbers, low below high, or None")


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)
