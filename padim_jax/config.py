"""The settings of a fit: one immutable record that travels inside moments and models."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Interpolation = Literal["bilinear", "bicubic"]
Covariance = Literal["ridge", "ledoit-wolf", "pooled"]
Projection = Literal["random-channels", "semi-orthogonal", "principal-components"]
Resize = Literal["stretch", "shorter-side", "pad"]
AnomalyMap = Literal["distance", "standardised"]
Precision = Literal["float32", "bfloat16"]
Form = Literal["updatable", "triangle", "triangle-16bit", "low-rank", "low-rank-16bit"]  # of a model on disk
ProtocolName = Literal["standard", "rotated"]
TableFormat = Literal["markdown", "latex", "csv"]
Size = int | tuple[int, int]
Regulariser = float | Literal["auto"]  # "auto" is chosen from the images of the fit
_MAX_PIXELS = 89_478_485  # Pillow's limit: larger images are refused
_MAX_NEIGHBOURHOOD = 255  # cells of a neighbourhood's side
RIDGE = 0.01  # PaDiM section III-B

FALSE_ALARM_RATE = 0.01
PIXEL_RATE = 0.001


@dataclass(frozen=True)
class Setting:
    """The rule of one field of :class:`PadimConfig`, and its help text for the commands.

    Attributes:
      is_valid: whether a value, in the form in which it is stored, is allowed.
      rule: the rule in words, as an error states it.
      help: one sentence.
      normalise: brings a value to the form in which it is stored; leaves what has no such form as it is.
      default: the default in words, for the help text, where its value says too little.
    """

    is_valid: Callable[[Any], bool]
    rule: str
    help: str
    normalise: Callable[[Any], Any]
    default: str | None


def _setting(
    default: Any,
    is_valid: Callable[[Any], bool],
    rule: str,
    help_text: str,
    default_in_words: str | None = None,
    normalise: Callable[[Any], Any] | None = None,
) -> Any:
    setting = Setting(is_valid, rule, help_text, normalise or _to_plain, default_in_words)
    return dataclasses.field(default=default, metadata={"setting": setting})


def _choice(default: str, kind: Any, help_text: str) -> Any:
    names = get_args(kind)
    return _setting(default, lambda v: isinstance(v, str) and v in names, f"one of {', '.join(names)}", help_text)


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _is_size(value: Any) -> bool:
    pair = _pair(value)
    return len(pair) == 2 and all(_is_int(side) and side > 0 for side in pair)


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


def _pair(size: Any) -> tuple[Any, ...]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def _to_plain(value: Any) -> Any:
    """``value`` with tuples for lists, which can't be hashed, and Python's numbers for NumPy's."""
    if isinstance(value, tuple | list):
        return tuple(map(_to_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _to_float(value: Any) -> Any:
    return float(value) if _is_number(value) else value


def _to_size(value: Any) -> Any:
    square = _is_size(value) and len(set(_pair(value))) == 1
    return _to_plain(_pair(value)[0] if square else value)


def _to_range(value: Any) -> Any:
    return tuple(map(float, value)) if _is_range(value) else value


def _percent(value: Any) -> float | None:
    """P of "top-P%"; None of anything else."""
    try:
        percent = float(re.fullmatch(r"top-([\d.e-]+)%", value)[1])  # type: ignore[index]
    except (TypeError, ValueError):
        return None
    return percent if 0 < percent <= 100 else None


def _to_image_score(value: Any) -> Any:
    percent = _percent(value)
    return value if percent is None else f"top-{repr(percent).removesuffix('.0')}%"


_SIZE = "a positive integer or a (height, width) pair"


@dataclass(frozen=True)
class PadimConfig:
    """Settings of the method (PaDiM, arXiv 2011.08785); hashable, checked when made.

    Attributes:
      n_channels: dimension d of the embedding; None takes the backbone's default.
      ridge: ε of Σ = S + ε I, in squared units of the embedding (section III-B; 0.01 there); "auto" has the fit choose
        it from its images (:mod:`padim_jax.method.regularisation`).
      seed: seed of the random channel selection (section III-C).
      image_size: images are resized to this (height, width), or to a square of this side, in
        pixels. A square is stored as its side.
      crop_size: centred crop of the resized image, what the network sees, in pixels.
      sigma: standard deviation of the map's Gaussian blur, in pixels; 0 switches it off.
      taps: layers to embed; None takes the backbone's default.
      interpolation: how images and maps are resized: "bilinear", or "bicubic" as in the paper.
      neighbourhood: odd side k of the square of cells, in each tap's own grid, over which activations are
        averaged before anything else: ``f̄(i, j) = mean of f(i + a, j + b), |a|, |b| ≤ (k - 1) / 2``, over the
        cells that exist (as in PatchCore, arXiv 2106.08265, section 3.1). 1 leaves them as they are.
      covariance: "ridge", ``Σ = S + ε I``; or "ledoit-wolf", ``Σ = (1 - ρ) S + ρ (tr S / d) I + ε I`` with ρ
        estimated at each position (see :mod:`padim_jax.gaussians.shrinkage`); or "pooled",
        ``Σ = (C + ν T) / (n - 1 + ν) + ε I`` with C = (n - 1) S and T the mean of S over all positions (see
        :mod:`padim_jax.gaussians.pooling`).
      prior_images: ν of the "pooled" covariance, 0 or more: how many images the pooled covariance counts as; "auto"
        has the fit choose it.
      projection: how the taps' C channels become d: "random-channels" keeps d of them (section III-C);
        "semi-orthogonal", x ↦ Wᵀx with W (C, d) uniform among those with ``WᵀW = I`` (arXiv 2105.14737);
        "principal-components", W the leading eigenvectors of the covariance over all patches (the paper's
        Table II), which takes another pass over the images.
      resize: how an image is brought to ``image_size``: "stretch" changes the aspect ratio; "shorter-side" keeps it,
        covers ``image_size`` and takes the centre; "pad" keeps it, fits inside and leaves black borders.
      value_range: None for images of 8 bits a channel; (low, high) for images of more bits or floats, whose
        values v become ``255 (v - low) / (high - low)``. Values outside are refused, never clipped.
      anomaly_map: "distance", M as PaDiM has it; or "standardised", ``(M - m) / s`` with the mean m and the standard
        deviation s of good images' maps at each pixel, which calibrating finds (:mod:`padim_jax.method.standard`).
        Scores are then in standard deviations, and a model has to be calibrated before it scores.
      image_score: what an image scores: "max", the highest value of its map (section III-D); or "top-P%", such as
        "top-1%", the mean of the k highest of the q pixels judged, those in the region of interest where there is one,
        ``k = max(1, round(q P / 100))``, 0 < P ≤ 100 (:func:`padim_jax.method.anomaly_map.image_score`).
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

    n_channels: int | None = _setting(
        None,
        lambda v: v is None or (_is_int(v) and v >= 1),
        "a positive integer or None",
        "Dimension d of the embedding.",
        "the backbone's",
    )
    ridge: Regulariser = _setting(
        RIDGE,
        lambda v: v == "auto" or (_is_number(v) and v > 0),
        "a positive number (without it the covariance of n ≤ d images has no inverse) or 'auto'",
        "ε added to the covariance's diagonal; auto chooses it from the images.",
        normalise=_to_float,
    )
    seed: int = _setting(
        0,
        lambda v: _is_int(v) and 0 <= v < 2**32,
        "an integer from 0 to 2³² - 1",
        "Seed of the random channel selection.",
    )
    image_size: Size = _setting(256, _is_size, _SIZE, "Resize images to this size.", "the preset's", _to_size)
    crop_size: Size = _setting(
        224, _is_size, _SIZE, "Then cut out a centre of this size; the rest is not judged.", "the preset's", _to_size
    )
    sigma: float = _setting(
        4.0,
        lambda v: _is_number(v) and v >= 0,
        "a number of pixels, 0 or more",
        "Standard deviation of the map's Gaussian blur, in pixels.",
        normalise=_to_float,
    )
    taps: tuple[str, ...] | None = _setting(
        None,
        lambda v: v is None or (isinstance(v, tuple) and all(isinstance(name, str) for name in v)),
        "a tuple of names, such as ('block2', 'block4'), or None",
        "Layer to embed; repeat for several.",
        "the backbone's",
    )
    interpolation: Interpolation = _choice(
        "bilinear", Interpolation, "How images and maps are resized; the paper's is bicubic."
    )
    neighbourhood: int = _setting(
        1,
        lambda v: _is_int(v) and v % 2 == 1 and 1 <= v <= _MAX_NEIGHBOURHOOD,
        f"an odd number of cells from 1 to {_MAX_NEIGHBOURHOOD}",
        "Average activations over k x k cells; k is odd.",
    )
    covariance: Covariance = _choice(
        "ridge",
        Covariance,
        "The sample covariance + ε I; or shrunk at each position too; or pooled with those of all positions.",
    )
    prior_images: Regulariser = _setting(
        "auto",
        lambda v: v == "auto" or (_is_number(v) and v >= 0),
        "a number of images, 0 or more, or 'auto'",
        "How many images the pooled covariance counts as; auto chooses it from the images.",
        normalise=_to_float,
    )
    projection: Projection = _choice(
        "random-channels",
        Projection,
        "How the taps' channels are reduced to d; principal components read the images twice.",
    )
    resize: Resize = _choice(
        "stretch",
        Resize,
        "Stretch to the image size; or keep the aspect ratio: cover the size and take the centre, or fit inside "
        "with black borders.",
    )
    value_range: tuple[float, float] | None = _setting(
        None,
        lambda v: v is None or _is_range(v),
        "(low, high), two numbers, low below high, or None",
        "For images of more than 8 bits a channel: the values that become black and white.",
        "the range found in the files",
        _to_range,
    )
    precision: Precision = _choice(
        "float32",
        Precision,
        "Precision of the backbone; bfloat16 is for GPUs and TPUs. Statistics are float32 in either.",
    )
    anomaly_map: AnomalyMap = _choice(
        "distance",
        AnomalyMap,
        "Maps of distances; or standardised at each pixel by what good images have there, which takes calibrating.",
    )
    image_score: str = _setting(
        "max",
        lambda v: v == "max" or _percent(v) is not None,
        "'max' or 'top-P%' with P above 0 and at most 100, such as 'top-1%'",
        "An image scores its map's maximum; or, as top-1%, the mean of the highest percent of its pixels.",
        normalise=_to_image_score,
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            value = setting.normalise(getattr(self, name))
            object.__setattr__(self, name, value)
            if not setting.is_valid(value):
                raise ValueError(f"PadimConfig: {name}={value!r}, wanted {setting.rule}")
        if math.prod(self.image) > _MAX_PIXELS:
            raise ValueError(
                f"PadimConfig: image_size={self.image_size}, wanted at most {_MAX_PIXELS / 1e6:.0f} megapixels"
            )
        if self.ridge == "auto" and self.covariance == "ledoit-wolf":
            raise ValueError("PadimConfig: ridge='auto' does not go with covariance='ledoit-wolf'; give a number")
        if self.prior_images != "auto" and self.covariance != "pooled":
            raise ValueError(
                f"PadimConfig: prior_images={self.prior_images!r} does not go with covariance={self.covariance!r}; it "
                "is for 'pooled'"
            )
        if self.sigma > max(self.crop):
            raise ValueError(
                f"PadimConfig: sigma={self.sigma!r}, wanted a number of pixels from 0 to the crop's {max(self.crop)}"
            )
        if any(crop > image for crop, image in zip(self.crop, self.image, strict=True)):
            raise ValueError(
                f"PadimConfig: image_size={self.image} is smaller than crop_size={self.crop}; "
                "raise image_size or lower crop_size"
            )

    @property
    def image(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return _pair(self.image_size)

    @property
    def crop(self) -> tuple[int, int]:
        """``crop_size`` as (height, width)."""
        return _pair(self.crop_size)

    @property
    def computed(self) -> "PadimConfig":
        """The settings that programs are made for: models that differ only in the others share them.

        The value range matters only where files are read; ridge and prior images are given to programs as numbers, and
        maps are standardised by what a model holds for it.
        """
        return dataclasses.replace(self, value_range=None, ridge=RIDGE, prior_images="auto", anomaly_map="distance")

    @property
    def top_share(self) -> float | None:
        """The share of the pixels, in (0, 1], whose mean an image scores; None for the maximum."""
        percent = _percent(self.image_score)
        return None if percent is None else percent / 100

    @property
    def chooses(self) -> bool:
        """Whether the ridge, or the number of prior images, is to be chosen from the images of the fit."""
        return "auto" in (self.ridge, self.prior_images if self.covariance == "pooled" else None)

    def regularisation(self, call: str) -> tuple[float, float]:
        """The numbers ε and ν of the covariance; ν is 0 where it is not pooled.

        Raises:
          ValueError: naming ``call``, where they are yet to be chosen.
        """
        prior_images = self.prior_images if self.covariance == "pooled" else 0.0
        if self.ridge == "auto" or prior_images == "auto":
            raise ValueError(
                f"{call}: ridge={self.ridge!r} and prior_images={prior_images!r} are yet to be chosen; give numbers, "
                "or call padim_jax.regularise on the moments first, as fit does"
            )
        return self.ridge, prior_images

    @property
    def passes(self) -> int:
        """How many times a fit reads its images."""
        return 2 if self.projection == "principal-components" else 1


SETTINGS: Mapping[str, Setting] = {f.name: f.metadata["setting"] for f in dataclasses.fields(PadimConfig)}


def differences(a: object, b: object) -> str:
    """Fields in which two dataclass instances of one type differ, as ``name: a against b``."""
    pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]  # type: ignore[arg-type]
    return "; ".join(f"{name}: {_short(x)} against {_short(y)}" for name, x, y in pairs if x != y)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
