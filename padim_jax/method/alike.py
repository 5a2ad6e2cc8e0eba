"""Whether two fits are alike, so that their moments can be combined."""

import numpy as np

from padim_jax.config import differences
from padim_jax.method.checks import is_traced
from padim_jax.method.records import PadimMoments

PROJECTION_TOLERANCE = 1e-4  # between matrices drawn from one seed by two LAPACKs, entry by entry
_REFERENCE_TOLERANCE = 0.01  # grey levels: as much as another device's rounding may change


def check_alike(call: str, a: PadimMoments, b: PadimMoments) -> None:
    """Raise ``ValueError`` naming ``call`` and how two fits differ: settings, projections, references or centres."""
    difference = "; ".join(filter(None, (differences(a.config, b.config), differences(a.embedding, b.embedding))))
    if difference:
        raise ValueError(f"{call}: the two were not fitted alike ({difference}); only like moments can be combined")
    if a.projection is not None and b.projection is not None and not is_traced(a.projection, b.projection):
        gap = float(np.abs(np.asarray(a.projection) - np.asarray(b.projection)).max())
        if not gap < PROJECTION_TOLERANCE:
            raise ValueError(f"{call}: the projections differ by up to {gap:.2g}; begin both fits with the same one")
    if a.alignment is not None and b.alignment is not None and not is_traced(a.alignment.image, b.alignment.image):
        gap = float(np.abs(np.asarray(a.alignment.image) - np.asarray(b.alignment.image)).max())
        if not gap < _REFERENCE_TOLERANCE or a.alignment.max_angle != b.alignment.max_angle:
            raise ValueError(
                f"{call}: images are aligned to different references (by up to {gap:.3g} grey levels, for angles of up "
                f"to {a.alignment.max_angle:g}° and {b.alignment.max_angle:g}°); begin both fits with the same one "
                "(init's reference), or fit anew on all images"
            )
    own, other = a.moments.components, b.moments.components
    if own is None or other is None or is_traced(own.centres, other.centres):
        return
    if not np.array_equal(own.centres, other.centres):
        raise ValueError(
            f"{call}: the two have other components (their centres differ); update one with the images of the other, "
            "or begin both with the same centres (padim_jax.init)"
        )
