"""How far a fold over image files has come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from padim_jax.config import PadimConfig
from padim_jax.runs.steps import File

MOST_SIZES = 1000  # of images' files, that a model remembers
_NO_WEIGHT = 2.0**-64  # less counts as nothing in sums of float32, and would end at 0
_ELSEWHERE = "not readable; the process that was to read it says why"


@dataclass
class Fold:
    """Image files folded into moments, in order; equal in all processes.

    Attributes:
      state: the moments, as the engine keeps them (:mod:`padim_jax.runs.engines`).
      images: digest of each file and the weight it counts with; that of a file that is there twice is 2.
      done: how many files were dealt with, readable or not.
      skipped: those that could not be read, with the reason.
      sizes: (width, height) of the files in pixels, each once, in the order met.
    """

    state: Any
    images: dict[str, float] = field(default_factory=dict)
    done: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], None] = field(default_factory=dict)

    @property
    def config(self) -> PadimConfig:
        """The settings of the moments."""
        return self.state.config

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """As of :class:`padim_jax.artifact.Updatable`; none where they are more than 1,000, which say nothing."""
        return tuple(self.sizes) if len(self.sizes) <= MOST_SIZES else ()

    def remember(self, files: Sequence[File], reasons: Mapping[str, str], half_life: float | None) -> None:
        """Record the files of a step whose images were folded in.

        Args:
          files: of all processes, in order.
          reasons: why this process could not read files, by path.
          half_life: that older images fade by; those of no weight left are dropped.
        """
        readable = [(file.digest, file.size) for file in files if file.digest is not None]
        for file in files:
            if file.digest is None:
                self.skipped[str(file.path)] = reasons.get(str(file.path), _ELSEWHERE)
        if half_life is not None:
            factor = 2 ** (-len(readable) / half_life)
            faded = {digest: weight * factor for digest, weight in self.images.items()}
            self.images = {digest: weight for digest, weight in faded.items() if weight >= _NO_WEIGHT}
        for age, (digest, _) in enumerate(reversed(readable)):
            weight = 1.0 if half_life is None else 2 ** (-age / half_life)
            if weight >= _NO_WEIGHT:
                self.images[digest] = self.images.get(digest, 0.0) + weight
        if len(self.sizes) <= MOST_SIZES:
            self.sizes.update(dict.fromkeys(size for _, size in readable))
        self.done += len(files)
