"""A model on disk: one self-contained folder, in an updatable or a deployed form."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazily

if TYPE_CHECKING:
    from padim_jax.artifact.deployed import load, load_image_sizes, save, save_compacted
    from padim_jax.artifact.updatable import Updatable, lived_on, load_updatable, save_updatable
else:  # whoever only locks a folder would wait for JAX
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "padim_jax.artifact.deployed": ("load", "load_image_sizes", "save", "save_compacted"),
            "padim_jax.artifact.updatable": ("Updatable", "lived_on", "load_updatable", "save_updatable"),
        },
    )

__all__ = [
    "Updatable",
    "lived_on",
    "load",
    "load_image_sizes",
    "load_updatable",
    "save",
    "save_compacted",
    "save_updatable",
]
