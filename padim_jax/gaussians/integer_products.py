"""Inverse factors as integers, in one or two parts of seven bits, for embeddings that are integers too.

Channel k of an embedding is given as ``x_k = u_k (q_k - c_k)``, q_k an integer of one or more bytes: a network in eight
bits gives it so, and any other is rounded to it, as finely as float32 is. With W in integers too,
``W_kj = s_j V_kj / u_k``, what is summed up in

    z_j = Σ_k W_kj (x_k - μ_k) = s_j (Σ_k V_kj q_k - Σ_k V_kj (c_k + μ_k / u_k))

are products of integers. They take a quarter of the memory of floats, or half of it in two parts, and reading it is
what a score of one image takes its time for.

Seven bits of a byte are used, because processors without VNNI instructions add up two products of bytes in sixteen
bits, which overflow with eight. The step s_j is that of a column, since it has to stay outside of the sum. Rounding W
to seven bits moves distances by some percent, which is little beside what rounding the activations does: given the
others, many channels vary by less than one of their units. Where there are fewer images than channels, the Gaussians
hardly vary in many directions, and W has columns that need more: ``V = 128 A + B``, A and B of seven bits each.
"""

from dataclasses import dataclass
from functools import partial
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

LEVELS = 63  # of a part on either side of 0
PART = 128  # what one of the first of two parts is worth
_USED = 60  # before feedback, which may need a few more to make up for other rounding


@no_type_check
@dataclass(frozen=True)
class IntegerWhitening:
    """W in integers: ``W_kj = step_j · V_kj / units_k``, ``V = parts_0``, or ``128 · parts_0 + parts_1``.

    Attributes:
      parts: one or two, int8 in [-64, 63], upper triangular.
      step: float32, of each column.
      units: float32, what one step of each channel of the embeddings is worth.
      zeros: float32, the integer that stands for 0 in each channel; None where embeddings are no integers, and their
        deviations from the mean are rounded to whole units.
      error: float32, by how much rounding moves the components of ``z = Wᵀ (x - μ)`` of images of the Gaussian itself,
        root mean square: ``√(E‖z' - z‖² / d)``, in their standard deviations.
    """

    parts: tuple[Int8[np.ndarray, "p d d"], ...]
    step: Float[np.ndarray, "p d"]
    units: Float[np.ndarray, " d"]
    zeros: Float[np.ndarray, " d"] | None
    error: Float[np.ndarray, " p"]

    @property
    def mean_error(self) -> float:
        """The root mean square of ``error`` over positions."""
        return float(np.sqrt(np.mean(self.error**2, dtype=np.float64)))

    def whitening(self) -> TriangularMatrix:
        """W, as its integers have it."""
        worth = (self.step[:, None] / self.units[:, None]).astype(np.float32)

        def panel(first: int, stop: int) -> Float[np.ndarray, "p k w"]:
            values, *rest = (part[:, :stop, first:stop] for part in self.parts)
            for finer in rest:
                values = values * np.float32(PART) + finer
            return values * worth[:, :stop, first:stop]

        return TriangularMatrix(tuple(jnp.asarray(panel(*side)) for side in spans(self.step.shape[1])))


def round_to_integers(
    whitening: TriangularMatrix,
    units: Float[np.ndarray, " d"],
    zeros: Float[np.ndarray, " d"] | None,
    n_parts: int = 1,
) -> IntegerWhitening:
    """W in integers, rounded so that distances change least.

    As in :func:`padim_jax.gaussians.quantised.quantise_whitening` each row makes up for those below it. Steps are then
    scaled so that images of the Gaussian itself keep their mean square distance, ``E‖Wᵀ(x - μ)‖² = d``.

    Args:
      whitening: W at each position.
      units: what one step of each channel of the embeddings is worth, above 0.
      zeros: the integer that stands for 0 in each channel; None where embeddings are no integers.
      n_parts: 1, or 2 for twice the bits.
    """
    p, d = len(whitening), whitening.side
    parts = tuple(np.empty((p, d, d), np.int8) for _ in range(n_parts))
    step, error = np.empty((p, d), np.float32), np.empty(p, np.float32)
    for chunk in packing.host_chunks(p, d):
        values, step[chunk], error[chunk] = map(
            np.asarray, _column_steps(whitening[chunk].square(), jnp.asarray(units), PART ** (n_parts - 1))
        )
        for part, found in zip(parts, _split(values, n_parts), strict=True):
            part[chunk] = found
    units, zeros = np.asarray(units, np.float32), None if zeros is None else np.asarray(zeros, np.float32)
    return IntegerWhitening(parts, step, units, zeros, error)


def _split(values: Int16[np.ndarray, "p d d"], n_parts: int) -> tuple[np.ndarray, ...]:
    """Numbers of seven bits, the second of two from -64 to 63."""
    if n_parts == 1:
        return (values,)
    first = (values + PART // 2) // PART
    return first, values - PART * first


@partial(jax.jit, static_argnames="worth")
def _column_steps(
    whitening: Float[Array, "p d d"], units: Float[Array, " d"], worth: int
) -> tuple[Int16[Array, "p d d"], Float[Array, "p d"], Float[Array, " p"]]:
    d = whitening.shape[-1]
    of_integers = whitening * units[None, :, None]
    step = jnp.max(jnp.abs(of_integers), axis=1) / (_USED * worth)
    steps = feedback_steps(of_integers, step[:, None], LEVELS * worth)
    factor = inverse_transpose(of_integers, lower=False)
    rounded = steps.astype(jnp.float32) * step[:, None]
    spread = jnp.einsum("pki,pkj->pij", rounded, factor, precision=lax.Precision.HIGHEST)
    size = jnp.sqrt(jnp.sum(spread**2, axis=(1, 2)) / d)[:, None]
    moved = spread / size[..., None] - jnp.eye(d)[None]
    return steps, step / size, jnp.sqrt(jnp.sum(moved**2, axis=(1, 2)) / d)
