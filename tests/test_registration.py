"""Poses of drawn parts are found, and images move into the reference's pose and back by the formula of ``Poses``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from padim_jax.method.registration import (
    Reference,
    estimate_pose,
    estimate_prepared,
    find_reference,
    prepare_reference,
)
from padim_jax.method.warping import Poses, unwarp_map, warp

N, SIDE = 8, 64
ANGLES = np.array([0, 3.4, -57, 90, 151.5, -179.6, -21.2, 179.9])
SHIFTS = np.array([[0, 0], [7.3, -6], [-3.4, 2.5], [0, 5], [6, 6], [-7, 1.5], [2.2, -7], [1, 0.5]])
TABLE = (90, 96, 84)


def bracket() -> Image.Image:
    """A bracket with a hole, which no angle but 0 maps to itself, drawn large."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), TABLE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((72, 56, 120, 196), fill=(200, 190, 180))
    draw.rectangle((72, 152, 188, 196), fill=(220, 225, 228))
    draw.ellipse((82, 66, 110, 94), fill=(30, 30, 40))
    return image


def placed(part: Image.Image, angles: np.ndarray, shifts: np.ndarray, noise: float = 2.0) -> np.ndarray:
    """Images of a part, drawn four times as large, turned and then shifted by Pillow."""
    rng = np.random.default_rng(0)
    images = [
        part.rotate(angle, Image.Resampling.BICUBIC, translate=(4 * shift[1], 4 * shift[0]), fillcolor=TABLE).resize(
            (SIDE, SIDE), Image.Resampling.BOX
        )
        for angle, shift in zip(angles, shifts, strict=True)
    ]
    pixels = np.stack([np.asarray(image, np.float64) for image in images])
    return np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)


REFERENCE = placed(bracket(), np.zeros(1), np.zeros((1, 2)))[0]
IMAGES = placed(bracket(), ANGLES, SHIFTS)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return prepare_reference(REFERENCE)


def angle_between(a: jax.Array, b: np.ndarray) -> np.ndarray:
    return np.abs((np.asarray(a) - b + 180) % 360 - 180)


def poses(angle: list[float], shift: list[list[float]]) -> Poses:
    return Poses(jnp.array(angle, jnp.float32), jnp.array(shift, jnp.float32), jnp.ones(len(angle)))


def test_known_poses_are_found(reference: Reference) -> None:
    found = estimate_prepared(reference, IMAGES)
    assert angle_between(found.angle, ANGLES).max() < 1
    assert np.abs(np.asarray(found.shift) - SHIFTS).max() < 1
    assert np.all((np.asarray(found.quality) > 0.7) & (np.asarray(found.quality) <= 1))
    assert np.abs(np.asarray(found.angle)).max() <= 180
    darker = estimate_prepared(reference, IMAGES.astype(np.float32) / 510)
    assert angle_between(darker.angle, ANGLES).max() < 1


def test_angles_of_blurred_parts_are_not_drawn_towards_0() -> None:
    part, angles = bracket().filter(ImageFilter.GaussianBlur(4)), np.linspace(3.5, 4.7, N)
    blurred = placed(part, np.zeros(1), np.zeros((1, 2)), noise=0)[0]
    found = estimate_pose(blurred, placed(part, angles, np.zeros((N, 2))))
    assert np.abs(np.asarray(found.angle) - angles).max() < 0.5
    found = estimate_pose(blurred, placed(part, np.linspace(179.3, 180.7, N), np.zeros((N, 2))))
    assert np.abs(np.asarray(found.angle)).max() <= 180
    assert np.abs(np.asarray(found.angle)).min() > 178.5


def test_what_leaves_on_one_side_does_not_come_in_on_the_other() -> None:
    left = np.full((SIDE, SIDE, 3), 90, np.uint8)
    left[:, 4:9] = 200
    found = estimate_pose(left, left[None, :, ::-1], max_angle=0)
    assert float(found.quality[0]) < 0.2


def test_a_batch_changes_nothing_and_jit_and_vmap_work(reference: Reference) -> None:
    whole = estimate_prepared(reference, IMAGES)
    single = estimate_prepared(reference, IMAGES[2:3])
    in_vmap = jax.vmap(lambda image: estimate_prepared(reference, image[None]))(jnp.asarray(IMAGES))
    in_jit = jax.jit(estimate_pose)(REFERENCE, IMAGES)
    for field in ("angle", "shift", "quality"):
        of_whole = np.asarray(getattr(whole, field))
        np.testing.assert_allclose(np.asarray(getattr(single, field))[0], of_whole[2], atol=1e-3)
        np.testing.assert_allclose(np.asarray(getattr(in_vmap, field))[:, 0], of_whole, atol=1e-3)
        np.testing.assert_allclose(np.asarray(getattr(in_jit, field)), of_whole, atol=1e-3)


def test_warped_images_lie_as_the_reference_does() -> None:
    moved, inside = warp(IMAGES, poses(ANGLES.tolist(), SHIFTS.tolist()))
    exactly, _ = warp(IMAGES.astype(np.float32), poses(ANGLES.tolist(), SHIFTS.tolist()))
    assert moved.dtype == jnp.uint8
    assert np.abs(np.asarray(moved) - np.asarray(exactly)).max() <= 0.501
    difference = np.abs(np.asarray(moved, np.float64) - REFERENCE).mean(axis=-1)
    assert [image[mask].mean() < 4 for image, mask in zip(difference, np.asarray(inside), strict=True)] == [True] * N
    assert difference[2].mean() < np.abs(IMAGES[2].astype(float) - REFERENCE).mean() / 3


