"""The runtimes that are installed here, each running an exported file on the CPU."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.export
import numpy as np

from padim_jax.export.archives import read_arrays
from padim_jax.export.compare import Run
from padim_jax.export.describe import IMAGES, ExportError
from padim_jax.lazy import extra

Format = Literal["onnx", "openvino", "stablehlo"]
Precision = Literal["float32", "int8", "bfloat16"]
DATA = "model.onnx.data"  # arrays beside an ONNX graph, where its own file can't hold them
FILES: dict[str, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "stablehlo": ("model.stablehlo", "arrays.npz"),
}
MOST_IMAGES = 1024  # that a program takes at a time, where their number is fixed
OWN: dict[str, str] = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "stablehlo": "JAX"}  # which sets a precision
FORMATS: dict[str, tuple[Format, ...]] = {  # that have a precision
    "float32": ("onnx", "openvino", "stablehlo"),
    "int8": ("onnx", "openvino"),
    "bfloat16": ("openvino",),
}
_HINTS: dict[str, str] = {"float32": "f32", "int8": "f32", "bfloat16": "bf16"}  # of OpenVINO


@dataclass(frozen=True)
class Runtime:
    """A runtime with an exported file open in it.

    Attributes:
      name: of the runtime.
      version: of it.
      run: from images, uint8 (n, height, width, 3), to outputs by name; what it says of wrong ones is its own.
    """

    name: str
    version: str
    run: Run


def open_runtimes(folder: Path, format: str, precision: str = "float32") -> list[Runtime]:
    """Every installed runtime that reads files of a format, with the file in ``folder`` open in it.

    Raises:
      ModuleNotFoundError: none is installed; says which extra brings one.
      ExportError: a precision that this processor does not have.
    """
    if format == "stablehlo":
        return [Runtime(OWN[format], version("jax"), _open_stablehlo(folder))]
    path = folder / FILES[format][0]
    if format == "openvino":
        return [Runtime(OWN[format], version("openvino"), _open_openvino(path, precision))]
    run = _open_onnxruntime(path)  # which says what is missing
    opened = [Runtime(OWN[format], version("onnxruntime"), run)]
    if importlib.util.find_spec("openvino") is not None:
        opened.append(Runtime(OWN["openvino"], version("openvino"), _open_openvino(path, precision)))
    return opened


def open_graph(content: bytes, format: str, precision: str, numbers: bytes = b"") -> Run:
    """A graph in the runtime that programs of a format are for, "onnx" or "openvino"; raises as above.

    Args:
      content: of an ONNX file; or of an .xml file of OpenVINO's.
      format: of the program.
      precision: that it is run with.
      numbers: of the .bin file that belongs to an .xml file.
    """
    return _open_openvino(content, precision, numbers) if format == "openvino" else _open_onnxruntime(content)


def _open_onnxruntime(program: Path | bytes) -> Run:
    with extra("export"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised too
    given = program if isinstance(program, bytes) else str(program)
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found: Sequence[Any] = session.run(names, {IMAGES: images})
        return dict(zip(names, found, strict=True))

    return run


def _open_openvino(program: Path | bytes, precision: str, numbers: bytes = b"") -> Run:
    openvino = import_openvino()
    core = openvino.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError(
            "OpenVINO: precision='bfloat16' takes a processor that computes in it, and this one does not; export and "
            "verify on one like the line's, or take precision='float32'"
        )
    read = core.read_model(program, numbers) if isinstance(program, bytes) else core.read_model(str(program))
    # by itself it computes in bfloat16 where the processor can
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[precision]})
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # an array of another type would be converted, and images from 0 to 1 be black; a tensor is refused
        found = compiled(openvino.Tensor(np.ascontiguousarray(images)))
        return {name: np.array(found[index]) for index, name in enumerate(names)}  # its buffers are used again

    return run


def import_openvino() -> Any:
    """OpenVINO without its telemetry, which tells its makers of every import, from a process that it forks."""
    name = "openvino_telemetry"
    is_stopped = name not in sys.modules
    if is_stopped:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType] - an import fails, and OpenVINO does without
    try:
        with extra("openvino"):
            return importlib.import_module("openvino")
    finally:
        if is_stopped:
            del sys.modules[name]


def _open_stablehlo(folder: Path) -> Run:
    program, arrays = (folder / name for name in FILES["stablehlo"])
    exported = jax.export.deserialize(bytearray(program.read_bytes()))
    call: Callable[..., Any] = jax.jit(exported.call)
    *taken, _ = exported.in_avals  # the last are the images
    expected = {f"{index:05}": (np.dtype(aval.dtype), tuple(aval.shape)) for index, aval in enumerate(taken)}
    stored = read_arrays(arrays, expected, most_compressed=1)
    given = jax.device_put([stored[name] for name in expected])

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in call(given, images).items()}

    return run
