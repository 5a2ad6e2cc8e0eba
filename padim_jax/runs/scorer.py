"""A compiled program that scores batches of one size, whatever method stands behind it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, UInt8

from padim_jax.method.anomaly_map import image_score
from padim_jax.runs.score import fill_up


@dataclass(frozen=True)
class Scorer:
    """A compiled program that scores batches of one size.

    Attributes:
      program: takes uint8 (size, height, width, 3) to (image scores or None, maps or None). Where there are no image
        scores they follow from the maps.
      size: images that each batch is filled up to.
      share: of a map's pixels, whose mean an image scores; None for the maximum.
    """

    program: Callable[[UInt8[np.ndarray, "size height width 3"]], tuple[Array | None, Array | None]]
    size: int
    share: float | None = None

    def compile(self, height: int, width: int) -> None:
        """Score a batch of blank images, so that the program is compiled and later batches take their own time."""
        self.finish(self.start(np.zeros((self.size, height, width, 3), np.uint8)), self.size)

    def start(self, images: UInt8[np.ndarray, "n height width 3"]) -> tuple[Array | None, Array | None]:
        """Begin to score n images, ``size`` at most."""
        return self.program(fill_up(images, self.size))

    def finish(
        self, started: tuple[Array | None, Array | None], n: int
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n height width"] | None]:
        """Image scores and maps of n images, once they are there."""
        values, maps = (None if part is None else np.asarray(part)[:n] for part in started)
        if values is None:
            assert maps is not None
            values = np.asarray(image_score(maps, self.share))  # as in Scores.image_score, for a sum of maps too
        return values, maps
