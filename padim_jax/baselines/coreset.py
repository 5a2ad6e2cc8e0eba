"""A few rows that lie near all others: greedy k-center, the coreset of PatchCore (arXiv 2106.08265, algorithm 1)."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


@functools.partial(jax.jit, static_argnames=("size", "dimension"))
def coreset(rows: Float[Array, "m d"], size: int, seed: Array, dimension: int) -> Int[Array, " size"]:
    """Indices of ``size`` rows, each the farthest from those before it, all of them different.

    The search sees a projection of the rows, ``x ↦ Wᵀx / sqrt(dimension)`` with W (d, dimension) of normal numbers,
    which keeps distances about as they are (Johnson & Lindenstrauss); rows that are not wider than that are searched as
    they are. The first is the one that lies farthest out in a direction drawn from the seed: unlike an index that is
    drawn, it doesn't depend on the order of the rows.

    Args:
      rows: float32.
      size: how many, from 1 to m.
      seed: uint32 ().
      dimension: that the search has.
    """
    key, key_of_start = jax.random.split(jax.random.key(seed))
    if dimension < rows.shape[1]:
        matrix = jax.random.normal(key, (rows.shape[1], dimension)) / jnp.sqrt(jnp.float32(dimension))
        rows = jnp.einsum("md,dk->mk", rows, matrix, precision=lax.Precision.HIGHEST)
    direction = jax.random.normal(key_of_start, (rows.shape[1],))
    return greedy_k_center(
        rows, size, jnp.argmax(jnp.einsum("md,d->m", rows, direction, precision=lax.Precision.HIGHEST))
    )


@functools.partial(jax.jit, static_argnames="size")
def greedy_k_center(rows: Float[Array, "m d"], size: int, start: Int[Array, ""]) -> Int[Array, " size"]:
    """Indices of ``size`` rows from ``start`` on: ``c_i = argmax_j min_{l < i} ‖x_j - x_{c_l}‖``, of equals the first.

    None is taken twice, even where rows are equal. It takes size · m · d operations and reads all rows size times.
    Squared distances are ``‖x‖² + ‖c‖² - 2 cᵀx`` of centred rows, which a CPU computes twice as fast as differences;
    they are off by some 10⁻⁷ (‖x‖² + ‖c‖²), which is little beside the largest of them.
    """
    rows = rows - jnp.mean(rows, axis=0)[None]
    lengths = jnp.sum(rows**2, axis=1)

    def step(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        chosen, nearest = state
        centre = chosen[number - 1]
        products = jnp.einsum("md,d->m", rows, rows[centre], precision=lax.Precision.HIGHEST)
        squared = jnp.maximum(lengths + lengths[centre] - 2 * products, 0)
        nearest = jnp.minimum(nearest, squared).at[centre].set(-1)
        return chosen.at[number].set(jnp.argmax(nearest).astype(jnp.int32)), nearest

    chosen = jnp.zeros(size, jnp.int32).at[0].set(start.astype(jnp.int32))
    return lax.fori_loop(1, size, step, (chosen, jnp.full(len(rows), jnp.inf)))[0]
