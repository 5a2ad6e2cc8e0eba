"""Activations of images in a graph, by the network in 32 bits or by what a runtime computes."""

from padim_jax.backbones import Backbone
from padim_jax.backbones.layers import Taps
from padim_jax.export.describe import IMAGES
from padim_jax.export.graph import Graph
from padim_jax.export.network import Planes, normalise, write_network
from padim_jax.export.runtime_network import RuntimeBackbone

NETWORK = "network"  # what names of a network that was included begin with


def write_activations(
    graph: Graph, backbone: Backbone, crop: tuple[int, int], images: str, taps: Taps
) -> dict[str, Planes]:
    """Activations of ``taps`` by name, of uint8 images (n, height, width, 3)."""
    if isinstance(backbone, RuntimeBackbone):
        names = graph.include(backbone.program.graph, {IMAGES: images}, NETWORK)
        return {name: Planes(names[one.value], one.size) for name, one in backbone.program.planes.items()}
    return write_network(graph, backbone, normalise(graph, backbone.spec, crop, images), taps)


def included_outputs(backbone: Backbone) -> list[str]:
    """Names that the outputs of a runtime's network have in the graph that includes it; none of another network."""
    if not isinstance(backbone, RuntimeBackbone):
        return []
    return [f"{NETWORK}/{planes.value}" for planes in backbone.program.planes.values()]
