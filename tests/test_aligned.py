"""Models of aligned images: moments with a count per position, against NumPy, and what happens to each image."""

# what other models do not have is there
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.saving import save_compacted
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import finalize
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.pooling import pooled_covariance
from padim_jax.method.aligned import cells_inside
from padim_jax.method.calibration import NO_MATCH, least_match
from padim_jax.method.reference import find_alignment
from padim_jax.method.scoring import leave_one_out_scores
from padim_jax.method.standard import MapMoments
from padim_jax.method.warping import Poses, unwarp_map, warp
from tests.test_registration import SIDE, bracket, placed

P, N, D = 6, 9, 4
ALIGNED = padim.PadimConfig(
    taps=("block2", "block4"), n_channels=12, image_size=SIDE, crop_size=SIDE, sigma=1.5, align="rigid"
)
RNG = np.random.default_rng(3)
ANGLES, SHIFTS = RNG.uniform(-180, 180, 14), RNG.uniform(-5, 5, (14, 2))
GOOD = placed(bracket(), ANGLES, SHIFTS)
STILL = placed(bracket(), np.zeros(2), np.zeros((2, 2)), noise=1.0)
TURNED = placed(bracket(), np.array([0.0, 117.0]), np.array([[0.0, 0.0], [4.0, -3.0]]), noise=1.0)


@pytest.fixture(scope="module")
def model(lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, [GOOD[:6], GOOD[6:]], ALIGNED)


@pytest.fixture(scope="module")
def calibrated(model: padim.Padim) -> padim.Padim:
    return padim.calibrate(model, [GOOD], false_alarm_rate=0.1)


def refit(model: padim.Padim, images: np.ndarray) -> padim.Padim:
    """A fit on these images to the same reference."""
    moments = padim.init(model.backbone, model.config, reference=model.alignment)
    return padim.finalize(model.backbone, padim.update(model.backbone, moments, images))


