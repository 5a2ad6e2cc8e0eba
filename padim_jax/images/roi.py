"""Region of interest: a mask file that says where in the images to look."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.images.decode import DeepImage, FilePath, UnreadableImage, open_image
from padim_jax.images.image import centre_crop, find_defective, measure, resize_mask


def read_roi(
    path: FilePath, config: PadimConfig, image_size: tuple[int, int] | None = None
) -> Bool[np.ndarray, "height width"]:
    """Read a region of interest, at ``crop_size``: true where any channel of the file is not 0.

    The file has the pixel coordinates of the upright original images; it is resized and cropped as they are, each
    pixel that of the nearest.

    Args:
      path: mask file.
      config: sizes and ``resize`` that the images are read with.
      image_size: (width, height) of the images in pixels, which the mask must have too; None takes any.

    Raises:
      UnreadableImage: damaged, no image, with transparent pixels or several frames.
      ValueError: another size than that of the images, or nothing to look at inside the crop.
    """
    opened = open_image(Path(path))
    if image_size is not None:
        check_roi_size(opened.size, image_size)
    marked = (opened.values != 0).any(axis=2) if isinstance(opened, DeepImage) else find_defective(opened)
    mask = Image.fromarray(marked.astype(np.uint8) * np.uint8(255))
    roi = find_defective(centre_crop(resize_mask(mask, config), config))
    if not roi.any():
        reason = "it is 0 throughout" if not marked.any() else "what it marks lies outside the crop"
        raise ValueError(f"read_roi: {path} leaves nothing to look at: {reason}; mark with any other value than 0")
    return roi


def read_roi_of(path: FilePath, config: PadimConfig, images: Sequence[FilePath]) -> Bool[np.ndarray, "height width"]:
    """:func:`read_roi`, checked against the size of every one of ``images`` that can be read.

    Raises:
      UnreadableImage, ValueError: as :func:`read_roi`; names the first image of another size.
    """
    roi_size = measure(Path(path))
    for image in map(Path, images):
        try:
            image_size = measure(image)
        except UnreadableImage:
            continue  # it is reported when the image is read
        try:
            check_roi_size(roi_size, image_size)
        except ValueError as error:
            raise ValueError(f"{image}: {error}") from error
    return read_roi(path, config)


def check_roi_size(roi_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Check that a mask has the (width, height) of an image, both upright, in pixels.

    Raises:
      ValueError: they differ.
    """
    if roi_size != image_size:
        roi, image = ("×".join(map(str, size)) for size in (roi_size, image_size))
        raise ValueError(f"the region of interest has {roi} pixels, the images have {image}; draw it on one of them")
