"""Activations of images in a graph, by the network in 32 bits or by what a runtime computes."""

import numpy as np

from padim_jax.backbones import Backbone
from padim_jax.backbones.layers import Taps
from padim_jax.export.describe import IMAGES
from padim_jax.export.graph import Graph
from padim_jax.export.network import Planes, normalise, write_network
from padim_jax.export.runtime_network import RuntimeBackbone, Unit

NETWORK = "network"  # what names of a network that was included begin with


def write_activations(
    graph: Graph, backbone: Backbone, crop: tuple[int, int], images: str, taps: Taps, *, as_integers: bool = False
) -> dict[str, Planes]:
    """Activations of ``taps`` by name, of uint8 images (n, height, width, 3).

    With ``as_integers`` they are the integers that a network in eight bits gives, uint8.
    """
    if isinstance(backbone, RuntimeBackbone):
        program = backbone.program
        names = graph.include(program.graph, {IMAGES: images}, NETWORK)
        found = {name: Planes(names[one.value], one.size) for name, one in program.planes.items()}
        if program.units is None or as_integers:
            return found
        return {name: _dequantise(graph, planes, program.units[name]) for name, planes in found.items()}
    return write_network(graph, backbone, normalise(graph, backbone.spec, crop, images), taps)


def _dequantise(graph: Graph, x: Planes, unit: Unit) -> Planes:
    size, zero = graph.constant(unit.size), graph.constant(unit.zero, "zero", np.uint8)
    return Planes(graph.add("DequantizeLinear", x.value, size, zero), x.size)


def included_outputs(backbone: Backbone) -> list[str]:
    """Names that the outputs of a runtime's network have in the graph that includes it; none of another network."""
    if not isinstance(backbone, RuntimeBackbone):
        return []
    return [f"{NETWORK}/{planes.value}" for planes in backbone.program.planes.values()]
