"""One fit, one score on many devices and processes."""

from padim_jax.mesh.programs import (
    MeshModel,
    MeshMoments,
    bytes_per_image,
    device_mesh,
    finalize,
    init,
    joined,
    leave_one_out_scores,
    place,
    replicated,
    restored_as,
    rows_here,
    score,
    shared_out,
    split,
    update,
)

__all__ = [
    "MeshModel",
    "MeshMoments",
    "bytes_per_image",
    "device_mesh",
    "finalize",
    "init",
    "joined",
    "leave_one_out_scores",
    "place",
    "replicated",
    "restored_as",
    "rows_here",
    "score",
    "shared_out",
    "split",
    "update",
]
