"""A fitted model of another method than PaDiM, as the loop over files scores with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from padim_jax import baselines
from padim_jax.baselines.records import FittedModel
from padim_jax.config import PadimConfig
from padim_jax.method.calibration import Calibration
from padim_jax.method.records import Scores


@dataclass(frozen=True)
class Baseline:
    """A fitted model of another method, with the attributes of :class:`padim_jax.method.records.Padim` that files need.

    Attributes:
      model: from the method's ``fit``.
      calibration: from folds of its good images, or from others; None where it is not calibrated.
    """

    model: FittedModel[Any]
    calibration: Calibration | None = None
    roi: ClassVar[None] = None
    alignment: ClassVar[None] = None

    @classmethod
    def load(cls, path: Path) -> "Baseline":
        """The model in a folder that :func:`fit_method` wrote; raises as :func:`padim_jax.baselines.load`."""
        return cls(*baselines.storing.load_calibrated(path))

    @property
    def method(self) -> "baselines.Method":
        """Which method it is of."""
        return baselines.method(self.model.settings.method)

    @property
    def config(self) -> PadimConfig:
        """How images are read."""
        return self.model.config

    def score(self, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
        """Scores of images; maps of no pixels where the method judges whole images."""
        scores = self.method.score(self.model, images)
        maps = scores.anomaly_map if self.method.has_map else jnp.zeros((len(images), 0, 0), jnp.float32)
        return Scores(scores.image_score, maps)
