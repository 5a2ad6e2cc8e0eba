"""MVTec AD's layout of a category (Bergmann et al. 2019), and the plain pair, read into examples."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from padim_jax.data.record import BAD, GOOD, KeyedExample, empty_mask, shards
from padim_jax.images.folder import find_images
from padim_jax.images.image import measure


@dataclass(frozen=True)
class FoundExample:
    """An image with what its place says about it; ``name`` is relative to the data set's folder."""

    name: str
    path: Path
    defect: str
    mask: Path | None


@dataclass(frozen=True)
class FoundExamples:
    """What is in the folders.

    Attributes:
      splits: examples by split, by folder and file name.
      ignored: files that are not images, as :func:`padim_jax.images.find_images` counts them.
    """

    splits: dict[str, list[FoundExample]]
    ignored: Counter[str]

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        examples = [example for split in self.splits.values() for example in split]
        return [example.path for example in examples] + [example.mask for example in examples if example.mask]


def find_splits(category: Path) -> dict[str, list[Path]]:
    """Folders of images of each split: ``train/good`` and all of ``test``; empty unless both are there."""
    if not (category / "train" / GOOD).is_dir() or not (category / "test").is_dir():
        return {}
    entries = sorted((category / "test").iterdir())
    return {
        "train": [category / "train" / GOOD],
        "test": [path for path in entries if path.is_dir() and not path.name.startswith(".")],
    }


def find_examples(builder: str, root: Path, splits: dict[str, list[Path]], masks: Path) -> FoundExamples:
    """Examples of each split; the folder's name is the type of its defects.

    Args:
      builder: name of the data set, for errors.
      root: the data set's folder.
      splits: folders of images; those in ``good`` have no defect.
      masks: ``<defect type>/<name>_mask.png`` for every defective image, or not there at all.

    Raises:
      FileNotFoundError: a defective image without a mask, though ``masks`` is there.
      ValueError: no folders or no images, a name that is not UTF-8, or a mask that two images would share.
    """
    examples: dict[str, list[FoundExample]] = {}
    ignored: Counter[str] = Counter()
    owners: dict[Path, Path] = {}
    for split, folders in splits.items():
        if not folders:
            raise ValueError(f"{builder}: {root} has no folders of {split} images; wanted good/ and one a defect type")
        examples[split] = []
        for folder in folders:
            images = find_images([folder])
            ignored += images.ignored
            for path in images.paths:
                mask = None
                if folder.name != GOOD:
                    mask = _mask(builder, masks, folder, path)
                if mask is not None and owners.setdefault(mask, path) != path:
                    raise ValueError(f"{builder}: {owners[mask]} and {path} have one mask, {mask}; rename one of them")
                examples[split].append(FoundExample(_name(builder, root, path), path, _defect(folder, path), mask))
    return FoundExamples(examples, ignored)


def write_shards(builder: str, examples: FoundExamples) -> dict[str, list[Callable[[], Iterator[KeyedExample]]]]:
    """Examples of each split in shards.

    Raises (while they are read):
      UnreadableImage: a file that is not an image.
      ValueError: a mask of another size than its image.
    """
    return {split: shards(_generate(builder, members), len(members)) for split, members in examples.splits.items()}


def _defect(folder: Path, path: Path) -> str:
    """Type of an image's defect: its folder; of a plain pair's ``bad``, the folder within, if there is one."""
    parts = path.relative_to(folder).parts
    return parts[0] if folder.name == BAD and len(parts) > 1 else folder.name


def _mask(builder: str, masks: Path, folder: Path, path: Path) -> Path | None:
    mask = masks / folder.name / path.relative_to(folder).with_name(f"{path.stem}_mask.png")
    if mask.is_file():
        return mask
    if masks.is_dir():
        raise FileNotFoundError(f"{builder}: {path} has no mask {mask}")
    return None


def _name(builder: str, root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{builder}: the file name {name!r} is not UTF-8; rename the file") from error
    return name


def _generate(builder: str, examples: list[FoundExample]) -> Iterator[KeyedExample]:
    for example in examples:
        size = measure(example.path)
        if example.mask is not None and measure(example.mask) != size:
            raise ValueError(
                f"{builder}: the mask {example.mask} has {_pixels(measure(example.mask))} pixels, its image "
                f"{example.path} {_pixels(size)}; a mask has its image's size"
            )
        yield (
            example.name,
            {
                "image": str(example.path),
                "mask": empty_mask(size) if example.mask is None else str(example.mask),
                "has_mask": example.defect == GOOD or example.mask is not None,
                "label": int(example.defect != GOOD),
                "defect_type": example.defect,
                "file_name": example.name,
            },
        )


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
