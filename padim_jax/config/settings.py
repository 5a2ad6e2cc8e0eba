"""The settings of a fit: one immutable record that travels inside moments and models."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from padim_jax.config.rules import (
    Setting,
    choice,
    is_int,
    is_number,
    is_range,
    is_size,
    pair,
    percent_of,
    setting,
    to_float,
    to_image_score,
    to_range,
    to_size,
)

Interpolation = Literal["bilinear", "bicubic"]
Covariance = Literal["ridge", "ledoit-wolf", "pooled"]
Positions = Literal["own", "shared"]
Projection = Literal["random-channels", "semi-orthogonal", "principal-components"]
Resize = Literal["stretch", "shorter-side", "pad"]
AnomalyMap = Literal["distance", "standardised", "combined"]
Align = Literal["none", "shift", "rigid"]
Precision = Literal["float32", "bfloat16"]
Form = Literal["updatable", "triangle", "triangle-16bit", "low-rank", "low-rank-16bit"]  # of a model on disk
ProtocolName = Literal["standard", "rotated"]
PaperTableName = Literal["localisation", "detection", "stc", "non-aligned", "time", "memory"]
TableFormat = Literal["markdown", "latex", "csv"]
Size = int | tuple[int, int]
Regulariser = float | Literal["auto"]  # "auto" is chosen from the images of the fit
_MAX_PIXELS = 89_478_485  # Pillow's limit: larger images are refused
_MAX_NEIGHBOURHOOD = 255  # cells of a neighbourhood's side
_LEAST_ALIGNED = 32  # pixels of the shorter side: less has too few edges to register by
_MOST_COMPONENTS = 256
RIDGE = 0.01  # PaDiM section III-B

FALSE_ALARM_RATE = 0.01
PIXEL_RATE = 0.001


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
        :mod:`padim_jax.gaussians.pooling`), or over the components of shared positions.
      prior_images: ν of the "pooled" covariance, 0 or more: how many images the pooled covariance counts as; "auto"
        has the fit choose it.
      positions: "own", a Gaussian for each cell of the grid, as PaDiM has it; or "shared", one N(μ, Σ) for all cells,
        which does not know where in the image they lie (see :mod:`padim_jax.gaussians.arrangement`): for parts that
        are turned freely.
      n_components: K Gaussians for "shared" positions: patches belong to the one whose centre is nearest, and their
        distance is that of the likeliest. The centres are found in a pass of their own, by k-means from ``seed``
        (:mod:`padim_jax.method.centres`).
      projection: how the taps' C channels become d: "random-channels" keeps d of them (section III-C);
        "semi-orthogonal", x ↦ Wᵀx with W (C, d) uniform among those with ``WᵀW = I`` (arXiv 2105.14737);
        "principal-components", W the leading eigenvectors of the covariance over all patches (the paper's
        Table II), which takes another pass over the images.
      resize: how an image is brought to ``image_size``: "stretch" changes the aspect ratio; "shorter-side" keeps it,
        covers ``image_size`` and takes the centre; "pad" keeps it, fits inside and leaves black borders.
      value_range: None for images of 8 bits a channel; (low, high) for images of more bits or floats, whose
        values v become ``255 (v - low) / (high - low)``. Values outside are refused, never clipped.
      anomaly_map: "distance", M as PaDiM has it; "standardised", ``(M - m) / s`` with the mean m and the standard
        deviation s of good images' maps at each pixel, which calibrating finds; or "combined", the higher of both at
        each pixel, made comparable by good images' scores (:mod:`padim_jax.method.standard`). Scores of the latter two
        are in standard deviations, and a model has to be calibrated before it scores.
      image_score: what an image scores: "max", the highest value of its map (section III-D); or "top-P%", such as
        "top-1%", the mean of the k highest of the q pixels judged, those in the region of interest where there is one,
        ``k = max(1, round(q P / 100))``, 0 < P ≤ 100 (:func:`padim_jax.method.anomaly_map.image_score`).
      align: "none" takes parts to lie still; "shift" registers each image to a reference, made of the good images, and
        moves it there before the network sees it, and "rigid" turns it too (:mod:`padim_jax.method.aligned`). Maps are
        those of the images as they came.
      max_angle: the largest angle that "rigid" looks for, in degrees, above 0 and at most 180.
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

    n_channels: int | None = setting(
        None,
        lambda v: v is None or (is_int(v) and v >= 1),
        "a positive integer or None",
        "Dimension d of the embedding.",
        "the backbone's",
    )
    ridge: Regulariser = setting(
        RIDGE,
        lambda v: v == "auto" or (is_number(v) and v > 0),
        "a positive number (without it the covariance of n ≤ d images has no inverse) or 'auto'",
        "ε added to the covariance's diagonal; auto chooses it from the images.",
        normalise=to_float,
    )
    seed: int = setting(
        0,
        lambda v: is_int(v) and 0 <= v < 2**32,
        "an integer from 0 to 2³² - 1",
        "Seed of the random channel selection.",
    )
    image_size: Size = setting(256, is_size, _SIZE, "Resize images to this size.", "the preset's", to_size)
    crop_size: Size = setting(
        224, is_size, _SIZE, "Then cut out a centre of this size; the rest is not judged.", "the preset's", to_size
    )
    sigma: float = setting(
        4.0,
        lambda v: is_number(v) and v >= 0,
        "a number of pixels, 0 or more",
        "Standard deviation of the map's Gaussian blur, in pixels.",
        normalise=to_float,
    )
    taps: tuple[str, ...] | None = setting(
        None,
        lambda v: v is None or (isinstance(v, tuple) and all(isinstance(name, str) for name in v)),
        "a tuple of names, such as ('block2', 'block4'), or None",
        "Layer to embed; repeat for several.",
        "the backbone's",
    )
    interpolation: Interpolation = choice(
        "bilinear", Interpolation, "How images and maps are resized; the paper's is bicubic."
    )
    neighbourhood: int = setting(
        1,
        lambda v: is_int(v) and v % 2 == 1 and 1 <= v <= _MAX_NEIGHBOURHOOD,
        f"an odd number of cells from 1 to {_MAX_NEIGHBOURHOOD}",
        "Average activations over k x k cells; k is odd.",
    )
    covariance: Covariance = choice(
        "ridge",
        Covariance,
        "The sample covariance + ε I; or shrunk at each position too; or pooled with those of all positions.",
    )
    prior_images: Regulariser = setting(
        "auto",
        lambda v: v == "auto" or (is_number(v) and v >= 0),
        "a number of images, 0 or more, or 'auto'",
        "How many images the pooled covariance counts as; auto chooses it from the images.",
        normalise=to_float,
    )
    positions: Positions = choice(
        "own",
        Positions,
        "A Gaussian for each position of the grid; or one shared by all, for parts that are turned freely.",
    )
    n_components: int = setting(
        1,
        lambda v: is_int(v) and 1 <= v <= _MOST_COMPONENTS,
        f"an integer from 1 to {_MOST_COMPONENTS}",
        "How many Gaussians shared positions have; more than one takes another pass over the images.",
    )
    projection: Projection = choice(
        "random-channels",
        Projection,
        "How the taps' channels are reduced to d; principal components read the images twice.",
    )
    resize: Resize = choice(
        "stretch",
        Resize,
        "Stretch to the image size; or keep the aspect ratio: cover the size and take the centre, or fit inside "
        "with black borders.",
    )
    value_range: tuple[float, float] | None = setting(
        None,
        lambda v: v is None or is_range(v),
        "(low, high), two numbers, low below high, or None",
        "For images of more than 8 bits a channel: the values that become black and white.",
        "the range found in the files",
        to_range,
    )
    precision: Precision = choice(
        "float32",
        Precision,
        "Precision of the backbone; bfloat16 is for GPUs and TPUs. Statistics are float32 in either.",
    )
    anomaly_map: AnomalyMap = choice(
        "distance",
        AnomalyMap,
        "Maps of distances; standardised at each pixel by what good images have there; or combined, the higher of "
        "both. The latter two take calibrating.",
    )
    image_score: str = setting(
        "max",
        lambda v: v == "max" or percent_of(v) is not None,
        "'max' or 'top-P%' with P above 0 and at most 100, such as 'top-1%'",
        "An image scores its map's maximum; or, as top-1%, the mean of the highest percent of its pixels.",
        normalise=to_image_score,
    )

    align: Align = choice(
        "none",
        Align,
        "Register each image to a reference made of the good images, by shifts, or by shifts and turns, before it is "
        "judged.",
    )
    max_angle: float = setting(
        180.0,
        lambda v: is_number(v) and 0 < v <= 180,
        "a number of degrees, above 0 and at most 180",
        "The largest angle by which rigid alignment turns an image.",
        normalise=to_float,
    )

    def __post_init__(self) -> None:
        for name, field_rule in SETTINGS.items():
            value = field_rule.normalise(getattr(self, name))
            object.__setattr__(self, name, value)
            if not field_rule.is_valid(value):
                raise ValueError(f"PadimConfig: {name}={value!r}, wanted {field_rule.rule}")
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
        if self.max_angle != 180 and self.align != "rigid":
            raise ValueError(
                f"PadimConfig: max_angle={self.max_angle!r} does not go with align={self.align!r}; it is for 'rigid'"
            )
        if self.align != "none" and min(self.crop) < _LEAST_ALIGNED:
            raise ValueError(
                f"PadimConfig: align={self.align!r} does not go with crop_size={self.crop_size}, wanted sides of "
                f"{_LEAST_ALIGNED} pixels or more"
            )
        for name in ("covariance", "projection"):
            if self.align != "none" and (value := getattr(self, name)) in ("ledoit-wolf", "principal-components"):
                raise ValueError(
                    f"PadimConfig: align={self.align!r} does not go with {name}={value!r}, which takes every image to "
                    "cover every position"
                )
        if self.positions == "own" and self.n_components > 1:
            raise ValueError(
                f"PadimConfig: n_components={self.n_components} does not go with positions='own'; it is for 'shared'"
            )
        covariances = ("ridge", "pooled") if self.n_components > 1 else ("ridge",)
        if self.positions == "shared" and self.covariance not in covariances:
            raise ValueError(
                f"PadimConfig: covariance={self.covariance!r} does not go with positions='shared' and n_components="
                f"{self.n_components}; wanted {' or '.join(covariances)}"
            )
        if self.positions == "shared" and self.covariance == "pooled" and self.prior_images == "auto":
            raise ValueError("PadimConfig: prior_images='auto' does not go with positions='shared'; give a number")
        if self.positions == "shared" and self.align != "none":
            raise ValueError(
                f"PadimConfig: align={self.align!r} does not go with positions='shared', which do not look where a "
                "patch lies"
            )
        if self.positions == "shared" and self.ridge == "auto":
            raise ValueError("PadimConfig: ridge='auto' does not go with positions='shared'; give a number")
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
        return pair(self.image_size)

    @property
    def crop(self) -> tuple[int, int]:
        """``crop_size`` as (height, width)."""
        return pair(self.crop_size)

    @property
    def computed(self) -> "PadimConfig":
        """The settings that programs are made for: models that differ only in the others share them.

        The value range matters only where files are read; ridge and prior images are given to programs as numbers, and
        maps are standardised, and images aligned, by what a model holds for it.
        """
        return dataclasses.replace(
            self,
            value_range=None,
            ridge=RIDGE,
            prior_images=0.0 if self.covariance == "pooled" else "auto",  # a number, which all kinds of positions take
            anomaly_map="distance",
            align="none",
            max_angle=180.0,
        )

    @property
    def folded(self) -> "PadimConfig":
        """The settings that programs which fold images in are made for: what an image scores changes no moments."""
        return dataclasses.replace(self.computed, image_score="max")

    @property
    def largest_angle(self) -> float:
        """Degrees by which an image may be turned to align it; 0 where it is shifted alone."""
        return self.max_angle if self.align == "rigid" else 0.0

    @property
    def top_share(self) -> float | None:
        """The share of the pixels, in (0, 1], whose mean an image scores; None for the maximum."""
        percent = percent_of(self.image_score)
        return None if percent is None else percent / 100

    @property
    def is_standardised(self) -> bool:
        """Whether maps are put into standard deviations of good images' maps, which takes a calibration."""
        return self.anomaly_map != "distance"

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
    def has_full_rank(self) -> bool:
        """Whether few images do not make covariances of low rank, because these are of the patches of all positions."""
        return self.covariance == "pooled" or self.positions == "shared"

    @property
    def passes(self) -> int:
        """How many times a fit reads its images; to align them, it reads some of them once more."""
        return 1 + (self.projection == "principal-components") + (self.n_components > 1)

    @property
    def found_first(self) -> str | None:
        """What is found from all images before a fit folds them in, in words; None where nothing is."""
        if self.n_components > 1:
            return "several components"
        if self.projection == "principal-components":
            return "principal components"
        return None if self.align == "none" else "aligned images"


SETTINGS: Mapping[str, Setting] = {f.name: f.metadata["setting"] for f in dataclasses.fields(PadimConfig)}


def differences(a: object, b: object) -> str:
    """Fields in which two dataclass instances of one type differ, as ``name: a against b``."""
    pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]  # type: ignore[arg-type]
    return "; ".join(f"{name}: {_short(x)} against {_short(y)}" for name, x, y in pairs if x != y)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
