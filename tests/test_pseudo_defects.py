"""Pseudo-defects: what they change, what they leave, and what they depend on."""

import numpy as np
import pytest

from padim_jax.method.pseudo_defects import FAMILIES, pseudo_defects

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def photos(count: int, height: int = 96, width: int = 80, seed: int = 0) -> np.ndarray:
    """Coarse coloured patterns, which every family can change anywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, height // 8, width // 8, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


@EVERY_FAMILY
def test_the_mask_marks_the_pixels_that_changed_and_there_are_few(family: str) -> None:
    images = photos(12)
    before = images.copy()
    result = pseudo_defects(images, family, seed=3)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(result.masks, (result.images != images).any(axis=3))
    share = result.masks.mean(axis=(1, 2))
    assert (share > 0).all()
    assert share.max() < 0.15
    for mask in result.masks:
        rows, columns = np.nonzero(mask)
        assert max(np.ptp(rows), np.ptp(columns)) < 0.5 * 96


@EVERY_FAMILY
def test_a_defect_can_be_seen(family: str) -> None:
    images = photos(12)
    result = pseudo_defects(images, family, seed=0)
    change = np.abs(result.images.astype(int) - images).max(axis=3)
    assert all(one[mask].mean() >= 6 for one, mask in zip(change, result.masks, strict=True))


@EVERY_FAMILY
def test_it_depends_on_the_pixels_and_the_seed_not_on_the_order(family: str) -> None:
    images, order = photos(6), np.array([4, 0, 5, 2, 1, 3])
    first, second = pseudo_defects(images, family, seed=1), pseudo_defects(images[order], family, seed=1)
    np.testing.assert_array_equal(first.images[order], second.images)
    np.testing.assert_array_equal(first.strengths[order], second.strengths)
    other = pseudo_defects(images, family, seed=2)
    assert all((one != another).any() for one, another in zip(first.masks, other.masks, strict=True))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "paste"])
def test_only_a_piece_of_another_image_depends_on_the_others(family: str) -> None:
    images = photos(5)
    together, alone = pseudo_defects(images, family, seed=1), pseudo_defects(images[2:3], family, seed=1)
    np.testing.assert_array_equal(together.images[2], alone.images[0])


def test_a_piece_comes_from_another_image_and_never_from_a_copy() -> None:
    dark, light = (np.full((1, 224, 224, 3), level, np.uint8) for level in (20, 220))
    result = pseudo_defects(np.concatenate([dark, light, dark]), "paste", seed=0)
    assert [int(one.max()) for one in result.images] == [220, 220, 220]
    assert int(result.images[1].min()) == 20
    assert not pseudo_defects(
        np.concatenate([dark, dark]), "paste", seed=0
    ).masks.any()  # no other image to take it from


@EVERY_FAMILY
def test_families_differ(family: str) -> None:
    images = photos(1)
    masks = {other: pseudo_defects(images, other, seed=0).masks for other in FAMILIES}
    assert all((masks[family] != mask).any() for other, mask in masks.items() if other != family)


@EVERY_FAMILY
def test_images_without_colour_stay_without(family: str) -> None:
    images = photos(8)[..., :1].repeat(3, axis=3)
    result = pseudo_defects(images, family, seed=0).images
    np.testing.assert_array_equal(result, result[..., :1].repeat(3, axis=3))


def test_stains_of_coloured_images_have_colours() -> None:
    images = np.full((1, 64, 64, 3), (90, 120, 150), np.uint8)
    result = pseudo_defects(images, "stain", seed=0)
    shift = (result.images.astype(int) - images)[0][result.masks[0]]
    assert (np.ptp(shift, axis=1) > 0).any()


@EVERY_FAMILY
def test_strong_defects_change_more_than_weak_ones(family: str) -> None:
    images = photos(64)
    result = pseudo_defects(images, family, seed=0)
    assert result.strengths.min() >= 0
    assert result.strengths.max() <= 1
    assert abs(result.strengths.mean() - 0.5) < 0.15
    change = np.abs(result.images.astype(int) - images).sum(axis=(1, 2, 3))
    strong = result.strengths > 0.5
    assert change[strong].mean() > 1.5 * change[~strong].mean()


@EVERY_FAMILY
def test_places_are_all_over_the_image(family: str) -> None:
    masks = pseudo_defects(photos(48), family, seed=0).masks
    centres = np.array([[at.mean() for at in np.nonzero(mask)] for mask in masks]) / masks.shape[1:]
    assert (centres.min(axis=0) < 0.2).all()
    assert (centres.max(axis=0) > 0.8).all()
    assert (np.abs(centres.mean(axis=0) - 0.5) < 0.15).all()


@EVERY_FAMILY
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (17, 31)])
def test_small_images_are_no_trouble(family: str, shape: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
    assert pseudo_defects(images, family, seed=0).images.shape == images.shape
    assert len(pseudo_defects(images[:0], family, seed=0).images) == 0


@pytest.mark.parametrize("family", ["smear", "gap"])
def test_an_image_of_one_colour_has_nothing_to_move(family: str) -> None:
    images = np.full((2, 48, 48, 3), 77, np.uint8)
    result = pseudo_defects(images, family, seed=0)
    np.testing.assert_array_equal(result.images, images)
    assert not result.masks.any()


def test_wrong_arguments_are_refused() -> None:
    images = photos(2)
    with pytest.raises(ValueError, match=r"images are float32 \(2, 96, 80, 3\), wanted uint8"):
        pseudo_defects(images.astype(np.float32), "stain", seed=0)
    with pytest.raises(ValueError, match="wanted uint8"):
        pseudo_defects(images[..., :2], "stain", seed=0)
    with pytest.raises(ValueError, match="family='rust', wanted one of paste, scratch, smear, stain, specks, gap"):
        pseudo_defects(images, "rust", seed=0)
    with pytest.raises(ValueError, match="seed=-1"):
        pseudo_defects(images, "stain", seed=-1)
