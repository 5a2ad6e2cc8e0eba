"""PaDiM (Patch Distribution Modeling, arXiv 2011.08785) for visual inspection, in JAX.

``load_backbone`` → ``fit`` on good images → ``score`` new ones; ``save`` and ``load`` the model.
"""

from padim_jax.artifact import ArtifactError, load, save
from padim_jax.backbones import BACKBONES, Backbone, extract, load_backbone
from padim_jax.config import PadimConfig
from padim_jax.padim import (
    Padim,
    PadimMoments,
    Scores,
    finalize,
    fit,
    init,
    merge,
    score,
    update,
    with_solver,
)

__all__ = [
    "BACKBONES",
    "ArtifactError",
    "Backbone",
    "Padim",
    "PadimConfig",
    "PadimMoments",
    "Scores",
    "extract",
    "finalize",
    "fit",
    "init",
    "load",
    "load_backbone",
    "merge",
    "save",
    "score",
    "update",
    "with_solver",
]
