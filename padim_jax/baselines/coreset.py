"""A few rows that lie near all others: greedy k-center, the coreset of PatchCore (arXiv 2106.08265, algorithm 1)."""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

CANDIDATES = 8192  # rows that a round looks at: 4 MB of them at 128 dimensions, so that caches hold them
_BLOCK = 512  # of these, those that are brought up to date together
_CENTRES = 256  # that one product takes
_TAKEN = -1.0  # in place of the squared distance of a row that is a centre


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


@functools.partial(jax.jit, static_argnames=("size", "candidates"))
def greedy_k_center(
    rows: Float[Array, "m d"], size: int, start: Int[Array, ""], *, candidates: int = CANDIDATES
) -> Int[Array, " size"]:
    """Indices of ``size`` rows from ``start`` on: ``c_i = argmax_j min_{l < i} ‖x_j - x_{c_l}‖``, of equals the first.

    None is taken twice, even where rows are equal. A row's distance to the nearest centre only falls as centres are
    added, so what it was for the centres so far bounds it from above for good. Each round compares the rows with the
    highest bounds with the centres that they have not seen, and takes centres among them as long as the farthest is
    beyond the bounds of all other rows. The centres are those of the plain search, which compares every row with every
    centre, size · m · d operations, and reads all rows for each. Here most rows are compared with a part of them, by
    products of matrices.

    Squared distances are ``‖x‖² + ‖c‖² - 2 cᵀx`` of centred rows; they are off by some 10⁻⁷ (‖x‖² + ‖c‖²), which is
    little beside the largest of them.

    Args:
      rows: float32.
      size: how many, from 1 to m.
      start: the first one.
      candidates: how many rows a round looks at; it changes nothing but speed and rounding.
    """
    rows = rows - jnp.mean(rows, axis=0)[None]
    lengths = jnp.sum(rows**2, axis=1)
    bound = _squared(rows, lengths, rows[start], lengths[start]).at[start].set(_TAKEN)
    n_padded = -(-size // _CENTRES) * _CENTRES
    search = _Search(
        bound,
        jnp.ones(len(rows), jnp.int32),
        jnp.int32(1),
        jnp.zeros(size, jnp.int32).at[0].set(start.astype(jnp.int32)),
        jnp.zeros((n_padded, rows.shape[1])).at[0].set(rows[start]),
        jnp.full(n_padded, jnp.inf).at[0].set(lengths[start]),
    )
    one_round = functools.partial(_round, rows, lengths, min(candidates, len(rows)))
    return lax.while_loop(lambda search: search.count < size, one_round, search).chosen


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Search:
    """What is known of m rows after some centres.

    Attributes:
      bound: float32 (m,), squared distance to the nearest of the first centres, -1 of centres themselves.
      seen: int32 (m,), how many these first centres are.
      count: int32 (), of all centres so far.
      chosen: int32 (size,), their indices, and 0 after these.
      centres: float32 (s, d), the rows themselves, and 0 after these.
      lengths: float32 (s,), their squared lengths, and infinity after these, which are near to nothing.
    """

    bound: Float[Array, " m"]
    seen: Int[Array, " m"]
    count: Int[Array, ""]
    chosen: Int[Array, " size"]
    centres: Float[Array, "s d"]
    lengths: Float[Array, " s"]


def _round(rows: Float[Array, "m d"], lengths: Float[Array, " m"], n: int, search: _Search) -> _Search:
    """Bring the n rows with the highest bounds up to date, and take all centres that are sure to be among them."""
    bounds, index = lax.top_k(search.bound, n)  # of equals the first
    highest, others = bounds[0], bounds[-1] if n < len(rows) else -jnp.inf
    search = _bring_up_to_date(rows, lengths, index, search)
    index = jnp.sort(index)
    own, own_lengths = rows[index], lengths[index]

    def is_sure(state: tuple[_Search, Array]) -> Array:
        search, near = state
        farthest = jnp.max(near)
        # rows that are not here have lower bounds, or the same and higher indices
        return (search.count < len(search.chosen)) & ((farthest > others) | (farthest == highest))

    def take(state: tuple[_Search, Array]) -> tuple[_Search, Array]:
        search, near = state
        place = jnp.argmax(near)
        centre, length = own[place], own_lengths[place]
        near = jnp.minimum(near, _squared(own, own_lengths, centre, length)).at[place].set(_TAKEN)
        taken = replace(
            search,
            count=search.count + 1,
            chosen=search.chosen.at[search.count].set(index[place]),
            centres=search.centres.at[search.count].set(centre),
            lengths=search.lengths.at[search.count].set(length),
        )
        return taken, near

    search, near = lax.while_loop(is_sure, take, (search, search.bound[index]))
    return replace(search, bound=search.bound.at[index].set(near), seen=search.seen.at[index].set(search.count))


def _bring_up_to_date(
    rows: Float[Array, "m d"], lengths: Float[Array, " m"], index: Int[Array, " n"], search: _Search
) -> _Search:
    """Compare some rows with the centres that they have not seen; by blocks, whose rows have seen about as many."""
    index = index[jnp.argsort(search.seen[index])]

    def compare(block: Int[Array, " b"]) -> Float[Array, " b"]:
        own = rows[block]

        def step(number: Array, near: Float[Array, " b"]) -> Float[Array, " b"]:
            first = number * _CENTRES
            centres = lax.dynamic_slice_in_dim(search.centres, first, _CENTRES)
            products = jnp.einsum("bd,cd->bc", own, centres, precision=lax.Precision.HIGHEST)
            rest = lax.dynamic_slice_in_dim(search.lengths, first, _CENTRES)[None] - 2 * products
            return jnp.minimum(near, jnp.maximum(lengths[block] + jnp.min(rest, axis=1), 0))

        first = search.seen[block[0]] // _CENTRES
        return lax.fori_loop(first, -(-search.count // _CENTRES), step, search.bound[block])

    side = _BLOCK if len(index) % _BLOCK == 0 else len(index)
    near = lax.map(compare, index.reshape(-1, side)).reshape(-1)
    return replace(search, bound=search.bound.at[index].set(near))


def _squared(
    rows: Float[Array, "m d"], lengths: Float[Array, " m"], centre: Float[Array, " d"], length: Float[Array, ""]
) -> Float[Array, " m"]:
    products = jnp.einsum("md,d->m", rows, centre, precision=lax.Precision.HIGHEST)
    return jnp.maximum(lengths + length - 2 * products, 0)
