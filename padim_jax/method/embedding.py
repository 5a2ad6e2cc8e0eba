"""Patch embeddings: tapped activations, channels selected, brought to one grid, concatenated."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, UInt8

from padim_jax.backbones import Backbone, BackboneSpec, backbone_spec
from padim_jax.config import PadimConfig, Precision


@dataclass(frozen=True)
class Embedding:
    """Which numbers make up the embedding of a patch; static, drawn once and then stored.

    Attributes:
      backbone: name of the network.
      weights_digest: digest of its parameters.
      taps: tapped layers in network order.
      channels: increasing indices into the concatenated channels of ``taps``: those that are used.
      grid: (height, width) in cells, that of the finest tap.
      neighbourhood: odd side of the square of cells that activations are averaged over, in each tap's grid.
      projected: dimension d that a matrix takes the channels to; None where the channels are the embedding.
      precision: precision of the backbone, see :class:`padim_jax.PadimConfig`.
    """

    backbone: str
    weights_digest: str
    taps: tuple[str, ...]
    channels: tuple[int, ...]
    grid: tuple[int, int]
    neighbourhood: int = 1
    projected: int | None = None
    precision: Precision = "float32"

    @property
    def dimension(self) -> int:
        """Numbers per patch, d."""
        return len(self.channels) if self.projected is None else self.projected

    @property
    def n_positions(self) -> int:
        """Cells of the grid, p."""
        return self.grid[0] * self.grid[1]


def draw_embedding(backbone: Backbone, config: PadimConfig) -> Embedding:
    """Choose the embedding ``config`` asks for.

    "random-channels" draws d of the taps' channels, uniformly without replacement (which PaDiM, section III-C, finds
    better than PCA, at no cost); the other projections use all.

    Raises:
      ValueError: unknown tap, or ``n_channels`` above the channels there are.
    """
    check_channels(backbone.spec, config)
    taps = backbone.spec.select(config.taps)
    total = sum(tap.channels for tap in taps)
    dimension = _n_channels(backbone.spec, total, config)
    channels = np.arange(total)
    if config.projection == "random-channels":
        with jax.ensure_compile_time_eval():  # the draw is static, under jit too
            channels = np.asarray(jax.random.permutation(jax.random.key(config.seed), total))[:dimension]
    return Embedding(
        backbone=backbone.spec.name,
        weights_digest=backbone.weights_digest,
        taps=tuple(tap.name for tap in taps),
        channels=tuple(sorted(int(channel) for channel in channels)),
        grid=backbone.grid(taps, config.crop),
        neighbourhood=config.neighbourhood,
        projected=None if config.projection == "random-channels" else dimension,
        precision=config.precision,
    )


def check_channels(spec: BackboneSpec, config: PadimConfig) -> None:
    """Raise ``ValueError`` where ``config`` names an unknown tap, or asks for more channels than its taps have."""
    taps = spec.select(config.taps)
    total = sum(tap.channels for tap in taps)
    n_channels = _n_channels(spec, total, config)
    if n_channels > total:
        raise ValueError(
            f"n_channels={n_channels} is more than the {total} channels of {spec.name} "
            f"{', '.join(f'{tap.name} ({tap.channels})' for tap in taps)}; lower it"
        )


def check_embedding(embedding: Embedding, config: PadimConfig) -> None:
    """Raise ``ValueError`` unless ``embedding`` is one that ``config`` could have drawn."""
    spec = backbone_spec(embedding.backbone)
    taps = spec.select(config.taps)
    total = sum(tap.channels for tap in taps)
    channels = embedding.channels
    if embedding.taps != tuple(tap.name for tap in taps):
        raise ValueError(f"taps {embedding.taps} are not those of the settings")
    if embedding.grid != spec.grid(taps, config.crop) or not all(isinstance(length, int) for length in embedding.grid):
        raise ValueError(f"grid {embedding.grid} does not belong to crop_size={config.crop}")
    if embedding.dimension != _n_channels(spec, total, config):
        raise ValueError(f"{embedding.dimension} dimensions are not what n_channels={config.n_channels} asks for")
    if embedding.neighbourhood != config.neighbourhood:
        raise ValueError(f"neighbourhood {embedding.neighbourhood} is not the settings' {config.neighbourhood}")
    if embedding.precision != config.precision:
        raise ValueError(f"precision {embedding.precision!r} is not the settings' {config.precision!r}")
    if (embedding.projected is None) != (config.projection == "random-channels"):
        raise ValueError(f"projected={embedding.projected} does not belong to projection={config.projection!r}")
    if embedding.projected is not None and len(channels) != total:
        raise ValueError(f"{len(channels)} channels, where projection={config.projection!r} takes all {total}")
    if list(channels) != sorted({c for c in channels if isinstance(c, int) and 0 <= c < total}):
        raise ValueError(f"channels must be increasing integers from 0 to {total - 1}")


def embed(
    backbone: Backbone,
    embedding: Embedding,
    images: UInt8[Array, "n height width 3"] | Float32[Array, "n height width 3"],
    projection: Float[Array, "c d"] | None = None,
) -> Float[Array, "p n d"]:
    """Embeddings of every patch, positions first (row by row), as the products that follow need them.

    Images are RGB, uint8 from 0 to 255 or float32 from 0 to 1.

    Channels are selected or projected, and averaged over neighbourhoods, before the upsampling, which copies
    them (nearest neighbour, PaDiM section III-A): cell i of a grid of N takes cell ``floor(i · M / N)`` of a tap's M.
    """
    parts = tap_embeddings(backbone, embedding, images, projection)
    on_grid = [_upsample(part, embedding.grid).reshape(len(images), embedding.n_positions, -1) for part in parts]
    by_position = [part.transpose(1, 0, 2) for part in on_grid]  # one by one: on CPU five times as fast as all together
    return jnp.concatenate(by_position, axis=-1) if projection is None else functools.reduce(jnp.add, by_position)


def tap_embeddings(
    backbone: Backbone,
    embedding: Embedding,
    images: UInt8[Array, "n height width 3"] | Float32[Array, "n height width 3"],
    projection: Float[Array, "c d"] | None = None,
) -> tuple[Float[Array, "n _h _w _c"], ...]:
    """The part of the embeddings that each used tap gives, on its own grid, in network order."""

    def all_at_once(images: Array) -> tuple[Array, ...]:
        return _tap_embeddings(backbone, embedding, images, projection)

    def few_at_a_time(images: Array) -> tuple[Array, ...]:
        chunks = lax.map(all_at_once, images.reshape(-1, few, *images.shape[1:]))
        return jax.tree.map(lambda part: part.reshape(len(images), *part.shape[2:]), chunks)

    # the activations of one or two images stay in a CPU's cache: 1.5 times as fast as those of 16 at once
    few = 2 if len(images) % 2 == 0 else 1
    if len(images) <= few:
        return all_at_once(images)
    return lax.platform_dependent(images, cpu=few_at_a_time, default=all_at_once)


def _tap_embeddings(
    backbone: Backbone, embedding: Embedding, images: Array, projection: Array | None
) -> tuple[Float[Array, "n _h _w _c"], ...]:
    """As :func:`tap_embeddings`, by one call of the network."""
    spec = backbone.spec
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (spec.mean, spec.std))
    values = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    pixels = (values - mean) / std
    if embedding.precision == "bfloat16":
        backbone, pixels = jax.tree.map(lambda array: array.astype(jnp.bfloat16), (backbone, pixels))
    channels, rows = tap_channels(backbone, embedding)
    activations = backbone(pixels, channels)
    parts = []
    for name in channels:
        part = activations[name].astype(jnp.float32)
        if projection is not None:  # Wᵀx is the sum of its taps' shares
            part = jnp.einsum("nhwc,cd->nhwd", part, projection[rows[name]], precision=lax.Precision.HIGHEST)
        parts.append(_pool(part, embedding.neighbourhood))
    return tuple(parts)


def tap_channels(backbone: Backbone, embedding: Embedding) -> tuple[dict[str, np.ndarray | None], dict[str, slice]]:
    """For each tap, the channels that are used (None: all; no entry: none), and its place among all channels."""
    selected, rows, first = dict[str, np.ndarray | None](), dict[str, slice](), 0
    channels = np.asarray(embedding.channels)
    for tap in backbone.spec.select(embedding.taps):
        rows[tap.name] = slice(first, first + tap.channels)
        indices = channels[(channels >= first) & (channels < first + tap.channels)] - first
        if len(indices):
            selected[tap.name] = None if len(indices) == tap.channels else indices
        first += tap.channels
    return selected, rows


def _n_channels(spec: BackboneSpec, total: int, config: PadimConfig) -> int:
    return min(spec.default_channels, total) if config.n_channels is None else config.n_channels


def _pool(x: Float[Array, "n h w c"], neighbourhood: int) -> Float[Array, "n h w c"]:
    """Mean over the square of cells around each, as far as there are cells."""
    if neighbourhood == 1:
        return x
    reach = neighbourhood // 2
    for axis in (1, 2):  # separable; shifted sums, because XLA's windowed reduction is slow on CPU
        length = x.shape[axis]
        padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(4)])
        total = sum(lax.slice_in_dim(padded, shift, shift + length, axis=axis) for shift in range(neighbourhood))
        index = np.arange(length)
        cells = np.minimum(index + reach, length - 1) - np.maximum(index - reach, 0) + 1
        x = total / jnp.asarray(cells, x.dtype).reshape([-1 if a == axis else 1 for a in range(4)])
    return x


def _upsample(x: Float[Array, "n h w c"], grid: Sequence[int]) -> Float[Array, "n H W c"]:
    for axis, length in enumerate(grid, start=1):
        cells = x.shape[axis]
        if length % cells == 0:
            x = jnp.repeat(x, length // cells, axis=axis)
        else:
            x = jnp.take(x, np.arange(length) * cells // length, axis=axis)
    return x
