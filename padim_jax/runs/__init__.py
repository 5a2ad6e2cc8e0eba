"""Loops over image files on the host: fold, calibrate, score, and what they write; changes of whole stored models."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.runs.forget import forget_files
    from padim_jax.runs.merge import merge_models
    from padim_jax.runs.recalibration import recalibrate
    from padim_jax.runs.update import Update, update_files
    from padim_jax.runs.watch import Watch
else:  # a table is read without JAX
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.runs.forget": ("forget_files",),
            "padim_jax.runs.merge": ("merge_models",),
            "padim_jax.runs.recalibration": ("recalibrate",),
            "padim_jax.runs.update": ("Update", "update_files"),
            "padim_jax.runs.watch": ("Watch",),
        },
    )

__all__ = ["Update", "Watch", "forget_files", "merge_models", "recalibrate", "update_files"]
