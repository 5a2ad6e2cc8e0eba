"""Reading prepared examples: in order, aligned with their masks, strictly, and no further ahead than said."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.data import examples
from padim_jax.data.examples import Examples, list_examples, load_examples
from padim_jax.data.image_folder_ad import ImageFolderAD
from padim_jax.data.protocol import STANDARD, Protocol
from padim_jax.images import UnreadableImage, read_image
from padim_jax.images.image import find_defective, open_mask
from tests.datasets import write_image, write_mvtec

CONFIG = padim.PadimConfig(image_size=(80, 90), crop_size=(64, 60))
ROTATED = Protocol("rotated", seed=3)


def prepare(folder: Path, data_dir: Path) -> Any:
    builder = ImageFolderAD(folder=folder, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """6 good images to train; 3 good and 3 + 2 + 2 defective to test; 96×96."""
    folder = tmp_path_factory.mktemp("bottle")
    write_mvtec(folder, "bottle", (6, 3, 7), size=96)
    return prepare(folder / "bottle", folder / "prepared")


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Defective images that are their masks: white squares on black, 160×144, anywhere."""
    rng = np.random.default_rng(0)
    write_image(tmp_path / "train" / "good" / "0.png", np.zeros((144, 160, 3), np.uint8))
    for index in range(12):
        mask = np.zeros((144, 160), np.uint8)
        top, left = rng.integers(30, 80, 2)
        mask[top : top + 30, left : left + 34] = 255
        write_image(tmp_path / "test" / "square" / f"{index}.png", np.dstack([mask] * 3))
        write_image(tmp_path / "ground_truth" / "square" / f"{index}_mask.png", mask)
    return tmp_path


def joined(batches: Any) -> Examples:
    return examples._join(list(batches))


def test_order_is_that_of_the_files(bottle: Any) -> None:
    root = bottle.folder
    found = joined(load_examples(bottle, "test", CONFIG, batch_size=4))
    names = [f"test/{defect}/{index:03}.png" for defect, count in
             (("broken_large", 3), ("broken_small", 2), ("contamination", 2), ("good", 3)) for index in range(count)]  # fmt: skip
    assert found.file_names == names
    assert found.defect_types == [name.split("/")[1] for name in names]
    np.testing.assert_array_equal(found.labels, ["good" not in name for name in names])
    assert found.has_mask.all()
    np.testing.assert_array_equal(found.images, [read_image(root / name, CONFIG) for name in names])
    np.testing.assert_array_equal(found.masks.any(axis=(1, 2)), found.labels)
    assert found.placements == [None] * 10
    assert (found.images.shape, found.masks.shape) == ((10, 64, 60, 3), (10, 64, 60))
    assert (found.images.dtype, found.masks.dtype, found.labels.dtype) == (np.uint8, bool, bool)


def test_listing_is_loading_without_pixels(bottle: Any) -> None:
    found = joined(load_examples(bottle, "test", CONFIG, batch_size=4))
    listed = [(x.file_name, x.label, x.defect_type, x.has_mask) for x in list_examples(bottle, "test")]
    assert listed == list(zip(found.file_names, found.labels, found.defect_types, found.has_mask.tolist(), strict=True))


@pytest.mark.parametrize("protocol", [STANDARD, ROTATED], ids=["standard", "rotated"])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_nothing_depends_on_batches_or_order(bottle: Any, protocol: Protocol, batch_size: int) -> None:
    whole = joined(load_examples(bottle, "test", CONFIG, 4, protocol))
    batches = list(load_examples(bottle, "test", CONFIG, batch_size, protocol))
    assert [len(batch.images) for batch in batches] == [
        len(range(i, min(i + batch_size, 10))) for i in range(0, 10, batch_size)
    ]
    order = [7, 0, 9, 2, 2]
    picked = joined(load_examples(bottle, "test", CONFIG, batch_size, protocol, indices=order))
    for field in ("images", "masks", "labels", "has_mask"):
        np.testing.assert_array_equal(getattr(joined(batches), field), getattr(whole, field))
        np.testing.assert_array_equal(getattr(picked, field), getattr(whole, field)[order])
    for field in ("file_names", "defect_types", "placements"):
        assert getattr(joined(batches), field) == getattr(whole, field)
        assert getattr(picked, field) == [getattr(whole, field)[index] for index in order]


