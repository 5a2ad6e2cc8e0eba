"""Embeddings of images that are first brought into the pose of a reference, and maps that are brought back.

A Gaussian per position takes parts to lie still. Where they don't, each image is registered to a reference
(:mod:`padim_jax.method.registration`) and moved into its pose before the network sees it. What the move brings in from
outside the photo counts nowhere: not in the moments, which keep a count of their own at each position (the coverage),
and not in maps. Positions that fewer than half of the images cover are not judged at all.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Num

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.method import brief
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.embedding import Embedding, embed
from padim_jax.method.registration import Reference, estimate_with_shifts, prepare_reference
from padim_jax.method.warping import ANGLES, Poses, centre_of, rotate, rotation, unwarp_map, warp

_LEAST_COVERAGE = 0.5  # share of the images, of positions that are judged
LEAST_SHARE = 0.5  # of the weights of cells that make up a pixel, of pixels that are judged
SHIFTS = 16  # shifts in a pixel, to which those of turned images are rounded
EXPLAINED = 0.1  # share of what shifting leaves unexplained that turning an image has to explain


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Alignment:
    """What images are registered to before they are embedded.

    Attributes:
      image: float32 (height, width, 3), the reference, RGB from 0 to 255.
      reference: its edge images, prepared.
    """

    image: Float32[Array, "height width 3"]
    reference: Reference

    __repr__ = brief.alignment

    @classmethod
    def to(cls, image: Num[Array | np.ndarray, "height width 3"], max_angle: float) -> "Alignment":
        """The alignment to a reference image, by turns of up to ``max_angle`` degrees; where it is 0, by shifts."""
        pixels = jnp.asarray(image, jnp.float32)
        return cls(pixels, prepare_reference(pixels, max_angle=max_angle))

    @property
    def max_angle(self) -> float:
        """Degrees by which an image may be turned; 0 where images are shifted alone."""
        return self.reference.max_angle

    def poses(self, images: Num[Array, "n height width 3"]) -> Poses:
        """Poses of images; one is turned only where that explains much of what shifting it leaves unexplained.

        One that is not turned is shifted by whole pixels, which does not blur it. Others are rounded so little that it
        matters to nothing but other devices and runtimes, which find the same.
        """
        turned, shifted = estimate_with_shifts("align", self.reference, images)
        is_turned = turned.quality - shifted.quality > EXPLAINED * (1 - shifted.quality)
        return Poses(
            jnp.where(is_turned, jnp.round(turned.angle * ANGLES) / ANGLES, 0),
            jnp.where(is_turned[:, None], jnp.round(turned.shift * SHIFTS) / SHIFTS, jnp.round(shifted.shift)),
            jnp.where(is_turned, turned.quality, shifted.quality),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patches:
    """What a model sees of n images.

    Attributes:
      x: float32 (p, n, d), embeddings, positions first.
      inside: bool (p, n), which of them come from inside the photos; None where images are not aligned.
      poses: of the images; None likewise.
    """

    x: Float[Array, "p n d"]
    inside: Bool[Array, "p n"] | None = None
    poses: Poses | None = None

    def weights(self, of_images: Float[Array, " n"]) -> Float[Array, "p n"]:
        """The weight of each patch: that of its image, or 0 where it does not come from inside the photo."""
        assert self.inside is not None
        return jnp.where(self.inside, of_images[None], 0)


def embed_aligned(
    backbone: Backbone,
    embedding: Embedding,
    images: Num[Array, "n height width 3"],
    projection: Float[Array, "c d"] | None,
    alignment: Alignment | None,
) -> Patches:
    """Embeddings of images, moved into the pose of the reference where there is one."""
    if alignment is None:
        return Patches(embed(backbone, embedding, images, projection))
    poses = jax.tree.map(lax.stop_gradient, alignment.poses(images))
    moved, _ = warp(images, poses)
    inside = cells_inside(poses, embedding.grid, images.shape[1:3])
    return Patches(embed(backbone, embedding, moved, projection), inside, poses)


def cells_inside(poses: Poses, grid: tuple[int, int], size: tuple[int, ...]) -> Bool[Array, "p n"]:
    """Which cells of a reference's grid have their centres inside the photos, of (height, width) in pixels."""
    rows, columns = ((np.arange(n) + 0.5) * length / n - 0.5 for n, length in zip(grid, size, strict=True))
    cells = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    centre, end = centre_of(size), jnp.asarray(size, jnp.float32).reshape(1, 1, 2) - 0.5

    def inside(angle: Array, shift: Array) -> Array:
        offsets = jnp.asarray(cells, jnp.float32) - centre
        points = rotate(offsets, *rotation(angle, size)) + centre + shift.reshape(1, 1, 2)
        return jnp.all((points >= -0.5) & (points <= end), axis=-1).reshape(-1)

    return jax.vmap(inside)(poses.angle, poses.shift).T


def is_supported(coverage: Float[Array, "p n"], count: Float[Array, " n"]) -> Bool[Array, "p n"]:
    """Which positions are judged: those that at least half of the images, and two of them, cover."""
    return coverage >= jnp.maximum(2, _LEAST_COVERAGE * count)[None]


@dataclass(frozen=True)
class View:
    """Where maps of aligned images may be looked at, and how they are brought back.

    Attributes:
      judged: bool (p, n), cells that are judged.
      poses: of the images.
    """

    judged: Bool[Array, "p n"]
    poses: Poses

    def maps(
        self, grid: Float[Array, "n h w"], config: PadimConfig
    ) -> tuple[Float[Array, "n height width"], Bool[Array, "n height width"]]:
        """Maps in the pose of the reference, weighted means of the cells that are judged, and which pixels are.

        The weights are those of the upsampling and the blur; a pixel is judged where cells with half of them are.
        """
        judged = self.judged.T.reshape(grid.shape)
        steps = config.crop, config.sigma, config.interpolation
        share = anomaly_map(judged.astype(grid.dtype), *steps)
        is_judged = share > LEAST_SHARE
        total = anomaly_map(jnp.where(judged, grid, 0), *steps)
        return jnp.where(is_judged, total / jnp.where(is_judged, share, 1), 0), is_judged

    def bring_back(
        self, maps: Float[Array, "n height width"], outside: Float[Array, "n 1 1"]
    ) -> Float[Array, "n height width"]:
        """Maps in the photos' own pixels, ``outside`` where the reference does not reach."""
        moved, is_reached = unwarp_map(maps, self.poses)
        return jnp.where(is_reached, moved, outside)
