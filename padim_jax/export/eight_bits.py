"""A network whose weights and activations are integers of eight bits, by ONNX Runtime's quantiser.

The ranges come from good images. Weights are integers of eight bits, of which seven are used: with all, processors
without VNNI instructions add up products of two of them in sixteen bits, which overflow, and the same file would score
otherwise on them (ONNX Runtime, "reduce_range").
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from padim_jax.export.describe import IMAGES
from padim_jax.export.runtime_network import RuntimeNetwork, Unit
from padim_jax.lazy import extra

with extra("export"):
    import onnx
    from onnx import ModelProto, TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

_RANGES = 64  # images that the ranges of activations come from

Batch = UInt8[np.ndarray, "n height width 3"]


def quantise(program: RuntimeNetwork, good: Sequence[Batch]) -> RuntimeNetwork:
    """A network in eight bits, whose outputs are integers.

    Args:
      program: of 32 bits.
      good: images, of which up to 64, evenly spread, set the ranges.
    """
    whole = ModelProto()
    whole.CopyFrom(program.graph)
    # nothing is left to fold, which the quantiser would ask for otherwise
    helper.set_model_props(whole, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "network.onnx")
        quantize_static(
            whole,
            target,
            _Ranges(good),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantised = onnx.load(target)
    found = {name: _give_integers(quantised, planes.value) for name, planes in program.planes.items()}
    planes = {name: replace(program.planes[name], value=value) for name, (value, _) in found.items()}
    return replace(program, graph=quantised, planes=planes, units={name: unit for name, (_, unit) in found.items()})


def _give_integers(network: ModelProto, output: str) -> tuple[str, Unit]:
    """Give out the integers that an output is made of in its place; their name, and what they stand for."""
    graph = network.graph
    (last,) = [node for node in graph.node if output in node.output]
    assert last.op_type == "DequantizeLinear"  # as of every value that has a range
    integers, size, zero = last.input
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    if not any(output in node.input for node in graph.node):
        graph.node.remove(last)
    (declared,) = [one for one in graph.output if one.name == output]
    declared.name, declared.type.tensor_type.elem_type = integers, TensorProto.UINT8
    return integers, Unit(np.float32(constants[size]), np.uint8(constants[zero]))


class _Ranges(CalibrationDataReader):
    """Good images one by one, evenly spread over all."""

    def __init__(self, good: Sequence[Batch]) -> None:
        self._images = self._spread(good)

    @staticmethod
    def _spread(good: Sequence[Batch]) -> Iterator[dict[str, np.ndarray]]:
        step = -(-sum(map(len, good)) // _RANGES)
        place = 0
        for batch in good:
            for image in batch:
                if place % step == 0:
                    yield {IMAGES: image[None]}
                place += 1

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next image as the graph takes it; None at the end."""
        return next(self._images, None)
