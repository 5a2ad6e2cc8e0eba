"""update, merge and forget of whole stored models from Python: with digests, region, threshold and calibration."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.images import UnreadableImage, read_image
from padim_jax.images.folder import digest_file
from padim_jax.method.calibration import at_threshold
from padim_jax.runs import Watch, forget_files, merge_models, recalibrate, update_files
from padim_jax.runs.calibrate import MixedImages
from padim_jax.runs.plausible import Implausible
from padim_jax.runs.update import NothingNew
from padim_jax.runs.watch import Interrupted
from tests.conftest import SMALL, images, write_images

BATCH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parts")
    for seed, (name, count) in enumerate({"first": 16, "second": 4, "third": 4}.items()):
        write_images(place / name, images(count, SMALL, seed=seed))
    return place


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.iterdir())]


class Ear:
    """Takes remarks and stages down."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.watch = Watch(remark=self.remarks.append)


def fit(lite0: padim.Backbone, paths: Sequence[Path], calibrated: bool = True) -> padim.Updatable:
    pixels = np.stack([read_image(path, SMALL) for path in paths])
    moments = padim.update(lite0, padim.init(lite0, SMALL), pixels)
    model = padim.Updatable(lite0, moments, {digest_file(path): 1.0 for path in paths})
    return recalibrate(model, fitted=paths, batch_size=BATCH, watch=Ear().watch) if calibrated else model


def maps(model: padim.Updatable) -> np.ndarray:
    return np.asarray(padim.score(replace(model, calibration=None).model(), images(3, SMALL, seed=9)).anomaly_map)


def test_an_update_is_a_fit_on_all_and_leaves_out_what_it_has(lite0: padim.Backbone, folder: Path) -> None:
    ear, first, second = Ear(), files(folder / "first"), files(folder / "second")
    done = update_files(fit(lite0, first), [*first, *second], batch_size=BATCH, watch=ear.watch)
    assert (done.added, done.repeated, done.skipped) == (tuple(second), len(first), {})
    whole = fit(lite0, [*first, *second], calibrated=False)
    assert done.model.images == whole.images
    np.testing.assert_allclose(maps(done.model), maps(whole), rtol=1e-3)
    assert done.model.calibration is not None
    assert len(done.model.calibration.scores) == 20
    assert done.model.calibration.method == "kept"
    assert [text for text in ear.remarks if "16 calibration scores of the model before are kept beside 4" in text]
    with pytest.raises(NothingNew, match="fitted on all of the 4 images already"):
        update_files(done.model, second)


def test_an_update_keeps_a_threshold_that_was_set_by_hand_and_says_so(lite0: padim.Backbone, folder: Path) -> None:
    ear, model = Ear(), fit(lite0, files(folder / "first"))
    assert model.calibration is not None
    model = replace(model, calibration=at_threshold(model.calibration, 40.0))
    changed = update_files(model, files(folder / "second"), batch_size=BATCH, watch=ear.watch).model
    assert changed.calibration is not None
    assert (float(changed.calibration.threshold), changed.calibration.threshold_source) == (40, "set")
    assert "the threshold that was set by hand, 40, stays" in ear.remarks[-1]


def test_remarks_are_warnings_where_nobody_watches(lite0: padim.Backbone, folder: Path) -> None:
    with pytest.warns(UserWarning, match="calibration scores of the model before are kept"):
        update_files(fit(lite0, files(folder / "first")), files(folder / "second"), batch_size=BATCH)


def test_an_unreadable_file_ends_an_update_unless_it_may_be_skipped(
    lite0: padim.Backbone, folder: Path, tmp_path: Path
) -> None:
    write_images(tmp_path, images(3, SMALL, seed=5))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="broken"):
        update_files(fit(lite0, files(folder / "first")), files(tmp_path), batch_size=BATCH)
    met: list[UnreadableImage] = []
    watch = replace(Ear().watch, unreadable=met.append)
    done = update_files(fit(lite0, files(folder / "first")), files(tmp_path), batch_size=BATCH, watch=watch)
    assert len(done.added) == 3
    assert list(done.skipped) == [str(broken)]
    assert [error.path for error in met] == [broken]  # once, though the file is opened twice


def test_a_watch_stops_an_update(lite0: padim.Backbone, folder: Path) -> None:
    watch = replace(Ear().watch, stopped=lambda: True)
    with pytest.raises(Interrupted):
        update_files(fit(lite0, files(folder / "first")), files(folder / "second"), batch_size=BATCH, watch=watch)


def test_merged_models_are_a_fit_on_all(lite0: padim.Backbone, folder: Path) -> None:
    remarks: list[str] = []
    names = ("first", "second", "third")
    parts = [fit(lite0, files(folder / name)) for name in names]
    whole = merge_models(iter(parts), false_alarm_rate=0.2, remark=remarks.append)
    everything = fit(lite0, files(*(folder / name for name in names)), calibrated=False)
    assert whole.images == everything.images
    np.testing.assert_allclose(maps(whole), maps(everything), rtol=1e-3)
    assert whole.calibration is not None
    assert (len(whole.calibration.scores), whole.calibration.false_alarm_rate) == (24, 0.2)
    assert ["24 calibration scores are those of the parts" in text for text in remarks] == [True]


