"""MVTec AD's layout of a category (Bergmann et al. 2019), read into examples."""

from collections.abc import Callable, Iterator
from pathlib import Path

from padim_jax.data.folder import find_images
from padim_jax.data.image import measure
from padim_jax.data.record import GOOD, KeyedExample, empty_mask, shards


def find_splits(category: Path) -> dict[str, list[Path]]:
    """Folders of images of each split: ``train/good`` and all of ``test``; empty if there is neither."""
    if not (category / "train" / GOOD).is_dir() or not (category / "test").is_dir():
        return {}
    return {
        "train": [category / "train" / GOOD],
        "test": sorted(path for path in (category / "test").iterdir() if path.is_dir()),
    }


def find_shards(
    builder: str, root: Path, splits: dict[str, list[Path]], masks: Path
) -> dict[str, list[Callable[[], Iterator[KeyedExample]]]]:
    """Examples of each split in shards, by folder and file name; the folder's name is the type of its defects.

    Args:
      builder: name of the data set, for errors.
      root: what ``file_name`` is relative to.
      splits: folders of images; those in ``good`` have no defect.
      masks: ``<defect type>/<name>_mask.png`` for every defective image, or not there at all.

    Raises:
      FileNotFoundError: a defective image without a mask, though ``masks`` is there.
      UnreadableImage: a file that is no image.
      ValueError: a folder without images, or a mask of another size than its image.
    """
    found = {
        split: [(folder.name, path) for folder in folders for path in find_images([folder]).paths]
        for split, folders in splits.items()
    }
    return {split: shards(_generate(builder, root, paths, masks), len(paths)) for split, paths in found.items()}


def _generate(builder: str, root: Path, found: list[tuple[str, Path]], masks: Path) -> Iterator[KeyedExample]:
    for defect, path in found:
        mask = masks / defect / f"{path.stem}_mask.png"
        has_mask = defect != GOOD and mask.is_file()
        size = measure(path)
        if defect != GOOD and masks.is_dir() and not has_mask:
            raise FileNotFoundError(f"{builder}: {path} has no mask {mask}")
        if has_mask and measure(mask) != size:
            raise ValueError(
                f"{builder}: the mask {mask} has {_pixels(measure(mask))} pixels, its image {path} {_pixels(size)}; "
                "a mask has its image's size"
            )
        name = path.relative_to(root).as_posix()
        yield (
            name,
            {
                "image": str(path),
                "mask": str(mask) if has_mask else empty_mask(size),
                "has_mask": defect == GOOD or has_mask,
                "label": int(defect != GOOD),
                "defect_type": defect,
                "file_name": name,
            },
        )


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
