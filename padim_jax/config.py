"""What a fit is asked to do: one immutable record that travels inside moments and models."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

Interpolation = Literal["bilinear", "bicubic"]
Size = int | tuple[int, int]


@dataclass(frozen=True)
class PadimConfig:
    """Settings of the method (PaDiM, arXiv 2011.08785); hashable, checked when made.

    Attributes:
      n_channels: dimension d of the embedding; None takes the backbone's default.
      ridge: ε of Σ = S + ε I, in squared units of the embedding (section III-B; 0.01 there).
      seed: of the random channel selection (section III-C).
      image_size: images are resized to this (height, width), or to a square, in pixels; the
        aspect ratio is not kept.
      crop_size: centred crop of the resized image, what the network sees, in pixels.
      sigma: standard deviation of the map's Gaussian blur, in pixels; 0 switches it off.
      taps: layers to embed; None takes the backbone's default.
      interpolation: of images and maps: "bilinear", or "bicubic" as the paper has it.

    Raises:
      ValueError: naming the field, what was wanted and what came.
    """

    n_channels: int | None = None
    ridge: float = 0.01
    seed: int = 0
    image_size: Size = 256
    crop_size: Size = 224
    sigma: float = 4.0
    taps: tuple[str, ...] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        for field in ("image_size", "crop_size"):
            object.__setattr__(self, field, _pair(field, getattr(self, field)))
        for field in ("ridge", "sigma"):
            if _is_number(getattr(self, field)):
                object.__setattr__(self, field, float(getattr(self, field)))
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
        if not _is_number(self.sigma) or self.sigma < 0:
            raise ValueError(f"PadimConfig: sigma={self.sigma!r}, wanted a number of pixels, 0 or more")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"PadimConfig: interpolation={self.interpolation!r}, wanted one of {', '.join(get_args(Interpolation))}"
            )
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


def differences(a: object, b: object) -> str:
    """Fields in which two dataclass instances of one type differ, as ``name: a against b``."""
    pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]  # type: ignore[arg-type]
    return "; ".join(f"{name}: {_short(x)} against {_short(y)}" for name, x, y in pairs if x != y)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _pair(field: str, size: object) -> tuple[int, int]:
    pair = (size, size) if _is_int(size) else size
    match pair:
        case (int(height), int(width)) if height > 0 and width > 0:
            return height, width
    raise ValueError(f"PadimConfig: {field}={size!r}, wanted a positive integer or a (height, width) pair")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
