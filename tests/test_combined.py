"""Maps that combine distances with standard deviations, against brute force, and their false alarms."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.compaction import compact
from padim_jax.artifact.saving import save_compacted
from padim_jax.method.anomaly_map import image_score
from padim_jax.method.map_sample import MapSample
from padim_jax.method.scoring import leave_one_out_scores
from padim_jax.method.standard import MapMoments
from padim_jax.method.variants import with_standard
from tests.conftest import SMALL, images, rewrite_manifest
from tests.test_standard import scores_of, spread_of, standard_of

COMBINED = replace(SMALL, anomaly_map="combined")
TINY = padim.PadimConfig(image_size=12, crop_size=12, sigma=1, anomaly_map="combined")
ROI = np.zeros(SMALL.crop, bool)
ROI[5:20, 7:40] = True
N = 12


@pytest.fixture(scope="module")
def model(lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, [images(N, SMALL)], COMBINED)


@pytest.fixture(scope="module")
def calibrated(model: padim.Padim) -> padim.Padim:
    return padim.calibrate(model, [images(N, SMALL)], false_alarm_rate=0.2)


def z_of(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (maps - others.mean(axis=0)) / spread_of(others)


def on_scale_of_z(distances: np.ndarray, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return levels[1] + scales[1] * (distances - levels[0]) / scales[0]


def scores_by_hand(maps: np.ndarray, share: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of maps (n, q), each without its own share; means and standard deviations of both kinds of scores."""

    def score(values: np.ndarray) -> np.ndarray:
        return np.asarray(image_score(np.atleast_2d(values)[:, None], share), np.float64)

    z = np.stack([z_of(maps[k], np.delete(maps, k, axis=0)) for k in range(len(maps))])
    both = np.stack([score(maps), score(z)], axis=1)
    combined = []
    for k in range(len(maps)):
        others = np.delete(both, k, axis=0)
        level, scale = others.mean(axis=0), others.std(axis=0, ddof=1)
        combined.append(np.maximum(z[k], on_scale_of_z(maps[k], level, scale)))
    return score(np.stack(combined)), both.mean(axis=0), both.std(axis=0, ddof=1)


