"""Embeddings of all patches as nodes of a graph, (p, n, d): positions first, as the products that follow need them."""

import numpy as np

from padim_jax.export.activations import write_activations
from padim_jax.export.graph import Graph
from padim_jax.export.network import Planes
from padim_jax.method.embedding import tap_channels
from padim_jax.method.records import Padim


def write_patches(graph: Graph, model: Padim, images: str, *, as_integers: bool = False) -> str:
    """Embeddings (p, n, d) of ``images``, uint8 (n, height, width, 3) of the crop's size.

    With ``as_integers`` they are uint8, as the network gives them, whose channels have to be left as they are then.

    Channels are selected or projected, and averaged over neighbourhoods, on the grid of each tap; then rows of
    (positions, n, channels) are copied to the finest grid, which needs no interpolation of planes.
    """
    embedding = model.embedding
    channels, rows = tap_channels(model.backbone, embedding)
    activations = write_activations(graph, model.backbone, model.config.crop, images, channels, as_integers=as_integers)
    projection = None if model.projection is None else np.asarray(model.projection)
    parts = []
    for name in channels:
        x, depth = activations[name], len(embedding.channels)
        if projection is not None:
            share = projection[rows[name]]
            kernel = graph.constant(share.T[:, :, None, None], "projection")
            x, depth = Planes(graph.add("Conv", x.value, kernel, kernel_shape=[1, 1]), x.size), share.shape[1]
        else:
            selected = channels[name]
            depth = rows[name].stop - rows[name].start if selected is None else len(selected)
        parts.append(_on_grid(graph, _pool(graph, x, embedding.neighbourhood), depth, embedding.grid))
    if len(parts) == 1:
        return parts[0]
    return graph.add("Concat", *parts, axis=2) if projection is None else graph.add("Sum", *parts)


def _pool(graph: Graph, x: Planes, neighbourhood: int) -> Planes:
    """Mean over the square of cells around each, as far as there are cells."""
    if neighbourhood == 1:
        return x
    reach = neighbourhood // 2
    window = {"kernel_shape": [neighbourhood] * 2, "strides": [1, 1], "pads": [reach] * 4, "count_include_pad": 0}
    return Planes(graph.add("AveragePool", x.value, **window), x.size)


def _on_grid(graph: Graph, x: Planes, depth: int, grid: tuple[int, int]) -> str:
    """(p, n, depth): cell i of a grid of N takes cell ``floor(i · M / N)`` of a tap's M, along both axes."""
    height, width = x.size
    by_position = graph.reshape(graph.add("Transpose", x.value, perm=[2, 3, 0, 1]), [height * width, -1, depth])
    if x.size == grid:
        return by_position
    rows, columns = (np.arange(cells) * own // cells for cells, own in zip(grid, x.size, strict=True))
    source = (rows[:, None] * width + columns[None]).reshape(-1)
    return graph.add("Gather", by_position, graph.constant(source, "cells", np.int64), axis=0)
