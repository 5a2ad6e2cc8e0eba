"""Which categories a folder holds, and which of their images a model is fitted on and judged by."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from padim_jax.data.image_folder_ad import ImageFolderAD
from padim_jax.data.layout import find_splits
from padim_jax.data.libraries import tfds
from padim_jax.data.mvtec_ad import COUNTS, MVTecAD
from padim_jax.data.record import BAD, GOOD
from padim_jax.data.shanghaitech_campus import ShanghaiTechCampus
from padim_jax.data.shanghaitech_layout import SCENES

FIT_SHARE = 0.6  # share of the good images of a plain good/ and bad/ pair to fit on; the others are judged
SPLIT_SEED = 0  # seed of that draw


@dataclass(frozen=True)
class Category:
    """One thing to evaluate.

    Attributes:
      data: name of the TFDS builder.
      name: name of the category, scene or folder.
      folder: what the builder reads.
      prepared: where TFDS keeps its copies.
    """

    data: str
    name: str
    folder: Path
    prepared: Path

    @property
    def place(self) -> Path:
        """Folder that holds its files and no other category's."""
        return self.folder / self.name if self.data == MVTecAD.name else self.folder

    def build(self) -> tfds.core.DatasetBuilder:
        """The builder, not prepared; raises errors of its own if the files are not as they should be."""
        common: dict[str, Any] = {"folder": self.folder, "data_dir": self.prepared}
        if self.data == MVTecAD.name:
            return MVTecAD(**common, category=self.name)
        if self.data == ShanghaiTechCampus.name:
            return ShanghaiTechCampus(**common, scene=self.name)
        return ImageFolderAD(**common)


def ignored_files(builder: tfds.core.DatasetBuilder) -> Mapping[str, int]:
    """Files that are not images, by suffix, as :func:`padim_jax.images.find_images` counts them."""
    return builder.found.ignored if isinstance(builder, ImageFolderAD | MVTecAD) else {}


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Have TFDS make its copy of the images, unless there is one; nothing is printed."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads that don't happen
        builder.download_and_prepare()


@dataclass(frozen=True)
class Part:
    """Examples of a prepared split: all, or those at ``indices``."""

    split: str
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Roles:
    """Which examples a model is fitted on, and which it is judged by; no example has both roles."""

    fit: Part
    test: tuple[Part, ...]


def find_categories(folder: Path, prepared: Path, names: Sequence[str] = ()) -> list[Category]:
    """Categories in ``folder``, those called ``names`` or all.

    ``folder`` is one category (MVTec AD's layout, or ``good/`` and ``bad/``), holds several, or is ShanghaiTech Campus,
    whose scenes are its categories (by default the one called "all"). Among several, one that is named as a
    category of MVTec AD and has its layout, with ``ground_truth/``, is checked against the published numbers.

    Raises:
      ValueError: no such category, or a name that is not there; lists those that are.
    """
    if (folder / "training" / "videos").is_dir() or (folder / "testing" / "frames").is_dir():
        categories = [Category(ShanghaiTechCampus.name, scene, folder, prepared) for scene in ("all", *SCENES)]
        categories = categories if names else categories[:1]
    elif _is_category(folder):
        categories = [Category(ImageFolderAD.name, folder.resolve().name, folder, prepared)]
    else:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and _is_category(path))
        categories = [
            Category(MVTecAD.name, path.name, folder, prepared)
            if path.name in COUNTS and find_splits(path) and (path / "ground_truth").is_dir()
            else Category(ImageFolderAD.name, path.name, path, prepared)
            for path in folders
        ]
    if not categories:
        raise ValueError(
            f"{folder} holds no data set: wanted train/good/ and test/ (MVTec AD's layout) or good/ and bad/, in it or "
            "in its folders, or training/videos/ and testing/ (ShanghaiTech Campus)"
        )
    available = [category.name for category in categories]
    if unknown := [name for name in names if name not in available]:
        raise ValueError(f"{folder} has no category {unknown[0]!r}; it has {', '.join(available)}")
    return [category for category in categories if not names or category.name in names]


def assign_roles(builder: tfds.core.DatasetBuilder) -> Roles:
    """``train`` and ``test`` where there are such splits; else a fixed draw of the good images, and the rest.

    Raises:
      ValueError: no images to judge by, or fewer than two to fit on.
    """
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    if GOOD in counts:
        order = np.random.default_rng(SPLIT_SEED).permutation(counts[GOOD])
        n_fit = int(FIT_SHARE * counts[GOOD])
        fit_indices, test_indices = (tuple(sorted(part.tolist())) for part in (order[:n_fit], order[n_fit:]))
        roles = Roles(Part(GOOD, fit_indices), (Part(GOOD, test_indices), Part(BAD)))
    elif "test" in counts:
        roles, n_fit = Roles(Part("train"), (Part("test"),)), counts["train"]
    else:
        raise ValueError(f"{builder.info.full_name} has no test images; choose another category")
    if n_fit < 2:
        raise ValueError(
            f"{getattr(builder, 'folder', builder.info.full_name)}: too few good images: {n_fit} to fit on, wanted 2 "
            f"or more (of good/ and bad/, {FIT_SHARE:.0%} of the good ones)"
        )
    return roles


def _is_category(folder: Path) -> bool:
    layouts = (("train/good", "test"), (GOOD, BAD))
    return any(all((folder / part).is_dir() for part in layout) for layout in layouts)
