"""Standardised maps when a stored model is fitted on files, updated, merged, made to forget and calibrated anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.images import read_image
from padim_jax.images.folder import digest_file
from padim_jax.method.calibration import at_rates, at_threshold
from padim_jax.method.scoring import leave_one_out_scores
from padim_jax.method.standard import MapMoments
from padim_jax.runs import Watch, forget_files, merge_models, recalibrate, update_files
from padim_jax.runs.plausible import Implausible
from tests.conftest import SMALL, images, write_images
from tests.test_standard import STANDARDISED, scores_of, standard_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parts")
    for seed, (name, count) in enumerate({"first": 16, "second": 4, "third": 6}.items()):
        write_images(place / name, images(count, SMALL, seed=seed))
    return place


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.iterdir())]


def fit(lite0: padim.Backbone, paths: Sequence[Path], batch_size: int = 8) -> padim.Updatable:
    pixels = np.stack([read_image(path, STANDARDISED) for path in paths])
    moments = padim.update(lite0, padim.init(lite0, STANDARDISED), pixels)
    stored = padim.Updatable(lite0, moments, {digest_file(path): 1.0 for path in paths})
    return recalibrate(stored, fitted=paths, batch_size=batch_size, watch=Watch(remark=lambda text: None))


def test_files_give_what_their_pixels_do_in_batches_of_any_size(lite0: padim.Backbone, folder: Path) -> None:
    paths = files(folder / "first")
    copy = folder / "first" / "copy.png"
    by_pixels = padim.calibrate(fit(lite0, paths).model(), [np.stack([read_image(path, SMALL) for path in paths])])
    for batch_size in (16, 5):
        stored = fit(lite0, paths, batch_size)
        np.testing.assert_allclose(scores_of(stored), scores_of(by_pixels), rtol=1e-4)
        np.testing.assert_allclose(standard_of(stored).spread, standard_of(by_pixels).spread, rtol=1e-4)
    copy.write_bytes(paths[0].read_bytes())
    try:  # a copy has no share of its own
        again = fit(lite0, [*paths, copy])
        assert float(standard_of(again).count) == len(scores_of(again)) == 16
    finally:
        copy.unlink()


def test_updates_keep_the_standard_of_before_beside_the_new_one(
    lite0: padim.Backbone, folder: Path, tmp_path: Path
) -> None:
    remarks: list[str] = []
    watch = Watch(remark=remarks.append)
    before, second = fit(lite0, files(folder / "first")), files(folder / "second")
    standard_before, good = standard_of(before), np.stack([read_image(path, SMALL) for path in second])
    first_scores = np.asarray(padim.score(before.model(), good).image_score)
    updated = update_files(before, second, batch_size=8, watch=watch).model
    assert any("16 calibration scores of the model before are kept beside 4" in text for text in remarks)
    assert any("weak defects may be missed until padim calibrate on all images" in text for text in remarks)
    (maps,) = (np.asarray(part.anomaly_map, np.float64) for part in leave_one_out_scores(updated.model(), [good]))
    first = MapMoments(16, np.asarray(standard_before.mean, np.float64), np.asarray(standard_before.spread, float) ** 2)
    whole = MapMoments(16, first.mean.ravel(), first.variance.ravel()).merge(MapMoments.of(maps.reshape(4, -1)))
    np.testing.assert_allclose(np.ravel(standard_of(updated).mean), whole.mean, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(standard_of(updated).spread), whole.spread(), rtol=1e-4)
    assert float(standard_of(updated).count) == 20 == len(scores_of(updated))
    new_scores = list[float]()
    for k in range(4):  # the new scores are standardised by the earlier images too, but not by themselves
        rest = MapMoments(16, first.mean.ravel(), first.variance.ravel()).merge(
            MapMoments.of(np.delete(maps, k, axis=0).reshape(3, -1))
        )
        score = ((maps[k].ravel() - rest.mean) / rest.spread()).max()
        assert np.isclose(scores_of(updated), score, rtol=1e-4).any()
        new_scores.append(score)
    assert f"scored {np.median(first_scores):.3g} where this one scores {np.median(new_scores):.3g}" in " ".join(
        remarks
    )
    padim.save_updatable(updated, tmp_path / "model")
    loaded = padim.load_updatable(tmp_path / "model")
    np.testing.assert_array_equal(standard_of(loaded).spread, standard_of(updated).spread)
    assert np.isfinite(padim.score(loaded.model(), images(2, SMALL, seed=9)).image_score).all()

    write_images(tmp_path / "one", images(1, SMALL, seed=8))
    again = update_files(fit(lite0, files(folder / "first")), files(tmp_path / "one"), batch_size=8, watch=watch).model
    assert float(standard_of(again).count) == 17 == len(scores_of(again))
    loose = recalibrate(fit(lite0, files(folder / "first")), fitted=files(folder / "first"), false_alarm_rate=0.5)
    kept = update_files(loose, files(tmp_path / "one"), batch_size=8, watch=watch).model  # one would do for the rate
    assert float(standard_of(kept).count) == 17 == len(scores_of(kept))
    many = update_files(fit(lite0, second), files(folder / "first"), batch_size=8, watch=watch).model  # these suffice
    assert float(standard_of(many).count) == 16 == len(scores_of(many))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_leave_a_model_uncalibrated_with_a_remark(
    lite0: padim.Backbone, folder: Path, tmp_path: Path, count: int
) -> None:
    remarks: list[str] = []
    watch, new = Watch(remark=remarks.append), write_images(tmp_path / "new", images(count, SMALL, seed=8))
    bare = replace(fit(lite0, files(folder / "first")), calibration=None, standard=None)
    updated = update_files(bare, new, batch_size=8, watch=watch).model
    assert updated.calibration is updated.standard is None
    assert len(updated.images) == 16 + count
    said = f"there {'is' if count == 1 else 'are'} {count}; calibrate on more (padim calibrate)"
    assert (
        f"not calibrated: standardised maps take 3 or more different good images to calibrate on, and {said}" in remarks
    )
    model = fit(lite0, files(folder / "first"))
    assert recalibrate(model, new, batch_size=8, watch=watch) is model


@pytest.mark.slow
def test_merged_models_are_not_calibrated_until_they_have_seen_good_images(lite0: padim.Backbone, folder: Path) -> None:
    remarks: list[str] = []
    parts = [fit(lite0, files(folder / name)) for name in ("first", "second", "third")]
    merged = merge_models(parts, remark=remarks.append)
    assert merged.standard is merged.calibration is None
    (remark,) = remarks
    assert remark == (
        "warning: the maps of the parts do not standardise those of the whole; the merged model is not calibrated: "
        "padim calibrate MODEL GOOD_DIR"
    )
    by_hand = [
        replace(part, calibration=at_threshold(part.calibration, threshold))
        for part, threshold in zip(parts, (7.0, 6.5, 7.0), strict=True)
        if part.calibration is not None
    ]
    assert merge_models(by_hand, remark=remarks.append).calibration is None
    assert "not calibrated and loses what was set by hand as a threshold (6.5, 7): padim calibrate" in remarks[-1]
    assert parts[0].calibration is not None
    rated = replace(parts[0], calibration=at_rates(parts[0].calibration, 0.05, 0.01))
    merge_models([rated, parts[1]], remark=remarks.append)
    assert remarks[-1].endswith("padim calibrate MODEL GOOD_DIR --false-alarm-rate 0.05 --pixel-rate 0.01")
    del remarks[-1]
    bare = [replace(part, calibration=None, standard=None) for part in parts]
    assert merge_models(bare, remark=remarks.append).calibration is None
    assert len(remarks) == 2
    good = [path for name in ("first", "second", "third") for path in files(folder / name)]
    from_scratch, calibrated = (
        fit(lite0, good),
        recalibrate(merged, good, batch_size=8, watch=Watch(remark=lambda text: None)),
    )
    np.testing.assert_allclose(standard_of(calibrated).spread, standard_of(from_scratch).spread, rtol=1e-2)
    left = forget_files(fit(lite0, files(folder / "first")), files(folder / "first")[:2], batch_size=8)
    assert left.standard is left.calibration is None


@pytest.mark.slow
def test_others_are_compared_by_what_the_own_images_give(lite0: padim.Backbone, folder: Path) -> None:
    rng = np.random.default_rng(3)
    alike = np.clip(images(1, SMALL) + rng.integers(-5, 6, (8, *SMALL.crop, 3)), 0, 255).astype(np.uint8)
    paths, watch = write_images(folder / "alike", alike), Watch(remark=lambda text: None)
    model, others = fit(lite0, paths), files(folder / "first")
    for stored in (model, replace(model, calibration=None, standard=None)):
        with pytest.raises(Implausible, match="score much higher"):
            recalibrate(stored, others, fitted=paths, batch_size=8, watch=watch)
    trusted = recalibrate(model, others, trusted=True, batch_size=8, watch=watch)
    assert float(standard_of(trusted).count) == 16
