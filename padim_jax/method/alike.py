"""Whether two fits are alike, so that their moments can be combined."""

import numpy as np

from padim_jax.config import differences
from padim_jax.method.checks import is_traced
from padim_jax.method.records import PadimMoments

PROJECTION_TOLERANCE = 1e-4  # between matrices drawn from one seed by two LAPACKs, entry by entry


def check_alike(call: str, a: PadimMoments, b: PadimMoments) -> None:
    """Raise ``ValueError`` naming ``call`` and how two fits differ: settings, projections or centres of components."""
    difference = "; ".join(filter(None, (differences(a.config, b.config), differences(a.embedding, b.embedding))))
    if difference:
        raise ValueError(f"{call}: the two were not fitted alike ({difference}); only like moments can be combined")
    if a.projection is not None and b.projection is not None and not is_traced(a.projection, b.projection):
        gap = float(np.abs(np.asarray(a.projection) - np.asarray(b.projection)).max())
        if not gap < PROJECTION_TOLERANCE:
            raise ValueError(f"{call}: the projections differ by up to {gap:.2g}; begin both fits with the same one")
    own, other = a.moments.components, b.moments.components
    if own is None or other is None or is_traced(own.centres, other.centres):
        return
    if not np.array_equal(own.centres, other.centres):
        raise ValueError(
            f"{call}: the two have other components (their centres differ); update one with the images of the other, "
            "or begin both with the same centres (padim_jax.init)"
        )
