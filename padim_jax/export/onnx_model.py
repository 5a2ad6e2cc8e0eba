"""A model as an ONNX file: one graph from images to scores, maps and verdicts, written from the model's arrays."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from padim_jax.artifact.arrays import first_line
from padim_jax.backbones import BACKBONES
from padim_jax.export.decision import write_decision
from padim_jax.export.describe import IMAGES, OUTPUTS, ExportError, descriptions, model_digest, output_names
from padim_jax.export.distances import write_distances
from padim_jax.export.graph import IR_VERSION, OPSET, Graph
from padim_jax.export.integer_distances import distances_of_fractions, distances_of_integers
from padim_jax.export.integer_rows import ImagesFirst, PositionsFirst
from padim_jax.export.patches import write_patches
from padim_jax.export.photos import write_resampling
from padim_jax.export.registration import write_poses
from padim_jax.export.resampling import plan_resampling
from padim_jax.export.runtimes import DATA, Format
from padim_jax.export.warping import Move
from padim_jax.gaussians.integer_products import IntegerWhitening
from padim_jax.gaussians.quantised import Quantised
from padim_jax.lazy import extra
from padim_jax.method.records import Padim
from padim_jax.method.scoring import check_standard
from padim_jax.method.variants import with_solver

with extra("export"):
    import onnx
    from onnx import TensorProto, helper

LARGEST = 2**31 - 2**20  # bytes of constants: a file of protocol buffers ends at 2 GiB
_INSIDE = 1024  # bytes of an array that stays in the graph's file
_TYPES = {np.float32: TensorProto.FLOAT, np.bool_: TensorProto.BOOL}
_ANY = "n"  # the name of a free number of images
_KEY = "padim_jax."


def onnx_model(
    model: Padim,
    batch: int | None = None,
    quantised: Quantised | IntegerWhitening | None = None,
    photo: tuple[int, int] | None = None,
    runtime: Format = "onnx",
) -> onnx.ModelProto:
    """The graph of a model, checked by ONNX's own checker unless its arrays are beyond 2 GiB.

    Input is :data:`padim_jax.export.describe.IMAGES`, outputs are those of :func:`output_names`, in that order.

    Args:
      model: what :func:`padim_jax.score` takes.
      batch: the number of images that the graph takes; None for any.
      quantised: the integers of 16 or of eight bits that the model's factors were made from; None for factors of 32
        bits.
      photo: height and width of the photos that the graph takes; None for images of the crop's size.
      runtime: whose graph it is, "onnx", or "openvino" for the same numbers by operations that are faster there.

    Raises:
      ExportError: a model that has no such graph yet; says what to do.
    """
    check_exportable(model)
    graph = Graph(batch)
    whitened = model if model.gaussian.solver != "triangular-solve" else with_solver(model, "inverse-factor")
    images = IMAGES
    if photo is not None:
        images = write_resampling(graph, plan_resampling(photo, model.config), IMAGES)
    move = None
    if model.alignment is not None:
        move = Move.of(graph, write_poses(graph, model.alignment, images), model.config.crop)
        images = move.warp(images)
    if isinstance(quantised, IntegerWhitening):
        by_convolution = runtime == "openvino" and batch is not None  # else it would move numbers about for longer
        distances = _write_in_integers(graph, whitened, quantised, images, by_convolution)
    else:
        distances = write_distances(graph, whitened, write_patches(graph, whitened, images), quantised)
    names = write_decision(graph, whitened, distances, move)
    assert names == output_names(model)
    words = descriptions(model, photo)
    count = _ANY if batch is None else batch
    size = photo or model.config.crop
    inputs = [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, [count, *size, 3], words[IMAGES])]
    outputs = [
        helper.make_tensor_value_info(name, _TYPES[OUTPUTS[name][0]], _shape(model, name, count), words[name])
        for name in names
    ]
    made = helper.make_model(
        graph.build("padim", inputs, outputs),
        producer_name="padim_jax",
        producer_version=version("padim-jax"),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string="PaDiM (arXiv 2011.08785): from an image to its score, its anomaly map and a verdict.",
    )
    facts = {"version": version("padim-jax"), "model": model_digest(model), "backbone": model.embedding.backbone}
    facts |= {f"input.{IMAGES}": words[IMAGES]} | {f"output.{name}": words[name] for name in names}
    helper.set_model_props(made, {f"{_KEY}{name}": text for name, text in facts.items()})
    if graph.bytes <= LARGEST:  # larger ones are checked once they are written
        onnx.checker.check_model(made, full_check=graph.bytes < LARGEST // 4)  # it infers all shapes, on a copy
    return made


def distances_model(model: Padim, quantised: Quantised | None) -> onnx.ModelProto:
    """The part of a graph from embeddings (p, n, d), called :data:`IMAGES`, to distances (p, n), called "distances"."""
    graph = Graph()
    p, d = np.shape(model.gaussian.mean)
    found = write_distances(graph, model, IMAGES, quantised)
    graph.add("Identity", found, name="distances")
    inputs = [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, [p, _ANY, d])]
    outputs = [helper.make_tensor_value_info("distances", TensorProto.FLOAT, [p, _ANY])]
    built = graph.build("distances", inputs, outputs)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def write_onnx(path: Path, made: onnx.ModelProto) -> None:
    """Write a graph; arrays beyond what an ONNX file can hold go into a file beside it, called :data:`DATA`."""
    if sum(len(tensor.raw_data) for tensor in made.graph.initializer) <= LARGEST:
        path.write_bytes(made.SerializeToString())
        return
    onnx.save_model(made, str(path), save_as_external_data=True, location=DATA, size_threshold=_INSIDE)
    onnx.checker.check_model(str(path))


def facts_of(made: onnx.ModelProto) -> dict[str, str]:
    """What an ONNX file of ours says about itself, by name."""
    entries = {entry.key: entry.value for entry in made.metadata_props}
    return {name.removeprefix(_KEY): text for name, text in entries.items() if name.startswith(_KEY)}


def check_exportable(model: Padim) -> None:
    """Raise ``ExportError`` where an ONNX graph can't say yet what a model does."""
    if model.backbone.spec.name not in BACKBONES:
        raise ExportError(
            f"export_model: backbone {model.backbone.spec.name!r} is your own, whose code format='onnx' can't read; "
            "export format='stablehlo'"
        )
    if model.embedding.precision != "float32":
        raise ExportError(
            f"export_model: precision={model.embedding.precision!r}, and format='onnx' computes in float32, whose "
            "scores differ; fit the model with precision='float32', or export format='stablehlo'"
        )
    try:
        check_standard("export_model", model)
    except ValueError as error:
        raise ExportError(str(error)) from None


