"""What every TFDS builder here stores for an image, and in which order."""

import functools
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from padim_jax.data.libraries import tfds

KeyedExample = tuple[str, dict[str, Any]]  # the key is the example's file name

GOOD, BAD = "good", "bad"
SHARD = 256  # examples in a file
RAW = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}


def dataset_info(builder: tfds.core.DatasetBuilder, description: str, **options: Any) -> tfds.core.DatasetInfo:
    """Features of an example, in the order of the files.

    ``image`` and ``mask`` (uint8; 0 normal, else defective; all 0 where the image has none), ``has_mask`` (false for a
    defective image of unknown extent), ``label`` (0 good, 1 defective), ``defect_type`` and ``file_name`` (relative
    to the builder's folder).
    """
    features = {
        "image": tfds.features.Image(shape=(None, None, None)),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "has_mask": tfds.features.Scalar(np.bool_),
        "label": tfds.features.ClassLabel(names=[GOOD, "defective"]),
        "defect_type": tfds.features.Text(),
        "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
        **options,
    )


def shards(examples: Iterator[KeyedExample], count: int) -> list[Callable[[], Iterator[KeyedExample]]]:
    """``count`` examples cut into shards, for TFDS to write one after the other.

    That keeps their order, and no more than a shard in memory. (TFDS's other way sorts a split in memory, or with
    TensorFlow where it has more than 1 GB.)
    """
    return [functools.partial(itertools.islice, examples, SHARD) for _ in range(0, count, SHARD)]


@functools.lru_cache(maxsize=32)
def empty_mask(size: tuple[int, int]) -> bytes:
    """PNG of zeros of this (width, height)."""
    return png(Image.new("L", size))


def png(image: Image.Image) -> bytes:
    """Image as the bytes of a PNG, compressed for speed."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def fingerprint(folder: Path, paths: Iterable[Path], *settings: object) -> str:
    """16 hexadecimal digits that change with the files' names, sizes and times, and with ``settings``."""
    digest = hashlib.sha256(os.path.abspath(folder).encode("utf-8", "surrogateescape"))
    for path in sorted(paths):
        status = path.stat()
        digest.update(
            f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
        )
    digest.update("\0".join(map(repr, settings)).encode())
    return digest.hexdigest()[:16]
