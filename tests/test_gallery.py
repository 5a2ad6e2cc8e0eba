"""Pictures kept for a report: bounded, the telling ones, whatever their order."""

import io

import numpy as np
import pytest
from PIL import Image

from padim_jax.evaluation.gallery import LONGEST_SIDE, Entry, Gallery, encode


def entry(index: int, label: bool, score: float, size: tuple[int, int] = (4, 6)) -> Entry:
    mask = np.zeros(size, bool)
    mask[1, 2] = True
    image = np.full((*size, 3), index % 256, np.uint8)
    return Entry(index, label, score, image, np.full(size, score, np.float32), mask if label else None)


def test_few_are_all_kept() -> None:
    gallery = Gallery(limit=10)
    for index in (3, 1, 2):
        gallery.add(entry(index, False, 1.0))
    assert [kept.index for kept in gallery] == [1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_mistakes_stay_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.random.default_rng(0).permutation(200).astype(float)
    gallery = Gallery(limit=16)
    for index in rng.permutation(200):
        gallery.add(entry(int(index), bool(index < 100), float(scores[index])))
    rising = np.argsort(scores)
    defective, good = rising[rising < 100], rising[rising >= 100]
    wanted = {*defective[:6], *good[-6:], *defective[-2:], *good[:2]}
    assert [kept.index for kept in gallery] == sorted(wanted)


def test_entries_hold_no_more_than_themselves() -> None:
    batch = np.zeros((16, 4, 6, 3), np.uint8), np.zeros((16, 4, 6), np.float32)
    gallery = Gallery()
    gallery.add(Entry(0, True, 1.0, batch[0][3], batch[1][3], batch[1][3] > 0))
    (kept,) = gallery
    assert kept.image.base is None
    assert kept.anomaly_map is not None
    assert kept.anomaly_map.base is None


@pytest.mark.parametrize("count", [8, 9, 10, 11, 12, 19, 23, 40])
def test_a_single_class_is_kept_alike_in_either_order(count: int) -> None:
    kept = []
    for order in (range(count), reversed(range(count))):
        gallery = Gallery(limit=8)
        for index in order:
            gallery.add(entry(index, False, float(index)))
        kept.append([one.index for one in gallery])
    assert kept[0] == kept[1]


def test_one_class_does_not_fail() -> None:
    gallery = Gallery(limit=8)
    for index in range(30):
        gallery.add(entry(index, False, float(index)))
    assert [kept.index for kept in gallery] == [0, 27, 28, 29]


def test_large_images_are_shrunk_and_no_defect_is_lost() -> None:
    gallery = Gallery()
    gallery.add(entry(0, True, 2.0, size=(600, 1200)))
    (kept,) = gallery
    assert kept.image.shape == (128, LONGEST_SIDE, 3)
    assert kept.anomaly_map is not None
    assert kept.anomaly_map.shape == (128, LONGEST_SIDE)
    assert kept.mask is not None
    assert int(kept.mask.sum()) == 1


def test_files_of_an_entry() -> None:
    found = encode(entry(7, True, 2.0), (1.0, 3.0))
    assert sorted(found) == ["image.jpg", "map.jpg", "mask.png", "overlay.jpg"]
    assert sorted(encode(entry(7, False, 2.0), (1.0, 1.0))) == ["image.jpg", "map.jpg", "overlay.jpg"]
    sizes = {Image.open(io.BytesIO(content)).size for content in found.values()}
    assert sizes == {(6, 4)}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found["mask.png"]))), entry(7, True, 2.0).mask)
