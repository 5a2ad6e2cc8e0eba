"""What a fitted model holds at one position: the mean, covariance and Cholesky factor of its Gaussian."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from padim_jax.method.positions import arrangement_of
from padim_jax.method.records import Padim


@dataclass(frozen=True)
class Parameters:
    """N(μ, Σ) at one position of the grid, in NumPy's float64.

    Attributes:
      mean: (d,), μ.
      covariance: (d, d), ``Σ = S + ε I``, in which ``S = Σ_k (x_k - μ)(x_k - μ)ᵀ / (n - 1)``, shrunk where the
        model's covariance is "ledoit-wolf".
      factor: (d, d), lower triangular L with ``L Lᵀ = Σ``.
    """

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    factor: Float[np.ndarray, "d d"]


def parameters_at(model: Padim, row: int, column: int) -> Parameters:
    """The Gaussian of a model at one position of its grid, of which a distance is ``M = ‖L⁻¹ (x - μ)‖``.

    Where all positions share a Gaussian, it is that one everywhere. The position covers a patch of ``crop / grid``
    pixels; ``model.embedding.grid`` is (rows, columns). The model holds float32 numbers, as factors, as inverse factors
    or as a low rank: what is computed from them here is in float64.

    Args:
      model: from :func:`padim_jax.fit`, :func:`padim_jax.finalize` or :func:`padim_jax.load`.
      row: from 0 at the top.
      column: from 0 at the left.

    Raises:
      IndexError: a position outside the grid; negative ones are outside.

    >>> cell = padim.parameters_at(model, row=4, column=6)
    >>> cell.mean.shape, np.allclose(cell.factor @ cell.factor.T, cell.covariance)
    ((12,), True)
    """
    rows, columns = model.embedding.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise IndexError(
            f"parameters_at: position ({row}, {column}) is outside the grid; pass a row from 0 to {rows - 1} and a "
            f"column from 0 to {columns - 1}"
        )
    position = arrangement_of(model.config).gaussians_of(np.array([row * columns + column]))
    factor = model.gaussian.lower_factors(position)[0]
    return Parameters(np.asarray(model.gaussian.mean[position[0]], np.float64), factor @ factor.T, factor)
