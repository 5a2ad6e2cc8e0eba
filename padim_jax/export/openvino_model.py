"""A model in OpenVINO's own form: model.xml, and model.bin with its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from padim_jax.artifact.arrays import first_line
from padim_jax.export.describe import ExportError
from padim_jax.export.runtimes import import_openvino

_ROOT = "padim_jax"
_KEEP = "precise_0"  # OpenVINO's name of what keeps an operation in 32 bits, whatever hint a program is compiled with
_HAVE_NO_PRECISION = ("Parameter", "Result", "Constant")


def write_openvino(path: Path, graph: Path, facts: Mapping[str, str], network: Sequence[str] = ()) -> None:
    """Write an ONNX graph as OpenVINO reads it, in 32 bits, with facts in its ``rt_info``.

    Args:
      path: of the .xml file; the .bin file comes to lie beside it.
      graph: the ONNX file.
      facts: text by name; a name with points becomes one within another.
      network: the network's outputs, where a hint of another precision is to hold for it alone; all else is kept in 32
        bits. Without any, a hint holds for everything.
    """
    openvino = import_openvino()
    made = openvino.Core().read_model(str(graph))
    if network:
        _keep_others(made, network)
    for name, text in facts.items():
        made.set_rt_info(text, [_ROOT, *name.split(".")])
    openvino.save_model(made, str(path), compress_to_fp16=False)


def recorded_digest(path: Path) -> str | None:
    """The digest of the model that a file says it was made from; None where it says nothing.

    Raises:
      ExportError: no file that OpenVINO reads.
    """
    openvino = import_openvino()
    try:
        made = openvino.Core().read_model(str(path))
    except Exception as error:  # whatever it says of a damaged file
        raise ExportError(f"verify_export: {path} is no program of OpenVINO ({first_line(error)})") from error
    place = [_ROOT, "model"]
    return str(made.get_rt_info(place).astype(str)) if made.has_rt_info(place) else None


def _keep_others(made: Any, network: Sequence[str]) -> None:
    """Keep in 32 bits what is not on the way from pixels, the only bytes there are, to the network's outputs."""
    sources = {name: op for op in made.get_ops() for output in op.outputs() for name in output.get_names()}
    inside, left = set[str](), [sources[name] for name in network]
    while left:
        op = left.pop()
        is_bytes = op.get_output_element_type(0).to_string() == "u8"
        if is_bytes or op.get_friendly_name() in inside:
            continue
        inside.add(op.get_friendly_name())
        left += [value.get_source_output().get_node() for value in op.inputs()]
    for op in made.get_ops():
        if op.get_friendly_name() not in inside and op.get_type_name() not in _HAVE_NO_PRECISION:
            op.get_rt_info()[_KEEP] = ""
