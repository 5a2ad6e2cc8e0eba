"""anomalib's PaDiM, exported as its users do it, in the runtimes that ``exported.py`` measures.

Not a benchmark by itself. Beside what ``peers.py`` lists it needs ``pip install nncf openvino``: in eight bits the
model is quantised by NNCF with its own defaults, factors included. The graph takes normalised float32 images, as
anomalib's own; what a user does before, from uint8 in memory, is timed with it.
"""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from alternate import split_batches
from peers import fit_sides

import padim_jax as padim
from padim_jax.export.runtimes import import_openvino

Work = Callable[[np.ndarray], object]
_OPSET = 17
_RANGES = 60  # images that ranges in eight bits come from


def exported_anomalib(
    backbone: padim.Backbone, config: padim.PadimConfig, good: np.ndarray, folder: Path
) -> tuple[dict[tuple[str, str], Work], dict[str, int]]:
    """What scores images by runtime and form, and the bytes of each form's files; empty where anomalib is missing."""
    sides, _ = fit_sides(["anomalib"], backbone, config, split_batches(good, 16), good[:4])
    if "anomalib" not in sides:
        return {}, {}
    nncf, onnxruntime = (importlib.import_module(name) for name in ("nncf", "onnxruntime"))
    side: Any = sides["anomalib"]
    torch, pixels = side.torch, side.pixels
    path = folder / "anomalib.onnx"

    class Program(torch.nn.Module):
        """The model with the two outputs that are compared."""

        def __init__(self) -> None:
            super().__init__()
            self.model = side.model.eval()

        def forward(self, images: Any) -> tuple[Any, Any]:
            """Score and map."""
            found = self.model(images)
            return found.pred_score, found.anomaly_map

    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with quiet[0], quiet[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"input": {0: "n"}}
        settings = {"input_names": ["input"], "dynamic_axes": axes, "opset_version": _OPSET, "dynamo": False}
        torch.onnx.export(Program(), (pixels(good[:1]),), str(path), **settings)
        openvino = import_openvino()
        core = openvino.Core()
        whole = core.read_model(str(path))
        ranges = nncf.Dataset([pixels(image[None]).numpy() for image in good[:_RANGES]])
        quantised = nncf.quantize(core.read_model(str(path)), ranges)
        openvino.save_model(quantised, str(folder / "anomalib.xml"))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    works: dict[tuple[str, str], Work] = {
        ("ONNX Runtime", "anomalib, 32 bit"): lambda images: session.run(None, {"input": pixels(images).numpy()})
    }
    for form, read, hint in (("32 bit", whole, "f32"), ("bfloat16", whole, "bf16"), ("int8", quantised, "f32")):
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        works["OpenVINO", f"anomalib, {form}"] = _runner(compiled, pixels)
    small = sum((folder / f"anomalib.{ending}").stat().st_size for ending in ("xml", "bin"))
    sizes = dict.fromkeys((form for _, form in works), path.stat().st_size) | {"anomalib, int8": small}
    return works, sizes


def _runner(compiled: Any, pixels: Callable[[np.ndarray], Any]) -> Work:
    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        return [np.array(value) for value in compiled(pixels(images).numpy()).values()]

    return run
