"""How arrays lie on a mesh of two axes, ``data`` and ``grid``, and how they get there from the host and back."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from padim_jax.method.embedding import Embedding

T = TypeVar("T")

ROWS = PartitionSpec("data", "grid")  # (rows, positions, ...)
SPREAD = PartitionSpec(("grid", "data"))  # (positions, ...) over all devices
GRID = PartitionSpec("grid")  # (positions, ...), the same in every row
IMAGES = PartitionSpec(("data", "grid"))  # (images, ...)
SAME = PartitionSpec()


def device_mesh(data: int = 1, grid: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of ``data`` rows of ``grid`` devices.

    Args:
      data: rows; images are shared out along them.
      grid: devices of a row; positions are shared out along them. None for as many as there are.
      devices: None for all there are, those of other processes too.

    Raises:
      ValueError: the mesh takes more devices than there are, or fewer.

    >>> dict(padim.mesh.device_mesh(1, 1).shape)
    {'data': 1, 'grid': 1}
    """
    devices = jax.devices() if devices is None else devices
    grid = len(devices) // max(1, data) if grid is None else grid
    if data < 1 or grid < 1 or data * grid != len(devices):
        raise ValueError(
            f"device_mesh: data={data} × grid={grid} is not {len(devices)}, the devices there are; choose factors of "
            "that, or pass the devices to use"
        )
    return Mesh(np.asarray(devices).reshape(data, grid), ("data", "grid"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh, tree: T) -> T:
    """The same arrays on every device of the mesh, as :func:`update` wants a backbone."""
    return jax.device_put(tree, NamedSharding(mesh, SAME))


def shared_out(mesh: Mesh, local: np.ndarray) -> Array:
    """One array of the rows that each process gives, as many as the others and a multiple of its devices."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, IMAGES), local)


def rows_here(array: Array) -> np.ndarray:
    """Of an array laid out as images are, this process's rows."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def columns_here(array: Array) -> np.ndarray:
    """Of an array (q, images, k) whose second axis is laid out as images are, this process's columns."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[1].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards], axis=1)


def bytes_per_image(mesh: Mesh, embedding: Embedding) -> float:
    """Bytes of embeddings that leave a device for each image it embeds: ``4 p d (g - 1) / g`` with g devices a row.

    A score sends ``4 p (g - 1) / g`` more, the distances on their way back.
    """
    g = mesh.shape["grid"]
    return 4 * padded_length(mesh, embedding.n_positions) * embedding.dimension * (g - 1) / g


def padded_length(mesh: Mesh, n: int) -> int:
    """n, or as many more as devices share out evenly."""
    return -(-n // mesh.size) * mesh.size


def pad_rows(mesh: Mesh, array: np.ndarray) -> np.ndarray:
    """Rows of 0 behind the others, so that this process's devices share them out evenly."""
    n_local = len(mesh.local_devices)
    n_missing = -len(array) % n_local
    return np.pad(array, [(0, n_missing), *[(0, 0)] * (array.ndim - 1)]) if n_missing else array


def resize_positions(array: Any, p: int) -> Any:
    """Positions filled up with 0 to p, or those beyond p, which were filled up, left out."""
    if not array.ndim or len(array) == p:
        return array
    return array[:p] if len(array) > p else jnp.pad(array, [(0, p - len(array)), *[(0, 0)] * (array.ndim - 1)])
