"""Read PyTorch's two file formats without PyTorch, running nothing from the file.

Both hold pickles. A pickle is a program, so it is treated as hostile: its opcodes and
every global it names are checked against short lists before the first one is executed,
and the objects that stand for PyTorch's functions accept no attributes.
Formats: the zip archive of PyTorch 1.6 and later, and the older sequence of pickles
followed by raw storages (``torch/serialization.py``, ``_save`` and ``_legacy_save``).
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_SIGNATURE = b"PK\x03\x04"

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "BINSTRING SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM "
    "SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL REDUCE BUILD BINPERSID".split()
)
_MOST_COPIES = 8  # bytes of all tensors over bytes of the file; bfloat16 doubles, tied weights repeat
_GLOBALS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
    + [f"torch {name}" for name in DTYPES]
)


class MalformedFile(ValueError):
    """What the bytes are not, in words; :func:`read_checkpoint` adds the path."""


def decode(raw: bytes | memoryview, dtype: str) -> np.ndarray:
    """Bytes as a flat array of ``dtype``; bfloat16 widens, exactly, to float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, dtype)


def item_size(dtype: str) -> int:
    """Bytes of one stored element."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


# Tuples, because a pickle may set the state of anything that has any.


class _StorageKind(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``: records, builds nothing."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise MalformedFile("a tensor record is malformed")
        if len(shape) != len(strides):
            raise MalformedFile("a tensor has as many strides as dimensions; this one has not")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    """Stands for ``torch._utils._rebuild_parameter``: the tensor inside, as it is."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module == "torch" and name in DTYPES:
            return _StorageKind(DTYPES[name])
        raise MalformedFile(f"it names {module}.{name}, which is not part of a state dict")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageKind(dtype=dtype), str(key), str(), int(size), *view) if size >= 0:
                if view and view[0] is not None:
                    raise MalformedFile("it stores views of storages, written before PyTorch 0.4")
                return _Storage(key, dtype, size)
        raise MalformedFile("a storage record is malformed")


def _check_opcodes(stream: io.BytesIO) -> None:
    """Walk one pickle without executing it; leaves the stream after it."""
    writes, before = 0, ""
    tuples: set[int] = set()  # places in the memo that hold one
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise MalformedFile(f"its pickle uses {opcode.name}, which a state dict does not need")
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            name = str(argument).replace(" ", ".")
            raise MalformedFile(
                f"it holds a pickled {name}, not a state dict of tensors; nothing was executed "
                "(save model.state_dict(), not the model)"
            )
        writes += opcode.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE")
        # the memo is an array: one far index would allocate gigabytes
        if opcode.name in ("BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > 2 * writes + 64:
            raise MalformedFile("its pickle addresses memory far beyond what it stores")
        if opcode.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = argument if isinstance(argument, int) else writes - 1
            (tuples.add if before.startswith("TUPLE") else tuples.discard)(place)
        # a tuple used twice inside another, again and again, takes exponential time to hash
        if opcode.name in ("BINGET", "LONG_BINGET") and argument in tuples:
            raise MalformedFile("its pickle uses a tuple twice, which a state dict never does")
        before = opcode.name


def _unpickle(stream: io.BytesIO) -> Any:
    start = stream.tell()
    try:
        _check_opcodes(stream)
        end = stream.tell()
        stream.seek(start)
        loaded = _Unpickler(stream).load()
        stream.seek(end)
    except MalformedFile:
        raise
    except Exception as error:  # a pickle can fail in any way: a bad stack, a wrong argument, an early end
        raise MalformedFile(f"its pickle is damaged ({type(error).__name__}: {error})") from error
    return loaded


def read_zip(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a zip-format checkpoint, by name."""
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

        def storage_bytes(storage: _Storage) -> bytes:
            name = f"{root}data/{storage.key}"
            if name not in entries:
                raise MalformedFile(f"storage {storage.key!r} is missing")
            return archive.read(name)  # zipfile checks the entry's CRC

        return _arrays(_unpickle(io.BytesIO(archive.read(f"{root}data.pkl"))), len(data), storage_bytes)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, struct.error) as error:
        raise MalformedFile(f"its zip archive is damaged or cut short ({error})") from error


def is_legacy(data: bytes) -> bool:
    """Whether ``data`` opens with the magic number of the format before PyTorch 1.6."""
    return data[:15].startswith((b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little"),))


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint in the format before PyTorch 1.6, by name."""
    stream = io.BytesIO(data)
    if _unpickle(stream) != LEGACY_MAGIC or _unpickle(stream) != LEGACY_PROTOCOL:
        raise MalformedFile("its header is not that of PyTorch's older format")
    system = _unpickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MalformedFile("it was written on a big-endian machine; save it again on a little-endian one")
    state_dict = _unpickle(stream)
    storages = {storage.key: storage for storage in _storages(state_dict)}
    keys = _unpickle(stream)
    if not isinstance(keys, list) or set(keys) != set(storages):
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
            raise MalformedFile(f"storage {key!r} holds {count} elements, its tensors say {storages[key].size}")
        begin = position + 8
        position = begin + count * item_size(storages[key].dtype)
        if position > len(view):
            raise MalformedFile("it is cut short")
        raw[key] = view[begin:position]
    return _arrays(state_dict, len(data), lambda storage: raw[storage.key])


def _storages(state_dict: Any) -> list[_Storage]:
    return [tensor.storage for tensor in _tensors(state_dict).values()]


def _tensors(state_dict: Any) -> dict[str, _Tensor]:
    if not isinstance(state_dict, dict) or not state_dict:
        raise MalformedFile("it holds no state dict (a mapping of names to tensors)")
    # the method of dict itself: a pickle can put another on an OrderedDict
    for name, tensor in dict.items(state_dict):
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise MalformedFile(
                f"it holds no state dict: entry {str(name)[:60]!r} is no tensor (save the inner state dict alone)"
            )
    return dict(dict.items(state_dict))


def _arrays(
    state_dict: Any, file_size: int, storage_bytes: Callable[[_Storage], bytes | memoryview]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    total = 0
    for name, tensor in _tensors(state_dict).items():
        flat = decode(storage_bytes(tensor.storage), tensor.storage.dtype)
        if len(flat) != tensor.storage.size:
            raise MalformedFile(
                f"storage of {name!r} holds {len(flat)} elements, its record says {tensor.storage.size}"
            )
        if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
            raise MalformedFile(f"tensor {name!r} has a negative size, stride or offset")
        size = math.prod(tensor.shape)
        total += size * flat.itemsize
        if total > _MOST_COPIES * file_size:
            raise MalformedFile("its tensors share storages so often that they would fill memory")
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        # the first bound keeps views inside the storage, the second refuses expanded views that would fill memory
        if size and (last >= len(flat) or size > len(flat)):
            raise MalformedFile(f"tensor {name!r} reaches beyond its storage")
        strides = [stride * flat.itemsize for stride in tensor.strides]
        window = flat[tensor.offset :] if size else flat[:0]
        arrays[name] = np.lib.stride_tricks.as_strided(window, tensor.shape, strides).copy()
    return arrays
