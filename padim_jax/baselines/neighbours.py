"""Exact nearest neighbours by chunks: queries × bank is never in memory, whatever their numbers."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

CHUNK_BYTES = 64 * 2**20  # of what one step holds beside its arguments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of a bank for each of q queries, the nearest first.

    Attributes:
      distance: float32 (q, k), Euclidean, not squared.
      index: int32 (q, k), rows of the bank.
    """

    distance: Float[Array, "q k"]
    index: Int[Array, "q k"]


@functools.partial(jax.jit, static_argnames=("k", "chunk_bytes", "approximate"))
def nearest(
    queries: Float[Array, "q d"],
    bank: Float[Array, "m d"],
    k: int,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    approximate: bool = False,
) -> Neighbours:
    """The k nearest rows of ``bank`` for each query.

    They are sought by ``‖a - b‖² = ‖a - c‖² + ‖b - c‖² - 2 (a - c)ᵀ(b - c)``, c the mean of the bank, clipped at 0. The
    sum cancels: in float32 it is off by some 10⁻⁷ (‖a - c‖² + ‖b - c‖²), so that among rows whose squared distances
    differ by less, another one may be taken. The distances given are those of the rows found, from their differences,
    which do not cancel.

    Args:
      queries: float32.
      bank: float32, at least k rows; neither is copied.
      k: how many.
      chunk_bytes: what one step may hold, about; it changes nothing but speed and rounding.
      approximate: use ``lax.approx_min_k``, which on TPUs misses about 1 in 20 for speed, and elsewhere is exact.

    Raises:
      ValueError: widths that differ, no rows, or k that is not from 1 to the number of rows.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"nearest: queries are {queries.shape} and the bank is {bank.shape}, wanted (q, d) and (m, d) of one d"
        )
    if not 1 <= k <= len(bank):
        raise ValueError(f"nearest: k={k}, wanted 1 to {len(bank)}, the number of rows in the bank; lower k")
    if len(queries) == 0:
        return Neighbours(jnp.zeros((0, k)), jnp.zeros((0, k), jnp.int32))
    n_queries, n_rows = chunk_sizes(len(queries), len(bank), queries.shape[1], k, chunk_bytes)
    centre = jnp.mean(bank, axis=0)

    def seek(first: Array) -> Neighbours:
        chosen = lax.dynamic_slice_in_dim(queries, first, n_queries)
        index = _search(chosen - centre[None], bank, centre, k, n_rows, approximate)
        return _measure(chosen, bank, index)

    return _by_chunks(seek, len(queries), n_queries)


def chunk_sizes(n_queries: int, n_rows: int, width: int, k: int, chunk_bytes: int) -> tuple[int, int]:
    """How many queries and how many rows of the bank a step takes, at least one of each.

    A third of the bytes each for their distances, the bank's rows, and the queries with the k rows found for each.
    """
    floats = max(1, chunk_bytes // 12)
    queries = _even(n_queries, min(floats // (width * (k + 1)), math.isqrt(floats)))
    return queries, _even(n_rows, min(floats // width, floats // queries))


def _even(total: int, most: int) -> int:
    """Size of equal chunks, no larger than ``most`` but at least 1, of which the last overlaps the one before least."""
    number = -(-total // max(1, most))
    return -(-total // number)


def _search(
    queries: Float[Array, "q d"],
    bank: Float[Array, "m d"],
    centre: Float[Array, " d"],
    k: int,
    n_rows: int,
    approximate: bool,
) -> Int[Array, "q k"]:
    """Rows of the bank that are nearest to queries, which are centred, in chunks of ``n_rows``."""
    lengths = jnp.sum(queries**2, axis=1)[:, None]
    kept = min(k, n_rows)

    def step(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        # the last chunk begins earlier, so that it is whole; what was seen before does not count again
        first = jnp.minimum(number * n_rows, len(bank) - n_rows)
        rows = lax.dynamic_slice_in_dim(bank, first, n_rows) - centre[None]
        products = jnp.einsum("qd,md->qm", queries, rows, precision=lax.Precision.HIGHEST)
        squared = jnp.maximum(lengths + jnp.sum(rows**2, axis=1)[None] - 2 * products, 0)
        index = first + jnp.arange(n_rows, dtype=jnp.int32)
        squared = jnp.where(index[None] < number * n_rows, jnp.inf, squared)
        values, places = _smallest(squared, kept, approximate)
        values, index = jnp.concatenate([best[0], values], axis=1), jnp.concatenate([best[1], index[places]], axis=1)
        values, places = _smallest(values, k, False)
        return values, jnp.take_along_axis(index, places, axis=1)

    none = jnp.full((len(queries), k), jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
    return lax.fori_loop(0, -(-len(bank) // n_rows), step, none)[1]


def _smallest(values: Float[Array, "q m"], k: int, approximate: bool) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    if approximate:
        return lax.approx_min_k(values, k)
    if k == 1:  # no sorting
        place = jnp.argmin(values, axis=1).astype(jnp.int32)[:, None]
        return jnp.take_along_axis(values, place, axis=1), place
    negative, places = lax.top_k(-values, k)
    return -negative, places


def _measure(queries: Float[Array, "q d"], bank: Float[Array, "m d"], index: Int[Array, "q k"]) -> Neighbours:
    """Distances of queries from rows that were found, in their order."""
    squared = jnp.sum((queries[:, None] - bank[index]) ** 2, axis=-1)
    order = jnp.argsort(squared, axis=1)  # stable
    ordered = jnp.take_along_axis(squared, order, axis=1), jnp.take_along_axis(index, order, axis=1)
    return Neighbours(jnp.sqrt(ordered[0]), ordered[1])


def _by_chunks(seek: Callable[[Array], Neighbours], total: int, chunk: int) -> Neighbours:
    """``seek(first)`` for chunks that cover ``total`` queries, the last of them overlapping the one before."""
    if chunk == total:
        return seek(jnp.int32(0))
    whole = total // chunk
    parts = lax.map(seek, jnp.arange(whole, dtype=jnp.int32) * chunk)
    parts = jax.tree.map(lambda part: part.reshape(whole * chunk, *part.shape[2:]), parts)
    left = total - whole * chunk
    if left == 0:
        return parts
    last = seek(jnp.int32(total - chunk))
    return jax.tree.map(lambda part, rest: jnp.concatenate([part, rest[-left:]]), parts, last)
