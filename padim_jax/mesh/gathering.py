"""A state that is shared out over devices and processes, handed over part by part to whoever saves it."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array

from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.mesh.shardings import SAME
from padim_jax.method.positions import n_gaussians
from padim_jax.method.records import PadimMoments


def handed_over(moments: PadimMoments) -> PadimMoments:
    """Moments of :func:`padim_jax.mesh.joined` as :func:`padim_jax.artifact.save_updatable` reads them.

    The scatter is fetched in the parts that it is asked for; all processes must ask for the same.
    """
    p = n_gaussians(moments.config, moments.embedding)
    scatter: Any = _GatheredScatter(moments.moments.scatter, p)
    without_scatter = jax.tree.map(
        lambda a: _positions(a, 0, p) if a.ndim else np.asarray(a), replace(moments.moments, scatter=None)
    )
    common: dict[str, Any] = {
        name: jax.tree.map(np.asarray, getattr(moments, name)) for name in ("projection", "alignment")
    }
    return replace(moments, moments=replace(without_scatter, scatter=scatter), **common)


class _GatheredScatter:
    """The first p triangles, fetched from where they lie."""

    def __init__(self, scatter: SymmetricMatrix, p: int) -> None:
        self._scatter, self._p = scatter, p

    def __getitem__(self, positions: slice) -> SymmetricMatrix:
        start, stop, _ = positions.indices(self._p)
        return SymmetricMatrix(tuple(_positions(panel, start, stop) for panel in self._scatter.panels))


def _positions(array: Array, start: int, stop: int) -> np.ndarray:
    """Positions of an array that is shared out, in every process."""
    everywhere = NamedSharding(array.sharding.mesh, SAME)  # pyright: ignore[reportAttributeAccessIssue]
    take = jax.jit(lambda a, first: lax.dynamic_slice_in_dim(a, first, stop - start), out_shardings=everywhere)
    return np.asarray(take(array, start))
