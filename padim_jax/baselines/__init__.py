"""The closed-form methods that PaDiM is compared with: the same trio of settings, fit and score, by name.

>>> from padim_jax import baselines
>>> list(baselines.METHODS)
['spade', 'dn2', 'mahalanobis-ad', 'patchcore', 'dfm']
"""

from typing import TYPE_CHECKING

from padim_jax.baselines.registry import METHODS, Method, method
from padim_jax.baselines.settings import (
    BaselineSettings,
    DfmSettings,
    Dn2Settings,
    MahalanobisAdSettings,
    PatchCoreSettings,
    SpadeSettings,
    shared_settings,
)
from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.baselines.records import FittedModel, ImageScores
    from padim_jax.baselines.storing import load, save
else:  # names and settings are needed also where no network is
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.baselines.records": ("FittedModel", "ImageScores"),
            "padim_jax.baselines.storing": ("load", "save"),
        },
    )

__all__ = [
    "METHODS",
    "BaselineSettings",
    "DfmSettings",
    "Dn2Settings",
    "FittedModel",
    "ImageScores",
    "MahalanobisAdSettings",
    "Method",
    "PatchCoreSettings",
    "SpadeSettings",
    "load",
    "method",
    "save",
    "shared_settings",
]
