"""Import PaDiM models that anomalib fitted: from a checkpoint of its own to a model that scores as it does.

A checkpoint has the network, the channels, the means μ and the inverse covariances Σ⁻¹ of all positions. The latter are
factored anew, ``Σ⁻¹ = W Wᵀ`` with W upper triangular, in float64. The scatter and the number of images are not in it,
so that such a model scores and can be calibrated, but not be updated, merged or made to forget.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from padim_jax.artifact.reading_spec import ReadingSpec, parse_reading
from padim_jax.backbones import BACKBONES, Backbone, BackboneSpec, backbone_spec
from padim_jax.backbones.backbone import build_backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.triangle import TriangularMatrix
from padim_jax.method.embedding import Embedding
from padim_jax.method.records import Padim
from weights_conversion import ARCHITECTURES, convert, read_training_checkpoint
from weights_conversion.architectures import ResNetShape
from weights_conversion.names import table

RIDGE = 0.01 + 1e-5  # what anomalib adds to the covariance's diagonal, in two steps
SIGMA = 4.0  # of its blur, where the checkpoint has no kernel
_MODEL = "model."
_NETWORKS = ("feature_extractor.feature_extractor.", "feature_extractor.")
_CHUNK_BYTES = 64 * 2**20  # of float64 factors on the host
_SLACK = 1e-5  # of Σ⁻¹'s largest number: what its factor may be off by, in float32
_CALL = "import_anomalib"


class ModelImportError(ValueError):
    """A checkpoint that can't become a model; the message says what is in it, and what to do."""


