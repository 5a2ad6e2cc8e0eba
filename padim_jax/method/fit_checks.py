"""What a fit checks on the host: half-lives and masks before, and, of what came out, that it can be used."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from padim_jax.method import programs
from padim_jax.method.checks import is_traced
from padim_jax.method.records import Padim, PadimMoments


def half_life_array(call: str, images: float | None) -> Array | None:
    """A half-life for compiled code; ``ValueError`` naming ``call`` where it is no positive number of images."""
    if images is None:
        return None
    if not 0 < images < np.inf:
        raise ValueError(f"{call}: half_life={images!r}, wanted a positive number of images, or None")
    return jnp.asarray(images, jnp.float32)


def check_valid(valid: Array | np.ndarray, n: int) -> Array:
    """The mask of the images that count; ``ValueError`` where it is none."""
    if valid.shape != (n,) or valid.dtype != bool:
        raise ValueError(f"update: valid is {valid.dtype} {valid.shape}, wanted bool ({n},), one for each image")
    return jnp.asarray(valid)


def check_count(moments: PadimMoments) -> None:
    """Raise ``ValueError`` where there are too few images for a covariance."""
    if not is_traced(moments.count) and moments.count < 2:
        raise ValueError(
            f"finalize: {int(moments.count)} images give no covariance (its divisor is n - 1); fit on 2 or more"
        )


def check_factors(model: Padim, finite: Bool[Array, " p"] | None = None) -> Padim:
    """The model; ``FloatingPointError`` names positions that could not be factored, which are not ``finite``."""
    if is_traced(model.count):
        return model
    valid = np.asarray(programs.is_finite(model.gaussian) if finite is None else finite)
    if not valid.all():
        if model.config.positions == "shared":
            raise FloatingPointError(
                "finalize: the covariance that all positions share could not be factored; raise ridge (now "
                f"{model.config.ridge}) or look for odd images"
            )
        width = model.embedding.grid[1]
        cells = ", ".join(f"({p // width}, {p % width})" for p in np.flatnonzero(~valid)[:5])
        raise FloatingPointError(
            f"finalize: the covariance could not be factored at {int((~valid).sum())} of {valid.size} positions, "
            f"(row, column) {cells}; raise ridge (now {model.config.ridge}) or look for odd images"
        )
    return model
