"""PaDiM (Patch Distribution Modeling, arXiv 2011.08785) for visual inspection, in JAX.

``load_backbone`` → ``fit`` on good images → ``score`` new ones; ``save`` and ``load`` the model.
"""

from padim_jax.artifact import Updatable, load, load_updatable, save, save_updatable
from padim_jax.backbones import BACKBONES, Backbone, extract, load_backbone
from padim_jax.calibration import Calibration
from padim_jax.config import PadimConfig
from padim_jax.model import Padim, PadimMoments, Scores
from padim_jax.padim import accumulate, finalize, fit, forget, init, merge, update
from padim_jax.scoring import calibrate, score, with_roi, with_solver, with_threshold
from padim_jax.storage import ArtifactError

__all__ = [
    "BACKBONES",
    "ArtifactError",
    "Backbone",
    "Calibration",
    "Padim",
    "PadimConfig",
    "PadimMoments",
    "Scores",
    "Updatable",
    "accumulate",
    "calibrate",
    "extract",
    "finalize",
    "fit",
    "forget",
    "init",
    "load",
    "load_backbone",
    "load_updatable",
    "merge",
    "save",
    "save_updatable",
    "score",
    "update",
    "with_roi",
    "with_solver",
    "with_threshold",
]
