"""The worst case that the error bound of compacted factors names, in the program's own arithmetic.

It is an embedding: no image is known whose network gives just that one. So the certificate has it as a figure, and the
part of the program from embeddings to distances is run on it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np

from padim_jax.export.describe import ExportError
from padim_jax.export.program_model import ProgramModel
from padim_jax.export.runtimes import OWN, open_graph
from padim_jax.gaussians.integer_products import IntegerWhitening
from padim_jax.gaussians.quantised import Quantised
from padim_jax.method.records import Padim

ROUNDING = 1e-4  # of a distance, by the program's float32


@dataclass(frozen=True)
class WorstCaseReport:
    """What compacting changes distances by.

    Attributes:
      bound: no distance of any image is off by more, relative to that of the model before it was compacted.
      position: cell of the grid, row by row, whose bound that is.
      distance: of the embedding that is furthest off there, by the model before.
      error: by how much that embedding's is off, relative to the distance.
      difference: the largest by which a runtime's distance of it is off, likewise.
    """

    bound: float
    position: int
    distance: float
    error: float
    difference: float


def run_worst_case(held: ProgramModel, format: str, others: bool) -> WorstCaseReport | None:
    """Run the program's distances on the worst case; None where there is none, as of integers of eight bits.

    Args:
      held: a model in a compact form.
      format: of the program.
      others: whether OpenVINO may run it too, beside ONNX Runtime.

    Raises:
      ExportError: a runtime is further off than the bound allows.
    """
    quantised = held.quantised
    if held.worst_case is None or isinstance(quantised, IntegerWhitening):
        return None
    bound, worst = held.worst_case
    here = slice(worst.position, worst.position + 1)
    one = replace(held.model, gaussian=jax.tree.map(lambda array: array[here], held.model.gaussian))
    x = (np.asarray(one.gaussian.mean)[0] + worst.deviation).astype(np.float32)[None, None]
    off = 0.0
    for name, run in _programs(one, None if quantised is None else _at(quantised, here), format, others).items():
        error = abs(float(run(x)) - worst.distance) / worst.distance
        if not error <= bound + ROUNDING:
            raise ExportError(
                f"export_model: {name} is off by {error:.2g} of the distance on the worst case of the compacted model, "
                f"whose bound is {bound:.2g}; compact the model again"
            )
        off = max(off, error)
    return WorstCaseReport(bound, worst.position, worst.distance, worst.error, off)


def _programs(
    model: Padim, quantised: Quantised | None, format: str, others: bool
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """From embeddings (1, 1, d) to distances (1, 1) of one position, by runtime."""
    if format == "stablehlo":
        return {OWN[format]: lambda x: np.asarray(jax.jit(model.gaussian.distances)(x)).reshape(())}
    from padim_jax.export.onnx_model import distances_model  # which needs the extra

    content = distances_model(model, quantised).SerializeToString()
    formats = ["onnx", "openvino"] if others and format == "onnx" else [format]
    runs = {OWN[one]: open_graph(content, one, "float32") for one in formats}
    return {name: lambda x, run=run: np.asarray(run(x)["distances"]).reshape(()) for name, run in runs.items()}


def _at(quantised: Quantised, place: slice) -> Quantised:
    return Quantised(quantised.values[place], quantised.scale[place])
