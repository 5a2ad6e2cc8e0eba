"""Good images in a scratch file, for methods that look at them more than once; they need not fit in memory."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, UInt8

from padim_jax.baselines.features import Batches, check_count
from padim_jax.config import PadimConfig
from padim_jax.method.checks import check_images


class ScratchImages:
    """Images of one size in a file, in an order that does not depend on the one in which they came.

    Args:
      stream: of the file, which holds uint8 pixels alone.
      size: (height, width).
      digests: of the images, in the file's order.
    """

    def __init__(self, stream: BinaryIO, size: tuple[int, int], digests: list[bytes]) -> None:
        shape = (len(digests), *size, 3)
        self._pixels = np.memmap(stream, np.uint8, "r", shape=shape)
        # equal images stay in the order in which they came, and are alike
        self._order = np.asarray(sorted(range(len(digests)), key=digests.__getitem__))
        self.digest = hashlib.sha256(b"".join(sorted(digests))).hexdigest()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, rows: Int[np.ndarray, " b"]) -> UInt8[np.ndarray, "b height width 3"]:
        """A copy of some images."""
        return np.asarray(self._pixels[self._order[rows]])

    def batches(
        self, size: int, rows: Int[np.ndarray, " m"]
    ) -> Iterator[tuple[UInt8[np.ndarray, "b height width 3"], int]]:
        """The images of these rows, ``size`` at a time or all where there are fewer, and how many of each batch count.

        The last batch is padded by its last image.
        """
        size = min(size, len(rows))
        for first in range(0, len(rows), max(size, 1)):
            n = min(size, len(rows) - first)
            yield self[rows[first + np.minimum(np.arange(size), n - 1)]], n


@contextmanager
def scratch_images(call: str, batches: Batches, config: PadimConfig, least: int) -> Iterator[ScratchImages]:
    """Good images in a temporary file, 3 · height · width bytes each, which goes as the context ends.

    Args:
      call: who asks, for errors.
      batches: uint8 RGB arrays (n, height, width, 3) of ``config.crop_size``; read once.
      config: how images look.
      least: how many images there have to be.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or too few.
      OSError: the file can't be written.
    """
    with tempfile.TemporaryFile(prefix="padim-", buffering=0) as stream:
        digests: list[bytes] = []
        for batch in batches:
            check_images(call, batch, config)
            pixels = np.ascontiguousarray(batch)
            digests += [hashlib.sha256(image).digest() for image in pixels]
            _write(call, stream, pixels.reshape(-1).data)
        check_count(call, len(digests), least)
        yield ScratchImages(stream, config.crop, digests)


def _write(call: str, stream: BinaryIO, content: memoryview) -> None:
    try:
        while content:  # a disk that is almost full takes a part
            content = content[stream.write(content) :]
    except OSError as error:
        raise OSError(
            f"{call}: can't write the images to a scratch file in {tempfile.gettempdir()} ({error.strerror or error}); "
            "make room there, or set TMPDIR to a folder of another disk"
        ) from error
