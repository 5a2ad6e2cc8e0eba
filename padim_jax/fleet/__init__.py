"""Many models: fitted in one run, served from one place."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.fleet.fitting import Terms, fit_many
    from padim_jax.fleet.journal import Journal, Outcome
    from padim_jax.fleet.serving import Fleet
    from padim_jax.fleet.tables import Job, Route, read_jobs, read_routes
else:  # a table is read without JAX
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.fleet.fitting": ("Terms", "fit_many"),
            "padim_jax.fleet.journal": ("Journal", "Outcome"),
            "padim_jax.fleet.serving": ("Fleet",),
            "padim_jax.fleet.tables": ("Job", "Route", "read_jobs", "read_routes"),
        },
    )

__all__ = ["Fleet", "Job", "Journal", "Outcome", "Route", "Terms", "fit_many", "read_jobs", "read_routes"]
