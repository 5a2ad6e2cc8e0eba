"""A convolutional autoencoder trained for structural similarity (Bergmann et al., arXiv 1807.02011)."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, score_images
from padim_jax.baselines.networks import Decoder, Encoder, Network, Parameters, as_values, grids, leaky
from padim_jax.baselines.records import TrainedModel
from padim_jax.baselines.scratch import scratch_images
from padim_jax.baselines.ssim import ssim_map
from padim_jax.baselines.trained_settings import AeSettings
from padim_jax.baselines.training import Recipe, least_images, train
from padim_jax.baselines.training_host import TrainingHost
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.records import Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Ae(TrainedModel[AeSettings]):
    """A trained autoencoder."""


class Autoencoder(nnx.Module):
    """The paper's Table 1: eight convolutions, of which four halve the image, then one over all that is left.

    The code has no activation; the decoder is the encoder reversed.
    """

    def __init__(self, shape: tuple[tuple[int, int], int, int], rngs: nnx.Rngs) -> None:
        size, width, latent = shape
        layers = published_layers(width)
        self.grid, channels = grids(layers, size)[-1], layers[-1][0]
        self.encoder = Encoder(3, layers, rngs)
        self.narrow = nnx.Conv(channels, latent, self.grid, padding="VALID", rngs=rngs)
        self.widen = nnx.ConvTranspose(latent, channels, self.grid, padding="VALID", rngs=rngs)
        self.decoder = Decoder(3, layers, size, rngs)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """Reconstructions; nothing keeps them between 0 and 1."""
        return self.decoder(leaky(self.widen(self.narrow(self.encoder(x)))))


def published_layers(width: int) -> tuple[tuple[int, int, int], ...]:
    """Channels, kernel and stride of the paper's convolutions, whose ``width`` is 32."""
    sizes = [(1, 4, 2), (1, 4, 2), (1, 3, 1), (2, 4, 2), (2, 3, 1), (4, 4, 2), (2, 3, 1), (1, 3, 1)]
    return tuple((width * times, side, stride) for times, side, stride in sizes)


class _Recipe(Recipe[AeSettings]):
    @property
    def network(self) -> Network:
        return Network(Autoencoder, (self.settings.config.crop, self.settings.width, self.settings.latent))

    def loss(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        x = as_values(images)
        y = self.network.holding(parameters)(x)
        if self.settings.loss == "ssim":
            return 1 - jnp.mean(ssim_map(x, y, self.settings.window), axis=(1, 2, 3))
        return jnp.mean((x - y) ** 2, axis=(1, 2, 3))


def fit(
    backbone: Backbone | None,
    batches: Batches,
    settings: AeSettings | None = None,
    *,
    host: TrainingHost | None = None,
) -> Ae:
    """Train an autoencoder to reconstruct good images.

    With x an image of values from 0 to 1 and y its reconstruction, the loss is ``1 - mean SSIM(x, y)`` over all windows
    and channels, or ``mean (x - y)²`` with ``loss="l2"``. Images wait in a scratch file, not in memory.

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
    settings = AeSettings() if settings is None else settings
    with scratch_images("ae.fit", batches, settings.config, least_images(settings)) as images:
        trained = train("ae.fit", _Recipe(settings), images, host)
    return Ae(trained.parameters, trained.history, settings)


def score(model: Ae, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
    """Score images: how unlike its reconstruction each pixel is, and the largest of that.

    The map is ``1 - SSIM(x, y)`` of the window around each pixel, mean of the channels, from 0 to 2; with
    ``loss="l2"``, the distance of the colours ``‖x - y‖``, where the paper has its square. It is blurred by ``sigma``,
    and the image's score is its largest value.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("ae.score", _score, model, images)


def reconstruct(model: Ae, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Float[Array, "n height width 3"]:
    """What the autoencoder makes of images; for good ones about the same, in values from 0 to 1.

    Raises:
      TypeError, ValueError: as :func:`score`.
    """
    return score_images("ae.reconstruct", _reconstruct, model, images)


@jax.jit
def _reconstruct(model: Ae, images: Array) -> Array:
    return _Recipe(model.settings).network.holding(model.parameters)(as_values(images))


@jax.jit
def _score(model: Ae, images: Array) -> Scores:
    x, y = as_values(images), _reconstruct(model, images)
    if model.settings.loss == "ssim":
        errors = 1 - jnp.mean(ssim_map(x, y, model.settings.window), axis=-1)
    else:
        errors = jnp.sqrt(jnp.sum((x - y) ** 2, axis=-1))
    config = model.config
    maps = anomaly_map(errors, config.crop, config.sigma, config.interpolation)
    return Scores(jnp.max(maps, axis=(1, 2)), maps)
