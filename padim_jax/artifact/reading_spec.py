"""How a foreign model reads images, by the record of its transforms that a checkpoint has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST = 16  # transforms in a row
_IGNORED = ("ToImage", "ToDtype", "ToTensor", "ToPureTensor", "Identity")  # which change no pixel


@dataclass(frozen=True)
class ReadingSpec:
    """Sizes by which images are stretched and cropped.

    Attributes:
      image_size: (height, width) that they are resized to.
      crop_size: (height, width) of the middle that is used.
    """

    image_size: tuple[int, int]
    crop_size: tuple[int, int]


def parse_reading(record: Any, mean: Sequence[float], std: Sequence[float]) -> ReadingSpec | None:
    """What a record of transforms does, where padim does the same; None where there is none.

    Args:
      record: of an anomalib checkpoint, of whatever content.
      mean: that pixels from 0 to 1 are normalised by.
      std: likewise.

    Raises:
      ValueError: anything that padim can't do.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("transform"), Mapping):
        return None
    size = crop = None
    for name, options in _steps(record["transform"]):
        if name == "Resize" and size is None:
            size = crop = _resize(options)
        elif name == "CenterCrop" and size is not None and crop == size:
            crop = _crop(options, size)
        elif name == "Normalize" and size is not None:
            if not _is_near(options.get("mean"), mean) or not _is_near(options.get("std"), std):
                raise ValueError("it normalises by other numbers than its network was trained with")
        elif name not in _IGNORED:
            raise ValueError(f"{name[:60]} comes at a place where padim has nothing like it")
    if size is None or crop is None:
        raise ValueError("images are not resized, so that any size is taken")
    return ReadingSpec(size, crop)


def _steps(transform: Mapping[Any, Any]) -> list[tuple[str, Mapping[Any, Any]]]:
    """Names and options of the transforms in a row."""
    name, options = _parse(transform)
    if name != "Compose":
        return [(name, options)]
    steps = options.get("transforms")
    if not isinstance(steps, list) or len(steps) > _MOST:
        raise ValueError("its transforms are no list")
    return [_parse(step) for step in steps]


def _parse(step: Any) -> tuple[str, Mapping[Any, Any]]:
    path, options = (step.get("class_path"), step.get("init_args", {})) if isinstance(step, Mapping) else (None, None)
    if not isinstance(path, str) or not isinstance(options, Mapping):
        raise ValueError("a transform has no name and options")
    return path.rpartition(".")[2], options


def _resize(options: Mapping[Any, Any]) -> tuple[int, int]:
    size = _pair(options.get("size"))
    if size is None:
        raise ValueError("Resize keeps the aspect ratio (its size is one number), and padim rounds sizes otherwise")
    if options.get("interpolation", "bilinear") != "bilinear":
        raise ValueError("Resize is not bilinear, and in padim maps are resized by what images are")
    if options.get("antialias", True) is not True or options.get("max_size") is not None:
        raise ValueError("Resize does not average where it makes images smaller (antialias), or bounds their size")
    return size


def _crop(options: Mapping[Any, Any], size: tuple[int, int]) -> tuple[int, int]:
    value = options.get("size")
    crop = (value, value) if type(value) is int else _pair(value)
    if crop is None or any(c < 1 or c > s or (s - c) % 2 for c, s in zip(crop, size, strict=True)):
        raise ValueError("CenterCrop does not leave the same margin on both sides")
    return crop


def _pair(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        return None
    return value[0], value[1]


def _is_near(value: Any, wanted: Sequence[float]) -> bool:
    if not isinstance(value, list | tuple) or len(value) != len(wanted):
        return False
    return all(type(n) in (int, float) for n in value) and bool(np.allclose(value, wanted, rtol=0, atol=1e-6))
