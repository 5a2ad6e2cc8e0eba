"""Patch embeddings: tapped activations, channels selected, brought to one grid, concatenated."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone, Tap, backbone_spec, extract
from padim_jax.config import PadimConfig


@dataclass(frozen=True)
class Embedding:
    """Which numbers make up the embedding of a patch; static, drawn once and then stored.

    Attributes:
      backbone: name of the network.
      weights_digest: of its parameters.
      taps: tapped layers in network order.
      channels: d increasing indices into the concatenated channels of ``taps``.
      grid: (height, width) in cells, that of the finest tap.
    """

    backbone: str
    weights_digest: str
    taps: tuple[str, ...]
    channels: tuple[int, ...]
    grid: tuple[int, int]

    @property
    def n_positions(self) -> int:
        """Cells of the grid, p."""
        return self.grid[0] * self.grid[1]


def draw_embedding(backbone: Backbone, config: PadimConfig) -> Embedding:
    """Choose the embedding ``config`` asks for: d of the taps' channels, uniformly without replacement.

    PaDiM section III-C: random channels serve as well as PCA, at no cost.

    Raises:
      ValueError: unknown tap, or ``n_channels`` above the channels there are.
    """
    taps = backbone.spec.select(config.taps)
    total = sum(tap.channels for tap in taps)
    wanted = _n_channels(backbone.spec.name, total, config)
    if wanted > total:
        raise ValueError(
            f"n_channels={wanted} is more than the {total} channels of {backbone.spec.name} "
            f"{', '.join(f'{tap.name} ({tap.channels})' for tap in taps)}; lower it"
        )
    with jax.ensure_compile_time_eval():  # the draw is static, under jit too
        drawn = np.asarray(jax.random.permutation(jax.random.key(config.seed), total))[:wanted]
    return Embedding(
        backbone=backbone.spec.name,
        weights_digest=backbone.weights_digest,
        taps=tuple(tap.name for tap in taps),
        channels=tuple(sorted(int(channel) for channel in drawn)),
        grid=_grid(taps, config),
    )


def check_embedding(embedding: Embedding, config: PadimConfig) -> None:
    """Raise ``ValueError`` unless ``embedding`` is one that ``config`` could have drawn."""
    taps = backbone_spec(embedding.backbone).select(config.taps)
    total = sum(tap.channels for tap in taps)
    channels = embedding.channels
    if embedding.taps != tuple(tap.name for tap in taps):
        raise ValueError(f"taps {embedding.taps} are not those of the settings")
    if embedding.grid != _grid(taps, config) or not all(isinstance(length, int) for length in embedding.grid):
        raise ValueError(f"grid {embedding.grid} does not belong to crop_size={config.crop}")
    if len(channels) != _n_channels(embedding.backbone, total, config):
        raise ValueError(f"{len(channels)} channels are not what n_channels={config.n_channels} asks for")
    if list(channels) != sorted({c for c in channels if isinstance(c, int) and 0 <= c < total}):
        raise ValueError(f"channels must be increasing integers from 0 to {total - 1}")


def embed(backbone: Backbone, embedding: Embedding, images: UInt8[Array, "n height width 3"]) -> Float[Array, "p n d"]:
    """Embeddings of every patch, positions first (row by row), as the products that follow want them.

    Channels are selected before the upsampling, which copies them (nearest neighbour, PaDiM section III-A):
    cell i of a grid of N takes cell ``floor(i · M / N)`` of a tap's M.
    """
    spec = backbone.spec
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (spec.mean, spec.std))
    pixels = (images.astype(jnp.float32) / 255 - mean) / std
    activations = extract(backbone, pixels, embedding.taps)
    channels_of = {tap.name: tap.channels for tap in spec.taps}
    parts, first = [], 0
    for name in embedding.taps:
        chosen = [c - first for c in embedding.channels if first <= c < first + channels_of[name]]
        first += channels_of[name]
        if chosen:
            parts.append(_upsample(activations[name][..., np.asarray(chosen)], embedding.grid))
    joined = jnp.concatenate(parts, axis=-1)  # (n, h, w, d)
    return joined.reshape(len(images), embedding.n_positions, -1).transpose(1, 0, 2)


def _n_channels(backbone: str, total: int, config: PadimConfig) -> int:
    return min(backbone_spec(backbone).default_channels, total) if config.n_channels is None else config.n_channels


def _grid(taps: Sequence[Tap], config: PadimConfig) -> tuple[int, int]:
    stride = min(tap.stride for tap in taps)
    height, width = (-(-length // stride) for length in config.crop)
    return height, width


def _upsample(x: Float[Array, "n h w c"], grid: Sequence[int]) -> Float[Array, "n H W c"]:
    for axis, length in enumerate(grid, start=1):
        if x.shape[axis] != length:
            x = jnp.take(x, np.arange(length) * x.shape[axis] // length, axis=axis)
    return x
