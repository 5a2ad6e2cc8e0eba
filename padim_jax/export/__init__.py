"""Out of the door: a model as a program for other runtimes, with a certificate that it gives the same."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.export.certificate import Certificate
    from padim_jax.export.describe import ExportError
    from padim_jax.export.exporting import export_model
    from padim_jax.export.hub import pull, push
    from padim_jax.export.verifying import Verification, verify_export
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.export.certificate": ("Certificate",),
            "padim_jax.export.describe": ("ExportError",),
            "padim_jax.export.exporting": ("export_model",),
            "padim_jax.export.hub": ("pull", "push"),
            "padim_jax.export.verifying": ("Verification", "verify_export"),
        },
    )

__all__ = ["Certificate", "ExportError", "Verification", "export_model", "pull", "push", "verify_export"]
