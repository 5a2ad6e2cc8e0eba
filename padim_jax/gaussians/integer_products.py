"""Inverse factors as integers of eight bits, of which seven are used, for embeddings that are such integers too.

A network in eight bits gives channel k of an embedding as ``x_k = u_k (q_k - c_k)``, q_k an integer from 0 to 255 and
u_k the unit of its layer. With W in integers too, ``W_kj = s_j V_kj / u_k``, what is summed up in

    z_j = Σ_k W_kj (x_k - μ_k) = s_j (Σ_k V_kj q_k - Σ_k V_kj (c_k + μ_k / u_k))

are products of integers. They take a quarter of the memory of floats, and reading it is what a score of one image takes
its time for.

Seven are used, because processors without VNNI instructions add up two products of bytes in sixteen bits, which
overflow with eight. The step s_j is that of a column, since it has to stay outside of the sum. Rounding W to so few
bits moves distances by some percent, which is little beside what rounding the activations does: given the others, many
channels vary by less than one of their units.
"""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8, Int16

from padim_jax.gaussians import packing
from padim_jax.gaussians.factors import inverse_transpose
from padim_jax.gaussians.quantised import feedback_steps
from padim_jax.gaussians.triangle import TriangularMatrix, spans

LEVELS = 63  # on either side of 0
_USED = 60  # before feedback, which may need a few more to make up for other rounding


@no_type_check
@dataclass(frozen=True)
class IntegerWhitening:
    """W in integers: ``W_kj = step_j · values_kj / units_k``.

    Attributes:
      values: int8 in [-63, 63], upper triangular.
      step: float32, of each column.
      units: float32, what one step of each channel of the embeddings is worth.
      zeros: float32, the integer that stands for 0 in each channel.
      error: float32, by how much rounding moves the components of ``z = Wᵀ (x - μ)`` of images of the Gaussian itself,
        root mean square: ``√(E‖z' - z‖² / d)``, in their standard deviations.
    """

    values: Int8[np.ndarray, "p d d"]
    step: Float[np.ndarray, "p d"]
    units: Float[np.ndarray, " d"]
    zeros: Float[np.ndarray, " d"]
    error: Float[np.ndarray, " p"]

    @property
    def mean_error(self) -> float:
        """The root mean square of ``error`` over positions."""
        return float(np.sqrt(np.mean(self.error**2, dtype=np.float64)))

    def whitening(self) -> TriangularMatrix:
        """W, as its integers have it."""
        worth = (self.step[:, None] / self.units[:, None]).astype(np.float32)
        sides = spans(self.values.shape[1])
        panels = [self.values[:, :stop, first:stop] * worth[:, :stop, first:stop] for first, stop in sides]
        return TriangularMatrix(tuple(map(jnp.asarray, panels)))


def round_to_integers(
    whitening: TriangularMatrix, units: Float[np.ndarray, " d"], zeros: Float[np.ndarray, " d"]
) -> IntegerWhitening:
    """W in integers, rounded so that distances change least.

    As in :func:`padim_jax.gaussians.quantised.quantise_whitening` each row makes up for those below it. Steps are then
    scaled so that images of the Gaussian itself keep their mean square distance, ``E‖Wᵀ(x - μ)‖² = d``.

    Args:
      whitening: W at each position.
      units: what one step of each channel of the embeddings is worth, above 0.
      zeros: the integer that stands for 0 in each channel.
    """
    p, d = len(whitening), whitening.side
    values, step = np.empty((p, d, d), np.int8), np.empty((p, d), np.float32)
    error = np.empty(p, np.float32)
    for chunk in packing.host_chunks(p, d):
        found = _column_steps(whitening[chunk].square(), jnp.asarray(units))
        values[chunk], step[chunk], error[chunk] = map(np.asarray, found)
    return IntegerWhitening(values, step, np.asarray(units, np.float32), np.asarray(zeros, np.float32), error)


@jax.jit
def _column_steps(
    whitening: Float[Array, "p d d"], units: Float[Array, " d"]
) -> tuple[Int16[Array, "p d d"], Float[Array, "p d"], Float[Array, " p"]]:
    d = whitening.shape[-1]
    of_integers = whitening * units[None, :, None]
    step = jnp.max(jnp.abs(of_integers), axis=1) / _USED
    steps = feedback_steps(of_integers, step[:, None], LEVELS)
    factor = inverse_transpose(of_integers, lower=False)
    rounded = steps.astype(jnp.float32) * step[:, None]
    spread = jnp.einsum("pki,pkj->pij", rounded, factor, precision=lax.Precision.HIGHEST)
    size = jnp.sqrt(jnp.sum(spread**2, axis=(1, 2)) / d)[:, None]
    moved = spread / size[..., None] - jnp.eye(d)[None]
    return steps, step / size, jnp.sqrt(jnp.sum(moved**2, axis=(1, 2)) / d)
