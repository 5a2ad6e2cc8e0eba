"""MVTec AD's builder over drawn categories in the published layout."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.data import mvtec_ad
from padim_jax.data.examples import list_examples, load_examples
from padim_jax.data.mvtec_ad import COUNTS, Counts, MVTecAD
from padim_jax.data.record import RAW
from tests.datasets import DEFECTS, write_image, write_mvtec

FEW = Counts(5, 2, 4)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Categories of 11 images count as published."""
    for category in COUNTS:
        monkeypatch.setitem(mvtec_ad.COUNTS, category, FEW)


def prepared(root: Path, category: str) -> Any:  # TFDS hides its methods' signatures
    builder = MVTecAD(folder=root, data_dir=root / "prepared", category=category)
    builder.download_and_prepare()
    return builder


def test_published_counts() -> None:
    assert len(COUNTS) == 15
    assert tuple(map(sum, zip(*COUNTS.values(), strict=True))) == (3629, 467, 1258)  # totals of the paper's table 1
    assert [config.name for config in MVTecAD.BUILDER_CONFIGS] == list(COUNTS) == list(DEFECTS)


@pytest.mark.slow
def test_a_whole_category(tmp_path: Path) -> None:
    write_mvtec(tmp_path, "toothbrush", COUNTS["toothbrush"])
    builder = prepared(tmp_path, "toothbrush")
    assert builder.info.full_name == "mvtec_ad/toothbrush/1.0.0"
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 60, "test": 42}
    listed = list_examples(builder, "test")
    assert [example.file_name for example in listed] == [
        *(f"toothbrush/test/defective/{index:03}.png" for index in range(30)),
        *(f"toothbrush/test/good/{index:03}.png" for index in range(12)),
    ]
    assert [(example.label, example.defect_type) for example in listed] == [(True, "defective")] * 30 + [
        (False, "good")
    ] * 12
    assert all(example.has_mask for example in listed)
    source = builder.as_data_source("test", decoders=RAW)
    for index, folder in ((29, "test/defective/029.png"), (30, "test/good/000.png")):
        assert source[index]["image"] == (tmp_path / "toothbrush" / folder).read_bytes()
    assert source[29]["mask"] == (tmp_path / "toothbrush" / "ground_truth/defective/029_mask.png").read_bytes()
    (batch,) = load_examples(builder, "test", padim.PadimConfig(), 8, indices=range(26, 34))
    assert batch.images.shape == (8, 224, 224, 3)
    np.testing.assert_array_equal(batch.masks.any(axis=(1, 2)), [True] * 4 + [False] * 4)
    assert "tensorflow" not in sys.modules


@pytest.mark.usefixtures("few")
def test_categories_lie_side_by_side(tmp_path: Path) -> None:
    for category in ("bottle", "screw"):
        write_mvtec(tmp_path, category, FEW, size=64)
    bottle, screw = prepared(tmp_path, "bottle"), prepared(tmp_path, "screw")
    assert [example.file_name for example in list_examples(bottle, "test")] == [
        "bottle/test/broken_large/000.png", "bottle/test/broken_large/001.png", "bottle/test/broken_small/000.png",
        "bottle/test/contamination/000.png", "bottle/test/good/000.png", "bottle/test/good/001.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "screw/train/good/000.png") as image:
        assert image.mode == "L"
    (batch,) = load_examples(screw, "train", padim.PadimConfig(image_size=64, crop_size=64), 8)
    assert batch.file_names == [f"screw/train/good/{index:03}.png" for index in range(5)]
    assert batch.images.shape == (5, 64, 64, 3)


@pytest.mark.usefixtures("few")
def test_changed_files_are_prepared_anew(tmp_path: Path) -> None:
    write_mvtec(tmp_path, "bottle", FEW, size=64)
    config = padim.PadimConfig(image_size=64, crop_size=64)
    (before,) = load_examples(prepared(tmp_path, "bottle"), "train", config, 8)
    assert MVTecAD(folder=tmp_path, data_dir=tmp_path / "prepared", category="bottle").is_prepared()
    path = tmp_path / "bottle/train/good/000.png"
    path.unlink()
    write_image(path, np.full((64, 64, 3), 77, np.uint8))
    assert not MVTecAD(folder=tmp_path, data_dir=tmp_path / "prepared", category="bottle").is_prepared()
    (after,) = load_examples(prepared(tmp_path, "bottle"), "train", config, 8)
    assert (after.images[0] == 77).all()
    np.testing.assert_array_equal(before.images[1:], after.images[1:])


def test_a_missing_category_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "cable").mkdir()
    with pytest.raises(ValueError, match="there are only the folders cable") as caught:
        MVTecAD(folder=tmp_path, data_dir=tmp_path / "prepared", category="bottle")
    for words in (f"wanted {tmp_path}/bottle/ with train/good/, test/ and ground_truth/", "CC BY-NC-SA 4.0",
                  "https://www.mvtec.com/company/research/datasets/mvtec-ad", f"{tmp_path}/bottle/train/good/000.png"):  # fmt: skip
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="there are no folders"):
        MVTecAD(folder=tmp_path / "nowhere", data_dir=tmp_path, category="bottle")


def test_a_category_given_as_the_folder_is_recognised(tmp_path: Path) -> None:
    write_mvtec(tmp_path, "bottle", FEW, size=64)
    with pytest.raises(ValueError, match=f"looks like one category; folder= wants .*: {tmp_path}$"):
        MVTecAD(folder=tmp_path / "bottle", data_dir=tmp_path / "prepared", category="bottle")


def test_an_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"category='bottles', wanted one of bottle, cable, .*, zipper"):
        MVTecAD(folder=tmp_path, data_dir=tmp_path / "prepared", category="bottles")


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ("train/good/004.png", "train/good: 5 published, 4 found; test/good: 2 published, 2 found"),
        ("test/good/001.png", "test/good: 2 published, 1 found"),
        ("test/broken_small/000.png", "test, defective: 4 published, 3 found"),
        ("ground_truth/broken_small/000_mask.png", "ground_truth: 4 published, 3 found"),
        (None, "train/good: 5 published, 6 found"),
    ],
)
@pytest.mark.usefixtures("few")
def test_other_numbers_than_published_are_listed(tmp_path: Path, removed: str | None, words: str) -> None:
    folder = write_mvtec(tmp_path, "bottle", FEW, size=64)
    if removed is None:
        write_image(folder / "train/good/extra.png", np.zeros((64, 64, 3), np.uint8))
    else:
        (folder / removed).unlink()
    with pytest.raises(ValueError, match=f"bottle is not bottle as published: .*{words}.*name their folder itself"):
        prepared(tmp_path, "bottle")


@pytest.mark.usefixtures("few")
def test_a_category_without_masks_is_refused(tmp_path: Path) -> None:
    write_mvtec(tmp_path, "bottle", FEW, size=64)
    (tmp_path / "bottle/ground_truth").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="ground_truth: 4 published, 0 found"):
        prepared(tmp_path, "bottle")
