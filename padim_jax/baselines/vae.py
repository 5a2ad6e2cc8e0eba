"""A variational autoencoder that says where it looks (Venkataramanan et al., CAVGA, arXiv 1911.08616).

The paper's adversarial loss, which sharpens reconstructions, is left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, score_images
from padim_jax.baselines.networks import Decoder, Encoder, Network, Parameters, as_values, leaky
from padim_jax.baselines.records import TrainedModel
from padim_jax.baselines.scratch import scratch_images
from padim_jax.baselines.trained_settings import Likelihood, VaeSettings
from padim_jax.baselines.training import Recipe, least_images, train
from padim_jax.baselines.training_host import TrainingHost
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.records import Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Vae(TrainedModel[VaeSettings]):
    """A trained variational autoencoder."""


class VariationalAutoencoder(nnx.Module):
    """Three convolutions that halve the image, one more, and as many back; the code keeps its place in the image."""

    def __init__(self, shape: tuple[tuple[int, int], int, int], rngs: nnx.Rngs) -> None:
        size, width, latent = shape
        layers = ((width, 4, 2), (2 * width, 4, 2), (4 * width, 4, 2))
        channels = 4 * width
        self.encoder = Encoder(3, layers, rngs)
        self.deepen = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
        self.mean = nnx.Conv(channels, latent, (1, 1), rngs=rngs)
        self.log_variance = nnx.Conv(channels, latent, (1, 1), rngs=rngs)
        self.widen = nnx.Conv(latent, channels, (3, 3), rngs=rngs)
        self.decoder = Decoder(3, layers, size, rngs)

    def code(self, features: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w d"], Float[Array, "n h w d"]]:
        """Means and logarithms of the variances of q(z | x), from what the encoder gives."""
        deeper = leaky(self.deepen(features))
        # variances from 5e-5 to 2e4: a first, wild step must not make them infinite
        return self.mean(deeper), jnp.clip(self.log_variance(deeper), -10, 10)

    def decode(self, z: Float[Array, "n h w d"]) -> Float[Array, "n height width 3"]:
        """What stands behind p(x | z): its means, or their log-odds."""
        return self.decoder(leaky(self.widen(z)))

    def attention(self, features: Float[Array, "n h w c"]) -> Float[Array, "n h w"]:
        """Where the code comes from: ``sigmoid(relu(Σ_k α_k F_k))``, α_k the mean over all cells of ``∂ Σ z / ∂F_k``.

        From 0.5 on, below 1; Grad-CAM (arXiv 1610.02391) of the means of the code.
        """
        gradient = jax.grad(lambda f: jnp.sum(self.code(f)[0]))(features)
        weights = jnp.mean(gradient, axis=(1, 2))
        return jax.nn.sigmoid(jax.nn.relu(jnp.einsum("nhwc,nc->nhw", features, weights)))


def negative_elbo(
    x: Float[Array, "n h w c"],
    output: Float[Array, "n h w c"],
    mean: Float[Array, "n ..."],
    log_variance: Float[Array, "n ..."],
    likelihood: Likelihood,
    noise: float,
) -> Float[Array, " n"]:
    """``-log p(x | z) + KL(q(z | x) ‖ N(0, 1))`` of each image, divided by its number of values, in nats.

    Args:
      x: values from 0 to 1.
      output: of the decoder for one z: "gaussian" means, or "bernoulli" log-odds.
      mean: of q(z | x), which is Gaussian with independent components.
      log_variance: likewise, natural logarithms.
      likelihood: of the values, which are independent given z; for "bernoulli" it is the cross-entropy.
      noise: standard deviation of "gaussian" values.
    """
    if likelihood == "gaussian":
        losses = 0.5 * ((x - output) / noise) ** 2 + math.log(noise * math.sqrt(2 * math.pi))
    else:
        losses = jax.nn.softplus(output) - x * output
    divergences = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    total = jnp.sum(losses, axis=(1, 2, 3)) + jnp.sum(divergences.reshape(len(mean), -1), axis=1)
    return total / math.prod(x.shape[1:])


class _Recipe(Recipe[VaeSettings]):
    @property
    def network(self) -> Network:
        return Network(VariationalAutoencoder, (self.settings.config.crop, self.settings.width, self.settings.latent))

    def loss(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        network, x, settings = self.network.holding(parameters), as_values(images), self.settings
        features = network.encoder(x)
        mean, log_variance = network.code(features)
        z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        loss = negative_elbo(x, network.decode(z), mean, log_variance, settings.likelihood, settings.noise)
        if settings.expansion:
            loss += settings.expansion * jnp.mean(1 - network.attention(features), axis=(1, 2))
        return loss


def fit(
    backbone: Backbone | None,
    batches: Batches,
    settings: VaeSettings | None = None,
    *,
    host: TrainingHost | None = None,
) -> Vae:
    """Train a variational autoencoder on good images.

    The loss is :func:`negative_elbo` of one drawn z, and ``expansion`` times the mean of ``1 - attention`` (the paper's
    equation 4), which widens what the network looks at to the whole of a good image.

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
    settings = VaeSettings() if settings is None else settings
    with scratch_images("vae.fit", batches, settings.config, least_images(settings)) as images:
        trained = train("vae.fit", _Recipe(settings), images, host)
    return Vae(trained.parameters, trained.history, settings)


def score(model: Vae, images: UInt8[Array | np.ndarray, "n height width 3"]) -> Scores:
    """Score images: how far they are from their reconstructions, and a map of where.

    With y the reconstruction from the mean of q(z | x), the score is the root of the mean squared ``x - y`` over all
    values. The map is, of each pixel, by ``settings.map``: "reconstruction", the distance of the colours ``‖x - y‖``;
    "gradient", the length of the derivative of :func:`negative_elbo` by its colours, times the number of values; or
    "attention", ``1 - attention``, from 0 to 0.5, upsampled from cells of 8 pixels. It is blurred by ``sigma``. Nothing
    is drawn here. On generated parts with painted defects, the attention of these small networks does not find what
    the two other maps find; it is here for comparison with the paper.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("vae.score", _score, model, images)


@jax.jit
def _score(model: Vae, images: Array) -> Scores:
    settings, config = model.settings, model.config
    network, x = _Recipe(settings).network.holding(model.parameters), as_values(images)

    def outputs(values: Array) -> tuple[Array, tuple[Array, Array]]:
        features = network.encoder(values)
        mean, log_variance = network.code(features)
        output = network.decode(mean)
        losses = negative_elbo(values, output, mean, log_variance, settings.likelihood, settings.noise)
        return jnp.sum(losses) * math.prod(x.shape[1:]), (features, output)

    gradient, (features, output) = jax.grad(outputs, has_aux=True)(x)
    y = output if settings.likelihood == "gaussian" else jax.nn.sigmoid(output)
    if settings.map == "reconstruction":
        parts = jnp.sqrt(jnp.sum((x - y) ** 2, axis=-1))
    elif settings.map == "gradient":
        parts = jnp.sqrt(jnp.sum(gradient**2, axis=-1))
    else:
        parts = 1 - network.attention(features)
    maps = anomaly_map(parts, config.crop, config.sigma, config.interpolation)
    return Scores(jnp.sqrt(jnp.mean((x - y) ** 2, axis=(1, 2, 3))), maps)
