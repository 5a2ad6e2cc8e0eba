"""A network in eight bits, and a model fitted anew on what it gives.

Weights and activations of the network become integers of eight bits by ONNX Runtime's quantiser, whose ranges come from
good images. That moves the activations by some ten percent. Gaussians of the network in 32 bits know nothing of it, and
may call most good images anomalous (benchmarks/eight_bits.py). So the model is fitted anew, on good images as the
quantised network sees them, and calibrated anew, so that the rate of false alarms holds. Everything after the network
stays in floating point.

Weights take seven bits: with eight, processors without VNNI instructions add up products of two of them in sixteen
bits, which overflow, and the same file would score otherwise on them (ONNX Runtime, "reduce_range").
"""

import functools
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from padim_jax.backbones import Backbone
from padim_jax.backbones.layers import Images, Taps
from padim_jax.export.describe import IMAGES, ExportError
from padim_jax.export.graph import IR_VERSION, OPSET, Graph
from padim_jax.export.network import Planes, normalise, write_network
from padim_jax.lazy import extra
from padim_jax.method.embedding import Embedding, draw_embedding, tap_channels
from padim_jax.method.fitting import fit
from padim_jax.method.records import Padim
from padim_jax.method.scoring import calibrate
from padim_jax.method.variants import with_roi
from padim_jax.runs.copies import pixels_digest

with extra("export"):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

FEWEST = 3  # images, of which one can be left out
_RANGES = 64  # images that the ranges of activations come from

Batch = UInt8[np.ndarray, "n height width 3"]


@dataclass(frozen=True, eq=False)
class EightBits:
    """A quantised network as an ONNX graph from images to activations, open in ONNX Runtime.

    Attributes:
      graph: takes :data:`padim_jax.export.describe.IMAGES`.
      taps: channels that it gives of each layer, as :meth:`Backbone.__call__` is asked for them.
      planes: its outputs by layer.
      channels: numbers of channels by layer.
      mean, std: by which images are normalised that come from JAX.
      session: of ONNX Runtime.
    """

    graph: onnx.ModelProto
    taps: Taps
    planes: Mapping[str, Planes]
    channels: Mapping[str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    session: Any = field(repr=False)

    def run(self, normalised: Float[Array, "n h w 3"]) -> dict[str, np.ndarray]:
        """Activations by layer, channels last, of normalised images that were bytes."""
        pixels = (np.asarray(normalised) * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)) * 255
        names = [planes.value for planes in self.planes.values()]
        found: Sequence[Any] = self.session.run(names, {IMAGES: np.rint(pixels).clip(0, 255).astype(np.uint8)})
        return {
            name: np.ascontiguousarray(values.transpose(0, 2, 3, 1), np.float32)
            for name, values in zip(self.planes, found, strict=True)
        }


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("parameters", "prepared"),
    meta_fields=("spec", "weights_digest", "program"),
)
@dataclass(frozen=True, eq=False, repr=False)
class EightBitBackbone(Backbone):
    """A backbone that ONNX Runtime computes in eight bits, for fits and scores beside the exported graph.

    Attributes:
      program: static.
    """

    program: EightBits = field(kw_only=True)

    def __call__(self, images: Float[Array, "n h w 3"], taps: Taps) -> dict[str, Images]:
        """Activations of ``taps`` by name, which have to be those that were quantised."""
        program = self.program
        same = {*taps} == {*program.taps} and all(
            np.array_equal(_channels(taps[name]), _channels(program.taps[name])) for name in taps
        )
        if not same:
            raise ValueError("EightBitBackbone: only the layers and channels of its own model were quantised")
        shapes = {
            name: jax.ShapeDtypeStruct((len(images), *planes.size, program.channels[name]), jnp.float32)
            for name, planes in program.planes.items()
        }
        return jax.pure_callback(program.run, shapes, images, vmap_method="sequential")


def to_eight_bits(model: Padim, good: Sequence[Batch]) -> Padim:
    """A model with the network in eight bits, fitted and calibrated anew on good images.

    Copies among them count once. Calibrated is it by leaving each image out, at the rates that the model has, also
    where that was calibrated on other images; one that was not calibrated stays so.

    Args:
      model: any that an ONNX graph can hold.
      good: the images, best those that the model was fitted on.

    Raises:
      ExportError: fewer than 3 different images; a threshold that was set by hand; channels that were not drawn.
      ValueError, FloatingPointError: as of a fit.
    """
    good = _different(good)
    if (count := sum(map(len, good))) < FEWEST:
        raise ExportError(
            f"export_model: precision='int8' fits the model anew on the quantised network, which takes {FEWEST} "
            f"different good images or more, and {count} were given; name those that the model was fitted on"
        )
    if draw_embedding(model.backbone, model.config) != model.embedding:
        raise ExportError(
            "export_model: precision='int8' fits the model anew, and its channels are not those that its settings "
            "draw, as of a model that padim import made; export it with precision='float32'"
        )
    if model.calibration is not None and model.calibration.threshold_source == "set":
        raise ExportError(
            "export_model: precision='int8' calibrates the model anew, and its threshold was set by hand, in units "
            "that change; calibrate it by a rate first (padim calibrate --false-alarm-rate)"
        )
    backbone = quantise_network(model.backbone, model.embedding, model.config.crop, good)
    fitted = fit(backbone, good, model.config)
    if model.roi is not None:
        fitted = with_roi(fitted, np.asarray(model.roi))
    if model.calibration is None:
        return fitted
    before = model.calibration
    return calibrate(fitted, good, false_alarm_rate=before.false_alarm_rate, pixel_rate=before.pixel_rate)


def quantise_network(
    backbone: Backbone, embedding: Embedding, crop: tuple[int, int], good: Sequence[Batch]
) -> EightBitBackbone:
    """The network in eight bits, as far as a model needs it, with the ranges of good images.

    Args:
      backbone: of 32 bits.
      embedding: which layers and channels of them.
      crop: size of images.
      good: images, of which up to 64, evenly spread, set the ranges.
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
    content = quantised.SerializeToString(deterministic=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised too
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    spec = backbone.spec
    program = EightBits(quantised, taps, planes, channels, spec.mean, spec.std, session)
    return EightBitBackbone({}, {}, spec, hashlib.sha256(content).hexdigest(), program=program)


def _different(good: Sequence[Batch]) -> list[Batch]:
    """The images without copies, in their order and batches."""
    seen = set[str]()
    result = list[Batch]()
    for batch in good:
        digests = map(pixels_digest, batch)
        fresh = [place for place, digest in enumerate(digests) if digest not in seen and not seen.add(digest)]
        if fresh:
            result.append(batch[fresh])
    return result


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


def _channels(channels: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.int64) if channels is None else np.asarray(channels)
