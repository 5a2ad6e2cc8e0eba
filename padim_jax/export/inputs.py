"""Images as a program takes them: of the crop's size, or photos of one size that it resizes and crops itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.export.describe import ExportError
from padim_jax.images.decode import DeepImage, open_image
from padim_jax.images.image import centre_crop, resize
from padim_jax.method.checks import check_images
from padim_jax.runs.inputs import Notes, image_paths, paths_or_arrays, read_images

Images = UInt8[np.ndarray, "n height width 3"]
Input = tuple[Literal["photo"], int, int]  # height and width
_FILES = 32  # images that are read at a time; photos are read one by one


@dataclass(frozen=True)
class ProgramInput:
    """What a program takes.

    Attributes:
      config: by which the model reads files.
      photo: height and width of photos that the program resizes and crops; None for images of the crop's size.
    """

    config: PadimConfig
    photo: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what it takes."""
        return self.config.crop if self.photo is None else self.photo

    def read(self, call: str, images: Any, note: Callable[[Path, str], None] | None = None) -> Iterator[Images]:
        """The images that a user gives, in batches.

        Args:
          call: that errors name.
          images: a folder, files, or uint8 arrays of :attr:`size`.
          note: called with files and what was decided about them; None warns of it.

        Raises:
          ExportError: photos of another size or depth.
          TypeError, ValueError, OSError: arrays of another type or size; files that can't be read.
        """
        if note is None:
            with Notes() as notes:
                yield from self.read(call, images, notes)
            return
        if isinstance(images, tuple | list) and not images:
            return
        places, arrays = paths_or_arrays(call, images)
        if places is not None:
            paths = image_paths(call, places)
            yield from self._read_files(call, paths, note)
            return
        for batch in arrays:
            check_images(call, batch, self.config, size=self.photo)
            yield np.asarray(batch)

    def seen(self, images: Images) -> Images:
        """What the model sees of images that the program takes, by the reading of files and not by the program's."""
        if self.photo is None:
            return images
        found = np.zeros((len(images), *self.config.crop, 3), np.uint8)
        for index, image in enumerate(images):
            resized = resize(Path("photo"), Image.fromarray(image), self.config)
            found[index] = np.asarray(centre_crop(resized, self.config))
        return found

    def _read_files(self, call: str, paths: Any, note: Any) -> Iterator[Images]:
        if self.photo is None:
            yield from (np.asarray(batch) for batch in read_images(paths, self.config, _FILES, note))
            return
        height, width = self.photo
        for path in paths:
            image = open_image(path, note=note)
            if isinstance(image, DeepImage):
                raise ExportError(f"{call}: {path} has more than 8 bits a channel, and the program takes photos of 8")
            if image.size != (width, height):
                raise ExportError(
                    f"{call}: {path} has {image.width}×{image.height} pixels, and the program takes photos of "
                    f"{width}×{height}; name photos of that size, or export for the size of these"
                )
            yield np.asarray(image)[None]


def check_input(call: str, given: Any) -> tuple[int, int] | None:
    """Height and width of the photos that a program takes; None for images of the crop's size.

    Raises:
      ValueError: neither None nor ("photo", height, width).
    """
    if given is None:
        return None
    is_photo = isinstance(given, tuple | list) and len(given) == 3 and given[0] == "photo"
    if not is_photo or any(type(side) is not int or side < 1 for side in given[1:]):
        raise ValueError(f"{call}: input={given!r}, wanted ('photo', height, width) in pixels, or None")
    return given[1], given[2]
