"""TFDS builder ``image_folder_ad``: a user's own folder of good and defective images.

TensorFlow is not needed: examples are stored as array_record files, images as the bytes of their files.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from padim_jax.config import PadimConfig
from padim_jax.data.folder import find_images, load_batches, read_image

GOOD = "good"
RAW = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}


class ImageFolderAD(tfds.core.GeneratorBasedBuilder):
    """Images of a folder in one of two layouts.

    * MVTec AD's (Bergmann et al. 2019): ``train/good/``, ``test/good/``, ``test/<defect type>/`` and
      ``ground_truth/<defect type>/<name>_mask.png``; splits ``train`` and ``test``.
    * A plain pair: ``good/`` and ``bad/``; splits ``good`` and ``bad``.

    Each example holds ``image`` and ``mask`` (uint8; 0 normal, else defective; all 0 where there is none),
    ``has_mask`` (false for a defective image of unknown extent), ``label`` (0 good, 1 defective),
    ``defect_type`` and ``file_name`` (relative to the folder). A folder whose files changed is prepared anew: the
    name of the TFDS configuration is a digest of their names, sizes and times.

    Attributes:
      folder: the images.
    """

    name = "image_folder_ad"
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, *, folder: Path, data_dir: Path, **options: Any) -> None:
        self.folder = Path(folder)
        self._layout = _layout(self.folder)
        config = tfds.core.BuilderConfig(name=_fingerprint(self.folder), version=self.VERSION)
        super().__init__(data_dir=data_dir, config=config, file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, None)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "has_mask": tfds.features.Scalar(np.bool_),
            "label": tfds.features.ClassLabel(names=[GOOD, "defective"]),
            "defect_type": tfds.features.Text(),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Good and defective images of {self.folder.name}.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(folders) for split, folders in self._layout.items()}

    def _generate_examples(self, folders: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        masks = self.folder / "ground_truth"
        for folder in folders:
            defect = folder.name
            for path in find_images([folder]).paths:
                mask = masks / defect / f"{path.stem}_mask.png"
                if defect != GOOD and masks.is_dir() and not mask.is_file():
                    raise FileNotFoundError(f"image_folder_ad: {path} has no mask {mask}")
                has_mask = defect == GOOD or mask.is_file()
                name = path.relative_to(self.folder).as_posix()
                yield (
                    name,
                    {
                        "image": str(path),
                        "mask": str(mask) if mask.is_file() else _empty_mask(path),
                        "has_mask": has_mask,
                        "label": int(defect != GOOD),
                        "defect_type": defect,
                        "file_name": name,
                    },
                )


def load_examples(
    builder: ImageFolderAD, split: str, config: PadimConfig, batch_size: int
) -> Iterator[UInt8[np.ndarray, "n height width 3"]]:
    """Images of a prepared split in batches, read as :func:`padim_jax.data.read_image` reads files.

    Raises:
      UnreadableImage: the first image that can't be used, by its file name.
    """
    source = cast(Any, builder).as_data_source(split, decoders=RAW)  # TFDS hides its signature

    def read(index: int, config: PadimConfig) -> np.ndarray:
        example = source[index]
        return read_image(Path(example["file_name"].decode()), config, example["image"])

    for _, images in load_batches(range(len(source)), config, batch_size, read=read):
        yield images


def _layout(folder: Path) -> dict[str, list[Path]]:
    """Folders of each split; ``ValueError`` says what was looked for."""
    if (folder / "train" / GOOD).is_dir() and (folder / "test").is_dir():
        return {
            "train": [folder / "train" / GOOD],
            "test": sorted(path for path in (folder / "test").iterdir() if path.is_dir()),
        }
    if (folder / GOOD).is_dir() and (folder / "bad").is_dir():
        return {GOOD: [folder / GOOD], "bad": [folder / "bad"]}
    raise ValueError(
        f"image_folder_ad: {folder} has neither train/good/ and test/ (as MVTec AD has) nor good/ and bad/"
    )


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256(os.path.abspath(folder).encode("utf-8", "surrogateescape"))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        facts = path.stat()
        digest.update(
            f"{path.relative_to(folder)}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()[:16]


def _empty_mask(path: Path) -> io.BytesIO:
    with Image.open(path) as image:
        size = image.size
    stream = io.BytesIO()
    Image.new("L", size).save(stream, "PNG")
    stream.seek(0)
    return stream
