"""The frozen network as nodes of a graph, in the layout (n, c, h, w) that ONNX has for convolutions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from padim_jax.backbones import Backbone, BackboneSpec
from padim_jax.backbones.efficientnet import EfficientNet, MBConv
from padim_jax.backbones.layers import Conv, Taps, pad
from padim_jax.backbones.resnet import Block, ResNet
from padim_jax.export.graph import Graph


@dataclass(frozen=True)
class Planes:
    """Activations (n, c, h, w).

    Attributes:
      value: their name in the graph.
      size: h and w.
    """

    value: str
    size: tuple[int, int]


class WritesBlock(Protocol):
    """What adds a block to a graph, with only some channels of its output where they are given."""

    def __call__(self, x: Planes, channels: np.ndarray | None = None) -> Planes: ...  # noqa: D102


def normalise(graph: Graph, spec: BackboneSpec, crop: tuple[int, int], images: str) -> Planes:
    """(pixel / 255 - mean) / std of uint8 images in planes, as one product and one sum."""
    mean, std = (np.asarray(values, np.float64) for values in (spec.mean, spec.std))
    planes = graph.add("Transpose", images, perm=[0, 3, 1, 2])
    values = graph.add("Cast", planes, to=1)  # float32
    scaled = graph.add("Mul", values, graph.constant((1 / (255 * std)).reshape(1, 3, 1, 1), "scale"))
    return Planes(graph.add("Add", scaled, graph.constant((-mean / std).reshape(1, 3, 1, 1), "shift")), crop)


def write_network(graph: Graph, backbone: Backbone, images: Planes, taps: Taps) -> dict[str, Planes]:
    """Activations of ``taps`` by name, each with the channels chosen of it, of normalised images.

    As in :func:`padim_jax.backbones.layers.collect_taps`, nothing past the last tap is computed, and of its last layer
    only those channels.
    """
    network = backbone.network
    if isinstance(network, ResNet):
        x = _activate(graph, "Relu", _convolve(graph, network.conv1, images))
        pool = graph.add("MaxPool", x.value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        stages = {name: getattr(network, name) for name in ("layer1", "layer2", "layer3")}
        residual = {name: [partial(_residual, graph, block) for block in blocks] for name, blocks in stages.items()}
        return _collect(graph, Planes(pool, _ceil(x.size, 2)), residual, taps)
    assert isinstance(network, EfficientNet)
    x = _convolve(graph, network.stem, images)
    x = _relu6(graph, x) if network.lite else _silu(graph, x)
    blocks = {f"block{number}": [partial(_inverted, graph, block)] for number, block in enumerate(network.blocks)}
    return _collect(graph, x, blocks, taps)


def _collect(graph: Graph, x: Planes, stages: Mapping[str, Sequence[WritesBlock]], taps: Taps) -> dict[str, Planes]:
    found: dict[str, Planes] = {}
    for name, (*blocks, last) in stages.items():
        for block in blocks:
            x = block(x)
        if name in taps and len(found) == len(taps) - 1:
            return found | {name: last(x, taps[name])}
        x = last(x)
        if name in taps:
            found[name] = _select(graph, x, taps[name])
    return found


def _residual(graph: Graph, block: Block, x: Planes, channels: np.ndarray | None = None) -> Planes:
    if hasattr(block, "downsample"):
        shortcut = _convolve(graph, block.downsample, x, channels)
    else:
        shortcut = _select(graph, x, channels)
    x = _activate(graph, "Relu", _convolve(graph, block.conv1, x))
    if block.bottleneck:
        x = _activate(graph, "Relu", _convolve(graph, block.conv2, x))
        x = _convolve(graph, block.conv3, x, channels)
    else:
        x = _convolve(graph, block.conv2, x, channels)
    return _activate(graph, "Relu", Planes(graph.add("Add", x.value, shortcut.value), x.size))


def _inverted(graph: Graph, block: MBConv, x: Planes, channels: np.ndarray | None = None) -> Planes:
    activation = _silu if block.shape.squeezed else _relu6
    shortcut = x
    if block.shape.has_expansion:
        x = activation(graph, _convolve(graph, block.expand, x))
    x = activation(graph, _convolve(graph, block.depthwise, x))
    if block.shape.squeezed:
        mean = Planes(graph.add("GlobalAveragePool", x.value), (1, 1))
        gate = _convolve(graph, block.excite, activation(graph, _convolve(graph, block.squeeze, mean)))
        x = Planes(graph.add("Mul", x.value, graph.add("Sigmoid", gate.value)), x.size)
    x = _convolve(graph, block.project, x, channels)
    if not block.shape.has_skip:
        return x
    return Planes(graph.add("Add", x.value, _select(graph, shortcut, channels).value), x.size)


def _convolve(graph: Graph, conv: Conv, x: Planes, channels: np.ndarray | None = None) -> Planes:
    kernel, bias = np.asarray(conv.kernel[...]), np.asarray(conv.bias[...])
    if channels is not None:
        kernel, bias = kernel[..., channels], bias[channels]
    size, stride = kernel.shape[0], conv.stride
    (above, below), (before, after) = (pad(length, size, stride, conv.tf_same) for length in x.size)
    value = graph.add(
        "Conv",
        x.value,
        graph.constant(kernel.transpose(3, 2, 0, 1), "kernel"),
        graph.constant(bias, "bias"),
        kernel_shape=[size, size],
        strides=[stride, stride],
        pads=[above, before, below, after],
        group=conv.groups,
    )
    return Planes(value, _ceil(x.size, stride))


def _select(graph: Graph, x: Planes, channels: np.ndarray | None) -> Planes:
    if channels is None:
        return x
    return Planes(graph.add("Gather", x.value, graph.integers([*map(int, channels)]), axis=1), x.size)


def _activate(graph: Graph, operator: str, x: Planes) -> Planes:
    return Planes(graph.add(operator, x.value), x.size)


def _relu6(graph: Graph, x: Planes) -> Planes:
    return Planes(graph.add("Clip", x.value, graph.constant(0.0), graph.constant(6.0)), x.size)


def _silu(graph: Graph, x: Planes) -> Planes:
    return Planes(graph.add("Mul", x.value, graph.add("Sigmoid", x.value)), x.size)


def _ceil(size: Iterable[Any], stride: int) -> tuple[int, int]:
    height, width = (-(-length // stride) for length in size)
    return height, width