def recorded_digest(path: Path, *, has_data: bool) -> str | None:
    """The digest of the model that an ONNX file says it was made from; None where it says nothing.

    Args:
      path: the file.
      has_data: whether it may take arrays from the file :data:`padim_jax.export.runtimes.DATA` beside it.

    Raises:
      ExportError: no ONNX file, or one that takes arrays from elsewhere.
    """
    try:
        made = onnx.load(path, load_external_data=False)
    except Exception as error:  # whatever protocol buffers say of a damaged file
        raise ExportError(f"verify_export: {path} is no ONNX file ({first_line(error)})") from error
    if strange := {*_locations(made)} - ({DATA} if has_data else set()):
        raise ExportError(
            f"verify_export: {path} takes numbers from {min(strange)!r:.80}, which is not of the export; export the "
            "model again"
        )
    return facts_of(made).get("model")


def _locations(message: Any) -> Iterator[str]:
    """Files that arrays anywhere in a message of protocol buffers are taken from."""
    if isinstance(message, TensorProto):
        if message.data_location == TensorProto.EXTERNAL:
            # readers differ in which of two they take
            yield from [entry.value for entry in message.external_data if entry.key == "location"] or [""]
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _locations(part)


def _write_in_integers(
    graph: Graph, model: Padim, whitening: IntegerWhitening, images: str, by_convolution: bool
) -> str:
    """Distances (p, n) by products of integers."""
    mean, n_positions = np.asarray(model.gaussian.mean), model.embedding.n_positions
    has_own = len(mean) == n_positions  # and not one Gaussian for all
    rows = ImagesFirst(n_positions) if by_convolution and has_own else PositionsFirst()
    are_integers = whitening.zeros is not None
    patches = write_patches(graph, model, images, as_integers=are_integers, images_first=rows.axis == 0)
    write = distances_of_integers if are_integers else distances_of_fractions
    return write(graph, rows, mean, whitening, patches)


def _shape(model: Padim, name: str, count: int | str) -> list[int | str]:
    has_pixels = re.search(r"height, width", OUTPUTS[name][1]) is not None
    return [count, *model.config.crop] if has_pixels else [count]
