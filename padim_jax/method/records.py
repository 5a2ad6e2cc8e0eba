"""The records of the method: a fit under way, a fitted model, and what it says about images."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from PIL import Image

from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.low_rank import AnyGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.method import album, brief
from padim_jax.method.aligned import Alignment
from padim_jax.method.calibration import Calibration
from padim_jax.method.embedding import Embedding
from padim_jax.method.standard import MapStandard
from padim_jax.method.warping import Poses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PadimMoments:
    """A fit under way: the moments, with what they are moments of.

    Attributes:
      moments: arrays, the leaves of this pytree.
      config: the settings; static.
      embedding: the channels drawn, the grid, the weights' digest; static.
      projection: float32 (c, d), what all channels are multiplied with; None for random channels.
      alignment: what images are registered to; None where they are taken as they lie.

    >>> moments = padim.update(backbone, padim.init(backbone, config), good_images)
    >>> int(moments.count), moments.embedding.taps
    (20, ('block2', 'block4'))
    """

    moments: Moments
    config: PadimConfig = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})
    projection: Float[Array, "c d"] | None = None
    alignment: Alignment | None = None

    __repr__ = brief.moments

    @property
    def count(self) -> Float[Array, ""]:
        """Images folded in so far."""
        return self.moments.count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Padim:
    """A fitted model: everything that scoring needs.

    Attributes:
      backbone: the frozen network.
      gaussian: one N(μ, Σ) per position, as factors, as inverse factors, or of low rank.
      count: float32 (), images it was fitted on, or the sum of their weights.
      config: the settings; static.
      embedding: channels, grid, weights' digest; static.
      projection: float32 (c, d), what all channels are multiplied with; None for random channels.
      calibration: what good images score, from :func:`padim_jax.calibrate`; None before.
      roi: bool (height, width) at crop size, the region of interest: maps are 0 outside; None for everywhere.
      standard: what maps are standardised by, from :func:`padim_jax.calibrate` where the settings ask for that
        (``anomaly_map="standardised"`` or "combined"); None before, and for maps of distances.
      alignment: what images are registered to; None where they are taken as they lie. The region of interest, and what
        maps are standardised by, are of images that lie as the reference does.
      coverage: float32 (p,), images that cover each position, or the sum of their weights; None where all do.

    >>> model = padim.fit(backbone, good_images, config)
    >>> model.embedding.grid, model.calibration
    ((8, 12), None)
    """

    backbone: Backbone
    gaussian: AnyGaussian
    count: Float[Array, ""]
    config: PadimConfig = field(metadata={"static": True})
    embedding: Embedding = field(metadata={"static": True})
    projection: Float[Array, "c d"] | None = None
    calibration: Calibration | None = None
    roi: Bool[Array, "height width"] | None = None
    standard: MapStandard | None = None
    alignment: Alignment | None = None
    coverage: Float[Array, " p"] | None = None

    __repr__ = brief.padim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scores:
    """What the model says about n images.

    Scores and maps are in units of Mahalanobis distance, not squared, and 0 or more, except that bicubic
    interpolation undershoots beside steep edges of a map. With ``anomaly_map="standardised"`` or "combined" they are
    in standard deviations of good images' maps, and of either sign (:mod:`padim_jax.method.standard`).

    Attributes:
      image_score: float32 (n,), the maximum of each map, or the mean of its highest pixels
        (``config.image_score``): whether there is a defect.
      anomaly_map: float32 (n, height, width) at crop size: where it is.
      p_value: float32 (n,), in (0, 1]: how rarely a good image scores as much (:mod:`padim_jax.method.calibration`);
        None where the model is not calibrated.
      anomalous: bool (n,), the verdict: whether the score is above the calibration's threshold; None likewise. Images
        that match the reference of an aligned model worse than good ones do are anomalous too.
      match: float32 (n,), from -1 to 1, how well images match the reference that they were registered to (the quality
        of :class:`padim_jax.method.warping.Poses`); None where images are not aligned.
      poses: how the parts lie relative to the reference, as they were registered; None where images are not aligned.

    >>> scores = padim.score(model, test_images)
    >>> scores.image_score.shape, scores.p_value.shape
    ((2,), (2,))
    >>> scores.picture(test_images).save(folder / "maps.png")
    """

    image_score: Float[Array, " n"]
    anomaly_map: Float[Array, "n height width"]
    p_value: Float[Array, " n"] | None = None
    anomalous: Bool[Array, " n"] | None = None
    match: Float[Array, " n"] | None = None
    poses: Poses | None = None

    __repr__ = brief.scores
    _repr_html_ = album.table

    def picture(self, images: UInt8[Array | np.ndarray, "n height width 3"] | None = None) -> Image.Image:
        """Draw the maps side by side on one colour scale, from the lowest value to the highest of all.

        Args:
          images: those that were scored, over which the maps are laid; None for the maps alone.

        Raises:
          ValueError: images of another number or size than the maps; none, or more than 100.
        """
        return album.maps_picture(self, images)