def test_training_images_are_rotated_too(bottle: Any) -> None:
    train = joined(load_examples(bottle, "train", CONFIG, 6, ROTATED))
    assert train.placements == [ROTATED.draw("train", name, CONFIG) for name in train.file_names]
    assert len(set(train.placements)) == 6
    assert (train.images != joined(load_examples(bottle, "train", CONFIG, 6)).images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("protocol", [STANDARD, ROTATED], ids=["standard", "rotated"])
def test_masks_lie_where_their_images_do(squares: Path, tmp_path: Path, protocol: Protocol, interpolation: Any) -> None:
    config = padim.PadimConfig(image_size=(80, 90), crop_size=(72, 76), interpolation=interpolation)
    found = joined(load_examples(prepare(squares, tmp_path / "prepared"), "test", config, 5, protocol))
    assert found.masks.any(axis=(1, 2)).all()
    for image, mask in zip(found.images[..., 0] > 127, found.masks, strict=True):
        assert np.abs(edges(image) - edges(mask)).max() <= 1
        assert (image ^ mask).mean() < 0.01


def edges(shape: np.ndarray) -> np.ndarray:
    """First and last row and column."""
    return np.array([found for axis in (1, 0) for found in np.flatnonzero(shape.any(axis))[[0, -1]]])


def test_masks_can_be_left_out(squares: Path, tmp_path: Path) -> None:
    mask = squares / "ground_truth" / "square" / "3_mask.png"
    mask.write_bytes(mask.read_bytes()[:60])  # header whole, pixels cut
    builder = prepare(squares, tmp_path / "prepared")
    assert not joined(load_examples(builder, "test", CONFIG, 5, with_masks=False)).masks.any()
    with pytest.raises(UnreadableImage, match=r"test/square/3\.png: its mask: .*truncated"):
        list(load_examples(builder, "test", CONFIG, 5))


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    write_mvtec(tmp_path, "grid", (2, 1, 5), size=96)
    with Image.open(tmp_path / "grid" / "train" / "good" / "000.png") as image:
        assert image.mode == "L"
    found = joined(load_examples(prepare(tmp_path / "grid", tmp_path / "prepared"), "train", CONFIG, 2, ROTATED))
    assert found.images.shape == (2, 64, 60, 3)
    np.testing.assert_array_equal(found.images[..., 0], found.images[..., 2])


def test_a_defect_of_unknown_extent_has_no_mask(tmp_path: Path) -> None:
    write_image(tmp_path / "good" / "0.png", np.zeros((90, 90, 3), np.uint8))
    write_image(tmp_path / "bad" / "0.png", np.zeros((90, 90, 3), np.uint8))
    found = joined(load_examples(prepare(tmp_path, tmp_path / "prepared"), "bad", CONFIG, 2))
    assert (found.labels.tolist(), found.has_mask.tolist(), found.masks.any()) == ([True], [False], False)


def test_upright_images_get_upright_masks(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("good", "bad"):
        (tmp_path / split).mkdir()
        Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(tmp_path / split / "0.jpg", exif=exif)
    builder = prepare(tmp_path, tmp_path / "prepared")
    assert joined(load_examples(builder, "good", CONFIG, 2)).images.shape == (1, 64, 60, 3)


def test_wrong_mask_size_names_both_files(squares: Path, tmp_path: Path) -> None:
    write_image(squares / "ground_truth" / "square" / "5_mask.png", np.zeros((160, 144), np.uint8))
    with pytest.raises(ValueError, match=r"mask .*5_mask\.png has 144×160 pixels, its image .*square/5\.png 160×144"):
        prepare(squares, tmp_path / "prepared")
    assert not ImageFolderAD(folder=squares, data_dir=tmp_path / "prepared").is_prepared()


@pytest.mark.parametrize(
    ("mode", "accepted"), [("L", True), ("1", True), ("RGB", True), ("P", False), ("LA", False), ("I;16", False)]
)
def test_kinds_of_masks(tmp_path: Path, mode: str, accepted: bool) -> None:
    mask = np.zeros((8, 9), np.uint8)
    mask[2:4, 3:7] = 255
    path = tmp_path / "a.png"
    Image.fromarray(mask).convert(mode).save(path)
    if accepted:
        np.testing.assert_array_equal(find_defective(open_mask(path, None, (9, 8))), mask > 0)
        with pytest.raises(UnreadableImage, match="its mask has 9×8 pixels, the image 8×9"):
            open_mask(path, None, (8, 9))
    else:
        with pytest.raises(UnreadableImage, match="wanted 8-bit grey, black-and-white or RGB"):
            open_mask(path, None, (9, 8))


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    for index in range(9):
        write_image(tmp_path / "good" / f"{index}.png", np.full((90, 90, 3), index, np.uint8))
    whole = tmp_path / "good" / "6.png"
    whole.write_bytes(whole.read_bytes()[:60])
    (tmp_path / "bad").mkdir()
    write_image(tmp_path / "bad" / "0.png", np.zeros((90, 90, 3), np.uint8))
    builder = prepare(tmp_path, tmp_path / "prepared")
    batches = load_examples(builder, "good", CONFIG, 2)
    assert [next(batches).file_names for _ in range(3)][-1] == ["good/4.png", "good/5.png"]
    with pytest.raises(UnreadableImage, match=r"can't read good/6\.png: .*truncated") as caught:
        next(batches)
    assert caught.value.path == Path("good/6.png")
    whole.write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"good/6\.png: no image"):
        prepare(tmp_path, tmp_path / "prepared")


def test_giving_up_early_ends_the_threads(bottle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    read, reads = examples._read, []

    def counted(*arguments: Any) -> Examples:
        reads.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(examples, "_read", counted)
    batches: Any = load_examples(bottle, "test", CONFIG, 1, indices=[0] * 500)
    assert next(batches).images.shape == (1, 64, 60, 3)
    time.sleep(0.1)
    ahead = max(2, os.cpu_count() or 1)
    assert len(reads) <= 1 + ahead
    batches.close()
    assert ended(before)
    assert len(reads) <= 1 + ahead


def test_a_failure_ends_the_threads(bottle: Any) -> None:
    before = set(threading.enumerate())
    batches = load_examples(bottle, "test", padim.PadimConfig(), 1, indices=[0] * 500)
    with pytest.raises(UnreadableImage, match="smaller than the crop") as caught:
        next(batches)
    assert ended(before), caught.value  # still held, and with it the frames it came through


def ended(before: set[threading.Thread]) -> bool:
    """Whether the threads started since end."""
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not left


def test_wrong_arguments(bottle: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no split 'validation'; it has train, test"):
        load_examples(bottle, "validation", CONFIG, 4)
    with pytest.raises(ValueError, match=r"has no split 'test\[:2\]'"):
        list_examples(bottle, "test[:2]")
    with pytest.raises(ValueError, match="indices hold -1, wanted 0 to 9, the examples of test"):
        load_examples(bottle, "test", CONFIG, 4, indices=[0, -1])
    with pytest.raises(ValueError, match="batch_size=0, wanted at least 1"):
        load_examples(bottle, "test", CONFIG, 0)
    assert list(load_examples(bottle, "test", CONFIG, 4, indices=[])) == []
    with pytest.raises(ValueError, match=r"is not prepared; call its download_and_prepare\(\) first"):
        load_examples(ImageFolderAD(folder=bottle.folder, data_dir=tmp_path), "test", CONFIG, 4)
