"""Embeddings of all patches as nodes of a graph, positions or images first, as the products that follow need them."""

import numpy as np

from padim_jax.export.activations import write_activations
from padim_jax.export.graph import Graph
from padim_jax.export.network import Planes
from padim_jax.method.embedding import tap_channels
from padim_jax.method.records import Padim


def write_patches(
    graph: Graph, model: Padim, images: str, *, as_integers: bool = False, images_first: bool = False
) -> str:
    """Embeddings (p, n, d) of ``images``, uint8 (n, height, width, 3) of the crop's size.

    With ``as_integers`` they are uint8, as the network gives them, whose channels have to be left as they are then.
    With ``images_first`` they are (n, p, d).

    Channels are selected or projected, and averaged over neighbourhoods, on the grid of each tap; then rows of
    channels are copied to the finest grid, which needs no interpolation of planes.
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
        pooled = _pool(graph, x, depth, embedding.neighbourhood)
        parts.append(_on_grid(graph, pooled, depth, embedding.grid, images_first))
    if len(parts) == 1:
        return parts[0]
    return graph.add("Concat", *parts, axis=2) if projection is None else graph.add("Sum", *parts)


def _pool(graph: Graph, x: Planes, depth: int, neighbourhood: int) -> Planes:
    """Mean over the square of cells around each, as far as there are cells.

    As a sum, over how many there are: OpenVINO would round means of what a network in eight bits gives to eight bits.
    """
    if neighbourhood == 1:
        return x
    ones = graph.constant(np.ones((depth, 1, neighbourhood, neighbourhood)), "neighbours")
    reach = neighbourhood // 2
    total = graph.add("Conv", x.value, ones, group=depth, kernel_shape=[neighbourhood] * 2, pads=[reach] * 4)
    places = (np.arange(length) for length in x.size)
    down, across = (np.minimum(at + reach, at[-1]) - np.maximum(at - reach, 0) + 1 for at in places)
    return Planes(graph.add("Mul", total, graph.constant(1 / np.outer(down, across)[None, None], "shares")), x.size)


def _on_grid(graph: Graph, x: Planes, depth: int, grid: tuple[int, int], images_first: bool) -> str:
    """(p, n, depth), or (n, p, depth): cell i of a grid of N takes cell ``floor(i · M / N)`` of a tap's M."""
    height, width = x.size
    perm, shape = ([0, 2, 3, 1], [-1, height * width]) if images_first else ([2, 3, 0, 1], [height * width, -1])
    by_position = graph.reshape(graph.add("Transpose", x.value, perm=perm), [*shape, depth])
    if x.size == grid:
        return by_position
    rows, columns = (np.arange(cells) * own // cells for cells, own in zip(grid, x.size, strict=True))
    source = (rows[:, None] * width + columns[None]).reshape(-1)
    return graph.add("Gather", by_position, graph.constant(source, "cells", np.int64), axis=int(images_first))