@pytest.fixture(scope="module")
def covered() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and which of them count: some positions are covered by all images, one by two, one by none."""
    rng = np.random.default_rng(0)
    inside = rng.random((P, N)) < 0.7
    inside[0], inside[1], inside[2] = True, False, False
    inside[2, [1, 5]] = True
    return rng.normal(3, 1, (P, N, D)).astype(np.float32), inside


def fold(x: np.ndarray, inside: np.ndarray, parts: list[slice]) -> Moments:
    state = gaussian_moments.init(x.shape[0], D, covered=True)
    for part in parts:
        weights = jnp.ones(x[:, part].shape[1])
        state = gaussian_moments.update(state, jnp.asarray(x[:, part]), weights, jnp.asarray(inside[:, part]))
    return state


def by_hand(x: np.ndarray, inside: np.ndarray, p: int) -> tuple[np.ndarray, np.ndarray]:
    rows = x[p, inside[p]].astype(np.float64)
    mean = rows.mean(axis=0) if len(rows) else np.zeros(D)
    return mean, (rows - mean).T @ (rows - mean)


@pytest.mark.parametrize("how", ["at once", "batches", "merged", "forgotten"])
def test_each_position_has_moments_of_the_images_that_cover_it(covered, how: str) -> None:
    x, inside = covered
    match how:
        case "at once":
            state = fold(x, inside, [slice(0, N)])
        case "batches":
            state = fold(x, inside, [slice(0, 1), slice(1, 5), slice(5, N)])
        case "merged":
            halves = (fold(x, inside, [part]) for part in (slice(0, 4), slice(4, N)))
            state = gaussian_moments.merge(*halves)
        case _:
            twice = np.concatenate([x, x[:, ::-1] + 1], axis=1)
            outside = np.concatenate([inside, inside], axis=1)
            gone = fold(twice[:, N:], outside[:, N:], [slice(0, N)])
            state = gaussian_moments.forget(fold(twice, outside, [slice(0, 2 * N)]), gone)
    assert float(state.count) == N
    np.testing.assert_allclose(state.coverage, inside.sum(axis=1))
    for p in np.flatnonzero(inside.any(axis=1)):
        mean, scatter = by_hand(x, inside, p)
        np.testing.assert_allclose(state.mean[p], mean, rtol=1e-5)
        np.testing.assert_allclose(state.scatter[p : p + 1].square()[0], scatter, atol=2e-4)


def test_weights_below_one_count_as_they_are(covered) -> None:
    x, _ = covered
    half, inside = jnp.asarray([0.25, 0.5]), jnp.asarray([[True, True]] * 5 + [[True, False]])
    start = gaussian_moments.init(P, D, covered=True)
    state = gaussian_moments.update(start, jnp.asarray(x[:, :2]), half, inside)
    np.testing.assert_allclose(state.coverage, [0.75] * 5 + [0.25])
    np.testing.assert_allclose(state.mean[5], x[5, 0], rtol=1e-6)
    np.testing.assert_allclose(state.mean[0], (x[0, 0] + 2 * x[0, 1]) / 3, rtol=1e-6)
    np.testing.assert_allclose(gaussian_moments.decay(state, jnp.asarray(0.5)).coverage, [0.375] * 5 + [0.125])


def test_covariances_and_their_pool_are_divided_by_each_position_s_own_count(covered) -> None:
    x, inside = covered
    state = fold(x, inside, [slice(0, N)])
    fitted = finalize(state, 0.01, "triangular-solve")
    total, divisor = np.zeros((D, D)), 0
    for p in range(P):
        scatter, n = by_hand(x, inside, p)[1], int(inside[p].sum())
        covariance = scatter / max(n - 1, 1) + 0.01 * np.eye(D)
        np.testing.assert_allclose(fitted.factor[p] @ fitted.factor[p].T, covariance, atol=1e-4)
        total, divisor = total + scatter, divisor + max(n - 1, 0)
    np.testing.assert_allclose(pooled_covariance(state, P), total / divisor, atol=1e-4)


@pytest.mark.parametrize("covariance", ["ridge", "pooled"])
def test_left_out_distances_are_those_of_refits(covered, covariance: str) -> None:
    from padim_jax.gaussians.pooling import Prior

    x, inside = covered
    state = fold(x, inside, [slice(0, N)])
    prior = Prior(jnp.eye(D), jnp.asarray(3.0)) if covariance == "pooled" else None
    fitted = finalize(state, 0.01, "inverse-factor", prior)
    weights = jnp.asarray(inside, jnp.float32)
    images = 3.0 if prior else 0.0
    distances = fitted.left_out_distances(jnp.asarray(x), state.coverage, weights, 0.01, images)
    for k in range(N):
        others = np.arange(N) != k
        left = finalize(fold(x[:, others], inside[:, others], [slice(0, N - 1)]), 0.01, "inverse-factor", prior)
        expected = left.distances(jnp.asarray(x[:, k : k + 1]))[:, 0]
        counts = inside[:, k] & (inside.sum(axis=1) >= 3)
        np.testing.assert_allclose(distances[counts, k], expected[counts], rtol=2e-3)


@pytest.mark.slow
def test_a_part_scores_alike_however_it_lies(model: padim.Padim) -> None:
    own, still = padim.score(model, TURNED), padim.score(refit(model, GOOD), STILL)
    unaligned = padim.fit(model.backbone, [GOOD], replace(ALIGNED, align="none"))
    assert own.match.min() > 0.8
    spread = abs(float(own.image_score[1] / own.image_score[0]) - 1)
    plain = padim.score(unaligned, TURNED).image_score
    assert spread < 0.5 * abs(float(plain[1] / plain[0]) - 1)
    np.testing.assert_allclose(own.image_score[0], still.image_score[0], rtol=0.2)


@pytest.mark.slow
def test_maps_lie_as_the_photos_do(calibrated: padim.Padim) -> None:
    flawed = TURNED.copy()
    for image, (row, column) in zip(flawed, [(44, 30), (44, 30)], strict=True):
        image[row - 3 : row + 4, column - 3 : column + 4] = (255, 40, 40)
    scores = padim.score(calibrated, flawed)
    for anomaly_map in np.asarray(scores.anomaly_map):
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        assert abs(row - 44) <= 5
        assert abs(column - 30) <= 5
    # the maximum lies between pixels, where so small a blur lets maps be sharp
    np.testing.assert_allclose(scores.anomaly_map.max(axis=(1, 2)), scores.image_score, rtol=0.05)


@pytest.mark.slow
def test_left_out_scores_are_those_of_refits_to_the_same_reference(model: padim.Padim) -> None:
    left_out = next(iter(leave_one_out_scores(model, [GOOD[:3]])))
    for k in range(3):
        expected = padim.score(refit(model, np.delete(GOOD, k, axis=0)), GOOD[k : k + 1])
        np.testing.assert_allclose(left_out.image_score[k], expected.image_score[0], rtol=2e-3)
        np.testing.assert_allclose(left_out.anomaly_map[k], expected.anomaly_map[0], rtol=5e-3, atol=0.02)


@pytest.mark.slow
def test_an_image_without_the_part_is_anomalous_and_says_how_it_matches(calibrated: padim.Padim) -> None:
    rng = np.random.default_rng(1)
    empty = np.clip(rng.normal(90, 3, (1, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    scores = padim.score(padim.with_threshold(calibrated, 1e6), np.concatenate([empty, TURNED[:1]]))
    assert np.asarray(scores.anomalous).tolist() == [True, False]
    assert float(scores.match[0]) < float(calibrated.calibration.least_match) < float(scores.match[1])


def test_the_least_match_lies_below_the_worst_good_one() -> None:
    assert least_match(np.array([0.9, 0.8, np.nan, 0.85])) == pytest.approx(0.75)
    assert least_match(np.array([np.nan])) is None


@pytest.mark.parametrize("updatable", [True, False])
def test_it_is_saved_whole(calibrated: padim.Padim, tmp_path: Path, *, updatable: bool) -> None:
    if updatable:
        moments = padim.init(calibrated.backbone, ALIGNED, reference=calibrated.alignment)
        moments = padim.update(calibrated.backbone, moments, GOOD)
        stored = padim.Updatable(calibrated.backbone, moments, calibration=calibrated.calibration)
        padim.save_updatable(stored, tmp_path / "model")
        again = padim.load_updatable(tmp_path / "model")
        np.testing.assert_array_equal(again.moments.moments.coverage, moments.moments.coverage)
    else:
        padim.save(calibrated, tmp_path / "model")
    scores, expected = padim.score(padim.load(tmp_path / "model"), TURNED), padim.score(calibrated, TURNED)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), scores, expected)


def test_a_compacted_model_looks_where_the_whole_one_does(model: padim.Padim, tmp_path: Path) -> None:
    moments = padim.update(model.backbone, padim.init(model.backbone, ALIGNED, reference=model.alignment), GOOD)
    small = compact(model, 0.01, moments=moments.moments, rank=11)
    save_compacted(small, tmp_path / "model")
    scores, expected = padim.score(padim.load(tmp_path / "model"), TURNED), padim.score(model, TURNED)
    np.testing.assert_allclose(scores.anomaly_map, expected.anomaly_map, rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_only_fits_to_one_reference_are_merged(model: padim.Padim) -> None:
    start = padim.init(model.backbone, ALIGNED, reference=model.alignment)
    halves = [padim.update(model.backbone, start, part) for part in (GOOD[:12], GOOD[12:])]
    whole = padim.finalize(model.backbone, padim.merge(*halves))
    expected = padim.score(model, TURNED).image_score
    np.testing.assert_allclose(padim.score(whole, TURNED).image_score, expected, rtol=1e-3)
    other = padim.init(model.backbone, ALIGNED, reference=GOOD[3])
    with pytest.raises(ValueError, match=r"aligned to different references \(by up to .* grey levels"):
        padim.merge(halves[0], other)
    # of so few images, rounding would show where positions are covered by half of them, but for a large ridge
    held = [replace(half, config=replace(half.config, ridge=10)) for half in halves]
    rest = padim.forget(padim.merge(*held), held[1])
    np.testing.assert_allclose(rest.moments.coverage, halves[0].moments.coverage)


def test_a_reference_is_given_where_it_is_called_for(lite0: padim.Backbone) -> None:
    with pytest.raises(ValueError, match=r"reference is missing, with config\.align='rigid'"):
        padim.init(lite0, ALIGNED)
    with pytest.raises(ValueError, match=r"reference is given, with config\.align='none'"):
        padim.init(lite0, replace(ALIGNED, align="none"), reference=GOOD[0])
    with pytest.raises(ValueError, match=r"reference is \(32, 64, 3\), wanted \(64, 64, 3\)"):
        padim.init(lite0, ALIGNED, reference=GOOD[0][:32])
    with pytest.raises(ValueError, match="take two passes"):
        padim.fit(lite0, iter([GOOD]), ALIGNED)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"covariance": "ledoit-wolf"}, "does not go with covariance='ledoit-wolf'"),
        ({"projection": "principal-components"}, "does not go with projection='principal-components'"),
        ({"align": "shift", "max_angle": 10}, "max_angle=10.0 does not go with align='shift'"),
        ({"max_angle": 0}, "wanted a number of degrees"),
        ({"image_size": 24, "crop_size": 24}, "wanted sides of 32 pixels or more"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(ALIGNED, **changes)


def test_angles_are_not_looked_for_beyond_the_bound(lite0: padim.Backbone) -> None:
    config = replace(ALIGNED, max_angle=20)
    moments = padim.init(lite0, config, reference=STILL[0])
    images = placed(bracket(), np.array([15.0, 100.0]), np.zeros((2, 2)))
    angles = np.asarray(moments.alignment.poses(images).angle)
    assert angles[0] == pytest.approx(15, abs=1)
    assert abs(angles[1]) <= 20
    shifts = padim.init(lite0, replace(ALIGNED, align="shift"), reference=STILL[0])
    assert not np.asarray(shifts.alignment.poses(images).angle).any()


def test_a_part_that_any_angle_fits_is_not_turned() -> None:
    from padim_jax.method.aligned import Alignment

    yy, xx = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    disc = np.where(np.hypot(yy, xx)[..., None] < 18, 200.0, 90.0) + np.zeros(3)
    rng = np.random.default_rng(0)
    images = np.clip(disc + rng.normal(0, 6, (8, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    poses = Alignment.to(images[0], 180.0).poses(jnp.asarray(images))
    assert not np.asarray(poses.angle).any()


def test_cells_are_inside_as_pixels_are() -> None:
    poses = Poses(jnp.asarray([0.0, 30.0, -100.0]), jnp.asarray([[0.0, 0.0], [5.0, -9.0], [0.5, 2.0]]), jnp.ones(3))
    _, pixels = warp(np.zeros((3, 21, 27, 1), np.uint8), poses)
    cells = np.asarray(cells_inside(poses, (7, 9), (21, 27))).T.reshape(3, 7, 9)
    np.testing.assert_array_equal(cells, np.asarray(pixels)[:, 1::3, 1::3])  # the centres of cells of 3 × 3 pixels


@pytest.mark.slow
def test_jit_vmap_and_gradients_see_the_same(model: padim.Padim) -> None:
    plain = padim.score(model, TURNED)
    jitted = jax.jit(padim.score)(model, TURNED)
    np.testing.assert_allclose(jitted.anomaly_map, plain.anomaly_map, rtol=1e-4, atol=1e-4)
    each = jax.vmap(lambda image: padim.score(model, image[None]).image_score[0])(jnp.asarray(TURNED))
    np.testing.assert_allclose(each, plain.image_score, rtol=1e-3)
    gradient = jax.grad(lambda x: padim.score(model, x).image_score.sum())(jnp.asarray(TURNED / 255.0, jnp.float32))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_scores_do_not_depend_on_the_batch(model: padim.Padim) -> None:
    together = padim.score(model, np.concatenate([TURNED, GOOD[:3]]))
    np.testing.assert_allclose(padim.score(model, TURNED[1:]).image_score[0], together.image_score[1], rtol=1e-4)


@pytest.mark.slow
def test_standardised_maps_of_aligned_images(model: padim.Padim) -> None:
    config = replace(ALIGNED, anomaly_map="combined", covariance="pooled", ridge="auto")
    fitted = padim.fit(model.backbone, [GOOD], config)
    assert isinstance(fitted.config.ridge, float)
    calibrated = padim.calibrate(fitted, [GOOD[:5], GOOD[5:]], false_alarm_rate=0.1)
    scores = padim.score(calibrated, TURNED)
    assert np.isfinite(scores.anomaly_map).all()
    flat = scores.anomaly_map.reshape(2, -1)
    np.testing.assert_allclose(flat.max(axis=1), scores.image_score, rtol=0.1, atol=0.2)
    roi = np.zeros(ALIGNED.crop, bool)
    roi[20:40, 20:40] = True
    inside = padim.calibrate(padim.with_roi(fitted, roi), [GOOD], false_alarm_rate=0.1)
    assert np.isfinite(padim.score(inside, TURNED).anomaly_map).all()


def test_map_moments_count_each_pixel_s_own_maps() -> None:
    rng = np.random.default_rng(0)
    maps = rng.gamma(3, 1, (9, 5))
    maps[rng.random(maps.shape) < 0.3] = np.nan
    maps[:, 0], maps[1:, 4] = rng.gamma(3, 1, 9), np.nan
    whole = MapMoments.of(maps[:2]).merge(MapMoments.of(maps[2:5])).merge(MapMoments.of(maps[5:]))
    known = [column[np.isfinite(column)] for column in maps.T]
    np.testing.assert_allclose(whole.count, [len(column) for column in known])
    np.testing.assert_allclose(whole.mean, [column.mean() if len(column) else 0 for column in known])
    np.testing.assert_allclose(
        whole.variance, [column.var(ddof=1) if len(column) > 1 else 0 for column in known], atol=1e-12
    )
    others = whole.without(maps[2:3])
    expected = MapMoments.of(np.delete(maps, 2, axis=0))
    np.testing.assert_allclose(others.count[0], expected.count)
    judged = np.isfinite(maps[2]) & (expected.count > 1)
    np.testing.assert_allclose(others.mean[0, judged], expected.mean[judged])
    np.testing.assert_allclose(others.variance[0, judged], expected.variance[judged], atol=1e-10)
    assert (others.spread() > 0).all()


def test_bringing_back_undoes_the_move() -> None:
    poses = Poses(jnp.asarray([35.0]), jnp.asarray([[2.0, -3.0]]), jnp.ones(1))
    smooth = np.asarray(jax.image.resize(RNG.random((1, 5, 5)), (1, SIDE, SIDE), "cubic"), np.float32)
    there, _ = warp(smooth[..., None], poses)
    back, reached = unwarp_map(there[..., 0], poses)
    inner = np.asarray(reached)[0] & (np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2)) < SIDE / 3)
    np.testing.assert_allclose(np.asarray(back)[0][inner], smooth[0][inner], atol=0.02)


@pytest.mark.slow
def test_the_alignment_of_a_fit_does_not_depend_on_its_batches() -> None:
    a, b = (find_alignment(batches, ALIGNED) for batches in ([GOOD[:5], GOOD[5:]], [GOOD]))
    np.testing.assert_array_equal(a.image, b.image)


@pytest.mark.slow
def test_parts_that_are_not_turned_are_only_shifted(lite0: padim.Backbone) -> None:
    rng = np.random.default_rng(2)
    shifted = placed(bracket(), np.zeros(8), rng.uniform(-5, 5, (8, 2)))
    assert find_alignment([shifted], ALIGNED).max_angle == 0
    assert find_alignment([GOOD], ALIGNED).max_angle == 180
    fitted = padim.fit(lite0, [shifted], ALIGNED)
    assert fitted.alignment.max_angle == 0
    assert float(fitted.alignment.poses(jnp.asarray(shifted)).quality.min()) > 0.7


@pytest.mark.slow
def test_an_image_that_is_judged_nowhere_is_anomalous(model: padim.Padim) -> None:
    roi = np.zeros(ALIGNED.crop, bool)
    roi[26:38, 2:10] = True  # which lies outside of a photo whose part lies far to the left
    inside = padim.calibrate(padim.with_roi(model, roi), [GOOD], false_alarm_rate=0.2, partial=True)
    scores = padim.score(inside, placed(bracket(), np.zeros(2), np.array([[0.0, -14.0], [0.0, 0.0]])))
    assert float(scores.match[0]) == NO_MATCH
    assert bool(scores.anomalous[0])
    assert float(scores.match[1]) > 0.5
