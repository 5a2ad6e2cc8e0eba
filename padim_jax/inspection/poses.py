"""How far the parts of a folder's images are shifted and turned."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from padim_jax.config import PadimConfig
from padim_jax.images import find_value_range, load_batches
from padim_jax.images.survey import ImageFacts
from padim_jax.method.correlation import edge_image
from padim_jax.method.reference import EXPLAINED, TURNED
from padim_jax.method.registration import estimate_pose, find_reference
from padim_jax.method.warping import Poses, turn
from padim_jax.runs.watch import Watch, ignore_note, skip_unreadable

_MOST, _FEWEST = 100, 10  # images looked at
_SHORT, _LONG, _SMALLEST = 224, 448, 32  # pixels that the shorter and the longer side are shrunk to; of the shorter
_MATCHING = 0.5  # quality from which an image matches; figures have 0.8 or more, plates 0.67, cookies 0.48 (medians)
_CLEAR_SHIFT, _CLEAR_ANGLE = 0.06, 5.0  # of nine in ten: figures that lie still 0.045 and 3°, plates 0.058 and 147°


@dataclass(frozen=True)
class PartPoses:
    """How far parts are shifted and turned, about the middle of them all.

    Attributes:
      n_images: images looked at, evenly spaced among those of the most common size.
      n_matching: of these, how many match the reference well enough to tell.
      quality: median over the images looked at, from -1 to 1; see :class:`padim_jax.method.warping.Poses`.
      not_done: why the rest is not known; None where it is.
      shift, shift_of_most: the largest, and what nine in ten have at most, as shares of the image's width.
      angle, angle_of_most: likewise, in degrees; 0 where turning does not improve the match.
    """

    n_images: int
    n_matching: int = 0
    quality: float = 0.0
    not_done: str | None = None
    shift: float = 0.0
    shift_of_most: float = 0.0
    angle: float = 0.0
    angle_of_most: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether the parts are shifted or turned so far that something should be done about it."""
        return self.shift_of_most > _CLEAR_SHIFT or self.angle_of_most > _CLEAR_ANGLE

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"is_clear": self.is_clear}


def find_poses(images: Sequence[ImageFacts], *, batch_size: int, watch: Watch) -> PartPoses:
    """Register up to 100 images, evenly spaced, to a reference made of some of them.

    Args:
      images: facts of the files.
      batch_size: images read at once.
      watch: follows the work, in stage "align".
    """
    kinds = Counter((image.size, image.depth) for image in images)
    kind = max(kinds, key=lambda kind: kinds[kind], default=None)
    alike = [image.path for image in images if (image.size, image.depth) == kind]
    if kind is None or len(alike) < _FEWEST:
        return PartPoses(len(alike), not_done=f"{len(alike)} images of one size, wanted {_FEWEST} or more")
    (width, height), _ = kind
    if min(width, height) < _SMALLEST:
        return PartPoses(len(alike), not_done=f"images of {width}×{height} pixels, wanted {_SMALLEST} or more each way")
    chosen = [alike[i] for i in np.linspace(0, len(alike) - 1, min(len(alike), _MOST)).round().astype(int)]
    factor = min(1.0, _SHORT / min(width, height), _LONG / max(width, height))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    config = PadimConfig(image_size=size, crop_size=size, sigma=0, value_range=find_value_range(chosen))
    with watch.progress("align", len(chosen)) as advance:
        batches = []
        for batch in load_batches(chosen, config, batch_size, skip_unreadable, ignore_note):
            batches.append(batch.images)
            advance(len(batch.images))
        return spread_of(np.concatenate(batches)) if batches else PartPoses(0, not_done="no image can be read")


def spread_of(images: UInt8[np.ndarray, "n height width 3"]) -> PartPoses:
    """How far the parts of images of one size are shifted and turned."""
    reference = find_reference(images)
    poses, shifts_alone = estimate_pose(reference, images), estimate_pose(reference, images, max_angle=0)
    quality, unturned = np.asarray(poses.quality), np.asarray(shifts_alone.quality)
    matching = quality >= _MATCHING
    median = float(np.median(quality))
    if median < _MATCHING:
        return PartPoses(len(images), int(matching.sum()), median, "the images do not match each other well enough")
    gain = (quality - unturned) / np.maximum(1 - unturned, 1e-6)
    is_turned = np.mean(gain[matching] > EXPLAINED) > TURNED
    chosen = poses if is_turned else shifts_alone
    moved = _part_shifts(np.asarray(edge_image(reference, 1)), chosen)[matching]
    moved = np.linalg.norm(moved - np.median(moved, axis=0), axis=1) / images.shape[2]
    angles = np.asarray(chosen.angle)[matching]
    between = np.abs((angles[:, None] - angles + 180) % 360 - 180)
    turned = between[between.sum(axis=1).argmin()]  # from the one in the middle
    return PartPoses(
        n_images=len(images),
        n_matching=int(matching.sum()),
        quality=median,
        shift=float(moved.max()),
        shift_of_most=float(np.quantile(moved, 0.9)),
        angle=float(turned.max()),
        angle_of_most=float(np.quantile(turned, 0.9)),
    )


def _part_shifts(edges: Float[np.ndarray, "height width"], poses: Poses) -> Float[np.ndarray, "n 2"]:
    """How far the centre of the reference's edges lies from where it is in the reference, in pixels.

    A part that turns about its own centre, off the image's, is not shifted.
    """
    weights = np.maximum(edges, 0) ** 2  # elsewhere they lie below their mean
    grid = np.moveaxis(np.indices(edges.shape), 0, -1) - (np.array(edges.shape) - 1) / 2
    centre = (weights[..., None] * grid).sum(axis=(0, 1)) / max(weights.sum(), 1e-12)
    points = jnp.asarray(centre, jnp.float32).reshape(1, 1, 2)
    turned = np.asarray(jax.vmap(turn, (None, 0))(points, poses.angle))[:, 0, 0]
    return turned + np.asarray(poses.shift) - centre
