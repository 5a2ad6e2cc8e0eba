"""The host boundary: what callers pass in is checked here, and refused in words, before jitted code sees it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, UInt8

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.factors import Solver
from padim_jax.method.embedding import Embedding

T = TypeVar("T")

# jaxlib's CPU client can hang when LAPACK calls of two programs run side by side (see gaussians.chunks)
_lapack = threading.Lock()


def run_exclusively(function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)``, waited for, while no other thread runs such a function."""
    with _lapack:
        return jax.block_until_ready(function(*arguments))


def pad_batches(
    call: str, batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]], config: PadimConfig
) -> Iterator[tuple[Array, Array]]:
    """Checked batches, each padded to the largest so far, with a mask of the images that count."""
    largest = 0
    for batch in batches:
        check_images(call, batch, config)
        if len(batch) == 0:
            continue
        largest = max(largest, len(batch))
        padding = [(0, largest - len(batch)), (0, 0), (0, 0), (0, 0)]
        yield jnp.asarray(np.pad(batch, padding) if len(batch) < largest else batch), jnp.arange(largest) < len(batch)


def is_traced(*arrays: Array | np.ndarray) -> bool:
    """Whether any is a placeholder under ``jit`` or ``vmap``, of which nothing can be checked."""
    return any(isinstance(array, Tracer) for array in arrays)


def check_images(
    call: str,
    images: Array | np.ndarray,
    config: PadimConfig,
    *,
    floats: bool = False,
    size: tuple[int, int] | None = None,
) -> None:
    """Raise unless ``images`` are RGB of the crop's size: uint8 or, with ``floats``, float32 from 0 to 1.

    Args:
      call: that errors name.
      images: to check.
      config: of the model.
      floats: whether float32 will do.
      size: height and width of photos that are wanted in place of images of the crop's size.
    """
    dtype = getattr(images, "dtype", type(images).__name__)
    is_float = floats and dtype == np.float32
    if dtype != np.uint8 and not is_float:
        expected = "a uint8 array of RGB (0 to 255)" + (" or a float32 array of RGB (0 to 1)" if floats else "")
        conversions = ["images.astype(np.float32)"] * floats + ["(255 * images).round().astype(np.uint8)"]
        advice = f": where 1 is white, by {' or '.join(conversions)}" if "float" in str(dtype) else ""
        raise TypeError(f"{call}: images must be {expected}, got {dtype}; convert them first{advice}")
    wanted = config.crop if size is None else size
    expected = ", ".join(map(str, ("n", *wanted, 3)))
    if images.ndim == 3 and images.shape[-1] == 3:
        raise ValueError(f"{call}: this is one image, {tuple(images.shape)}, wanted ({expected}); pass images[None]")
    if images.ndim != 4 or images.shape[1:] != (*wanted, 3):
        if size is not None:
            raise ValueError(
                f"{call}: images are {tuple(images.shape)}, wanted ({expected}): the program takes photos of that size"
            )
        smaller = images.ndim == 4 and any(a < b for a, b in zip(images.shape[1:3], config.crop, strict=True))
        hint = "smaller than the crop: " if smaller else ""
        raise ValueError(
            f"{call}: images are {hint}{tuple(images.shape)}, wanted ({expected}) by crop_size={config.crop}; "
            "resize and crop them first (padim_jax.images does), or set crop_size"
        )
    if is_float and len(images) and not is_traced(images):
        low, high = float(images.min()), float(images.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"{call}: float images have values from {low:g} to {high:g}, wanted RGB from 0 (black) to 1 (white); "
                "divide values from 0 to 255 by 255"
            )


def check_backbone(call: str, backbone: Backbone, embedding: Embedding) -> None:
    """Raise ``ValueError`` unless ``backbone`` is the network that ``embedding`` was drawn for."""
    if (backbone.spec.name, backbone.weights_digest) != (embedding.backbone, embedding.weights_digest):
        raise ValueError(
            f"{call}: backbone {backbone.spec.name} (weights {backbone.weights_digest[:8]}) is not the one the moments "
            f"were begun with, {embedding.backbone} (weights {embedding.weights_digest[:8]})"
        )


def check_solver(call: str, solver: str) -> None:
    """Raise ``ValueError`` unless ``solver`` exists."""
    if solver not in get_args(Solver):
        raise ValueError(f"{call}: solver={solver!r}, wanted one of {', '.join(get_args(Solver))}")
