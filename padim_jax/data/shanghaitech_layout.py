"""ShanghaiTech Campus as published: its videos, frames and masks, found and checked."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Num

HOMEPAGE = "https://svip-lab.github.io/dataset/campus_dataset.html"
SCENES = tuple(f"{scene:02}" for scene in range(1, 14))
TRAINING_ONLY = "13"  # published without test videos
PUBLISHED_VIDEOS = {"training": 330, "test": 107}  # in all scenes


@dataclass(frozen=True)
class Campus:
    """Files of a scene, or of all.

    Attributes:
      folder: of the data set.
      scene: "01" to "13", or "all".
      videos: ``training/videos/<scene>_<nnn>.avi``, sorted.
      frames: for each test video, ``testing/frames/<scene>_<nnnn>/<nnn>.jpg`` in order.
      masks: ``testing/test_frame_mask/<scene>_<nnnn>.npy`` and ``testing/test_pixel_mask/<scene>_<nnnn>.npy``.
    """

    folder: Path
    scene: str
    videos: tuple[Path, ...]
    frames: dict[str, tuple[Path, ...]]
    masks: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """All files of the scene."""
        return [*self.videos, *self.masks, *(frame for frames in self.frames.values() for frame in frames)]

    def mask_paths(self, video: str) -> tuple[Path, Path]:
        """Where the labels and the masks of a test video's frames are."""
        testing = self.folder / "testing"
        return testing / "test_frame_mask" / f"{video}.npy", testing / "test_pixel_mask" / f"{video}.npy"

    def check(self) -> None:
        """Raise ``ValueError`` unless there are as many videos as published, with masks that fit all test frames."""
        counts = {"training": len(self.videos), "test": len(self.frames)}
        if self.scene == "all" and counts != PUBLISHED_VIDEOS:
            table = "; ".join(f"{kind}: {PUBLISHED_VIDEOS[kind]} published, {counts[kind]} found" for kind in counts)
            raise ValueError(f"shanghaitech_campus: not the videos published: {table}. {_advice(self.folder)}")
        if self.scene != TRAINING_ONLY and not self.frames:
            raise ValueError(f"shanghaitech_campus: no test videos of scene {self.scene}. {_advice(self.folder)}")
        expected = {path for video in self.frames for path in self.mask_paths(video)}
        for fault, paths in (
            ("missing masks", expected - {*self.masks}),
            ("masks without frames", {*self.masks} - expected),
        ):
            if paths:
                names = ", ".join(path.relative_to(self.folder).as_posix() for path in sorted(paths))
                raise ValueError(f"shanghaitech_campus: {fault}: {names}. {_advice(self.folder)}")
        for video in self.frames:
            self.load_masks(video)

    def load_masks(self, video: str) -> tuple[Bool[np.ndarray, " frames"], Num[np.ndarray, "frames height width"]]:
        """Labels (true if abnormal) and masks (not 0 where abnormal) of a test video's frames; masks are left on disk.

        Raises:
          ValueError: not NumPy arrays of these dimensions, or unequal numbers of frames, labels and masks.
        """
        frames, (label_path, mask_path) = self.frames[video], self.mask_paths(video)
        labels, masks = _load(label_path, 1), _load(mask_path, 3)
        if not len(frames) == len(labels) == len(masks):
            raise ValueError(
                f"shanghaitech_campus: test video {video} has {len(frames)} frames, {len(labels)} labels in "
                f"{label_path} and {len(masks)} masks in {mask_path}; these must agree. {_advice(self.folder)}"
            )
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"shanghaitech_campus: {label_path} holds other labels than 0 (normal) and 1 (abnormal)")
        numbers = [int(path.stem) for path in frames]
        if any(after != before + 1 for before, after in pairwise(numbers)):
            raise ValueError(f"shanghaitech_campus: the frames of test video {video} are not numbered without gaps")
        return labels.astype(bool), masks


def find_campus(folder: Path, scene: str) -> Campus:
    """Find the files of a scene; ``ValueError`` says what was looked for."""
    if scene not in ("all", *SCENES):
        raise ValueError(f"shanghaitech_campus: scene={scene!r}, wanted one of all, {', '.join(SCENES)}")
    video = r"\d\d_\d+" if scene == "all" else rf"{scene}_\d+"
    videos = _matching(folder / "training" / "videos", rf"{video}\.avi")
    if not videos:
        raise ValueError(f"shanghaitech_campus: no training videos of scene={scene!r}. {_advice(folder)}")
    return Campus(
        folder,
        scene,
        videos,
        {
            path.name: tuple(sorted(_matching(path, r"\d+\.jpg"), key=lambda frame: int(frame.stem)))
            for path in _matching(folder / "testing" / "frames", video)
        },
        tuple(
            path
            for kind in ("test_frame_mask", "test_pixel_mask")
            for path in _matching(folder / "testing" / kind, rf"{video}\.npy")
        ),
    )


def _matching(folder: Path, pattern: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name)))


def _load(path: Path, dimensions: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # a pickle would run what it holds
    except (ValueError, EOFError) as error:
        raise ValueError(f"shanghaitech_campus: {path} is no array of numbers as published: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != dimensions or array.dtype.kind not in "biuf":
        description = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"shanghaitech_campus: {path} holds {description}, wanted numbers in {dimensions} dimensions")
    return array


def _advice(folder: Path) -> str:
    return (
        f"ShanghaiTech Campus is not downloaded for you: fetch it from {HOMEPAGE} (for research use) and unpack it so "
        f"that {folder} holds training/videos/01_001.avi, testing/frames/01_0014/000.jpg, "
        "testing/test_frame_mask/01_0014.npy, testing/test_pixel_mask/01_0014.npy and so on"
    )
