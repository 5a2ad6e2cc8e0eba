"""How an image is placed before the network: centred, or rotated and cropped at random as in Rd-MVTec AD."""

import hashlib
from dataclasses import dataclass
from typing import get_args

import numpy as np
from PIL import Image

from padim_jax.config import PadimConfig, ProtocolName
from padim_jax.images.image import centre_crop, crop, resampling

LARGEST_ANGLE = 10.0  # degrees; arXiv 2011.08785, section IV-A


@dataclass(frozen=True)
class Placement:
    """What was drawn for one image.

    Attributes:
      angle: of the rotation about the resized image's centre, counter-clockwise, in degrees.
      top: first row of the crop in the rotated image, in pixels.
      left: first column.
    """

    angle: float
    top: int
    left: int


@dataclass(frozen=True)
class Protocol:
    """A way of preparing training and test images alike.

    * ``standard``: resized to ``image_size``, the middle ``crop_size`` taken.
    * ``rotated``: Rd-MVTec AD (PaDiM, arXiv 2011.08785, section IV-A): resized to ``image_size``, rotated by an angle
      uniform in [-10°, 10°] (corners black), then a ``crop_size`` taken anywhere, each place being equally likely.

    Attributes:
      name: one of the two.
      seed: seed of the draws, 0 or more; ``standard`` draws nothing.

    Raises:
      ValueError: naming the field, what was wanted and what came.
    """

    name: ProtocolName
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(ProtocolName):
            raise ValueError(f"Protocol: name={self.name!r}, wanted one of {', '.join(get_args(ProtocolName))}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"Protocol: seed={self.seed!r}, wanted an integer from 0")

    def draw(self, split: str, file_name: str, config: PadimConfig) -> Placement | None:
        """Placement of an image, a function of the seed and these arguments alone; None where nothing is drawn."""
        if self.name == "standard":
            return None
        digest = hashlib.sha256(f"{self.seed}\0{split}\0{file_name}".encode("utf-8", "surrogateescape")).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        angle = float(rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
        (image_height, image_width), (height, width) = config.image, config.crop
        top, left = rng.integers(0, [image_height - height + 1, image_width - width + 1])
        return Placement(angle, int(top), int(left))


STANDARD = Protocol("standard")


def place_image(image: Image.Image, placement: Placement | None, config: PadimConfig) -> Image.Image:
    """``crop_size`` of an image already at ``image_size``; None takes the middle."""
    return _place(image, placement, config, resampling(config))


def place_mask(mask: Image.Image, placement: Placement | None, config: PadimConfig) -> Image.Image:
    """The same part of the image's mask, each pixel that of the nearest."""
    return _place(mask, placement, config, Image.Resampling.NEAREST)


def _place(
    image: Image.Image, placement: Placement | None, config: PadimConfig, method: Image.Resampling
) -> Image.Image:
    if placement is None:
        return centre_crop(image, config)
    return crop(image.rotate(placement.angle, method), placement.top, placement.left, config)
