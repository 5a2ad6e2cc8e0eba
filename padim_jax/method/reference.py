"""The reference that a fit aligns its images to, made of some of them."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Array, Float32, UInt8

from padim_jax.config import PadimConfig
from padim_jax.method.registration import find_reference
from padim_jax.method.regularisation import ImageSample


def reference_of(
    batches: Iterable[UInt8[Array | np.ndarray, "n height width 3"]], config: PadimConfig
) -> Float32[Array, "height width 3"] | None:
    """The reference of a fit, made of images that are evenly spread over all; None where nothing is to be aligned.

    Raises:
      ValueError: no images.
    """
    if config.align == "none":
        return None
    sample = ImageSample(config, keep=True)
    for _ in sample.watch(batches):
        pass
    images = [*sample.batches()]
    if not images:
        raise ValueError("fit: no images to make a reference of, which align takes; give good images")
    return find_reference(np.concatenate(images), max_angle=config.largest_angle)
