"""Read a checkpoint file into NumPy arrays: ``.pth`` (both formats) and ``.safetensors``."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from weights_conversion.torch_format import (
    ZIP_SIGNATURE,
    decode,
    is_legacy,
    read_legacy,
    read_zip,
    read_zip_of_training,
)
from weights_conversion.torch_pickle import MalformedFile

_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}


class CheckpointError(ValueError):
    """The file can't be read as a checkpoint; the message names it and says why."""


def read_checkpoint(path: str | os.PathLike[str], sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint file by name, without PyTorch and without executing anything in it.

    The format is recognised by the content, not by the file's ending: PyTorch's zip archive
    (1.6 and later), its older format, or safetensors.

    Args:
      path: the file.
      sha256: expected digest in hex, or its first 8 or more digits, as publishers put them
        in file names; None reads without a check.

    Returns:
      Arrays by name; bfloat16 becomes float32, every other type stays as it is stored.

    Raises:
      CheckpointError: wrong digest, damaged or cut short, another format, a pipe or device, anything
        in a pickle beyond tensors, storages and ``OrderedDict``, or no state dict.
      OSError: the file can't be opened.
    """
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise CheckpointError(f"read_checkpoint: {path} is a pipe or device, not a file of weights")
    data = Path(path).read_bytes()
    if sha256 is not None:
        check_digest(path, file_digest(data), sha256)
    try:
        if data.startswith(ZIP_SIGNATURE):
            return read_zip(data)
        if is_legacy(data):
            return read_legacy(data)
        if data[8:9] == b"{":
            return _read_safetensors(data)
    except Exception as error:  # MalformedFile, and whatever zipfile and NumPy raise for false records
        raise CheckpointError(f"read_checkpoint: {path} can't be used: {str(error) or type(error).__name__}") from error
    raise CheckpointError(
        f"read_checkpoint: {path} ({len(data)} bytes) is neither a PyTorch file (.pth) nor a .safetensors file"
    )


def read_training_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    """Read the ``state_dict`` of a checkpoint of PyTorch Lightning, and what else it holds of text and numbers.

    As :func:`read_checkpoint`, nothing in it is executed or imported: a value of a class that is not known is
    :data:`weights_conversion.torch_pickle.OPAQUE`.

    Args:
      path: the file, ``.ckpt``, in PyTorch's zip format.

    Returns:
      Arrays of the state dict by name, and the other entries.

    Raises:
      CheckpointError: damaged or cut short, another format, a pipe or device, or no state dict.
      OSError: the file can't be opened.
    """
    call = "read_training_checkpoint"
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise CheckpointError(f"{call}: {path} is a pipe or device, not a checkpoint")
    data = Path(path).read_bytes()
    if not data.startswith(ZIP_SIGNATURE):
        raise CheckpointError(f"{call}: {path} ({len(data)} bytes) is no checkpoint of PyTorch 1.6 or later")
    try:
        return read_zip_of_training(data)
    except Exception as error:  # MalformedFile, and whatever zipfile and NumPy raise for false records
        raise CheckpointError(f"{call}: {path} can't be used: {str(error) or type(error).__name__}") from error


def file_digest(data: bytes) -> str:
    """SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def check_digest(path: str | os.PathLike[str], digest: str, expected: str) -> None:
    """Raise ``CheckpointError`` unless hex ``digest`` starts with ``expected``."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", expected):
        raise ValueError(f"sha256={expected!r}: wanted 8 to 64 lower-case hex digits")
    if not digest.startswith(expected):
        raise CheckpointError(
            f"{path} has SHA-256 {digest}, wanted {expected}{'…' if len(expected) < 64 else ''}: the file is damaged "
            "or another one; delete it and get it again"
        )


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise MalformedFile(f"its safetensors content is damaged or cut short ({error})") from error
    arrays: dict[str, np.ndarray] = {}
    for name, entry in entries:
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise MalformedFile(
                f"tensor {name[:60]!r} has type {entry['dtype']}; readable: {', '.join(_SAFETENSORS_DTYPES)}"
            )
        arrays[name] = decode(bytes(entry["data"]), dtype).reshape(entry["shape"])
    if not arrays:
        raise MalformedFile("it holds no tensors")
    return arrays
