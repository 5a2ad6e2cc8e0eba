"""TFDS builder ``mvtec_ad``: MVTec AD (Bergmann et al., CVPR 2019), from a copy that the user fetched.

TensorFlow is not needed: examples are stored as array_record files, images and masks as the bytes of their files.
"""

from pathlib import Path
from typing import Any, NamedTuple

from padim_jax.data.layout import find_examples, find_splits, write_shards
from padim_jax.data.libraries import epath, tfds
from padim_jax.data.record import GOOD, dataset_info, fingerprint
from padim_jax.images.folder import find_images

HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
LICENCE = "CC BY-NC-SA 4.0"


class Counts(NamedTuple):
    """Numbers of images of a category; every defective one has a mask."""

    train_good: int
    test_good: int
    test_defective: int


COUNTS = {  # as published: Bergmann et al. 2019, table 1
    "bottle": Counts(209, 20, 63),
    "cable": Counts(224, 58, 92),
    "capsule": Counts(219, 23, 109),
    "carpet": Counts(280, 28, 89),
    "grid": Counts(264, 21, 57),
    "hazelnut": Counts(391, 40, 70),
    "leather": Counts(245, 32, 92),
    "metal_nut": Counts(220, 22, 93),
    "pill": Counts(267, 26, 141),
    "screw": Counts(320, 41, 119),
    "tile": Counts(230, 33, 84),
    "toothbrush": Counts(60, 12, 30),
    "transistor": Counts(213, 60, 40),
    "wood": Counts(247, 19, 60),
    "zipper": Counts(240, 32, 119),
}


class MVTecAD(tfds.core.ShardBasedBuilder):
    """A category of MVTec AD, one TFDS configuration each; splits ``train`` and ``test``.

    Examples are described at :func:`padim_jax.data.record.dataset_info`; ``file_name`` begins with the category.
    A category whose files changed is prepared anew: in ``data_dir``, the data lie in a folder named by a digest of
    their names, sizes and times.

    Attributes:
      folder: of the categories, each as published: ``train/good/``, ``test/<defect type>/`` and
        ``ground_truth/<defect type>/<name>_mask.png``.
      found: what is in the category.

    Raises:
      ValueError: an unknown category, or one that is not in ``folder``, or other numbers of images or masks than
        published.
    """

    name = "mvtec_ad"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS wants a plain dict)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=category, description=f"Category {category} of MVTec AD.") for category in COUNTS
    ]
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, *, folder: Path, data_dir: Path, category: str, **options: Any) -> None:
        if category not in COUNTS:
            raise ValueError(f"mvtec_ad: category={category!r}, wanted one of {', '.join(COUNTS)}")
        self.folder = Path(folder)
        self._category = self.folder / category
        splits = find_splits(self._category)
        if not splits:
            raise ValueError(_advice(self.folder, category))
        _check_counts(self._category)
        self.found = find_examples(self.name, self.folder, splits, self._category / "ground_truth")
        digest = fingerprint(self.folder, self.found.files)
        super().__init__(data_dir=Path(data_dir) / digest, config=category, file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return dataset_info(
            self,
            f"MVTec AD (Bergmann et al., CVPR 2019), category {self._category.name}.",
            homepage=HOMEPAGE,
            license=LICENCE,
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return write_shards(self.name, self.found)


def _advice(folder: Path, category: str) -> str:
    if find_splits(folder):
        return f"mvtec_ad: {folder} looks like one category; folder= wants what holds the categories: {folder.parent}"
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    contents = f"there are only the folders {', '.join(folders)}" if folders else "there are no folders"
    return (
        f"mvtec_ad: wanted {folder / category}/ with train/good/, test/ and ground_truth/; in {folder} {contents}. "
        f"MVTec AD is not downloaded for you: fetch it from {HOMEPAGE} (licence {LICENCE}, non-commercial) and unpack "
        f"it so that {folder / category}/train/good/000.png is there"
    )


def _check_counts(category: Path) -> None:
    """Raise ``ValueError`` unless the category holds as many images and masks as published."""
    published = COUNTS[category.name]
    defects = [path for path in sorted((category / "test").iterdir()) if path.is_dir() and path.name != GOOD]
    rows = [
        ("train/good", published.train_good, _count(category / "train" / GOOD)),
        ("test/good", published.test_good, _count(category / "test" / GOOD)),
        ("test, defective", published.test_defective, sum(map(_count, defects))),
        ("ground_truth", published.test_defective, _count(category / "ground_truth")),
    ]
    if any(expected != count for _, expected, count in rows):
        table = "; ".join(f"{name}: {expected} published, {count} found" for name, expected, count in rows)
        raise ValueError(
            f"mvtec_ad: {category} is not {category.name} as published: {table}. Unpack it anew ({HOMEPAGE}); "
            f"to evaluate images of your own, name their folder itself: {category}"
        )


def _count(folder: Path) -> int:
    try:
        return len(find_images([folder]).paths)
    except (FileNotFoundError, ValueError):  # no folder, or no image in it
        return 0
