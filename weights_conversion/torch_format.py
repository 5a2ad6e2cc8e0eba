"""Read PyTorch's two file formats without PyTorch, running nothing from the file.

The zip archive of PyTorch 1.6 and later, and the older sequence of pickles followed by raw storages
(``torch/serialization.py``, ``_save`` and ``_legacy_save``). Their pickles are read by :mod:`.torch_pickle`.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from weights_conversion.torch_pickle import MalformedFile, Storage, Tensor, load_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_SIGNATURE = b"PK\x03\x04"
_MOST_COPIES = 8  # bytes of all tensors over bytes of the file: bfloat16 doubles, and tied weights repeat


def decode(raw: bytes | memoryview, dtype: str) -> np.ndarray:
    """Bytes as a flat array of ``dtype``; bfloat16 widens, exactly, to float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, dtype)


def item_size(dtype: str) -> int:
    """Bytes of one stored element."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def read_zip(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a zip-format checkpoint, by name."""
    return _read_zip(data, opaque=False)[0]


def read_zip_of_training(data: bytes) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    """Tensors of the ``state_dict`` in a zip-format checkpoint of PyTorch Lightning, and all else that it holds.

    The tensors are those of the state dict; others, and values of classes that are not known, are left out or opaque.
    """
    return _read_zip(data, opaque=True)


def _read_zip(data: bytes, *, opaque: bool) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = {info.filename: info for info in archive.infolist()}
        # PyTorch stores entries uncompressed; anything else could be a decompression bomb
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise MalformedFile("its zip entries are compressed, which PyTorch never writes")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise MalformedFile("it is a zip file, but not one of PyTorch's: it has no data.pkl")
        root = roots[0]
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise MalformedFile("it was written on a big-endian machine; save it again on a little-endian one")

        def storage_bytes(storage: Storage) -> bytes:
            name = f"{root}data/{storage.key}"
            if name not in entries:
                raise MalformedFile(f"storage {_short(storage.key)} is missing")
            return archive.read(name)  # zipfile checks the entry's CRC

        found = load_pickle(io.BytesIO(archive.read(f"{root}data.pkl")), opaque=opaque)
        if not opaque:
            return _arrays(found, len(data), storage_bytes), {}
        if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
            raise MalformedFile("it is no checkpoint of PyTorch Lightning: it has no state_dict")
        tensors = {name: tensor for name, tensor in found.pop("state_dict").items() if isinstance(tensor, Tensor)}
        return _arrays(tensors, len(data), storage_bytes), found
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, struct.error) as error:
        raise MalformedFile(f"its zip archive is damaged or cut short ({error})") from error


def is_legacy(data: bytes) -> bool:
    """Whether ``data`` opens with the magic number of the format before PyTorch 1.6."""
    return data[:15].startswith((b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little"),))


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint in the format before PyTorch 1.6, by name."""
    stream = io.BytesIO(data)
    if load_pickle(stream) != LEGACY_MAGIC or load_pickle(stream) != LEGACY_PROTOCOL:
        raise MalformedFile("its header is not that of PyTorch's older format")
    system = load_pickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MalformedFile("it was written on a big-endian machine; save it again on a little-endian one")
    state_dict = load_pickle(stream)
    storages = {storage.key: storage for storage in _storages(state_dict)}
    keys = load_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise MalformedFile("the storages it lists are not the ones its tensors use")
    raw: dict[str, memoryview] = {}
    view = memoryview(data)
    position = stream.tell()
    for key in keys:
        header = view[position : position + 8]
        if len(header) < 8:
            raise MalformedFile("it is cut short")
        (count,) = struct.unpack("<q", header)
        if count != storages[key].size:
            raise MalformedFile(f"storage {_short(key)} holds {count} elements, its tensors say {storages[key].size}")
        begin = position + 8
        position = begin + count * item_size(storages[key].dtype)
        if position > len(view):
            raise MalformedFile("it is cut short")
        raw[key] = view[begin:position]
    return _arrays(state_dict, len(data), lambda storage: raw[storage.key])


def _storages(state_dict: Any) -> list[Storage]:
    return [tensor.storage for tensor in _tensors(state_dict).values()]


def _tensors(state_dict: Any) -> dict[str, Tensor]:
    if not isinstance(state_dict, dict) or not state_dict:
        raise MalformedFile("it holds no state dict (a mapping of names to tensors)")
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise MalformedFile(
                f"it holds no state dict: entry {_short(name)} is no tensor (save the inner state dict alone)"
            )
    return state_dict


def _arrays(
    state_dict: Any, file_size: int, storage_bytes: Callable[[Storage], bytes | memoryview]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    array_bytes = storage_bytes_read = 0
    cached: tuple[Storage | None, np.ndarray] = (None, np.zeros(0))  # the storage read last: tensors often share one
    for name, tensor in _tensors(state_dict).items():
        if cached[0] != tensor.storage:
            cached = tensor.storage, decode(storage_bytes(tensor.storage), tensor.storage.dtype)
            storage_bytes_read += cached[1].nbytes
        flat = cached[1]
        if len(flat) != tensor.storage.size:
            raise MalformedFile(
                f"storage of {_short(name)} holds {len(flat)} elements, its record says {tensor.storage.size}"
            )
        size = math.prod(tensor.shape)
        array_bytes += size * flat.itemsize
        if max(array_bytes, storage_bytes_read) > _MOST_COPIES * file_size:
            raise MalformedFile("its tensors share storages so often that they would fill memory")
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        # the first bound keeps views inside the storage, the second refuses expanded views that would fill memory
        if size and (last >= len(flat) or size > len(flat)):
            raise MalformedFile(f"tensor {_short(name)} reaches beyond its storage")
        strides = [stride * flat.itemsize for stride in tensor.strides]
        window = flat[tensor.offset :] if size else flat[:0]
        arrays[name] = np.lib.stride_tricks.as_strided(window, tensor.shape, strides).copy()
    return arrays


def _short(name: Any) -> str:
    return repr(str(name)[:60])