def test_quarter_turns_and_whole_shifts_are_exact() -> None:
    image = np.random.default_rng(1).random((1, SIDE, SIDE, 3), np.float32)
    turned = np.rot90(image, axes=(1, 2))  # counter-clockwise
    shifted = np.roll(turned, (3, -5), axis=(1, 2))
    moved, inside = warp(shifted, poses([90], [[3, -5]]))
    mask = np.asarray(inside)[0]
    assert mask.sum() == (SIDE - 3) * (SIDE - 5)
    np.testing.assert_allclose(np.asarray(moved)[0][mask], image[0][mask], atol=1e-4)
    wide = np.random.default_rng(2).random((1, 32, 48, 3), np.float32)
    moved, inside = warp(np.roll(wide[:, ::-1, ::-1], (2, 1), axis=(1, 2)), poses([180], [[2, 1]]))
    np.testing.assert_allclose(np.asarray(moved)[np.asarray(inside)], wide[np.asarray(inside)], atol=1e-4)


def test_maps_of_warped_images_come_back_to_the_images_own_pixels() -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE] / 9
    smooth = np.broadcast_to(np.sin(rows) + np.cos(columns + rows), (N, SIDE, SIDE)).astype(np.float32)
    pose = poses(ANGLES.tolist(), SHIFTS.tolist())
    moved, seen = warp(smooth[..., None], pose)
    back, inside = unwarp_map(moved[..., 0], pose)
    middle = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) < 20  # far enough from the border for these shifts
    assert np.asarray(seen)[:, middle].all()
    np.testing.assert_allclose(np.asarray(back)[:, middle], smooth[:, middle], atol=0.02)
    assert not np.asarray(back)[~np.asarray(inside)].any()


def test_of_angles_that_fit_equally_well_it_is_the_smallest() -> None:
    disc = Image.new("RGB", (4 * SIDE, 4 * SIDE), TABLE)
    ImageDraw.Draw(disc).ellipse((68, 68, 187, 187), fill=(210, 200, 190))
    bar = Image.new("RGB", (4 * SIDE, 4 * SIDE), TABLE)
    ImageDraw.Draw(bar).rectangle((52, 98, 203, 157), fill=(210, 200, 190))
    still = np.zeros((1, 2))
    found = estimate_pose(placed(disc, np.zeros(1), still, 0.5)[0], placed(disc, ANGLES, SHIFTS, 0.5))
    assert np.abs(np.asarray(found.angle)).max() < 1
    assert np.abs(np.asarray(found.shift) - SHIFTS).max() < 1
    found = estimate_pose(placed(bar, np.zeros(1), still)[0], placed(bar, ANGLES, SHIFTS))
    smallest = (ANGLES + 90) % 180 - 90
    upright = np.abs(np.abs(smallest) - 90) < 1  # both quarter turns fit
    assert angle_between(found.angle, smallest)[~upright].max() < 1.5


def test_what_has_no_edges_has_quality_0_and_lies_still(reference: Reference) -> None:
    flat = np.full((N, SIDE, SIDE, 3), 0.3, np.float32) * np.arange(N, dtype=np.float32).reshape(N, 1, 1, 1)
    flat[5] += 1e-6 * np.random.default_rng(3).random(flat[5].shape, np.float32)  # as rounding leaves it
    for found in (
        estimate_prepared(reference, flat),
        estimate_prepared(reference, (85 * flat).astype(np.uint8)),
        estimate_pose(flat[3], IMAGES),
    ):
        for leaf in jax.tree.leaves(found):
            np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("max_angle", [0, 2.5, 15])
def test_no_angle_and_no_shift_beyond_the_bounds(max_angle: float) -> None:
    angles = np.linspace(-max_angle, max_angle, N)
    found = estimate_pose(REFERENCE, placed(bracket(), angles, SHIFTS), max_angle=max_angle)
    assert np.abs(np.asarray(found.angle) - angles).max() < 1
    assert np.abs(np.asarray(found.shift) - SHIFTS).max() < 1
    found = estimate_pose(REFERENCE, IMAGES, max_angle=max_angle, max_shift=0.05)
    assert np.abs(np.asarray(found.angle)).max() <= max_angle
    assert np.abs(np.asarray(found.shift)).max() <= 0.05 * SIDE
    unbounded = estimate_pose(REFERENCE, IMAGES, max_angle=max_angle)
    assert np.all(found.quality < unbounded.quality + 0.02)


def test_a_reference_is_made_of_those_that_match() -> None:
    images = IMAGES.copy()
    images[3:6] = np.random.default_rng(4).integers(0, 256, images[3:6].shape)
    reference = find_reference(images)
    assert (reference.shape, reference.dtype) == ((SIDE, SIDE, 3), jnp.float32)
    quality = np.asarray(estimate_pose(reference, images).quality)
    assert quality[3:6].max() < 0.3
    assert np.delete(quality, range(3, 6)).min() > 0.92
    assert np.abs(np.asarray(find_reference(images[:1])) - images[0]).max() < 1


def test_wrong_sizes_and_bounds_are_refused(reference: Reference) -> None:
    with pytest.raises(ValueError, match=r"estimate_prepared: images are \(64, 48\) pixels large, wanted \(64, 64\)"):
        estimate_prepared(reference, IMAGES[:, :, :48])
    for wrong in ({"max_angle": 181}, {"max_angle": -1}, {"max_shift": 0.6}):
        with pytest.raises(ValueError, match=r"prepare_reference: max_angle=.* wanted an angle from 0 to 180 degrees"):
            prepare_reference(REFERENCE, **wrong)
    with pytest.raises(ValueError, match="find_reference: images is empty"):
        find_reference(IMAGES[:0])