@pytest.mark.parametrize(("kind", "roi"), [("max", None), ("top-5%", None), ("max", ROI), ("top-5%", ROI)])
def test_scores_are_those_by_hand(model: padim.Padim, kind: str, roi: np.ndarray | None) -> None:
    asked = replace(padim.with_roi(model, roi), config=replace(COMBINED, image_score=kind))
    calibrated = padim.calibrate(asked, [images(N, SMALL)])
    distances = replace(asked, config=replace(SMALL, image_score=kind))
    left_out = next(leave_one_out_scores(distances, [images(N, SMALL)])).anomaly_map
    inside = np.ones(SMALL.crop, bool) if roi is None else roi
    maps = np.asarray(left_out, np.float64)[:, inside]
    scores, levels, scales = scores_by_hand(maps, asked.config.top_share)
    standard = standard_of(calibrated)
    assert standard.levels is not None
    assert standard.scales is not None
    np.testing.assert_allclose(np.sort(scores_of(calibrated)), np.sort(scores), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(standard.levels, levels, rtol=1e-4)
    np.testing.assert_allclose(standard.scales, scales, rtol=1e-3)
    new = images(3, SMALL, seed=7)
    plain = np.asarray(padim.score(distances, new).anomaly_map, np.float64)[:, inside]
    wanted = np.maximum(z_of(plain, maps), on_scale_of_z(plain, levels, scales))
    result = padim.score(calibrated, new)
    np.testing.assert_allclose(np.asarray(result.anomaly_map)[:, inside], wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        result.image_score, image_score(wanted[:, None], asked.config.top_share), rtol=1e-3, atol=1e-3
    )
    outside = np.asarray(result.anomaly_map)[:, ~inside]
    assert (outside <= np.minimum(0, wanted.min(axis=1))[:, None] + 1e-3).all()


def test_a_score_by_maxima_is_the_larger_of_both(calibrated: padim.Padim) -> None:
    standard, new = standard_of(calibrated), images(5, SMALL, seed=3)
    assert standard.levels is not None
    assert standard.scales is not None
    standardised = replace(standard, levels=None, scales=None)
    distances, z = (
        np.asarray(padim.score(with_standard(calibrated, which), new).image_score) for which in (None, standardised)
    )
    wanted = np.maximum(z, on_scale_of_z(distances, np.asarray(standard.levels), np.asarray(standard.scales)))
    np.testing.assert_allclose(padim.score(calibrated, new).image_score, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_maps_that_never_vary_give_finite_numbers(level: float) -> None:
    sample = MapSample(TINY, None)
    sample.add(np.full((5, 3, 3), level, np.float32))
    good = sample.good_maps()
    assert all(np.isfinite(maps).all() for maps in sample.left_out(good))
    standard = sample.standard("test", good)
    assert np.isfinite(standard.apply(jnp.full((1, 12, 12), 99.0))).all()


def test_batches_and_order_change_nothing(model: padim.Padim, calibrated: padim.Padim) -> None:
    given = images(N, SMALL)
    order = np.random.default_rng(0).permutation(N)
    again = padim.calibrate(model, [given[order[:5]], given[order[5:]]], false_alarm_rate=0.2)
    for one, other in zip(jax.tree.leaves(standard_of(again)), jax.tree.leaves(standard_of(calibrated)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.sort(scores_of(again)), np.sort(scores_of(calibrated)), rtol=1e-3, atol=1e-3)


def test_models_are_stored_with_their_levels(calibrated: padim.Padim, tmp_path: Path) -> None:
    test, expected = images(3, SMALL, seed=9), padim.score(calibrated, images(3, SMALL, seed=9))
    padim.save(calibrated, tmp_path / "exact")
    save_compacted(compact(calibrated, 0.001), tmp_path / "small")
    for name, rtol in (("exact", 1e-6), ("small", 1e-2)):
        loaded = padim.load(tmp_path / name)
        for one, other in zip(
            jax.tree.leaves(standard_of(loaded)), jax.tree.leaves(standard_of(calibrated)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(padim.score(loaded, test).image_score, expected.image_score, rtol=20 * rtol)
    shapes = json.loads((tmp_path / "exact" / "model.json").read_text())["arrays"]
    rewrite_manifest(tmp_path / "exact", arrays={k: v for k, v in shapes.items() if k != "calibration.map_levels"})
    with pytest.raises(ArtifactError, match="map_levels"):
        padim.load(tmp_path / "exact")


def test_an_uncalibrated_model_does_not_score(model: padim.Padim) -> None:
    with pytest.raises(ValueError, match=r"anomaly_map='combined'.*calibrate it first"):
        padim.score(model, images(2, SMALL))


def test_gradients_and_vmap_see_the_maps(calibrated: padim.Padim) -> None:
    x = jnp.asarray(images(2, SMALL, seed=4), jnp.float32) / 255

    def total(x: jax.Array) -> jax.Array:
        return padim.score(calibrated, x).image_score.sum()

    assert float(jnp.abs(jax.grad(total)(x)).max()) > 0
    alone = jax.vmap(lambda one: padim.score(calibrated, one[None]).image_score[0])(x)
    np.testing.assert_allclose(alone, padim.score(calibrated, x).image_score, rtol=1e-4, atol=1e-4)


def test_images_without_a_judged_pixel_say_nothing_of_the_others() -> None:
    grids = np.random.default_rng(2).gamma(9, 1, (8, 3, 3)).astype(np.float32)
    sample, with_nothing = MapSample(TINY, None), MapSample(TINY, None)
    sample.add(grids)
    with_nothing.add(np.concatenate([grids, np.full((1, 3, 3), np.nan, np.float32)]))
    standards = [each.standard("test", each.good_maps()) for each in (sample, with_nothing)]
    for one, other in zip(*map(jax.tree.leaves, standards), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    maps = [np.concatenate(list(each.left_out(each.good_maps()))) for each in (sample, with_nothing)]
    np.testing.assert_allclose(maps[1][:8], maps[0], rtol=1e-4, atol=1e-5)
    assert np.isfinite(maps[1]).all()


def test_parts_of_the_images_give_what_all_together_give() -> None:
    grids = np.random.default_rng(3).gamma(9, 1, (9, 3, 3)).astype(np.float32)
    whole, parts = MapSample(TINY, None), [MapSample(TINY, None) for _ in range(3)]
    whole.add(grids)
    for part, some in zip(parts, (grids[:5], grids[5:], grids[:0]), strict=True):
        part.add(some)
    wanted = whole.good_maps()
    maps = parts[0].moments.merge(parts[1].moments).merge(parts[2].moments)
    both = [MapMoments.of(part._both_scores(maps)) for part in parts]
    scores = both[0].merge(both[1]).merge(both[2])
    good = [part.good_maps(lambda own: maps if own.mean.size == 144 else scores) for part in parts]
    assert wanted.scores is not None
    for each in good:
        assert each.scores is not None
        np.testing.assert_allclose(each.scores.mean, wanted.scores.mean)
        np.testing.assert_allclose(each.scores.variance, wanted.scores.variance)
    pieces = [piece for part, each in zip(parts, good, strict=True) for piece in part.left_out(each)]
    np.testing.assert_allclose(np.concatenate(pieces), next(whole.left_out(wanted)), rtol=1e-6, atol=1e-6)


def test_scores_of_earlier_images_count_beside_new_ones() -> None:
    grids = np.random.default_rng(4).gamma(9, 1, (14, 3, 3)).astype(np.float32)
    earlier, new = MapSample(TINY, None), MapSample(TINY, None)
    earlier.add(grids[:9])
    new.add(grids[9:])
    first = earlier.good_maps()
    good = new.good_maps(before=earlier.standard("test", first))
    assert first.scores is not None
    assert good.scores is not None
    whole = first.scores.merge(MapMoments.of(new._both_scores(good.maps)))
    np.testing.assert_allclose(good.scores.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(good.scores.variance, whole.variance, rtol=1e-4)
    assert good.images == good.scores.images == 14
