"""Many models: fitted in one run, served from one place."""

from typing import TYPE_CHECKING

from padim_jax.lazy import lazily

if TYPE_CHECKING:
    from padim_jax.fleet.fitting import Journal, Outcome, Terms, fit_many
    from padim_jax.fleet.serving import Fleet
    from padim_jax.fleet.tables import Job, Route, read_jobs, read_routes
else:  # a table is read without JAX
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "padim_jax.fleet.fitting": ("Journal", "Outcome", "Terms", "fit_many"),
            "padim_jax.fleet.serving": ("Fleet",),
            "padim_jax.fleet.tables": ("Job", "Route", "read_jobs", "read_routes"),
        },
    )

__all__ = ["Fleet", "Job", "Journal", "Outcome", "Route", "Terms", "fit_many", "read_jobs", "read_routes"]
