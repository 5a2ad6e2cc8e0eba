"""One fit, one score on many devices and processes."""

from padim_jax.mesh.channels import channel_moments, merged_channels
from padim_jax.mesh.gathering import handed_over
from padim_jax.mesh.programs import (
    MeshModel,
    MeshMoments,
    finalize,
    init,
    joined,
    leave_one_out_scores,
    place,
    score,
    score_left_out,
    score_with_grid,
    split,
    update,
)
from padim_jax.mesh.shardings import bytes_per_image, columns_here, device_mesh, replicated, rows_here, shared_out
from padim_jax.mesh.spreading import check_components

__all__ = [
    "MeshModel",
    "MeshMoments",
    "bytes_per_image",
    "channel_moments",
    "check_components",
    "columns_here",
    "device_mesh",
    "finalize",
    "handed_over",
    "init",
    "joined",
    "leave_one_out_scores",
    "merged_channels",
    "place",
    "replicated",
    "rows_here",
    "score",
    "score_left_out",
    "score_with_grid",
    "shared_out",
    "split",
    "update",
]
