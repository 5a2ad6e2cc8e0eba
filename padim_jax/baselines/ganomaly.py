"""GANomaly: how far the code of an image is from that of its reconstruction (Akcay et al., arXiv 1805.06725).

Of the two adversarial methods that inspection is compared by, it is the one that trains everything at once; f-AnoGAN
trains a generator with five steps of its critic for each of its own, and then an encoder, for several times as long.

Where the published code normalises batches, images are normalised one by one: an image's score does not depend on
those beside it, and training keeps no statistics beside the parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, score_images
from padim_jax.baselines.networks import Decoder, Encoder, Network, Parameters, as_values, grids, halving_layers, leaky
from padim_jax.baselines.records import ImageScores, TrainedModel
from padim_jax.baselines.scratch import scratch_images
from padim_jax.baselines.trained_settings import GanomalySettings
from padim_jax.baselines.training import Recipe, least_images, train
from padim_jax.baselines.training_host import TrainingHost


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Ganomaly(TrainedModel[GanomalySettings]):
    """A trained GANomaly, with its discriminator, which scoring does not use."""


class Coder(nnx.Module):
    """Convolutions that halve the image until a side has four cells or fewer, then one over all that is left."""

    def __init__(self, size: tuple[int, int], width: int, latent: int, rngs: nnx.Rngs) -> None:
        layers = halving_layers(size, width)
        self.encoder = Encoder(3, layers, rngs, normalised=True)
        self.narrow = nnx.Conv(layers[-1][0], latent, grids(layers, size)[-1], padding="VALID", rngs=rngs)

    def __call__(self, x: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n _h _w d"], Float[Array, "n latent"]]:
        """Activations before the last convolution, and the code."""
        features = self.encoder(x)
        return features, self.narrow(features)[:, 0, 0]


class Generator(nnx.Module):
    """An autoencoder, and an encoder of what it gives."""

    def __init__(self, size: tuple[int, int], width: int, latent: int, rngs: nnx.Rngs) -> None:
        layers = halving_layers(size, width)
        self.coder = Coder(size, width, latent, rngs)
        self.widen = nnx.ConvTranspose(latent, layers[-1][0], grids(layers, size)[-1], padding="VALID", rngs=rngs)
        self.decoder = Decoder(3, layers, size, rngs, normalised=True)
        self.again = Coder(size, width, latent, rngs)

    def __call__(
        self, x: Float[Array, "n h w 3"]
    ) -> tuple[Float[Array, "n h w 3"], Float[Array, "n d"], Float[Array, "n d"]]:
        """Reconstructions from -1 to 1, the codes of the images, and those of the reconstructions."""
        code = self.coder(x)[1]
        fake = jnp.tanh(self.decoder(leaky(self.widen(code[:, None, None]))))
        return fake, code, self.again(fake)[1]


class Adversaries(nnx.Module):
    """The generator, and the discriminator that tells its images from given ones."""

    def __init__(self, shape: tuple[tuple[int, int], int, int], rngs: nnx.Rngs) -> None:
        size, width, latent = shape
        self.generator = Generator(size, width, latent, rngs)
        self.discriminator = Coder(size, width, 1, rngs)


class _Recipe(Recipe[GanomalySettings]):
    @property
    def network(self) -> Network:
        return Network(Adversaries, (self.settings.config.crop, self.settings.width, self.settings.latent))

    def losses(self) -> Mapping[str, Callable[..., Array]]:
        return {"generator.": self.deceive, "discriminator.": self.tell_apart}

    def deceive(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        network, x, settings = self.network.holding(parameters), signed(images), self.settings
        fake, code, again = network.generator(x)
        features, others = network.discriminator(x)[0], network.discriminator(fake)[0]
        adversarial = jnp.mean((features - others) ** 2, axis=(1, 2, 3))
        contextual = jnp.mean(jnp.abs(x - fake), axis=(1, 2, 3))
        encoding = jnp.mean((code - again) ** 2, axis=1)
        return settings.adversarial * adversarial + settings.contextual * contextual + settings.encoding * encoding

    def tell_apart(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        network, x = self.network.holding(parameters), signed(images)
        real, fake = network.discriminator(x)[1], network.discriminator(network.generator(x)[0])[1]
        return 0.5 * (jax.nn.softplus(-real) + jax.nn.softplus(fake))[:, 0]


def signed(images: Array) -> Float[Array, "n h w 3"]:
    """Values from -1 to 1."""
    return 2 * as_values(images) - 1


def fit(
    backbone: Backbone | None,
    batches: Batches,
    settings: GanomalySettings | None = None,
    *,
    host: TrainingHost | None = None,
) -> Ganomaly:
    """Train a generator on good images, against a discriminator.

    With G the autoencoder, E its encoder, E' the second one and f the features before the discriminator's last layer,
    the generator's loss is ``adversarial mean (f(x) - f(G(x)))² + contextual mean |x - G(x)| + encoding mean
    (E(x) - E'(G(x)))²`` (equations 1 to 4), the discriminator's the cross-entropy of telling x from G(x). Both take
    their step from the same parameters. The generator's loss of the images held out tells when to stop.

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
    settings = GanomalySettings() if settings is None else settings
    with scratch_images("ganomaly.fit", batches, settings.config, least_images(settings)) as images:
        trained = train("ganomaly.fit", _Recipe(settings), images, host)
    return Ganomaly(trained.parameters, trained.history, settings)


def score(model: Ganomaly, images: UInt8[Array | np.ndarray, "n height width 3"]) -> ImageScores:
    """Score images: ``‖E(x) - E'(G(x))‖ / √d`` of their codes of d numbers.

    The paper sums absolute differences (equation 5) and its code takes the mean of their squares, whose root this is;
    both then scale the scores of a test set to go from 0 to 1, which a score of one image can't.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("ganomaly.score", _score, model, images)


@jax.jit
def _score(model: Ganomaly, images: Array) -> ImageScores:
    generator = _Recipe(model.settings).network.holding(model.parameters).generator
    _, code, again = generator(signed(images))
    return ImageScores(jnp.sqrt(jnp.mean((code - again) ** 2, axis=1)))
