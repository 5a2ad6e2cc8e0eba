"""Models that can be updated, merged and made to forget: the moments, and what they are moments of."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from padim_jax.backbones import Backbone
from padim_jax.gaussians.factors import Solver
from padim_jax.method import brief
from padim_jax.method.calibration import Calibration
from padim_jax.method.fitting import DEFAULT_SOLVER, finalize
from padim_jax.method.records import Padim, PadimMoments
from padim_jax.method.standard import MapStandard


@dataclass(frozen=True)
class Updatable:
    """An updatable model as it is stored: everything from which a later fit goes on.

    Attributes:
      backbone: the frozen network.
      moments: of all images so far.
      images: digests of their files (see :class:`padim_jax.images.Batch`), each with the weight it was folded in with;
        empty where they were not files.
      calibration: of the model that these moments give; None where it is not calibrated.
      roi: region of interest, bool (height, width) at crop size; None for everywhere.
      progress: what an unfinished fit has to remember, or a model of what it was made from; None for nothing.
      image_sizes: (width, height) of the images' files in pixels, each once; empty where they are not known.
      standard: what maps are standardised by, of the model that these moments give; None as in
        :class:`padim_jax.Padim`.

    >>> updatable = padim.Updatable(backbone, moments)
    >>> padim.score(updatable.model(), test_images).image_score.shape
    (2,)
    """

    backbone: Backbone
    moments: PadimMoments
    images: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration: Calibration | None = None
    roi: Any = None
    progress: Mapping[str, Any] | None = None
    image_sizes: tuple[tuple[int, int], ...] = ()
    standard: MapStandard | None = None
    __repr__ = brief.updatable

    def model(self, *, solver: Solver = DEFAULT_SOLVER, donate: bool = False) -> Padim:
        """The model that scores; see :func:`padim_jax.finalize`."""
        fitted = finalize(self.backbone, self.moments, solver=solver, donate=donate)
        return dataclasses.replace(fitted, calibration=self.calibration, roi=self.roi, standard=self.standard)


def note_change(progress: Mapping[str, Any] | None, change: str) -> dict[str, Any]:
    """What a model remembers about its fit, with a word for a change since: it is no longer as it was fitted."""
    notes = dict(progress or {})
    return notes | {"since": [*notes.get("since", ()), change]}


def is_weight(value: Any) -> bool:
    """Whether ``value`` can be the weight that an image was folded in with: a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
