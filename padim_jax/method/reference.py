"""The reference that a fit aligns its images to, made of some of them."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, UInt8

from padim_jax.config import PadimConfig
from padim_jax.method.aligned import Alignment
from padim_jax.method.registration import REFERENCE_IMAGES, estimate_with_shifts, find_reference
from padim_jax.method.regularisation import ImageSample

# Turning has to explain so much of what shifting leaves unexplained, in so many of the images. It does in 58 % of
# printed figures turned by 3°, in 81 % of plates turned freely, and in 23 % of round pills, whose shadows fall
# differently.
EXPLAINED, TURNED = 0.25, 1 / 3


def find_alignment(
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]], config: PadimConfig
) -> Alignment | None:
    """The alignment of a fit, to a reference of images that are evenly spread over all; None where none is asked for.

    Where ``config.align`` is "rigid" and turning improves the match of no more than a third of the images much, as that
    of round parts, they are only shifted.

    Raises:
      ValueError: no images.
    """
    if config.align == "none":
        return None
    sample = ImageSample(config, always=True)
    for _ in sample.watch(batches):
        pass
    kept = [*sample.batches()]
    if not kept:
        raise ValueError("fit: no images to make a reference of, which align takes; give good images")
    images = np.concatenate(kept)
    turned = Alignment.to(find_reference(images, max_angle=config.largest_angle), config.largest_angle)
    if turned.max_angle == 0:
        return turned
    some = images[:: -(-len(images) // REFERENCE_IMAGES)]
    best, shifted = estimate_with_shifts("fit", turned.reference, jnp.asarray(some))
    gain = (best.quality - shifted.quality) / jnp.maximum(1 - shifted.quality, 1e-6)
    if float(jnp.mean(gain > EXPLAINED)) > TURNED:
        return turned
    return Alignment.to(find_reference(images, max_angle=0), 0.0)


def alignment_of(
    config: PadimConfig, reference: Num[Array | np.ndarray, "height width 3"] | Alignment | None
) -> Alignment | None:
    """The alignment of a fit: to an image, that of other moments, or None; errors as of :func:`padim_jax.init`."""
    if (reference is not None) != (config.align != "none"):
        fault = "missing" if reference is None else "given"
        raise ValueError(f"init: reference is {fault}, with config.align={config.align!r}; see fit")
    if reference is None:
        return None
    if isinstance(reference, Alignment):
        return jax.tree.map(jnp.copy, reference)  # moments are written over, and their alignment with them
    if reference.shape != (*config.crop, 3):
        raise ValueError(f"init: reference is {tuple(reference.shape)}, wanted {(*config.crop, 3)}, an image")
    return Alignment.to(reference, config.largest_angle)
