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
from padim_jax.export.describe import IMAGES
from padim_jax.lazy import extra

Format = Literal["onnx", "stablehlo"]
Precision = Literal["float32", "int8"]
FILES: dict[str, tuple[str, ...]] = {"onnx": ("model.onnx",), "stablehlo": ("model.stablehlo", "arrays.npz")}


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


def open_runtimes(folder: Path, format: str) -> list[Runtime]:
    """Every installed runtime that reads files of a format, with the file in ``folder`` open in it.

    Raises:
      ModuleNotFoundError: none is installed; says which extra brings one.
    """
    if format == "stablehlo":
        return [Runtime("JAX", version("jax"), _open_stablehlo(folder))]
    path = folder / FILES["onnx"][0]
    run = _open_onnxruntime(path)  # which says what is missing
    opened = [Runtime("ONNX Runtime", version("onnxruntime"), run)]
    if importlib.util.find_spec("openvino") is not None:
        opened.append(Runtime("OpenVINO", version("openvino"), _open_openvino(path)))
    return opened


def _open_onnxruntime(path: Path) -> Run:
    with extra("export"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised too
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found: Sequence[Any] = session.run(names, {IMAGES: images})
        return dict(zip(names, found, strict=True))

    return run


def _open_openvino(path: Path) -> Run:
    openvino = _import_openvino()
    core = openvino.Core()
    # by itself it computes in bfloat16 where the processor can
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # an array of another type would be converted, and images from 0 to 1 be black; a tensor is refused
        found = compiled(openvino.Tensor(np.ascontiguousarray(images)))
        return {name: np.array(found[index]) for index, name in enumerate(names)}  # its buffers are used again

    return run


def _import_openvino() -> Any:
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
