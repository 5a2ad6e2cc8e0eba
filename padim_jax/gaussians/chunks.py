"""Loops over positions, chunk by chunk: no temporary becomes as large as the state, and a CPU's cache is used.

At d = 550 one temporary as large as the state would double 2.3 GB; where the caller donates, each chunk is written
back over its input.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from padim_jax.gaussians.triangle import Panels

T = TypeVar("T")

CHUNK_BYTES = 64 * 2**20  # of one (positions, d, d) temporary
CPU_CHUNK_BYTES = 8 * 2**20  # of the same on CPU, where it stays in cache: an update takes half the time of 64 MB


def map_in_place(function: Callable[..., T], target: T, *others: Any) -> T:
    """``function(target, *others)`` chunk by chunk over positions, each chunk written over its input.

    The target is matrices (p, d, d), or a tuple of which they are the first.
    """

    def run(chunk: int, target: T, *others: Any) -> T:
        total = len(jax.tree.leaves(target)[0])
        if chunk == total:
            return function(target, *others)

        def step(index: Array, target: T) -> T:
            def part(array: Array) -> Array:
                return lax.dynamic_slice_in_dim(array, index * chunk, chunk)

            def write(array: Array, update: Array) -> Array:
                return lax.dynamic_update_slice_in_dim(array, update, index * chunk, axis=0)

            return jax.tree.map(write, target, function(*jax.tree.map(part, (target, *others))))

        return lax.fori_loop(0, total // chunk, step, target)

    return _by_chunks(run, target, others)


def map_chunks(function: Callable[..., T], target: Float[Array, "p d d"] | Panels, *others: Any) -> T:
    """``function(target, *others)``, an array or a pytree of them, computed chunk by chunk."""

    def run(chunk: int, target: Float[Array, "p d d"] | Panels, *others: Any) -> T:
        if chunk == len(target):
            return function(target, *others)
        split = jax.tree.map(lambda array: array.reshape(-1, chunk, *array.shape[1:]), (target, *others))
        out = lax.map(lambda arrays: function(*arrays), split)
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), out)

    return _by_chunks(run, target, others)


def map_in_cache(function: Callable[..., Array], chunk: int, *arrays: Any) -> Array:
    """``function(*arrays)`` of arrays with p positions first; on CPU ``chunk`` of them at a time, a divisor of p."""
    p = len(jax.tree.leaves(arrays)[0])

    def in_chunks(*arrays: Any) -> Array:
        def step(index: Array) -> Array:
            def part(array: Array) -> Array:
                return lax.dynamic_slice_in_dim(array, index * chunk, chunk)

            return function(*jax.tree.map(part, arrays))

        chunks = lax.map(step, jnp.arange(p // chunk))
        return chunks.reshape(p, *chunks.shape[2:])

    return function(*arrays) if chunk == p else lax.platform_dependent(*arrays, cpu=in_chunks, default=function)


def positions_per_chunk(target: Any, limit: int) -> int:
    """Positions per chunk: the largest divisor of p whose (chunk, d, d) stays within ``limit`` bytes.

    A divisor, so that no remainder is left: jaxlib's CPU client (seen with 0.10.2) can hang forever when two
    LAPACK calls of one program run side by side, which a loop and its remainder do.
    """
    matrices = target[0] if isinstance(target, tuple) else target
    side = matrices.side if isinstance(matrices, Panels) else matrices.shape[-1]
    size = jax.tree.leaves(matrices)[0].dtype.itemsize * side * side
    return largest_divisor(len(matrices), limit // max(1, size))


def largest_divisor(total: int, limit: int) -> int:
    """The largest divisor of ``total`` that is not above ``limit``; at least 1."""
    return next((n for n in range(min(limit, total), 0, -1) if total % n == 0), 1)


def _by_chunks(run: Callable[..., T], target: Any, others: tuple[Any, ...]) -> T:
    """``run(chunk, target, *others)`` with as many positions in a chunk as suit the platform."""
    default, cpu = (
        positions_per_chunk(target, CHUNK_BYTES),
        positions_per_chunk(target, min(CHUNK_BYTES, CPU_CHUNK_BYTES)),
    )
    if default == cpu:
        return run(default, target, *others)
    return lax.platform_dependent(target, *others, cpu=partial(run, cpu), default=partial(run, default))
