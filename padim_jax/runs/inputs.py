"""What callers give as images: a folder, files, or arrays, told apart."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, UInt8

from padim_jax.backbones import Backbone, load_backbone
from padim_jax.config import PadimConfig
from padim_jax.images import find_images, load_batches
from padim_jax.presets import PRESETS

Place = str | os.PathLike[str]
Images = UInt8[Array | np.ndarray, "n height width 3"]


def as_backbone(call: str, backbone: Backbone | str) -> Backbone:
    """The network called ``backbone``, or the one that is given."""
    if isinstance(backbone, str):
        if backbone in PRESETS:
            raise ValueError(
                f"{call}: {backbone!r} is a preset, wanted a backbone; take those of padim.preset({backbone!r}): "
                ".backbone here, and .members[0] as the settings"
            )
        backbone = load_backbone(backbone)
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"{call}: backbone is of type {type(backbone).__name__}, wanted a name or what load_backbone gives"
        )
    return backbone


class Notes:
    """What was decided about files, warned of at the end: of many equal notes one, with their number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Path] = {}

    def __enter__(self) -> "Notes":
        return self

    def __call__(self, path: Path, text: str) -> None:
        """Take a note of a file."""
        self._counts[text] += 1
        self._first.setdefault(text, path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for text, count in self._counts.items() if kind is None else ():
            more = f" (and {count - 1} more files)" if count > 1 else ""
            warnings.warn(f"{self._first[text]}: {text}{more}", stacklevel=3)


def paths_or_arrays(call: str, images: Any) -> tuple[Sequence[Place] | None, Any]:
    """Paths, or batches of arrays: the other is None, or empty."""
    if is_array(images):
        return None, [images] if images.ndim <= 4 else images  # one array is one batch
    if not isinstance(images, str | os.PathLike) and iter(_iterable(call, images)) is images:
        first = next(images, None)  # of what can be read only once
        if first is None:
            return None, ()
        images = chain([first], images)
        return (paths_in(call, [*images]), ()) if isinstance(first, str | os.PathLike) else (None, images)
    places = paths_in(call, images)
    return (None, images) if places is None else (places, ())


def is_array(images: Any) -> bool:
    """Whether it is an array of NumPy or JAX."""
    return isinstance(images, Array | np.ndarray)


def _iterable(call: str, images: Any) -> Any:
    if not isinstance(images, Iterable):
        raise TypeError(
            f"{call}: images are of type {type(images).__name__}, wanted a path, several paths, or uint8 arrays"
        )
    return images


def paths_in(call: str, images: Any) -> Sequence[Place] | None:
    """The paths that were given; None where it is something else."""
    if isinstance(images, str | os.PathLike):
        return [images]
    if not isinstance(_iterable(call, images), list | tuple | set | frozenset):
        return None
    kinds = [isinstance(item, str | os.PathLike) for item in images]
    if any(kinds) and not all(kinds):
        other = type(next(item for item in images if not isinstance(item, str | os.PathLike))).__name__
        raise TypeError(f"{call}: paths and objects of type {other} are mixed; give one or the other")
    return list(images) if kinds and all(kinds) else None


def image_paths(call: str, places: Sequence[Place]) -> Sequence[Path]:
    """Image files in ``places``, each once, sorted; errors name ``call``."""
    try:
        return find_images(places).paths
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{call}: {error}") from None


def read_images(paths: Sequence[Path], config: PadimConfig, batch_size: int, notes: Notes) -> Iterator[Images]:
    """Batches of images as the network sees them."""
    return (batch.images for batch in load_batches(paths, config, batch_size, note=notes))
