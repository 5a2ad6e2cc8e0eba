"""An ONNX graph under construction: nodes in order, constants, and a name for every value."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from padim_jax.lazy import extra

with extra("export"):
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 17  # ONNX Runtime 1.17 and OpenVINO 2024 read it, and every operator that is used here has its form by then
IR_VERSION = 8  # the version of the file format that belongs to it
_SMALL = 64  # numbers of a constant that is stored once, however often it is asked for


class Graph:
    """Nodes and constants; every method that adds one gives the name of its value.

    Args:
      batch: how many images the graph takes; None for any.
    """

    def __init__(self, batch: int | None = None) -> None:
        self._batch = batch
        self._nodes = list[NodeProto]()
        self._constants = list[TensorProto]()
        self._known = dict[tuple[Any, ...], str]()  # small constants by what they hold
        self._names = Counter[str]()
        self.bytes = 0  # of all constants

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output, called ``name`` or after its operator."""
        output = self._new_name(operator.lower()) if name is None else name
        self._nodes.append(helper.make_node(operator, [*inputs], [output], name=f"node/{output}", **attributes))
        return output

    def add_first(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with two outputs, of which the second is not used."""
        return self._add_two(operator, inputs, attributes)[0]

    def add_second(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with two outputs, of which the first is not used."""
        return self._add_two(operator, inputs, attributes)[1]

    def constant(self, values: Any, name: str = "constant", dtype: Any = np.float32) -> str:
        """An array of numbers that the file stores."""
        array = np.ascontiguousarray(values, dtype).reshape(np.shape(values))  # which would make () an axis of 1
        key = (array.shape, array.dtype.str, array.tobytes()) if array.size <= _SMALL else None
        if key is not None and key in self._known:
            return self._known[key]
        output = self._new_name(name)
        self._constants.append(numpy_helper.from_array(array, output))
        self.bytes += array.nbytes
        if key is not None:
            self._known[key] = output
        return output

    def integers(self, values: Sequence[int] | int) -> str:
        """Sizes, axes or indices, int64."""
        return self.constant(values, "integers", np.int64)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """The same numbers in another shape; one length may be -1, and follows from the others.

        It takes the place of a reshape just before it, whose value has no other use.
        """
        if self._nodes and self._nodes[-1].op_type == "Reshape" and self._nodes[-1].output[0] == value:
            value = self._nodes.pop().input[0]
        return self.add("Reshape", value, self.integers(shape))

    def swap(self, value: str, perm: Sequence[int], shape: Sequence[int]) -> str:
        """Axes in another order, of which one counts images; one length of the shape that results may be -1.

        Of one image that is a reshape. OpenVINO would make one of it too, and forget then to keep it in 32 bits.
        """
        if self._batch == 1:
            return self.reshape(value, shape)
        return self.reshape(self.add("Transpose", value, perm=[*perm]), shape)

    def slice(self, value: str, start: int, stop: int, axis: int) -> str:
        """What lies along an axis from ``start`` to before ``stop``."""
        return self.add("Slice", value, self.integers([start]), self.integers([stop]), self.integers([axis]))

    def split(self, value: str, parts: int, length: int, axis: int) -> list[str]:
        """Parts of one length along an axis. Slices in their place OpenVINO would not keep in 32 bits."""
        outputs = [self._new_name("split") for _ in range(parts)]
        inputs = [value, self.integers([length] * parts)]
        self._nodes.append(helper.make_node("Split", inputs, outputs, name=f"node/{outputs[0]}", axis=axis))
        return outputs

    def include(self, model: ModelProto, inputs: Mapping[str, str], prefix: str) -> dict[str, str]:
        """All nodes and constants of another model, whose inputs are values of this graph; gives its outputs' names."""
        names = dict(inputs)

        def named(name: str) -> str:
            return names.setdefault(name, f"{prefix}/{name}") if name else ""

        for constant in model.graph.initializer:
            copy = TensorProto()
            copy.CopyFrom(constant)
            copy.name = named(constant.name)
            self._constants.append(copy)
            self.bytes += copy.ByteSize()
        for node in model.graph.node:
            copied = NodeProto()
            copied.CopyFrom(node)
            copied.name = f"{prefix}/{node.name}"
            del copied.input[:], copied.output[:]
            copied.input.extend(map(named, node.input))
            copied.output.extend(map(named, node.output))
            self._nodes.append(copied)
        return {output.name: names[output.name] for output in model.graph.output}

    def build(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """The graph of all that was added."""
        return helper.make_graph(self._nodes, name, [*inputs], [*outputs], self._constants)

    def _add_two(self, operator: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> tuple[str, str]:
        first, second = (self._new_name(operator.lower()) for _ in range(2))
        self._nodes.append(helper.make_node(operator, [*inputs], [first, second], name=f"node/{first}", **attributes))
        return first, second

    def _new_name(self, prefix: str) -> str:
        self._names[prefix] += 1
        return f"{prefix}_{self._names[prefix]}"
