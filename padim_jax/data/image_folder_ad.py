"""TFDS builder ``image_folder_ad``: a user's own folder of good and defective images.

TensorFlow is not needed: examples are stored as array_record files, images as the bytes of their files.
"""

from pathlib import Path
from typing import Any

from padim_jax.data.layout import find_examples, find_splits, write_shards
from padim_jax.data.libraries import epath, tfds
from padim_jax.data.record import BAD, GOOD, dataset_info, fingerprint


class ImageFolderAD(tfds.core.ShardBasedBuilder):
    """Images of a folder in one of two layouts.

    * MVTec AD's (Bergmann et al. 2019): ``train/good/``, ``test/good/``, ``test/<defect type>/`` and
      ``ground_truth/<defect type>/<name>_mask.png``; splits ``train`` and ``test``.
    * A plain pair: ``good/`` and ``bad/``; splits ``good`` and ``bad``. Folders within ``bad`` are defect types.

    Examples are described at :func:`padim_jax.data.record.dataset_info`. A folder whose files changed is prepared
    anew: the name of the TFDS configuration is a digest of their names, sizes and times.

    Attributes:
      folder: the images.
      found: what is in it.

    Raises:
      ValueError, FileNotFoundError: neither layout, or as :func:`padim_jax.data.layout.find_examples` has them.
    """

    name = "image_folder_ad"
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "Examples in the order of their files."}  # noqa: RUF012 (TFDS wants a plain dict)
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, *, folder: Path, data_dir: Path, **options: Any) -> None:
        self.folder = Path(folder)
        self.found = find_examples(self.name, self.folder, _find_folders(self.folder), self.folder / "ground_truth")
        digest = fingerprint(self.folder, self.found.files)
        config = tfds.core.BuilderConfig(name=digest, version=self.VERSION)
        super().__init__(data_dir=data_dir, config=config, file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return dataset_info(self, f"Good and defective images of {self.folder.name}.")

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return write_shards(self.name, self.found)


def _find_folders(folder: Path) -> dict[str, list[Path]]:
    """Folders of each split; ``ValueError`` says what was looked for."""
    if splits := find_splits(folder):
        return splits
    if (folder / GOOD).is_dir() and (folder / BAD).is_dir():
        return {GOOD: [folder / GOOD], BAD: [folder / BAD]}
    raise ValueError(
        f"image_folder_ad: {folder} has neither train/good/ and test/ (as MVTec AD has) nor good/ and bad/"
    )