@dataclass(frozen=True)
class _Checkpoint:
    """What a checkpoint holds: arrays by their names in the model, and its record of text and numbers."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    record: Mapping[Any, Any]

    def fault(self, text: str) -> ModelImportError:
        return ModelImportError(f"{_CALL}: {self.path}: {text}")

    def array(self, name: str, kind: str, dimensions: int) -> np.ndarray:
        """An array of floating-point ("f") or whole ("i") numbers, all finite."""
        found = self.arrays.get(name)
        if found is None:
            raise self.fault(f"it has no {_MODEL}{name}; wanted a checkpoint of anomalib's Padim, after its fit")
        if found.dtype.kind != kind or found.ndim != dimensions or not found.size:
            raise self.fault(
                f"{_MODEL}{name} is {found.dtype} of shape {found.shape}, which no fitted Padim of anomalib has"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(found.astype(np.float32)).all():
                raise self.fault(f"{_MODEL}{name} is not finite in 32 bits")
        return found


def import_anomalib(
    path: str | os.PathLike[str], *, image_size: int | tuple[int, int] | None = None, n_images: int | None = None
) -> Padim:
    """A model that scores as the PaDiM model in a checkpoint of anomalib does.

    Distances are those of ``M = sqrt((x - μ)ᵀ Σ⁻¹ (x - μ))`` with its μ and Σ⁻¹; images are stretched to its size, and
    maps upsampled and blurred as its are. Two differences remain. Its blur mirrors maps about the centre of the
    outermost pixel, and ours about the edge, so maps differ within 4σ of their border. It keeps resized pixels as
    floats, and we round them to 8 bits. Its scores are divided by those of its validation images before it shows them;
    ours are distances.

    Args:
      path: ``.ckpt`` of anomalib 1 or 2. Nothing in it is executed.
      image_size: (height, width) that images were resized to, or the side of a square, where the checkpoint does not
        say.
      n_images: good images that it was fitted on, if known: then it can be calibrated on these, each left out in turn.

    Raises:
      ModelImportError: a checkpoint of another model, of a network that padim lacks, or one that resizes or blurs in
        a way that padim can't; covariances that have no inverse.
      CheckpointError: a file that can't be read.
      ConversionError: weights that are not those of its network.
      ValueError: ``image_size`` or ``n_images`` that make no sense.
      OSError: the file can't be opened.
    """
    if n_images is not None and (isinstance(n_images, bool) or not isinstance(n_images, int) or n_images < 2):
        raise ValueError(f"{_CALL}: n_images={n_images!r}, wanted a whole number, 2 or more, or None")
    size = None if image_size is None else PadimConfig(image_size=image_size, crop_size=image_size).image
    arrays, record = read_training_checkpoint(path)
    own = {name.removeprefix(_MODEL): array for name, array in arrays.items() if name.startswith(_MODEL)}
    checkpoint = _Checkpoint(Path(path), own, record)
    spec, layers = _network(checkpoint)
    channels = _channels(checkpoint, spec, layers)
    mean, inverse = checkpoint.array("gaussian.mean", "f", 2), checkpoint.array("gaussian.inv_covariance", "f", 3)
    d, p = len(channels), mean.shape[1]
    if mean.shape != (d, p) or inverse.shape != (p, d, d):
        raise checkpoint.fault(
            f"{d} channels, means of shape {mean.shape} and inverse covariances of shape {inverse.shape} don't belong "
            "together"
        )
    config = _config(checkpoint, spec, layers, d, _reading(checkpoint, spec, size))
    grid = spec.grid(spec.select(config.taps), config.crop)
    if math.prod(grid) != p:
        raise checkpoint.fault(
            f"it has Gaussians at {p} positions, and images of {config.crop[0]}×{config.crop[1]} have "
            f"{grid[0]}×{grid[1]}; give the image_size that it was fitted with"
        )
    order = np.argsort(channels)
    backbone = _backbone(checkpoint, spec, config)
    embedding = Embedding(
        backbone=spec.name,
        weights_digest=backbone.weights_digest,
        taps=tuple(tap.name for tap in spec.select(config.taps)),
        channels=tuple(int(channel) for channel in channels[order]),
        grid=grid,
    )
    whitening = _whitening(checkpoint, inverse[:, order[:, None], order[None]])
    gaussian = WhitenedGaussian(jnp.asarray(mean[order].T, jnp.float32), whitening)
    return Padim(backbone, gaussian, jnp.float32(n_images or 0), config, embedding)


def _network(checkpoint: _Checkpoint) -> tuple[BackboneSpec, tuple[str, ...]]:
    """The network, and its layers in the order in which their channels are counted."""
    facts = checkpoint.record.get("hyper_parameters")
    facts = facts if isinstance(facts, Mapping) else {}
    name, layers = facts.get("backbone"), facts.get("layers")
    if not isinstance(name, str) or not isinstance(layers, list | tuple) or not 0 < len(layers) <= len(BACKBONES):
        raise checkpoint.fault("its hyper_parameters name no backbone and layers; save it by anomalib 1 or later")
    known = name.partition(".")[0]  # timm puts the origin of the weights after a point
    if not isinstance(ARCHITECTURES.get(known), ResNetShape):
        names = ", ".join(name for name, shape in ARCHITECTURES.items() if isinstance(shape, ResNetShape))
        raise checkpoint.fault(f"its backbone is {name[:60]!r}, and those that can be imported are {names}")
    spec = backbone_spec(known)
    valid = [tap.name for tap in spec.taps]
    if not all(isinstance(layer, str) and layer in valid for layer in layers) or len({*layers}) < len(layers):
        raise checkpoint.fault(f"its layers are not of {', '.join(valid)}, each once")
    if layers[0] != min(layers):  # its grid is that of the first
        raise checkpoint.fault(f"its first layer is {layers[0]}, and padim takes the grid of {min(layers)}")
    return spec, tuple(layers)


def _channels(checkpoint: _Checkpoint, spec: BackboneSpec, layers: tuple[str, ...]) -> np.ndarray:
    """The channels that are used, by their places among those of the layers in network order."""
    widths = {tap.name: tap.channels for tap in spec.select(layers)}
    index = checkpoint.array("idx", "i", 1).astype(np.int64)
    total = sum(widths.values())
    if index.min() < 0 or index.max() >= total or len(np.unique(index)) < len(index):
        raise checkpoint.fault(f"{_MODEL}idx is no choice of the {total} channels of {', '.join(layers)}")
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    places = np.concatenate([starts[name] + np.arange(widths[name]) for name in layers])
    return places[index]


def _reading(checkpoint: _Checkpoint, spec: BackboneSpec, image_size: tuple[int, int] | None) -> ReadingSpec:
    """How images are resized and cropped, by the checkpoint's record or by what the caller says."""
    try:
        found = parse_reading(checkpoint.record.get("anomalib_pre_processor_config"), spec.mean, spec.std)
    except ValueError as error:
        raise checkpoint.fault(f"it reads images in a way that padim can't: {error}") from error
    if found is not None:
        if image_size is not None and image_size != found.image_size:
            raise checkpoint.fault(f"it says that images have {found.image_size}, not image_size={image_size}")
        return found
    if image_size is None:
        raise checkpoint.fault("it does not say what size images are resized to; give image_size")
    return ReadingSpec(image_size, image_size)


