"""TFDS builder ``shanghaitech_campus``: ShanghaiTech Campus (Liu et al., CVPR 2018), from a copy that the user fetched.

TensorFlow is not needed: examples are stored as array_record files, test frames as the bytes of their files, frames of
training videos and masks as PNG.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from padim_jax.data.libraries import epath, tfds
from padim_jax.data.record import GOOD, KeyedExample, dataset_info, empty_mask, fingerprint, png, shards
from padim_jax.data.shanghaitech_layout import HOMEPAGE, SCENES, find_campus
from padim_jax.data.video import count_frames, read_frames
from padim_jax.images.image import measure

ABNORMAL = "abnormal event"
DISAGREEING = "test_frames_whose_label_and_mask_disagree"


class ShanghaiTechCampus(tfds.core.ShardBasedBuilder):
    """All scenes of ShanghaiTech Campus, or one; a TFDS configuration each. Splits ``train`` and ``test``.

    ``train`` holds ``frames_per_fit`` frames drawn uniformly, without replacement, from all frames of all training
    videos (5,000 in PaDiM, arXiv 2011.08785), named ``training/videos/01_001.avi#123``, counted from 0. ``test``
    holds all frames of the test videos, labels from ``test_frame_mask`` and masks from ``test_pixel_mask``, each as
    published: ``info.metadata["test_frames_whose_label_and_mask_disagree"]`` counts abnormal frames without an
    abnormal pixel and normal ones with some. Scene 13 is published without test videos and so has no split ``test``.
    Examples are described at :func:`padim_jax.data.record.dataset_info`.

    A copy whose files, ``frames_per_fit`` or ``seed`` changed is prepared anew: in ``data_dir``, the data lie in a
    folder named by a digest of these.

    Attributes:
      folder: the data set as published, see :class:`padim_jax.data.shanghaitech_layout.Campus`.
      frames_per_fit: how many training frames are drawn.
      seed: seed of the draw.

    Raises:
      ValueError: an unknown scene, or one that is not in ``folder``; on preparation, other numbers of videos than
        published, masks that don't fit their frames, or fewer training frames than are to be drawn.
      ModuleNotFoundError: on preparation, PyAV is not installed.
    """

    name = "shanghaitech_campus"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS wants a plain dict)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="all", description="All 13 scenes of ShanghaiTech Campus."),
        *(
            tfds.core.BuilderConfig(name=scene, description=f"Scene {scene} of ShanghaiTech Campus.")
            for scene in SCENES
        ),
    ]
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(
        self,
        *,
        folder: Path,
        data_dir: Path,
        scene: str = "all",
        frames_per_fit: int = 5000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if frames_per_fit < 1:
            raise ValueError(f"shanghaitech_campus: frames_per_fit={frames_per_fit}, wanted at least 1")
        self.folder = Path(folder)
        self.frames_per_fit = frames_per_fit
        self.seed = seed
        self._campus = find_campus(self.folder, scene)
        self._metadata = tfds.core.MetadataDict()
        digest = fingerprint(self.folder, self._campus.files, frames_per_fit, seed)
        super().__init__(data_dir=Path(data_dir) / digest, config=scene, file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return dataset_info(
            self,
            f"ShanghaiTech Campus (Liu et al., CVPR 2018), scene {self._campus.scene}: {self.frames_per_fit} training "
            f"frames drawn with seed {self.seed}, and all test frames.",
            homepage=HOMEPAGE,
            metadata=self._metadata,
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        self._campus.check()
        splits = {"train": shards(self._generate_train(), self.frames_per_fit)}
        if self._campus.frames:
            splits["test"] = shards(self._generate_test(), sum(map(len, self._campus.frames.values())))
        return splits

    def _generate_train(self) -> Iterator[KeyedExample]:
        counts = [count_frames(path) for path in self._campus.videos]
        if sum(counts) < self.frames_per_fit:
            raise ValueError(
                f"shanghaitech_campus: frames_per_fit={self.frames_per_fit}, but the training videos of scene "
                f"{self._campus.scene} have {sum(counts)} frames; ask for no more"
            )
        indices = np.random.default_rng(self.seed).choice(sum(counts), self.frames_per_fit, replace=False)
        for name, frame in self._decode(counts, np.sort(indices)):
            yield _example(name, png(frame), empty_mask(frame.size), abnormal=False)

    def _decode(self, counts: Sequence[int], indices: np.ndarray) -> Iterator[tuple[str, Image.Image]]:
        """Names and images of frames that are numbered through all training videos; ``indices`` ascend."""
        start = 0
        for path, count in zip(self._campus.videos, counts, strict=True):
            numbers = (indices[(indices >= start) & (indices < start + count)] - start).tolist()
            for number, frame in zip(numbers, read_frames(path, numbers), strict=True):
                yield f"{path.relative_to(self.folder).as_posix()}#{number}", frame
            start += count

    def _generate_test(self) -> Iterator[KeyedExample]:
        self._metadata[DISAGREEING] = 0  # TFDS saves it when all splits are written
        for video, frames in self._campus.frames.items():
            labels, masks = self._campus.load_masks(video)
            for path, label, values in zip(frames, labels.tolist(), masks, strict=True):
                mask = values != 0
                if mask.shape[::-1] != measure(path):
                    raise ValueError(
                        f"shanghaitech_campus: the masks in {self._campus.mask_paths(video)[1]} have (width, height) "
                        f"{mask.shape[::-1]}, the frame {path} {measure(path)}"
                    )
                self._metadata[DISAGREEING] += int(mask.any() != label)
                name = path.relative_to(self.folder).as_posix()
                yield _example(name, str(path), png(Image.fromarray(mask.astype(np.uint8) * 255)), label)


def _example(name: str, image: str | bytes, mask: bytes, abnormal: bool) -> KeyedExample:
    return name, {
        "image": image,
        "mask": mask,
        "has_mask": True,
        "label": int(abnormal),
        "defect_type": ABNORMAL if abnormal else GOOD,
        "file_name": name,
    }
