"""Patch SVDD: the nearest good patch, in a space learnt from where patches lie (Yi & Yoon, arXiv 2006.16067)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.baselines.features import Batches, score_images
from padim_jax.baselines.neighbours import CHUNK_BYTES, nearest
from padim_jax.baselines.networks import Encoder, Layers, Network, Parameters, as_values, grids, halving_layers, leaky
from padim_jax.baselines.patch_pairs import draw_pairs, patch_starts, spread
from padim_jax.baselines.records import TrainedModel
from padim_jax.baselines.scratch import ScratchImages, scratch_images
from padim_jax.baselines.trained_settings import PatchSvddSettings
from padim_jax.baselines.training import Recipe, least_images, train
from padim_jax.baselines.training_host import TrainingHost
from padim_jax.method.anomaly_map import anomaly_map
from padim_jax.method.records import Scores

_JITTER = 0.02  # of colours, from 0 to 1: lenses colour edges by their place, which would give it away


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class PatchSvdd(TrainedModel[PatchSvddSettings]):
    """A trained Patch SVDD: its network, and what it makes of all good patches of two sizes.

    Attributes:
      large: float32 (m, d), of the patches of ``patch_size`` pixels.
      small: float32 (k, d), of those of half that side.
    """

    large: Float[Array, "m d"]
    small: Float[Array, "k d"]


class Hierarchy(nnx.Module):
    """An encoder of small patches, one of large ones that sees each as four small ones, and two judges of places."""

    def __init__(self, shape: tuple[int, int, int], rngs: nnx.Rngs) -> None:
        side, width, latent = shape
        layers: Layers = halving_layers((side // 2, side // 2), width)
        self.encoder = Encoder(3, layers, rngs)
        self.narrow = nnx.Conv(
            layers[-1][0], latent, grids(layers, (side // 2, side // 2))[-1], padding="VALID", rngs=rngs
        )
        self.join = nnx.Conv(latent, 4 * width, (2, 2), padding="VALID", rngs=rngs)
        self.joined = nnx.Conv(4 * width, latent, (1, 1), rngs=rngs)
        self.large_place, self.small_place = Place(latent, 4 * width, rngs), Place(latent, 4 * width, rngs)

    def small(self, patches: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """Vectors of small patches, from -1 to 1."""
        return jnp.tanh(self.narrow(self.encoder(patches))[:, 0, 0])

    def large(self, patches: Float[Array, "b S S 3"]) -> Float[Array, "b d"]:
        """Vectors of large patches, from -1 to 1."""
        b, side = patches.shape[0], patches.shape[1] // 2
        quarters = patches.reshape(b, 2, side, 2, side, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4 * b, side, side, 3)
        grid = self.small(quarters).reshape(b, 2, 2, -1)
        return jnp.tanh(self.joined(leaky(self.join(grid)))[:, 0, 0])


class Place(nnx.Module):
    """Which of the eight places around a patch another one has, from the difference of their vectors."""

    def __init__(self, latent: int, width: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(latent, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, 8, rngs=rngs)

    def __call__(self, difference: Float[Array, "b d"]) -> Float[Array, "b 8"]:
        """Log-odds of the places."""
        return self.last(leaky(self.second(leaky(self.first(difference)))))


class _Recipe(Recipe[PatchSvddSettings]):
    @property
    def network(self) -> Network:
        return Network(Hierarchy, (self.settings.patch_size, self.settings.width, self.settings.latent))

    def loss(self, parameters: Parameters, constants: Mapping[str, Array], images: Array, key: Array) -> Array:
        network, x, settings = self.network.holding(parameters), as_values(images), self.settings
        sides = (
            (settings.patch_size, network.large, network.large_place),
            (settings.patch_size // 2, network.small, network.small_place),
        )
        total = jnp.zeros(len(x))
        for number, (side, encode, place) in enumerate(sides):
            drawn, coloured = jax.random.split(jax.random.fold_in(key, number))
            patches, places = draw_pairs(drawn, x, side, settings.pairs)  # (4, n, pairs, side, side, 3)
            flat = patches.reshape(-1, *patches.shape[3:])
            flat += _JITTER * jax.random.normal(coloured, (len(flat), 1, 1, 3))
            first, other, near, nearer = encode(flat).reshape(4, len(x) * settings.pairs, -1)
            chances = jax.nn.log_softmax(place(other - first))
            wrong = -jnp.take_along_axis(chances, places.reshape(-1, 1), axis=1)[:, 0]
            squared = jnp.sum((near - nearer) ** 2, axis=1)
            apart = jnp.sqrt(squared + 1e-12)  # whose slope is finite where both are equal
            total += jnp.mean((wrong + settings.svdd_weight * apart).reshape(len(x), -1), axis=1)
        return total


def fit(
    backbone: Backbone | None,
    batches: Batches,
    settings: PatchSvddSettings | None = None,
    *,
    host: TrainingHost | None = None,
) -> PatchSvdd:
    """Train an encoder of patches, and keep what it makes of all good ones.

    The loss is, for patches of both sizes, the cross-entropy of telling which of the eight places around a patch
    another one was taken from, and ``svdd_weight ‖f(p) - f(p')‖`` of patches p' a few pixels from p (the paper's
    equations 4 to 6). Kept are the vectors of all images, those held out too, at every ``large_stride`` and
    ``small_stride`` pixels: 4 d bytes for each patch.

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
    settings = PatchSvddSettings() if settings is None else settings
    recipe = _Recipe(settings)
    with scratch_images("patch_svdd.fit", batches, settings.config, least_images(settings)) as images:
        trained = train("patch_svdd.fit", recipe, images, host)
        large, small = _banks(recipe, trained.parameters, images)
    return PatchSvdd(trained.parameters, trained.history, settings, jnp.asarray(large), jnp.asarray(small))


def score(
    model: PatchSvdd, images: UInt8[Array | np.ndarray, "n height width 3"], *, chunk_bytes: int = CHUNK_BYTES
) -> Scores:
    """Score images: a map of how far patches are from the nearest good ones, and the largest of that.

    Each pixel has the mean distance ``min ‖f(p) - f(q)‖`` of the patches p that it lies in, once of each size, and the
    map is the root of the product of both, blurred by ``sigma``. Section 3.4 has the product itself, which orders
    pixels alike.

    Args:
      model: from :func:`fit`.
      images: RGB of ``crop_size``, uint8 from 0 to 255 or float32 from 0 to 1; any n, 0 too.
      chunk_bytes: of the search, see :func:`padim_jax.baselines.neighbours.nearest`.

    Raises:
      TypeError, ValueError: images of another dtype or shape, or float values outside [0, 1].
    """
    return score_images("patch_svdd.score", functools.partial(_score, chunk_bytes=chunk_bytes), model, images)


@functools.partial(jax.jit, static_argnames="settings")
def embed(
    settings: PatchSvddSettings, parameters: Parameters, images: Array
) -> tuple[Float[Array, "n _p d"], Float[Array, "n _q d"]]:
    """Vectors of the large and of the small patches of images, row by row."""
    network, x = _Recipe(settings).network.holding(parameters), as_values(images)

    def of_image(image: Array) -> tuple[Array, Array]:
        found = []
        for (side, stride), encode in zip(settings.sides, (network.large, network.small), strict=True):
            rows, columns = (patch_starts(length, side, stride) for length in settings.config.crop)
            inside = np.arange(side)
            tall = image[(rows[:, None] + inside)]  # (r, side, width, 3)
            patches = tall[:, :, columns[:, None] + inside].transpose(0, 2, 1, 3, 4)
            found.append(encode(patches.reshape(-1, side, side, 3)))
        return found[0], found[1]

    return lax.map(of_image, x)


def _banks(recipe: _Recipe, parameters: Parameters, images: ScratchImages) -> tuple[np.ndarray, np.ndarray]:
    large, small = [], []
    for batch, n in images.batches(recipe.settings.batch_size, np.arange(len(images))):
        parts = embed(recipe.settings.without_seed, parameters, batch)
        large.append(np.asarray(parts[0])[:n].reshape(-1, recipe.settings.latent))
        small.append(np.asarray(parts[1])[:n].reshape(-1, recipe.settings.latent))
    return np.concatenate(large), np.concatenate(small)


@functools.partial(jax.jit, static_argnames="chunk_bytes")
def _score(model: PatchSvdd, images: Array, chunk_bytes: int) -> Scores:
    settings, config = model.settings, model.config
    product = jnp.ones((len(images), *config.crop))
    found = embed(settings, model.parameters, images)
    for (side, stride), vectors, bank in zip(settings.sides, found, (model.large, model.small), strict=True):
        distance = nearest(vectors.reshape(-1, vectors.shape[-1]), bank, 1, chunk_bytes=chunk_bytes).distance
        product *= spread(distance.reshape(len(images), -1), config.crop, side, stride)
    # the root orders pixels alike, and keeps them within what a histogram of good pixels can tell apart
    maps = anomaly_map(jnp.sqrt(product), config.crop, config.sigma, config.interpolation)
    return Scores(jnp.max(maps, axis=(1, 2)), maps)