def _config(
    checkpoint: _Checkpoint, spec: BackboneSpec, layers: tuple[str, ...], d: int, reading: ReadingSpec
) -> PadimConfig:
    return PadimConfig(
        n_channels=d,
        ridge=RIDGE,
        image_size=reading.image_size,
        crop_size=reading.crop_size,
        sigma=_sigma(checkpoint),
        taps=tuple(tap.name for tap in spec.select(layers)),
        interpolation="bilinear",
    )


def _sigma(checkpoint: _Checkpoint) -> float:
    """Of the blur, by its kernel."""
    name = "anomaly_map_generator.blur.kernel"
    if name not in checkpoint.arrays:
        return SIGMA
    kernel = checkpoint.array(name, "f", 4)[0, 0].astype(np.float64)
    radius = len(kernel) // 2
    middle = kernel[radius] if kernel.shape == (2 * radius + 1, 2 * radius + 1) and radius > 0 else np.ones(3)
    ratio = middle[len(middle) // 2] / middle[len(middle) // 2 + 1] if (middle > 0).all() else 1.0
    sigma = round(math.sqrt(0.5 / math.log(ratio)), 4) if ratio > 1 else 0.0
    if sigma > 0 and math.floor(4 * sigma + 0.5) == radius:
        line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        line /= line.sum()
        if np.allclose(kernel, line[:, None] * line[None], rtol=1e-3, atol=1e-7):
            return sigma
    raise checkpoint.fault("its blur is no Gaussian filter that ends at 4 standard deviations, as padim's does")


def _backbone(checkpoint: _Checkpoint, spec: BackboneSpec, config: PadimConfig) -> Backbone:
    """The network; layers past the last tap, which anomalib leaves out, are 0 and never computed."""
    prefix = next((p for p in _NETWORKS if any(name.startswith(p) for name in checkpoint.arrays)), None)
    if prefix is None:
        raise checkpoint.fault(f"it has no {_MODEL}feature_extractor")
    weights = {name.removeprefix(prefix): a for name, a in checkpoint.arrays.items() if name.startswith(prefix)}
    last = spec.select(config.taps)[-1].name
    for row in table(spec.name).rows:
        stage = row.path.partition(".")[0]
        if stage.startswith("layer") and stage > last:
            weights |= {
                name: np.zeros(shape, np.float32) for name, shape in row.source_shapes().items() if name not in weights
            }
    return build_backbone(spec.name, convert(spec.name, weights))


def _whitening(checkpoint: _Checkpoint, inverse: Float[np.ndarray, "p d d"]) -> TriangularMatrix:
    """Upper triangular W with ``W Wᵀ = Σ⁻¹``, factored from the last row to the first in float64."""
    p, d, _ = inverse.shape
    found = np.zeros((p, d, d), np.float32)
    chunk = max(1, _CHUNK_BYTES // (8 * d * d))
    for start in range(0, p, chunk):
        part = inverse[start : start + chunk].astype(np.float64)
        part = (part + part.swapaxes(1, 2)) / 2  # a quadratic form knows no more of it
        try:
            flipped = np.linalg.cholesky(part[:, ::-1, ::-1])
        except np.linalg.LinAlgError:
            raise checkpoint.fault(
                f"among positions {start} to {start + len(part) - 1} are inverse covariances that are not positive "
                "definite, which give some distances no meaning; fit it again on more images"
            ) from None
        upper = flipped[:, ::-1, ::-1].astype(np.float32)
        off = np.abs(np.matmul(upper, upper.swapaxes(1, 2), dtype=np.float64) - part).max(axis=(1, 2))
        if not (off <= _SLACK * np.abs(part).max(axis=(1, 2))).all():
            raise checkpoint.fault("its inverse covariances can't be factored in 32 bits")
        found[start : start + len(part)] = upper
    return TriangularMatrix.from_square(jnp.asarray(found))
