"""The numbers that keep covariances of few images sound, chosen from the good images: the ridge ε and the prior's ν.

They are those under which good images are most likely, each by the Gaussian of all the others
(:mod:`padim_jax.gaussians.likelihood`), on average over a sample of positions and images. A ridge that is too small
makes a good image that is a little unlike the others impossible, and one that is too large blurs what images share.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import RIDGE, PadimConfig
from padim_jax.gaussians.likelihood import left_out_log_likelihoods
from padim_jax.method import programs
from padim_jax.method.checks import check_backbone, pad_batches
from padim_jax.method.embedding import Embedding
from padim_jax.method.records import PadimMoments

Batch = UInt8[Array | np.ndarray, "n height width 3"]
AnyBatch = TypeVar("AnyBatch", bound=Array | np.ndarray)

SAMPLE_IMAGES = 128
FEWEST_IMAGES = 3  # of which one can be left out
_FALLBACK_PRIOR_IMAGES = 30.0  # where nothing can be chosen: the middle of the values tried
_FALLBACK_RIDGE = 0.03  # of the mean variance, likewise
_RELATIVE_RIDGES = tuple(10.0**exponent for exponent in np.arange(-3, 0.5, 0.5))  # of the mean variance
_PRIOR_IMAGES = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_POSITIONS, _FEWEST_POSITIONS = 64, 8
_OPERATIONS = 2e9  # about as many as the eigendecompositions may take
_WHOLE = 0.9999  # of the images, up to rounding
_STILL = 1e-6  # of the mean variance: positions of less never change, and any ridge suits them


@dataclass(frozen=True)
class Regularisation:
    """The numbers that were chosen for a fit.

    Attributes:
      ridge: ε.
      prior_images: ν; 0 where the covariance is not pooled.
      log_likelihood: mean log-likelihood of an image at a position, left out; None where there were too few images.
      images: how many images it was chosen on.
    """

    ridge: float
    prior_images: float
    log_likelihood: float | None
    images: int

    def describe(self) -> str:
        """A sentence for the user."""
        prior = f", and the covariance of all positions counts as {self.prior_images:g} images" * (
            self.prior_images > 0
        )
        if self.log_likelihood is None:
            return f"{self.images} images are too few to choose a ridge by; it is {self.ridge:g}{prior}"
        return (
            f"ridge {self.ridge:g}{prior}: chosen by the likelihood of {self.images} good images, each left out of "
            "the fit in turn"
        )


class ImageSample:
    """Images evenly spread over all different ones that pass by, whatever their batches.

    Up to twice :data:`SAMPLE_IMAGES` are kept, and a digest of every image, by which copies are counted; nothing where
    the settings leave no number to be chosen, unless they are to be kept ``always``.
    """

    def __init__(self, config: PadimConfig, *, always: bool = False) -> None:
        self._keeps = always or config.chooses
        self._images: list[tuple[bytes, np.ndarray]] = []
        self._copies = Counter[bytes]()
        self._interval = 1

    def watch(self, batches: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
        """The same batches, of whose images some are kept."""
        for batch in batches:
            yield batch
            for image in batch if self._keeps else ():
                self._add(np.asarray(image))

    def batches(self, size: int = 16) -> Iterator[UInt8[np.ndarray, "n height width 3"]]:
        """The images kept, in order."""
        images = [image for _, image in self._images]
        return (np.stack(images[start : start + size]) for start in range(0, len(images), size))

    @property
    def weights(self) -> list[float]:
        """How many copies there were of each image kept."""
        return [float(self._copies[digest]) for digest, _ in self._images]

    def _add(self, image: np.ndarray) -> None:
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in self._copies and len(self._copies) % self._interval == 0:
            self._images.append((digest, image.copy()))
            if len(self._images) == 2 * SAMPLE_IMAGES:
                self._images, self._interval = self._images[::2], 2 * self._interval
        self._copies[digest] += 1


def regularise(
    backbone: Backbone,
    moments: PadimMoments,
    batches: Iterable[Batch],
    weights: Iterable[float] | None = None,
) -> PadimMoments:
    """Choose the numbers of ``moments.config`` that are "auto"; moments whose settings are numbers stay as they are.

    Args:
      backbone: the one given to :func:`padim_jax.init`.
      moments: of all good images.
      batches: those images, or some of them, each different: about a hundred, evenly spread, are enough.
      weights: of the images in order, where they were not folded in with weight 1; an image that was folded in twice
        is given once, with weight 2.

    Raises:
      TypeError, ValueError: images or backbone as :func:`padim_jax.update`.

    >>> settings = padim.PadimConfig(**{**vars(config), "covariance": "pooled", "ridge": "auto"})
    >>> moments = padim.update(backbone, padim.init(backbone, settings), good_images)
    >>> moments = padim.regularise(backbone, moments, [good_images])
    >>> type(moments.config.ridge).__name__, type(moments.config.prior_images).__name__
    ('float', 'float')
    """
    check_backbone("regularise", backbone, moments.embedding)
    if not moments.config.chooses:
        return moments
    positions = sample_positions(moments.embedding, covered_by_all(moments))
    statistics = statistics_at(moments, positions)
    x = embed_sample(backbone, moments, positions, pad_batches("regularise", batches, moments.config))
    weights = np.ones(x.shape[1]) if weights is None else np.fromiter(weights, np.float64)
    return with_regularisation(moments, choose(moments.config, statistics, x, weights))


def with_regularisation(moments: PadimMoments, chosen: Regularisation) -> PadimMoments:
    """The same moments with the numbers that were chosen in their settings."""
    config = replace(moments.config, ridge=chosen.ridge)
    if config.covariance == "pooled":
        config = replace(config, prior_images=chosen.prior_images)
    return replace(moments, config=config)


@dataclass(frozen=True)
class Statistics:
    """Moments at a sample of positions, on the host.

    Attributes:
      count: n.
      mean: (q, d).
      scatter: (q, d, d).
      pooled: (d, d), the mean covariance of all positions.
    """

    count: float
    mean: Float[np.ndarray, "q d"]
    scatter: Float[np.ndarray, "q d d"]
    pooled: Float[np.ndarray, "d d"]


def statistics_at(
    moments: PadimMoments, positions: Int[np.ndarray, " q"], out_shardings: Sharding | None = None
) -> Statistics:
    """Moments at some positions; those of many devices are sent to each by ``out_shardings``."""
    program = programs.statistics_at
    if out_shardings is not None:
        program = jax.jit(program, static_argnames="n_positions", out_shardings=out_shardings)
    arrays = program(moments.moments, positions, moments.embedding.n_positions)
    return Statistics(float(moments.count), *(np.asarray(array, np.float64) for array in arrays))


def embed_sample(
    backbone: Backbone,
    moments: PadimMoments,
    positions: Int[np.ndarray, " q"],
    batches: Iterable[tuple[Array | np.ndarray, Array | np.ndarray]],
) -> Float[np.ndarray, "q k d"]:
    """Embeddings of images at some positions, as the moments have them; the batches say which of their images count."""
    embedding, projection, alignment = moments.embedding, moments.projection, moments.alignment
    parts = [np.zeros((len(positions), 0, embedding.dimension), np.float32)]
    for images, valid in batches:
        x = programs.embed_at(backbone, embedding, images, projection, alignment, positions)
        parts.append(np.asarray(x)[:, : int(valid.sum())])
    return np.concatenate(parts, axis=1)


def covered_by_all(moments: PadimMoments, out_shardings: Sharding | None = None) -> Bool[np.ndarray, " p"] | None:
    """Which positions all images cover; None where they all do, as images that are not aligned.

    Those of many devices are sent to each by ``out_shardings``.
    """
    coverage = moments.moments.coverage
    if coverage is None:
        return None
    fetch = jax.jit(lambda array: array[: moments.embedding.n_positions], out_shardings=out_shardings)
    return np.asarray(fetch(coverage)) >= _WHOLE * float(moments.count)


def sample_positions(embedding: Embedding, covered: Bool[np.ndarray, " p"] | None = None) -> Int[np.ndarray, " q"]:
    """Positions, evenly spread, at which the numbers are chosen; fewer in many dimensions.

    Where not all are :func:`covered_by_all`, among those that are; there may be none.
    """
    positions = np.arange(embedding.n_positions) if covered is None else np.flatnonzero(covered)
    affordable = int(_OPERATIONS / (len(_PRIOR_IMAGES) * embedding.dimension**3))
    count = min(len(positions), _POSITIONS, max(_FEWEST_POSITIONS, affordable))
    return positions[((np.arange(count) + 0.5) * len(positions) / max(count, 1)).astype(int)].astype(np.int32)


def choose(
    config: PadimConfig,
    statistics: Statistics,
    x: Float[np.ndarray, "q k d"],
    weights: Float[np.ndarray, " k"],
) -> Regularisation:
    """The numbers under which embeddings of k different images, at :func:`sample_positions`, are most likely.

    Numbers that are set stay. Each image has the weight of all its copies: what is left of it in the fit would make it
    likely whatever the numbers.
    """
    count = statistics.count
    variance = float(np.trace(statistics.pooled)) / len(statistics.pooled)
    pooled = config.covariance == "pooled"
    changing = np.trace(statistics.scatter, axis1=1, axis2=2) > _STILL * variance * count * len(statistics.pooled)
    usable = (count - weights >= FEWEST_IMAGES - 1) & (weights > 0)
    level = float((statistics.mean**2).mean()) if statistics.mean.size else 0.0
    varies = variance > _STILL * level  # beyond rounding; False where it is not finite
    if not varies or usable.sum() < FEWEST_IMAGES or not changing.any():
        ridge = config.ridge
        if ridge == "auto":
            ridge = _rounded(_FALLBACK_RIDGE * variance) if varies else RIDGE
        prior = _FALLBACK_PRIOR_IMAGES if config.prior_images == "auto" else config.prior_images
        return Regularisation(ridge, prior if pooled else 0.0, None, len(weights))
    ridges = [_rounded(share * variance) for share in _RELATIVE_RIDGES] if config.ridge == "auto" else [config.ridge]
    priors: Sequence[float] = _PRIOR_IMAGES if config.prior_images == "auto" else [config.prior_images]
    likelihoods = left_out_log_likelihoods(
        x[changing][:, usable],
        statistics.mean[changing],
        statistics.scatter[changing],
        count,
        weights[usable],
        statistics.pooled,
        ridges,
        priors if pooled else [0.0],
    ).mean(axis=2)
    v, e = np.unravel_index(int(likelihoods.argmax()), likelihoods.shape)
    prior = float(priors[v]) if pooled else 0.0
    return Regularisation(float(ridges[e]), prior, float(likelihoods[v, e]), int(usable.sum()))


def _rounded(value: float) -> float:
    """To two significant digits, so that it can be read and typed."""
    return float(f"{value:.2g}")
