"""Activations of images in a graph, by the network in 32 bits or by what it was quantised to."""

from padim_jax.backbones import Backbone
from padim_jax.backbones.layers import Taps
from padim_jax.export.describe import IMAGES
from padim_jax.export.eight_bits import EightBitBackbone
from padim_jax.export.graph import Graph
from padim_jax.export.network import Planes, normalise, write_network


def write_activations(
    graph: Graph, backbone: Backbone, crop: tuple[int, int], images: str, taps: Taps
) -> dict[str, Planes]:
    """Activations of ``taps`` by name, of uint8 images (n, height, width, 3)."""
    if isinstance(backbone, EightBitBackbone):
        names = graph.include(backbone.program.graph, {IMAGES: images}, "network")
        return {name: Planes(names[one.value], one.size) for name, one in backbone.program.planes.items()}
    return write_network(graph, backbone, normalise(graph, backbone.spec, crop, images), taps)
