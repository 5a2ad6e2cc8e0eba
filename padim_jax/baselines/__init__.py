"""The methods that PaDiM is compared with: the same trio of settings, fit and score, by name.

The first ones have closed forms and use a frozen network; the others train a network of their own.

>>> from padim_jax import baselines
>>> list(baselines.METHODS)
['spade', 'dn2', 'mahalanobis-ad', 'patchcore', 'dfm', 'ae', 'vae', 'ganomaly', 'deep-svdd', 'patch-svdd']
"""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.baselines import storing as storing
    from padim_jax.baselines.records import FittedModel, ImageScores
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
    from padim_jax.baselines.storing import load, save
    from padim_jax.baselines.trained_settings import (
        AeSettings,
        DeepSvddSettings,
        GanomalySettings,
        PatchSvddSettings,
        TrainedSettings,
        VaeSettings,
    )
    from padim_jax.baselines.training_checkpoint import TrainingCheckpoint, TrainingStopped
    from padim_jax.baselines.training_host import TrainingHost
else:  # names and settings are needed also where no network is, and none of it where a model is PaDiM's
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.baselines.records": ("FittedModel", "ImageScores"),
            "padim_jax.baselines.registry": ("METHODS", "Method", "method"),
            "padim_jax.baselines.settings": (
                *("BaselineSettings", "DfmSettings", "Dn2Settings", "MahalanobisAdSettings", "PatchCoreSettings"),
                *("SpadeSettings", "shared_settings"),
            ),
            "padim_jax.baselines.storing": ("load", "save"),
            "padim_jax.baselines.trained_settings": (
                *("AeSettings", "DeepSvddSettings", "GanomalySettings", "PatchSvddSettings", "TrainedSettings"),
                "VaeSettings",
            ),
            "padim_jax.baselines.training_checkpoint": ("TrainingCheckpoint", "TrainingStopped"),
            "padim_jax.baselines.training_host": ("TrainingHost",),
        },
    )

__all__ = [
    "METHODS",
    "AeSettings",
    "BaselineSettings",
    "DeepSvddSettings",
    "DfmSettings",
    "Dn2Settings",
    "FittedModel",
    "GanomalySettings",
    "ImageScores",
    "MahalanobisAdSettings",
    "Method",
    "PatchCoreSettings",
    "PatchSvddSettings",
    "SpadeSettings",
    "TrainedSettings",
    "TrainingCheckpoint",
    "TrainingHost",
    "TrainingStopped",
    "VaeSettings",
    "load",
    "method",
    "save",
    "shared_settings",
]
