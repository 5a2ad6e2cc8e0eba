"""The TFDS builder over generated folders, with no TensorFlow installed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.data import record
from padim_jax.data.examples import list_examples, load_examples
from padim_jax.data.image_folder_ad import ImageFolderAD
from padim_jax.images import UnreadableImage, read_image
from tests.conftest import SMALL
from tests.datasets import write_image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """One category with the published names: 5 good to train, 2 good and 2 + 1 defective to test."""
    folder = tmp_path / "bottle"
    mask = np.zeros((40, 56), np.uint8)
    mask[10:20, 10:30] = 255
    for index in range(5):
        write_image(folder / "train" / "good" / f"{index:03}.png", np.roll(PIXELS, index))
    for defect, count in (("good", 2), ("broken_large", 2), ("contamination", 1)):
        for index in range(count):
            write_image(folder / "test" / defect / f"{index:03}.png", np.roll(PIXELS, -index))
            if defect != "good":
                write_image(folder / "ground_truth" / defect / f"{index:03}_mask.png", mask)
    return folder


def prepared(folder: Path, tmp_path: Path) -> Any:  # TFDS hides its methods' signatures
    builder = ImageFolderAD(folder=folder, data_dir=tmp_path / "prepared")
    builder.download_and_prepare()
    return builder


def test_mvtec_layout(mvtec: Path, tmp_path: Path) -> None:
    builder = prepared(mvtec, tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 5, "test": 5}
    examples = {example["file_name"].decode(): example for example in builder.as_data_source("test")}
    assert list(examples) == sorted(path.relative_to(mvtec).as_posix() for path in (mvtec / "test").rglob("*.png"))
    broken, good = examples["test/broken_large/001.png"], examples["test/good/000.png"]
    np.testing.assert_array_equal(broken["image"], np.roll(PIXELS, -1))
    assert (broken["label"], broken["defect_type"], broken["has_mask"]) == (1, b"broken_large", True)
    assert (int((broken["mask"] > 0).sum()), broken["mask"].shape) == (200, (40, 56, 1))
    assert (good["label"], good["defect_type"], good["has_mask"], int(good["mask"].sum())) == (0, b"good", True, 0)
    assert "tensorflow" not in sys.modules


def test_fit_from_a_data_source_is_fit_from_files(mvtec: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    builder = prepared(mvtec, tmp_path)
    model = padim.fit(lite0, (batch.images for batch in load_examples(builder, "train", SMALL, batch_size=2)), SMALL)
    files = np.stack([read_image(path, SMALL) for path in sorted((mvtec / "train" / "good").iterdir())])
    wanted = padim.fit(lite0, [files], SMALL)
    np.testing.assert_allclose(padim.score(model, files).image_score, padim.score(wanted, files).image_score, rtol=2e-3)


def test_plain_pair_has_no_masks(tmp_path: Path) -> None:
    for name, count in (("good", 3), ("bad", 2)):
        for index in range(count):
            write_image(tmp_path / "parts" / name / f"{index}.png", PIXELS)
    builder = prepared(tmp_path / "parts", tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"good": 3, "bad": 2}
    (first, *_) = builder.as_data_source("bad")
    assert (first["label"], first["has_mask"], first["defect_type"]) == (1, False, b"bad")


def test_a_changed_folder_is_prepared_anew(mvtec: Path, tmp_path: Path) -> None:
    assert prepared(mvtec, tmp_path).info.splits["train"].num_examples == 5
    write_image(mvtec / "train" / "good" / "005.png", PIXELS)
    assert prepared(mvtec, tmp_path).info.splits["train"].num_examples == 6


def test_order_holds_across_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("good", 20), ("bad", 5)):
        for index in range(count):
            write_image(tmp_path / "parts" / name / f"{index:02}.png", PIXELS)
    monkeypatch.setattr(record, "SHARD", 5)
    builder = prepared(tmp_path / "parts", tmp_path)
    assert {name: split.shard_lengths for name, split in builder.info.splits.items()} == {"good": [5] * 4, "bad": [5]}
    assert [example.file_name for example in list_examples(builder, "good")] == [f"good/{i:02}.png" for i in range(20)]


def test_wrong_folders(mvtec: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has neither train/good/ and test/"):
        ImageFolderAD(folder=tmp_path, data_dir=tmp_path / "prepared")
    (mvtec / "ground_truth" / "broken_large" / "001_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"broken_large/001\.png has no mask"):
        prepared(mvtec, tmp_path)


def test_unusable_image_is_named(mvtec: Path, tmp_path: Path) -> None:
    builder = prepared(mvtec, tmp_path)
    with pytest.raises(UnreadableImage, match=r"train/good/\d+\.png: it has 56×40 pixels, smaller than the crop"):
        list(load_examples(builder, "train", padim.PadimConfig(), batch_size=2))


def test_links_are_followed_and_watched(mvtec: Path, tmp_path: Path) -> None:
    (mvtec / "train" / "good").rename(tmp_path / "elsewhere")
    (mvtec / "train" / "good").symlink_to(tmp_path / "elsewhere")
    first = prepared(mvtec, tmp_path)
    write_image(tmp_path / "elsewhere" / "005.png", PIXELS)
    assert prepared(mvtec, tmp_path).info.splits["train"].num_examples == first.info.splits["train"].num_examples + 1


def test_hidden_folders_are_left_out(mvtec: Path, tmp_path: Path) -> None:
    for place in ("test", "test/good"):
        write_image(mvtec / place / ".ipynb_checkpoints" / "000.png", PIXELS)
    builder = prepared(mvtec, tmp_path)
    assert builder.info.splits["test"].num_examples == 5
    assert builder.found.ignored["hidden"] == 1


def test_one_mask_belongs_to_one_image(mvtec: Path, tmp_path: Path) -> None:
    write_image(mvtec / "test" / "contamination" / "000.jpg", PIXELS)
    with pytest.raises(ValueError, match=r"000\.jpg and .*000\.png have one mask, .*000_mask\.png; rename one of them"):
        prepared(mvtec, tmp_path)


def test_masks_of_subfolders_lie_in_subfolders(mvtec: Path, tmp_path: Path) -> None:
    for part in ("a", "b"):
        write_image(mvtec / "test" / "scratch" / part / "000.png", PIXELS)
        write_image(mvtec / "ground_truth" / "scratch" / part / "000_mask.png", PIXELS[..., 0])
    found = {example.name: example.mask for example in prepared(mvtec, tmp_path).found.splits["test"]}
    for part in ("a", "b"):
        assert found[f"test/scratch/{part}/000.png"] == mvtec / f"ground_truth/scratch/{part}/000_mask.png"


def test_images_directly_in_test(tmp_path: Path) -> None:
    for place in ("train/good", "test"):
        write_image(tmp_path / "part" / place / "000.png", PIXELS)
    with pytest.raises(ValueError, match=r"has no folders of test images; wanted good/ and one a defect type"):
        prepared(tmp_path / "part", tmp_path)


def test_names_that_are_not_utf8(mvtec: Path, tmp_path: Path) -> None:
    try:
        write_image(mvtec / "test" / "good" / "caf\udce9.png", PIXELS)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match=r"is not UTF-8; rename the file"):
        prepared(mvtec, tmp_path)


def test_folders_in_bad_are_defect_types(tmp_path: Path) -> None:
    for place in ("good/0", "bad/scratch/0", "bad/scratch/deep/0", "bad/0"):
        write_image(tmp_path / "parts" / f"{place}.png", PIXELS)
    listed = list_examples(prepared(tmp_path / "parts", tmp_path), "bad")
    assert [example.defect_type for example in listed] == ["bad", "scratch", "scratch"]
