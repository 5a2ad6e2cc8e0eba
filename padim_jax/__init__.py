"""PaDiM (Patch Distribution Modeling, arXiv 2011.08785) for visual inspection, in JAX.

``load_backbone`` → ``fit`` on good images → ``score`` new ones; ``save`` and ``load`` the model.
"""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from padim_jax.artifact import Updatable, load, load_updatable, save, save_updatable
    from padim_jax.artifact.arrays import ArtifactError
    from padim_jax.backbones import BACKBONES, Backbone, extract, load_backbone, own_backbone
    from padim_jax.config import PadimConfig
    from padim_jax.method.calibration import Calibration
    from padim_jax.method.fitting import accumulate, finalize, forget, init, merge, update
    from padim_jax.method.parameters import parameters_at
    from padim_jax.method.records import Padim, PadimMoments, Scores
    from padim_jax.method.regularisation import regularise
    from padim_jax.method.variants import with_roi, with_solver, with_threshold
    from padim_jax.presets import PRESETS, preset
    from padim_jax.runs.api import calibrate, fit, score
    from padim_jax.runs.choosing import choose
    from padim_jax.runs.detector import PadimDetector
else:  # the command line would wait for JAX to say its version
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.artifact": ("Updatable", "load", "load_updatable", "save", "save_updatable"),
            "padim_jax.backbones": ("BACKBONES", "Backbone", "extract", "load_backbone", "own_backbone"),
            "padim_jax.method.calibration": ("Calibration",),
            "padim_jax.config": ("PadimConfig",),
            "padim_jax.presets": ("PRESETS", "preset"),
            "padim_jax.runs.api": ("calibrate", "fit", "score"),
            "padim_jax.runs.choosing": ("choose",),
            "padim_jax.runs.detector": ("PadimDetector",),
            "padim_jax.method.records": ("Padim", "PadimMoments", "Scores"),
            "padim_jax.method.fitting": ("accumulate", "finalize", "forget", "init", "merge", "update"),
            "padim_jax.method.parameters": ("parameters_at",),
            "padim_jax.method.regularisation": ("regularise",),
            "padim_jax.method.variants": ("with_roi", "with_solver", "with_threshold"),
            "padim_jax.artifact.arrays": ("ArtifactError",),
        },
    )

__all__ = [
    "BACKBONES",
    "PRESETS",
    "ArtifactError",
    "Backbone",
    "Calibration",
    "Padim",
    "PadimConfig",
    "PadimDetector",
    "PadimMoments",
    "Scores",
    "Updatable",
    "accumulate",
    "calibrate",
    "choose",
    "extract",
    "finalize",
    "fit",
    "forget",
    "init",
    "load",
    "load_backbone",
    "load_updatable",
    "merge",
    "own_backbone",
    "parameters_at",
    "preset",
    "regularise",
    "save",
    "save_updatable",
    "score",
    "update",
    "with_roi",
    "with_solver",
    "with_threshold",
]
