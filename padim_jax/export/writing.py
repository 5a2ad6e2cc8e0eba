"""The files of a program: an ONNX graph, OpenVINO's own form of it, or a StableHLO program with its arrays."""

import tempfile
from pathlib import Path

import numpy as np

from padim_jax.export.program_model import ProgramModel
from padim_jax.export.runtimes import FILES, Format, Precision


def write_program(
    folder: Path,
    held: ProgramModel,
    format: Format,
    precision: Precision,
    batch: int | None,
    photo: tuple[int, int] | None,
) -> None:
    """Write the program of a model.

    Args:
      folder: of the export.
      held: a model that the format can hold.
      format: of the program.
      precision: of its network.
      batch: how many images it takes; None for any, which "stablehlo" has not.
      photo: height and width of the photos that it takes; None for images of the crop's size.

    Raises:
      ExportError: a model that has no such program.
      ModuleNotFoundError: a package is missing; says which extra brings it.
    """
    paths = [folder / name for name in FILES[format]]
    if format == "stablehlo":
        from padim_jax.export.stablehlo import stablehlo_model

        assert batch is not None
        program, arrays = stablehlo_model(held.model, batch, photo)
        paths[0].write_bytes(program)
        np.savez(paths[1], allow_pickle=False, **{f"{index:05}": array for index, array in enumerate(arrays)})
        return
    from padim_jax.export.onnx_model import facts_of, onnx_model, write_onnx  # which need the extra

    made = onnx_model(held.model, batch, held.quantised, photo, format)
    if format == "onnx":
        write_onnx(paths[0], made)
        return
    from padim_jax.export.activations import included_outputs
    from padim_jax.export.openvino_model import write_openvino

    network = included_outputs(held.model.backbone) if precision == "bfloat16" else []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        graph = Path(scratch, FILES["onnx"][0])
        write_onnx(graph, made)
        write_openvino(paths[0], graph, facts_of(made), network)
