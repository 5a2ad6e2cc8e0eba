"""Which images have the same pixels: a calibration counts each image once, however many copies there are."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from padim_jax.runs.steps import File


def pixels_digest(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """SHA-256 in hex of an image's pixels, as the network sees them."""
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


class Copies:
    """Files grouped by their pixels, of those met so far.

    Args:
      images: digests of the files a model was fitted on, with their weights; None for other files.
    """

    def __init__(self, images: Mapping[str, float] | None) -> None:
        self._images = images
        self._groups: dict[bytes, dict[str, None]] = {}  # digests of files, by that of their pixels
        self._met: set[bytes] = set()
        self.grew = False  # whether a group did after one of it was left out, with less than its weight

    @property
    def different(self) -> int:
        """How many different images there are."""
        return len(self._groups)

    def first_ones(self, files: Sequence[File]) -> list[bool]:
        """For each file, whether its pixels are new; False for files that can't be read."""
        firsts = []
        for file in files:
            if file.digest is None:
                firsts.append(False)
                continue
            group = self._groups.setdefault(file.pixels, {})
            self.grew |= self._images is not None and bool(group) and file.digest not in group
            group[file.digest] = None
            firsts.append(file.pixels not in self._met)
            self._met.add(file.pixels)
        return firsts

    def weight(self, file: File) -> float:
        """What an image was fitted with, all its copies together; 1 of other files, and of those that have changed."""
        if self._images is None:
            return 1.0
        return sum(self._images.get(digest, 1.0) for digest in self._groups[file.pixels])

    def start_again(self) -> None:
        """Begin a second pass over the images, with what the first one learnt about copies."""
        self._met.clear()
        self.grew = False
