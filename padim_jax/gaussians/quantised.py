"""Triangles and bases stored in 16 bits, rounded so that distances change least.

This runs on the host, in NumPy, chunk by chunk of positions (:mod:`padim_jax.gaussians.packing`), so that there is no
second copy of a state of 2.3 GB.
"""

from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int16

from padim_jax.gaussians import packing
from padim_jax.gaussians.factors import inverse_transpose
from padim_jax.gaussians.triangle import TriangularMatrix

LEVELS = 32767  # of int16 on either side of 0; -32768 is not used
FEEDBACK_LEVELS = 32000  # used before feedback, which may need a few more to make up for other rounding
_HIGHEST = lax.Precision.HIGHEST


@no_type_check
@dataclass(frozen=True)
class Quantised:
    """Numbers of 16 bits and the steps they count: ``values · scale``.

    Attributes:
      values: int16 in [-32767, 32767], (p, d(d+1)/2) of a packed triangle or (p, r, d) of a basis.
      scale: float32, one step of each row, (p, d) of a triangle or (p, r) of a basis.
    """

    values: Int16[np.ndarray, "p ..."]
    scale: Float[np.ndarray, "p k"]


def quantise(packed: Float[np.ndarray, "p m"], *, lower: bool) -> Quantised:
    """A packed triangle in 16 bits, ``values = round(triangle / scale)``, ``scale = max|row| / 32767``.

    Raises:
      ValueError: numbers that are not finite, naming positions; or m is no d(d+1)/2.
    """
    d = packing.side("quantise", packed.shape[1])
    values, scale = np.empty(packed.shape, np.int16), np.empty((len(packed), d), np.float32)
    for row, (_, place) in enumerate(packing.rows_of(d, lower)):
        scale[:, row] = np.abs(packed[:, place]).max(axis=1) / LEVELS
    _check_finite("quantise", scale)
    for chunk in packing.host_chunks(len(packed), d):
        for row, (_, place) in enumerate(packing.rows_of(d, lower)):
            values[chunk, place] = _steps(packed[chunk, place], scale[chunk, row, None])
    return Quantised(values, scale)


def quantise_whitening(whitening: TriangularMatrix) -> Quantised:
    """W in 16 bits, packed (upper), rounded so that distances change least: ``scale = max|row| / 32000``.

    Each distance sees the error E of W as ``Eᵀ L``, ``L = W⁻ᵀ``. Its terms of row k are
    ``L_kk E_k + Σ_{j>k} L_jk E_j``: from the last row up, each is rounded to make up for those already rounded
    (Babai 1986, the nearest plane), which makes the bound of :mod:`padim_jax.gaussians.error_bound` several times
    smaller than :func:`quantise` does.

    Raises:
      ValueError: numbers that are not finite, naming positions.
    """
    p, d = len(whitening), whitening.side
    values, scale = np.empty((p, d * (d + 1) // 2), np.int16), np.empty((p, d), np.float32)
    for chunk in packing.host_chunks(p, d):
        steps, scale[chunk] = map(np.asarray, _row_steps(whitening[chunk].square()))
        values[chunk] = packing.pack_triangle(steps, lower=False)
    _check_finite("quantise_whitening", scale)
    return Quantised(values, scale)


def dequantise(quantised: Quantised, *, lower: bool) -> Float[np.ndarray, "p m"]:
    """The packed triangle as float32, ``values · scale``."""
    values, scale = quantised.values, quantised.scale
    packed = np.empty(values.shape, np.float32)
    for chunk in packing.host_chunks(*scale.shape):
        for row, (_, place) in enumerate(packing.rows_of(scale.shape[1], lower)):
            np.multiply(values[chunk, place], scale[chunk, row, None], out=packed[chunk, place])
    return packed


def quantise_basis(basis: Float[np.ndarray, "p r d"]) -> Quantised:
    """Rows in 16 bits, ``values = round(basis / scale)``, ``scale = max|row| / 32767``.

    Raises:
      ValueError: numbers that are not finite, naming positions.
    """
    values, scale = np.empty(basis.shape, np.int16), np.empty(basis.shape[:2], np.float32)
    chunks = list(packing.host_chunks(len(basis), basis.shape[2]))
    for chunk in chunks:
        scale[chunk] = np.abs(basis[chunk]).max(axis=-1) / LEVELS
    _check_finite("quantise_basis", scale)
    for chunk in chunks:
        values[chunk] = _steps(basis[chunk], scale[chunk][..., None])
    return Quantised(values, scale)


def dequantise_basis(quantised: Quantised) -> Float[np.ndarray, "p r d"]:
    """The basis as float32, ``values · scale``; its rows are not quite orthonormal."""
    return np.multiply(quantised.values, quantised.scale[..., None], dtype=np.float32)


@partial(jax.jit, static_argnames="levels")
def feedback_steps(whitening: Float[Array, "p d d"], step: Float[Array, "p k l"], levels: int) -> Int16[Array, "p d d"]:
    """W in whole steps, each row rounded to make up for what those below it were rounded by.

    Args:
      whitening: W, upper triangular.
      step: of each row (p, d, 1), or of each column (p, 1, d).
      levels: of steps on either side of 0 that there are.

    Returns:
      The steps; what they are is not said where a number is not finite.
    """
    d = whitening.shape[-1]
    factor = inverse_transpose(whitening, lower=False)
    steps_of = jnp.broadcast_to(step, whitening.shape)

    def round_row(index: Array, error: Array) -> Array:
        row = d - 1 - index
        exact, column, size = (
            lax.dynamic_index_in_dim(array, row, axis, keepdims=False)
            for array, axis in ((whitening, 1), (factor, 2), (steps_of, 1))
        )
        pivot = lax.dynamic_index_in_dim(column, row, 1)
        # rows not yet rounded have no error so far
        feedback = jnp.einsum("pj,pji->pi", column, error, precision=_HIGHEST) / pivot
        steps = jnp.clip(jnp.rint((exact + feedback) / size), -levels, levels)
        row_error = jnp.where(jnp.arange(d) >= row, exact - steps * size, 0)
        return lax.dynamic_update_index_in_dim(error, row_error, row, axis=1)

    error = lax.fori_loop(0, d, round_row, jnp.zeros_like(whitening))
    return jnp.rint((whitening - error) / step).astype(jnp.int16)


@jax.jit
def _row_steps(whitening: Float[Array, "p d d"]) -> tuple[Int16[Array, "p d d"], Float[Array, "p d"]]:
    """Steps and scales of :func:`quantise_whitening`; scales that are not finite where W is not."""
    scale = jnp.max(jnp.abs(whitening), axis=2) / FEEDBACK_LEVELS
    return feedback_steps(whitening, scale[..., None], LEVELS), scale


def _steps(numbers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Numbers in whole steps; 0 where the step is 0."""
    steps = np.rint(numbers / np.where(scale > 0, scale, 1))
    return np.clip(steps, -LEVELS, LEVELS)  # a step too small for float32's full precision would overshoot


def _check_finite(call: str, scale: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(scale).all(axis=1))
    if len(bad):
        positions = ", ".join(map(str, bad[:5]))
        raise ValueError(
            f"{call}: numbers that are not finite at {len(bad)} of {len(scale)} positions, {positions}; "
            "finite ones wanted, such as finalize gives with a large enough ridge"
        )
