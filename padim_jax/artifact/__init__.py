"""A model on disk: one self-contained folder, in an updatable or a deployed form."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.artifact.loading import (
        load,
        load_compacted,
        load_image_sizes,
        load_images,
        load_quantised,
        load_updatable,
        load_worst_case,
        resident_bytes,
    )
    from padim_jax.artifact.saving import save, save_compacted, save_updatable
    from padim_jax.artifact.updatable import Updatable, note_change
else:  # who only locks a folder need not wait for JAX
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.artifact.loading": (
                "load",
                "load_compacted",
                "load_image_sizes",
                "load_images",
                "load_quantised",
                "load_updatable",
                "load_worst_case",
                "resident_bytes",
            ),
            "padim_jax.artifact.saving": ("save", "save_compacted", "save_updatable"),
            "padim_jax.artifact.updatable": ("Updatable", "note_change"),
        },
    )

__all__ = [
    "Updatable",
    "load",
    "load_compacted",
    "load_image_sizes",
    "load_images",
    "load_quantised",
    "load_updatable",
    "load_worst_case",
    "note_change",
    "resident_bytes",
    "save",
    "save_compacted",
    "save_updatable",
]
