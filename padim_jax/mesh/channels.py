"""The moments of all channels over all patches on a mesh, from which principal components follow."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from padim_jax.backbones import Backbone
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.moments import Moments
from padim_jax.mesh.shardings import IMAGES, SAME
from padim_jax.method import projection
from padim_jax.method.embedding import Embedding


def channel_moments(
    mesh: Mesh, backbone: Backbone, embedding: Embedding, moments: Moments | None, images: Array, valid: Array
) -> Moments:
    """Fold images into moments that every device keeps of its own ones: arrays (devices, 1, ...) of one device's.

    Args:
      mesh: of the devices.
      backbone: the same on all of them.
      embedding: of all channels.
      moments: so far; None for none.
      images: of :func:`padim_jax.mesh.shared_out`, like ``valid``.
      valid: which of them count.
    """
    if moments is None:
        own = jax.eval_shape(lambda: projection.channel_moments(embedding))
        placed = NamedSharding(mesh, IMAGES)
        moments = jax.tree.map(lambda a: jnp.zeros((mesh.size, *a.shape), a.dtype, device=placed), own)
    return _fold(mesh, backbone, embedding, moments, images, valid)


def merged_channels(mesh: Mesh, moments: Moments) -> Moments:
    """What all devices have folded, in every process."""
    everywhere = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, SAME))(moments)
    parts = jax.tree.map(lambda array: array.addressable_data(0), everywhere)
    merge = jax.jit(gaussian_moments.merge)
    return functools.reduce(merge, [jax.tree.map(lambda array, i=index: array[i], parts) for index in range(mesh.size)])


@functools.partial(jax.jit, static_argnames=("mesh", "embedding"))
def _fold(
    mesh: Mesh, backbone: Backbone, embedding: Embedding, moments: Moments, images: Array, valid: Array
) -> Moments:
    def local(backbone: Backbone, moments: Moments, images: Array, valid: Array) -> Moments:
        own = jax.tree.map(lambda array: array[0], moments)
        return jax.tree.map(
            lambda array: array[None], projection.fold_channels(backbone, embedding, own, images, valid)
        )

    specs = (SAME, IMAGES, IMAGES, IMAGES)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=IMAGES, check_vma=False)
    return run(backbone, moments, images, valid)
