"""Prepared examples in batches, decoded ahead of the caller by Grain's threads."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, UInt8

from padim_jax.config import PadimConfig
from padim_jax.data.libraries import tfds
from padim_jax.data.protocol import STANDARD, Placement, Protocol, place_image, place_mask
from padim_jax.data.record import RAW
from padim_jax.images.image import find_defective, open_image, open_mask, resize, resize_mask
from padim_jax.lazy import extra

with extra("evaluate"):
    import grain


@dataclass(frozen=True)
class Examples:
    """A batch, in the order asked for.

    Attributes:
      file_names: relative to the builder's folder.
      images: RGB, as the network will see them.
      masks: true where defective, resized to the nearest pixel and placed as the images are.
      has_mask: false for a defective image of unknown extent, whose mask is false throughout.
      labels: true for defective images.
      defect_types: "good" or the type.
      placements: what the protocol drew; None where it draws nothing.
    """

    file_names: list[str]
    images: UInt8[np.ndarray, "n height width 3"]
    masks: Bool[np.ndarray, "n height width"]
    has_mask: Bool[np.ndarray, " n"]
    labels: Bool[np.ndarray, " n"]
    defect_types: list[str]
    placements: list[Placement | None]


@dataclass(frozen=True)
class ListedExample:
    """What is known about an example without its pixels; the fields are those of :class:`Examples`."""

    file_name: str
    label: bool
    defect_type: str
    has_mask: bool


def load_examples(
    builder: tfds.core.DatasetBuilder,
    split: str,
    config: PadimConfig,
    batch_size: int,
    protocol: Protocol = STANDARD,
    indices: Sequence[int] | None = None,
    with_masks: bool = True,
) -> Iterator[Examples]:
    """Examples of a prepared split, read as :func:`padim_jax.images.read_image` reads files.

    Grain's threads stay two batches ahead; they end with the iterator, even if it is abandoned early.

    Args:
      builder: prepared, one of this package's builders.
      split: name of a split.
      config: sizes and interpolation.
      batch_size: examples a batch; only the last is smaller.
      protocol: how images are placed.
      indices: of the examples to read, in this order; None reads all in the order of the split.
      with_masks: False leaves all masks false, undecoded.

    Raises:
      ValueError: a split that was not prepared, an index outside it, a batch size below 1.
      UnreadableImage: the first image or mask that can't be used, by its file name; raised while iterating.
    """
    source = _open(builder, split)
    selected = list(range(len(source)) if indices is None else indices)
    outside = [index for index in selected if not 0 <= index < len(source)]
    if outside:
        raise ValueError(
            f"load_examples: indices hold {outside[0]}, wanted 0 to {len(source) - 1}, the examples of {split}"
        )
    if batch_size < 1:
        raise ValueError(f"load_examples: batch_size={batch_size}, wanted at least 1")

    def read(index: int) -> Examples:
        return _read(source[index], split, config, protocol, with_masks)

    return _iterate(grain.MapDataset.source(selected).map(read), batch_size) if selected else iter(())


def list_examples(builder: tfds.core.DatasetBuilder, split: str) -> list[ListedExample]:
    """Examples of a prepared split in its order, without decoding an image.

    Raises:
      ValueError: a split that was not prepared.
    """
    source = _open(builder, split)
    return [
        ListedExample(
            example["file_name"].decode(),
            bool(example["label"]),
            example["defect_type"].decode(),
            bool(example["has_mask"]),
        )
        for example in source
    ]


def _open(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    # only whole splits: a protocol's draw depends on the split's name, which "train[:5]" would change
    splits = list(builder.info.splits)
    if not splits:
        raise ValueError(f"{builder.info.full_name} is not prepared; call its download_and_prepare() first")
    if split not in splits:
        raise ValueError(f"{builder.info.full_name} has no split {split!r}; it has {', '.join(splits)}")
    return cast(Any, builder).as_data_source(split, decoders=RAW)  # TFDS hides its signature


def _iterate(dataset: grain.MapDataset, batch_size: int) -> Iterator[Examples]:
    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * batch_size, threads))
    with closing(iter(dataset.to_iter_dataset(options).batch(batch_size, batch_fn=_join))) as batches:
        yield from batches


def _read(example: Any, split: str, config: PadimConfig, protocol: Protocol, with_masks: bool) -> Examples:
    """A batch of one."""
    name = example["file_name"].decode()
    opened = open_image(Path(name), example["image"])
    placement = protocol.draw(split, name, config)
    mask = np.zeros(config.crop, bool)
    if with_masks:
        full_mask = open_mask(Path(name), example["mask"], opened.size)
        mask = find_defective(place_mask(resize_mask(full_mask, config), placement, config))
    return Examples(
        file_names=[name],
        images=np.asarray(place_image(resize(Path(name), opened, config), placement, config))[None],
        masks=mask[None],
        has_mask=np.array([example["has_mask"]], bool),
        labels=np.array([example["label"]], bool),
        defect_types=[example["defect_type"].decode()],
        placements=[placement],
    )


def _join(batches: Sequence[Examples]) -> Examples:
    return Examples(
        file_names=[name for batch in batches for name in batch.file_names],
        images=np.concatenate([batch.images for batch in batches]),
        masks=np.concatenate([batch.masks for batch in batches]),
        has_mask=np.concatenate([batch.has_mask for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
        defect_types=[defect for batch in batches for defect in batch.defect_types],
        placements=[placement for batch in batches for placement in batch.placements],
    )
