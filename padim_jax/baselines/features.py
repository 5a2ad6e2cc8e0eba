"""What the methods take of the network: activations of taps, of whole images or of patches on one grid."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone, BackboneSpec
from padim_jax.config import PadimConfig
from padim_jax.method.anomaly_map import resampling
from padim_jax.method.checks import check_images, pad_batches
from padim_jax.method.embedding import Embedding, draw_embedding

Images = UInt8[Array | np.ndarray, "n height width 3"]
Batches = Iterable[Images]
T = TypeVar("T")


def deepest_tap(spec: BackboneSpec) -> str:
    """Name of the deepest layer that a network has, which stands for the papers' last one.

    Networks here are truncated behind the deepest layer that PaDiM taps: stage 3 of 4 of a ResNet, block 10 of 16 of
    EfficientNet-Lite0. What papers pool behind the last stage is pooled behind that layer.
    """
    return spec.taps[-1].name


def embedding_of(
    backbone: Backbone, config: PadimConfig, taps: tuple[str, ...] | None, neighbourhood: int = 1
) -> Embedding:
    """All channels of ``taps``, or of the network's default ones for None.

    Raises:
      ValueError: an unknown tap; lists the valid names.
    """
    total = sum(tap.channels for tap in backbone.spec.select(taps))
    return draw_embedding(backbone, replace(config, taps=taps, n_channels=total, neighbourhood=neighbourhood))


def pooled(activations: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
    """Mean over all cells: one vector an image."""
    return jnp.mean(activations, axis=(1, 2))


def patches(parts: tuple[Float[Array, "n _h _w _c"], ...], grid: tuple[int, int]) -> Float[Array, "n p d"]:
    """Activations of several taps brought to one grid, concatenated: d numbers for each of its p cells, row by row.

    Coarser taps are upsampled bilinearly with half-pixel centres.
    """
    on_grid = [_upsample(part, grid).reshape(len(part), grid[0] * grid[1], -1) for part in parts]
    return jnp.concatenate(on_grid, axis=-1)


def _upsample(x: Float[Array, "n h w c"], grid: tuple[int, int]) -> Float[Array, "n H W c"]:
    for axis, (cells, length) in enumerate(zip(x.shape[1:3], grid, strict=True), start=1):
        if cells != length:
            matrix = jnp.asarray(resampling(cells, length, 0.0, "bilinear"))
            formula = "nhwc,yh->nywc" if axis == 1 else "nhwc,xw->nhxc"
            x = jnp.einsum(formula, x, matrix, precision=lax.Precision.HIGHEST)
    return x


def collect(
    call: str, batches: Batches, config: PadimConfig, program: Callable[[Array], Any], least: int
) -> tuple[np.ndarray, ...]:
    """What ``program`` gives for all images, on the host: a tuple of arrays, images first.

    Args:
      call: who asks, for errors.
      batches: uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``; n may vary.
      config: how images look.
      program: takes a batch of images to a tuple of arrays, images first.
      least: how many images there have to be.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or too few.
      FloatingPointError: an image whose features are not finite.
    """
    found: list[tuple[np.ndarray, ...]] = []
    n_images = 0
    for images, valid in pad_batches(call, batches, config):
        n = int(valid.sum())
        found.append(tuple(np.asarray(leaf)[:n] for leaf in program(images)))
        for leaf in found[-1]:
            check_finite(call, leaf, n_images)
        n_images += n
    check_count(call, n_images, least)
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def score_images(call: str, program: Callable[[Any, Array], T], model: Any, images: Images) -> T:
    """What the compiled ``program(model, images)`` says of images once they are checked; nothing of none.

    Raises:
      TypeError, ValueError: naming ``call``, images of another dtype or shape, or float values outside [0, 1].
    """
    check_images(call, images, model.config, floats=True)
    if len(images) > 0:
        return program(model, jnp.asarray(images))
    one = jax.eval_shape(program, model, jax.ShapeDtypeStruct((1, *model.config.crop, 3), np.uint8))
    return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape[1:]), leaf.dtype), one)


def check_finite(call: str, features: np.ndarray, first: int) -> None:
    """Raise ``FloatingPointError`` naming the image, counted from ``first``, whose features are not finite."""
    finite = np.isfinite(features).all(axis=tuple(range(1, features.ndim)))
    if not finite.all():
        raise FloatingPointError(
            f"{call}: the features of the image at index {first + int(np.argmin(finite))} are not finite; the "
            "network's weights are broken, or the image is"
        )


class TooFewImages(ValueError):
    """Fewer good images than a method takes."""


def check_count(call: str, n_images: int, least: int) -> None:
    """Raise :class:`TooFewImages` where there are too few images."""
    if n_images < least:
        noun = "image" if n_images == 1 else "images"
        raise TooFewImages(f"{call}: {n_images} {noun}, wanted {least} or more good ones; give more images")
