"""What a folder or a model looks like, and what a fit and a score will take."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.inspection.folder import FolderInspection, inspect_folder
    from padim_jax.inspection.model import ModelInspection, inspect_model
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.inspection.folder": ("FolderInspection", "inspect_folder"),
            "padim_jax.inspection.model": ("ModelInspection", "inspect_model"),
        },
    )

__all__ = ["FolderInspection", "ModelInspection", "inspect_folder", "inspect_model"]