def test_a_merge_counts_shared_images_twice_and_says_so(lite0: padim.Backbone, folder: Path) -> None:
    remarks: list[str] = []
    parts = [fit(lite0, files(folder / "first")) for _ in range(2)]
    whole = merge_models(parts, remark=remarks.append)
    assert set(whole.images.values()) == {2.0}
    assert float(whole.moments.count) == 32
    assert whole.calibration is not None
    assert len(whole.calibration.scores) == 16
    assert "16 images are in both and count twice" in remarks[0]


def test_models_of_different_regions_are_not_merged(lite0: padim.Backbone, folder: Path) -> None:
    plain = fit(lite0, files(folder / "first"), calibrated=False)
    left = np.zeros(SMALL.crop, bool)
    left[:, :24] = True
    with pytest.raises(ValueError, match="merge: two have different regions of interest"):
        merge_models([plain, replace(plain, roi=left)])
    with pytest.raises(ValueError, match="merge: wanted at least one model, got none"):
        merge_models([])


def test_forgotten_images_were_never_there(lite0: padim.Backbone, folder: Path) -> None:
    first, second = files(folder / "first"), files(folder / "second")
    left = forget_files(fit(lite0, [*first, *second]), second, batch_size=BATCH)
    assert left.calibration is None
    assert left.images == {digest_file(path): 1.0 for path in first}
    np.testing.assert_allclose(maps(left), maps(fit(lite0, first, calibrated=False)), rtol=1e-3)
    with pytest.raises(ValueError, match=r"forget: .*000\.png is not among the images the model was fitted on"):
        forget_files(left, second)
    faded = replace(left, images=dict.fromkeys(left.images, 0.5))
    with pytest.raises(ValueError, match="has faded by a half-life"):
        forget_files(faded, first)


def test_a_calibration_takes_fitted_images_or_others_but_no_mixture(lite0: padim.Backbone, folder: Path) -> None:
    first, second = files(folder / "first"), files(folder / "second")
    model = fit(lite0, first)
    held_out = recalibrate(model, second, batch_size=BATCH, watch=Ear().watch).calibration
    assert held_out is not None
    assert (held_out.method, len(held_out.scores)) == ("held-out", 4)
    with pytest.raises(MixedImages, match="16 of 20 images were fitted on and the others"):
        recalibrate(model, [*first, *second], batch_size=BATCH)


def test_images_that_score_too_high_are_no_calibration_unless_trusted(lite0: padim.Backbone, folder: Path) -> None:
    rng = np.random.default_rng(3)
    alike = np.clip(images(1, SMALL) + rng.integers(-5, 6, (8, *SMALL.crop, 3)), 0, 255).astype(np.uint8)
    model, others = fit(lite0, write_images(folder / "alike", alike)), files(folder / "first")
    with pytest.raises(Implausible, match="score much higher"):
        recalibrate(model, others, batch_size=BATCH, watch=Ear().watch)
    trusted = recalibrate(model, others, trusted=True, batch_size=BATCH, watch=Ear().watch).calibration
    assert trusted is not None
    assert len(trusted.scores) == 16


def test_too_few_images_to_leave_one_out_leave_the_model_as_it_is(lite0: padim.Backbone, folder: Path) -> None:
    ear, two = Ear(), files(folder / "first")[:2]
    model = fit(lite0, two, calibrated=False)
    assert recalibrate(model, fitted=two, batch_size=BATCH, watch=ear.watch) is model
    assert "not calibrated: leaving one image out takes 3 or more" in ear.remarks[0]


def test_images_that_score_too_low_are_known_ones_unless_trusted(lite0: padim.Backbone, tmp_path: Path) -> None:
    ear, good = Ear(), write_images(tmp_path, images(30, SMALL, seed=5))
    stored = fit(lite0, good)
    model = stored.model()  # does not list its images
    with pytest.raises(Implausible, match=r"score much lower than .* as images do that it was fitted on"):
        recalibrate(model, good, batch_size=BATCH, watch=ear.watch)
    trusted = recalibrate(model, good, trusted=True, batch_size=BATCH, watch=ear.watch).calibration
    assert trusted is not None
    assert (trusted.method, ear.remarks) == ("held-out", [])
    assert stored.calibration is not None
    kept = replace(model, calibration=replace(stored.calibration, method="kept"))  # maybe of a model of fewer images
    recalibrate(kept, good, batch_size=BATCH, watch=ear.watch)
    grown = replace(stored, images={"0" * 32: 30.0}, progress={"since": ["updated"]})  # as with --keep-calibration
    recalibrate(grown, good, batch_size=BATCH, watch=ear.watch)
    assert len(ear.remarks) == 2
    assert "score much lower than the model's own good images did when left out" in ear.remarks[0]


def test_new_images_may_score_lower_where_one_image_counts(lite0: padim.Backbone, folder: Path) -> None:
    ear, model = Ear(), fit(lite0, files(folder / "first"))  # 16 images, 12 dimensions
    assert recalibrate(model, files(folder / "second"), batch_size=BATCH, watch=ear.watch) is not model
    assert ["make sure that they are others" in text for text in ear.remarks] == [True]
