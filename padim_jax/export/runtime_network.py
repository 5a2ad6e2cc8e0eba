"""A network that another runtime computes, for fits and scores beside JAX on what the network of a program gives."""

import functools
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.backbones.layers import Images, Taps
from padim_jax.export.compare import Run
from padim_jax.export.describe import IMAGES
from padim_jax.export.graph import IR_VERSION, OPSET, Graph
from padim_jax.export.network import Planes, normalise, write_network
from padim_jax.export.openvino_model import write_openvino
from padim_jax.export.runtimes import Format, Precision, open_graph
from padim_jax.lazy import extra
from padim_jax.method.embedding import Embedding, tap_channels

with extra("export"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Unit:
    """What integers q of eight bits stand for: ``size · (q - zero)``."""

    size: np.float32
    zero: np.uint8

    def numbers(self, integers: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """What they stand for, float32."""
        return (integers.astype(np.float32) - np.float32(self.zero)) * self.size


@dataclass(frozen=True, eq=False)
class RuntimeNetwork:
    """A network as an ONNX graph from images to activations, and what runs it.

    Attributes:
      graph: takes :data:`padim_jax.export.describe.IMAGES`.
      taps: channels that it gives of each layer, as :meth:`Backbone.__call__` is asked for them.
      planes: its outputs by layer.
      channels: numbers of channels by layer.
      mean, std: by which images are normalised that come from JAX.
      units: what the outputs stand for, by layer, where they are integers; None where they are activations.
      execute: the graph in a runtime; None before it is opened.
    """

    graph: onnx.ModelProto
    taps: Taps
    planes: Mapping[str, Planes]
    channels: Mapping[str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    units: Mapping[str, Unit] | None = None
    execute: Run | None = field(default=None, repr=False)

    def run(self, normalised: Float[Array, "n h w 3"]) -> dict[str, np.ndarray]:
        """Activations by layer, channels last, of normalised images that were bytes."""
        assert self.execute is not None
        pixels = (np.asarray(normalised) * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)) * 255
        found = self.execute(np.rint(pixels).clip(0, 255).astype(np.uint8))
        outputs = {
            name: np.ascontiguousarray(found[planes.value].transpose(0, 2, 3, 1))
            for name, planes in self.planes.items()
        }
        return {
            name: values.astype(np.float32) if self.units is None else self.units[name].numbers(values)
            for name, values in outputs.items()
        }


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("parameters", "prepared"),
    meta_fields=("spec", "weights_digest", "program"),
)
@dataclass(frozen=True, eq=False, repr=False)
class RuntimeBackbone(Backbone):
    """A backbone that a runtime computes, for fits and scores beside the exported graph.

    Attributes:
      program: static.
    """

    program: RuntimeNetwork = field(kw_only=True)

    def __call__(self, images: Float[Array, "n h w 3"], taps: Taps) -> dict[str, Images]:
        """Activations of ``taps`` by name, which have to be those that the program gives."""
        program = self.program
        same = {*taps} == {*program.taps} and all(
            np.array_equal(_channels(taps[name]), _channels(program.taps[name])) for name in taps
        )
        if not same:
            raise ValueError("RuntimeBackbone: only the layers and channels of its own model are in its program")
        shapes = {
            name: jax.ShapeDtypeStruct((len(images), *planes.size, program.channels[name]), jnp.float32)
            for name, planes in program.planes.items()
        }
        return jax.pure_callback(program.run, shapes, images, vmap_method="sequential")


def network_program(backbone: Backbone, embedding: Embedding, crop: tuple[int, int]) -> RuntimeNetwork:
    """The network of 32 bits as far as a model needs it, not opened yet.

    Args:
      backbone: one that an ONNX graph can hold.
      embedding: which layers and channels of them.
      crop: size of images.
    """
    taps, _ = tap_channels(backbone, embedding)
    graph = Graph()
    planes = write_network(graph, backbone, normalise(graph, backbone.spec, crop, IMAGES), taps)
    sizes = {tap.name: tap.channels for tap in backbone.spec.taps}
    channels = {name: sizes[name] if taps[name] is None else len(_channels(taps[name])) for name in taps}
    inputs = [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["n", *crop, 3])]
    outputs = [
        helper.make_tensor_value_info(one.value, TensorProto.FLOAT, ["n", channels[name], *one.size])
        for name, one in planes.items()
    ]
    built = graph.build("network", inputs, outputs)
    whole = helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return RuntimeNetwork(whole, taps, planes, channels, backbone.spec.mean, backbone.spec.std)


def open_backbone(backbone: Backbone, program: RuntimeNetwork, format: Format, precision: Precision) -> RuntimeBackbone:
    """The backbone as the runtime of a format computes it.

    Args:
      backbone: of 32 bits.
      program: of it, or of what it was quantised to.
      format: "onnx" or "openvino".
      precision: that the program is run with.
    """
    content = program.graph.SerializeToString(deterministic=True)
    execute = _in_bfloat16(program) if precision == "bfloat16" else open_graph(content, format, precision)
    opened = replace(program, execute=execute)
    digest = hashlib.sha256(f"{format} {precision}".encode() + content).hexdigest()
    return RuntimeBackbone({}, {}, backbone.spec, digest, program=opened)


def _in_bfloat16(program: RuntimeNetwork) -> Run:
    """The network in OpenVINO as it is within a whole program, whose other parts are kept in 32 bits.

    OpenVINO keeps in 32 bits what lies between the last product and an output. In a whole program the distances come
    between them, so activations are rounded; here a product with the identity does, which changes no number.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(program.graph)
    del whole.graph.output[:]
    network = [planes.value for planes in program.planes.values()]
    for (name, planes), value in zip(program.planes.items(), network, strict=True):
        c = program.channels[name]
        identity = numpy_helper.from_array(np.eye(c, dtype=np.float32), f"{value}/identity")
        whole.graph.initializer.append(identity)
        rows, last = f"{value}/rows", f"{value}/kept"
        whole.graph.node.append(helper.make_node("Transpose", [value], [rows], name=rows, perm=[0, 2, 3, 1]))
        whole.graph.node.append(helper.make_node("MatMul", [rows, identity.name], [last], name=last))
        whole.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", *planes.size, c]))
    with tempfile.TemporaryDirectory() as scratch:
        graph, path = Path(scratch, "network.onnx"), Path(scratch, "network.xml")
        graph.write_bytes(whole.SerializeToString())
        write_openvino(path, graph, {}, network)
        run = open_graph(path.read_bytes(), "openvino", "bfloat16", path.with_suffix(".bin").read_bytes())

    def planes_of(images: np.ndarray) -> dict[str, np.ndarray]:
        found = run(images)
        return {value: found[f"{value}/kept"].transpose(0, 3, 1, 2) for value in network}

    return planes_of


def _channels(channels: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.int64) if channels is None else np.asarray(channels)
