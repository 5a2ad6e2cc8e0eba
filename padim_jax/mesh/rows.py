"""The moments of the rows of a mesh, of each row's own images: joined, and split again."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array

from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.moments import Moments
from padim_jax.mesh.spreading import Spreading


@functools.partial(jax.jit, static_argnames=("mesh", "spreading"), donate_argnames="rows")
def join_rows(rows: Moments, mesh: Mesh, spreading: Spreading) -> Moments:
    """Moments of all rows' images; those of the rows are used up."""
    count = mesh.shape["data"]

    def local(own: Moments) -> Moments:
        def exchange(array: Array) -> Array:
            if array.ndim == 1:
                return lax.all_gather(array, "data", tiled=True)
            return spreading.of_every_row(array)

        per_row = jax.tree.map(exchange, own)  # every row's, at fewer positions
        merged = jax.tree.map(lambda array: array[0], per_row)
        for row in range(1, count):
            merged = gaussian_moments.merge(merged, jax.tree.map(lambda array, row=row: array[row], per_row))
        return merged

    specs = (spreading.of_rows,)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.of_all, check_vma=False)(rows)


@functools.partial(jax.jit, static_argnames=("mesh", "spreading"))
def split_rows(moments: Moments, mesh: Mesh, spreading: Spreading) -> Moments:
    """All moments to the first row, none to the others."""

    def local(own: Moments) -> Moments:
        first = lax.axis_index("data") == 0
        row = jax.tree.map(lambda a: spreading.of_row(a) if a.ndim else a, own)
        return with_row(jax.tree.map(lambda a: jnp.where(first, a, 0), row))

    specs = (spreading.of_all,)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spreading.of_rows, check_vma=False)(moments)


def with_row(moments: Moments) -> Moments:
    """Moments as those of one row."""
    return jax.tree.map(lambda array: array[None], moments)


def without_row(rows: Moments) -> Moments:
    """The moments of one row."""
    return jax.tree.map(lambda array: array[0], rows)
