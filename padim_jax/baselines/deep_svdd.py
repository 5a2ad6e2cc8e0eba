"""Deep SVDD: how far an image is from the centre of the ball that good ones are drawn into (Ruff et al., ICML 2018).

The paper takes its first weights from an autoencoder; here they are drawn. Its leaky ReLUs have a slope of 0.1, these
of 0.2. Where the published code normalises batches, images are normalised one by one, as in
:mod:`padim_jax.baselines.ganomaly`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, score_images
from padim_jax.baselines.networks import Network, Parameters, as_values, leaky, normalise
from padim_jax.baselines.records import ImageScores, TrainedModel, check_shape
from padim_jax.baselines.scratch import ScratchImages, scratch_images
from padim_jax.baselines.trained_settings import DeepSvddSettings
from padim_jax.baselines.training import Recipe, least_images, train
from padim_jax.baselines.training_host import TrainingHost

_LEAST = 0.1  # of each coordinate of the centre, from 0: units whose centre is 0 are easily made constant


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class DeepSvdd(TrainedModel[DeepSvddSettings]):
    """A trained Deep SVDD.

    Attributes:
      centre: float32 (d,), where good images are drawn to.
    """

    centre: Float[Array, " d"]


class Embedder(nnx.Module):
    """Three convolutions of 5×5, each with the largest of 2×2 cells behind it, and a matrix; without biases.

    With biases, a network could give the centre whatever it sees (the paper's proposition 2).
    """

    def __init__(self, shape: tuple[tuple[int, int], int, int], rngs: nnx.Rngs) -> None:
        (height, width), wide, latent = shape
        channels, convolutions = 3, []
        for times in (1, 2, 4):
            convolutions.append(nnx.Conv(channels, times * wide, (5, 5), use_bias=False, rngs=rngs))
            channels, height, width = times * wide, -(-height // 2), -(-width // 2)
        self.convolutions = nnx.List(convolutions)
        self.matrix = nnx.Linear(channels * height * width, latent, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """One vector of each image."""
        for convolution in self.convolutions:
            x = leaky(normalise(convolution(x)))
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        return self.matrix(x.reshape(len(x), -1))


class _Recipe(Recipe[DeepSvddSettings]):
    @property
    def network(self) -> Network:
        return Network(Embedder, (self.settings.config.crop, self.settings.width, self.settings.latent))

    def loss(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        vectors = embed(self.network, parameters, images)
        return jnp.sum((vectors - constants["centre"][None]) ** 2, axis=1)


def fit(
    backbone: Backbone | None,
    batches: Batches,
    settings: DeepSvddSettings | None = None,
    *,
    host: TrainingHost | None = None,
) -> DeepSvdd:
    """Train a network to draw good images to one point.

    The loss is ``‖f(x) - c‖²``, with weight decay (the paper's "one-class" objective, equation 4). The centre c is the
    mean of f over the images that are learnt from, before training, with coordinates moved to 0.1 or -0.1 where they
    are nearer to 0.

    Args:
      backbone: not used, as the network is trained; None.
      batches: good images, uint8 RGB arrays (n, height, width, 3) of ``settings.config.crop_size``; read once.
      settings: None for the defaults.
      host: keeps the unfinished training, is told of it, and may stop it; None for nobody.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or fewer than 3 (2 with ``held_out=0``).
      FloatingPointError, TrainingStopped, OSError, ModuleNotFoundError: as
        :func:`padim_jax.baselines.training.train`; the scratch file can't be written.
    """
    settings = DeepSvddSettings() if settings is None else settings
    recipe = _Recipe(settings)
    with scratch_images("deep_svdd.fit", batches, settings.config, least_images(settings)) as images:

        def constants(parameters: dict[str, Array], rows: Int[np.ndarray, " m"]) -> dict[str, Array]:
            return {"centre": jnp.asarray(_centre(recipe.network, parameters, images, rows, settings.batch_size))}

        trained = train("deep_svdd.fit", recipe, images, host, constants)
    return DeepSvdd(trained.parameters, trained.history, settings, trained.constants["centre"])


def score(model: DeepSvdd, images: UInt8[Array | np.ndarray, "n height width 3"]) -> ImageScores:
    """Score images: ``‖f(x) - c‖``, where the paper has its square.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("deep_svdd.score", _score, model, images)


def _centre(
    network: Network, parameters: Parameters, images: ScratchImages, rows: Int[np.ndarray, " m"], size: int
) -> Float[np.ndarray, " d"]:
    parts = [np.asarray(embed(network, parameters, batch))[:n] for batch, n in images.batches(size, rows)]
    centre = np.concatenate(parts).astype(np.float64).mean(axis=0)
    return np.where(np.abs(centre) < _LEAST, np.where(centre < 0, -_LEAST, _LEAST), centre).astype(np.float32)


@functools.partial(jax.jit, static_argnames="network")
def embed(network: Network, parameters: Parameters, images: Array) -> Float[Array, "n d"]:
    """f(x) of images, uint8 or from 0 to 1."""
    return network.holding(parameters)(as_values(images) - 0.5)


@jax.jit
def _score(model: DeepSvdd, images: Array) -> ImageScores:
    vectors = embed(_Recipe(model.settings).network, model.parameters, images)
    check_shape("centre", model.centre, vectors.shape[1:])
    return ImageScores(jnp.sqrt(jnp.sum((vectors - model.centre[None]) ** 2, axis=1)))
