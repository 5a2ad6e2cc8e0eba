"""Write PyTorch's file formats without PyTorch, to have files to read where it is not installed."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def _rebuild_tensor_v2(*_: Any) -> None:
    """Only its name is pickled."""


class _Storage:
    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


class _Tensor:
    def __init__(self, storage: _Storage, array: np.ndarray) -> None:
        self.storage, self.array = storage, array

    def __reduce__(self) -> Any:
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        return _rebuild_tensor_v2, (self.storage, 0, self.array.shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kind = type(STORAGES[str(obj.array.dtype)], (), {"__module__": "torch"})
        setattr(sys.modules["torch"], kind.__name__, kind)
        kind.__qualname__ = kind.__name__
        record = ("storage", kind, obj.key, "cpu", obj.array.size)
        return (*record, None) if self.legacy else record


def _fake_modules() -> Any:
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    torch._utils = utils  # type: ignore[attr-defined]
    _rebuild_tensor_v2.__module__ = "torch._utils"
    return mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils})


def _pickle(
    state_dict: Mapping[str, np.ndarray], legacy: bool, record: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, np.ndarray]]:
    storages = {str(index): np.ascontiguousarray(array) for index, array in enumerate(state_dict.values())}
    tensors = OrderedDict(
        (name, _Tensor(_Storage(key, storages[key]), storages[key]))
        for name, key in zip(state_dict, storages, strict=True)
    )
    stream = io.BytesIO()
    with _fake_modules():
        pickler = _Pickler(stream, protocol=2)
        pickler.legacy = legacy
        pickler.dump(tensors if record is None else {**record, "state_dict": tensors})
    return stream.getvalue(), storages


def zip_format(state_dict: Mapping[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    """What ``torch.save`` writes since 1.6."""
    pickled, storages = _pickle(state_dict, legacy=False)
    return zip_of(pickled, storages, compression)


def training_format(state_dict: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bytes:
    """What PyTorch Lightning writes: a state dict among other things."""
    return zip_of(*_pickle(state_dict, legacy=False, record=record))


def zip_of(pickled: bytes, storages: Mapping[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip-format file around any pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def legacy_header() -> bytes:
    """What comes before the state dict in the format before 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, system))


def legacy_format(state_dict: Mapping[str, np.ndarray]) -> bytes:
    """What ``torch.save`` wrote before 1.6."""
    pickled, storages = _pickle(state_dict, legacy=True)
    parts = [legacy_header()]
    parts += [pickled, pickle.dumps(list(storages), protocol=2)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join(parts)
