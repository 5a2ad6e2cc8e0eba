"""Commands a line runs every week: calibrate, update, merge, forget, compact; masks, maps and regions of a score."""

import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.runs import steps
from padim_jax.runs.checkpoint import Checkpoint
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.records import Fold
from tests.conftest import SMALL, images, write_images
from tests.test_cli import rows, run

SIZES = (
    "--tap block2 --tap block4 --image-size 40x56 --crop-size 32x48 --n-channels 8 --sigma 1.5 --batch-size 4".split()
)
Capture = pytest.CaptureFixture[str]
BIG = padim.PadimConfig(image_size=(40, 56), crop_size=(40, 56))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Good images of two weeks, one defective, and a model of the first week in ``m``."""
    write_images(tmp_path / "first", images(14, BIG))
    write_images(tmp_path / "second", images(9, BIG, seed=1))
    write_images(tmp_path / "odd", np.full((1, *BIG.crop, 3), 255, np.uint8))
    return tmp_path


def fit(capsys: Capture, folder: Path, out: Path, *more: object) -> str:
    code, said, err = run(capsys, "fit", folder, "--out", out, *SIZES, *more)
    assert code == 0, err
    return said + err


def maps(model: Path) -> np.ndarray:
    return np.asarray(padim.score(padim.load(model), images(3, SMALL, seed=9)).anomaly_map)


def test_fit_calibrates_and_score_says_verdicts(folders: Path, capsys: Capture) -> None:
    said = fit(capsys, folders / "first", folders / "m", "--false-alarm-rate", "0.1", "--n-channels", 12)
    assert "calibrated on 14 good images (leave-one-out): above" in said
    assert "false alarms 6.67% expected" in said
    code, out, _ = run(capsys, "score", folders / "m", folders / "odd", folders / "first", "--out", folders / "r")
    assert code == 0
    found = rows(folders / "r" / "scores.csv")
    assert [row["verdict"] for row in found] == ["anomalous"] + ["normal"] * 14
    assert float(found[0]["p_value"]) == pytest.approx(1 / 15)
    assert "15 scored, 0 unreadable, 1 anomalous" in out
    assert not list(folders.glob("*.unfinished"))


def test_too_few_images_are_said_plainly(folders: Path, capsys: Capture) -> None:
    said = fit(capsys, folders / "first", folders / "m")
    assert "warning: 14 images are too few for a false-alarm rate of 0.01, which takes 99" in said
    said = fit(capsys, folders / "first", folders / "m", "--no-calibrate")
    assert "not calibrated: scores come without p-values" in said
    code, _, err = run(capsys, "score", folders / "m", folders / "odd", "--out", folders / "r")
    assert code == 0
    assert "no p-values, no verdicts" in err
    assert rows(folders / "r" / "scores.csv")[0]["verdict"] == ""
    assert run(capsys, "score", folders / "m", folders / "odd", "--out", folders / "r", "--masks", "crop")[0] == 2


def calibration_of(model: Path) -> padim.Calibration:
    known = padim.load_updatable(model).calibration
    assert known is not None
    return known


def test_too_few_images_to_leave_one_out_leave_the_model_as_it_was(folders: Path, capsys: Capture) -> None:
    write_images(folders / "two", images(2, BIG))
    fit(capsys, folders / "two", folders / "m", "--no-calibrate")
    code, _, err = run(capsys, "calibrate", folders / "m", folders / "two")
    assert code == 1
    assert "not calibrated: leaving one image out takes 3 or more different ones, and there are 2" in err
    assert f"{folders / 'm'} is as it was" in err
    assert padim.load_updatable(folders / "m").calibration is None


@pytest.mark.slow
def test_update_merge_and_forget_are_fits_from_scratch(folders: Path, capsys: Capture) -> None:
    fit(capsys, folders / "first", folders / "a")
    fit(capsys, folders / "second", folders / "b")
    both = folders / "both"
    shutil.copytree(folders / "first", both / "1")
    shutil.copytree(folders / "second", both / "2")
    fit(capsys, both, folders / "whole")
    whole, first = maps(folders / "whole"), maps(folders / "a")

    code, _, err = run(capsys, "merge", folders / "a", folders / "b", "--out", folders / "merged")
    assert code == 0
    assert "the 23 calibration scores are those of the parts" in err
    assert len(calibration_of(folders / "merged").scores) == 23
    np.testing.assert_allclose(maps(folders / "merged"), whole, rtol=1e-3)

    # many at once, in pairs; one twice, which is said
    code, out, err = run(
        capsys,
        "merge",
        folders / "a",
        folders / "b",
        folders / "a",
        folders / "b",
        folders / "b",
        "--out",
        folders / "m5",
    )
    assert code == 0
    assert "count twice now" in err
    assert len(calibration_of(folders / "m5").scores) == 23
    one, five = (
        padim.load_updatable(folders / "whole").moments.count,
        padim.load_updatable(folders / "m5").moments.count,
    )
    assert (float(one), float(five)) == (23, 2 * 14 + 3 * 9)

    code, out, err = run(capsys, "update", folders / "a", both, "--out", folders / "updated")
    assert code == 0
    assert "14 of 23 images are in" in err
    assert "9 images added; fitted on 23 images" in out
    assert re.search(
        "14 calibration scores of the model before are kept beside 9 new ones; .* [0-9.]+ times as high", err
    )
    assert "calibrated on 23 good images (kept" in out
    assert set(map(float, calibration_of(folders / "a").scores)) < set(
        map(float, calibration_of(folders / "updated").scores)
    )
    np.testing.assert_allclose(maps(folders / "updated"), whole, rtol=1e-3)
    code, _, err = run(capsys, "update", folders / "updated", both)
    assert code == 1
    assert "holds no image that is not in" in err

    code, out, _ = run(capsys, "forget", folders / "updated", folders / "second", "--calibration", folders / "first")
    assert code == 0
    assert "fitted on 14 images" in out
    assert "calibrated on 14 good images (leave-one-out)" in out
    np.testing.assert_allclose(maps(folders / "updated"), first, rtol=1e-3)
    code, _, err = run(capsys, "forget", folders / "updated", folders / "second")
    assert code == 1
    assert re.search(r"second/000\.png is not among the images the model was fitted on; nothing was changed", err)


def test_calibrating_tells_fitted_images_from_others(folders: Path, capsys: Capture) -> None:
    fit(capsys, folders / "first", folders / "m")
    for folder, method in (("second", "9 good images (held-out)"), ("first", "14 good images (leave-one-out)")):
        code, out, _ = run(capsys, "calibrate", folders / "m", folders / folder)
        assert code == 0
        assert method in out
    code, _, err = run(capsys, "calibrate", folders / "m", folders / "first", folders / "second")
    assert code == 2
    assert "14 of 23 images were fitted on and the others" in err
    code, out, _ = run(capsys, "calibrate", folders / "m", "--false-alarm-rate", "0.2")
    assert code == 0
    assert "false alarms 20.00% expected" in out


def test_a_compact_model_knows_the_images_of_its_fit(folders: Path, capsys: Capture) -> None:
    fit(capsys, folders / "first", folders / "m")
    small = folders / "small"
    assert run(capsys, "compact", folders / "m", "--out", small, "--max-error", "0")[0] == 0
    for folder, said in (("second", "9 good images (held-out)"), ("first", "14 good images (leave-one-out)")):
        assert said in run(capsys, "calibrate", small, folders / folder)[1]
    _, _, err = run(capsys, "calibrate", small, folders / "first", folders / "second")
    assert "14 of 23 images were fitted on" in err


def test_half_life(folders: Path, capsys: Capture) -> None:
    fit(capsys, folders / "first", folders / "m")
    before = maps(folders / "m")
    code, out, _ = run(capsys, "update", folders / "m", folders / "second", "--half-life", "3")
    assert code == 0
    assert re.search(r"fitted on 23 images, which count as \d\.\d", out)
    assert not np.allclose(maps(folders / "m"), before, rtol=0.01)
    stored = padim.load_updatable(folders / "m")
    assert sum(stored.images.values()) == pytest.approx(float(stored.moments.count), rel=1e-4)
    code, _, err = run(capsys, "forget", folders / "m", folders / "first")
    assert code == 1
    assert "has faded by a half-life" in err
    assert run(capsys, "undo", folders / "m")[0] == 0
    _, _, err = run(capsys, "update", folders / "m", folders / "second", "--half-life", "1")
    assert "the 23 images of this one count as 2.0, since older ones have faded" in err
    assert padim.load_updatable(folders / "m").calibration is None  # scores of 14 images say nothing of two


def test_false_alarms_can_be_added_without_setting_thresholds(folders: Path, capsys: Capture) -> None:
    for name, more in (("m", []), ("s", ["--anomaly-map", "standardised"])):
        fit(capsys, folders / "first", folders / name, "--false-alarm-rate", "0.1", *more)
        before = padim.load(folders / name).calibration
        twin = shutil.copytree(folders / name, folders / f"{name}-twin")
        code, _, err = run(capsys, "update", folders / name, folders / "second", "--keep-calibration")
        assert code == 0, err
        run(capsys, "update", twin, folders / "second")
        after, other = padim.load(folders / name).calibration, padim.load(twin).calibration
        assert before is not None
        assert after is not None
        assert other is not None
        np.testing.assert_array_equal(after.scores, before.scores)
        assert float(after.threshold) == float(before.threshold) != float(other.threshold)
        if name == "m":
            np.testing.assert_allclose(maps(folders / name), maps(twin), rtol=1e-5)
        assert run(capsys, "undo", folders / name)[0] == 0
    code, _, err = run(capsys, "update", folders / "m", folders / "second", "--keep-calibration", "--pixel-rate", "0.1")
    assert (code, "leaves the calibration as it is" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--n-channels", "11"), ("--seed", "1"), ("--ridge", "0.1")])
def test_unlike_models_are_not_merged(folders: Path, capsys: Capture, more: tuple[str, str]) -> None:
    fit(capsys, folders / "first", folders / "a")
    fit(capsys, folders / "second", folders / "b", *more)
    code, _, err = run(capsys, "merge", folders / "a", folders / "b", "--out", folders / "c")
    assert code == 1
    assert more[0].strip("-").replace("-", "_") in err
    assert not (folders / "c").exists()


def test_compact_says_what_it_saved(folders: Path, capsys: Capture) -> None:
    fit(capsys, folders / "first", folders / "m")
    code, out, err = run(capsys, "compact", folders / "m", "--out", folders / "small", "--max-error", "0.01")
    assert code == 0
    assert re.search(r"small: (low-rank|triangle).*distances within .* MB on disk instead of .* saved", out)
    assert "looking at" in err
    np.testing.assert_allclose(maps(folders / "small"), maps(folders / "m"), rtol=0.011)
    assert run(capsys, "compact", folders / "m", "--out", folders / "m")[0] == 2
    code, _, err = run(capsys, "compact", folders / "small", "--out", folders / "smaller", "--max-error", "0.01")
    assert (code, "was compacted before, with distances within" in err) == (1, True)
    code, _, err = run(capsys, "update", folders / "small", folders / "second")
    assert code == 1
    assert "is a deployed model, without the moments" in err


@pytest.mark.slow
def test_masks_maps_and_region(folders: Path, capsys: Capture) -> None:
    fit(capsys, folders / "first", folders / "m")
    marked = np.zeros((40, 56), np.uint8)
    marked[:, :28] = 255
    Image.fromarray(marked).save(folders / "roi.png")
    out = folders / "r"
    arguments = ("score", folders / "m", folders / "odd", "--out", out, "--masks", "original", "--maps", "original")
    for more in ((), ("--roi", folders / "roi.png")):
        code, _, err = run(capsys, *arguments, *more)
        assert code == 0, err
        mask = np.asarray(Image.open(out / "masks" / "000.png.png"))
        distances = np.asarray(Image.open(out / "maps" / "000.png.tif"))
        assert mask.shape == distances.shape == (40, 56)
        known = padim.load(folders / "m").calibration
        assert known is not None
        inside = np.isfinite(distances)
        assert inside.sum() == 32 * 48  # the crop; nothing is said of the rest
        assert not mask[~inside].any()
        np.testing.assert_array_equal(mask[inside] > 0, distances[inside] > float(known.pixel_threshold))
        assert mask[inside].any()
        right = distances[:, 28:][np.isfinite(distances[:, 28:])]
        assert (right == 0).all() == bool(more)
    Image.fromarray(marked[:, :50]).save(folders / "roi.png")
    code, _, err = run(capsys, *arguments, "--roi", folders / "roi.png")
    assert code == 1
    assert "50×40 pixels, the images have 56×40" in err
    said = fit(capsys, folders / "first", folders / "whole")
    Image.fromarray(marked).save(folders / "roi.png")
    assert fit(capsys, folders / "first", folders / "part", "--roi", folders / "roi.png") != said
    assert (maps(folders / "part")[:, :, 24:] == 0).all()
    code, _, err = run(capsys, "merge", folders / "whole", folders / "part", "--out", folders / "c")
    assert code == 1
    assert "different regions of interest" in err


def interrupt_after(monkeypatch: pytest.MonkeyPatch, batches: int, method: str = "fold") -> None:
    """Ctrl-C while the batch after so many is computed."""
    plain: Callable = getattr(OneDevice, method)
    computed: list[object] = []

    def interrupted(*arguments: object) -> object:
        if len(computed) == batches:
            signal.raise_signal(signal.SIGINT)
        computed.append(plain(*arguments))
        return computed[-1]

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(OneDevice, method, interrupted)


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["random-channels", "principal-components"])
def test_an_interrupted_fit_goes_on(
    folders: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, projection: str
) -> None:
    more = ("--projection", projection)
    fit(capsys, folders / "first", folders / "whole", *more)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        code, _, err = run(capsys, "fit", folders / "first", "--out", folders / "m", *SIZES, *more)
    assert code == 1
    assert "interrupted; 8 files are kept in" in err
    assert "the same command goes on from there" in err
    assert not (folders / "m").exists()
    assert padim.load_updatable(folders / "m.unfinished").moments.count == 8
    read: list[int] = []
    load_batches = steps.load_batches

    def count_read(paths: list[Path], *arguments: Any, **options: Any) -> Any:
        read.append(len(paths))
        return load_batches(paths, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "load_batches", count_read)
        fit(capsys, folders / "first", folders / "m", *more)
    assert read == [6, 14]  # what was left, and all for the calibration
    assert not (folders / "m.unfinished").exists()
    np.testing.assert_allclose(maps(folders / "m"), maps(folders / "whole"), rtol=1e-3)
    assert padim.load_updatable(folders / "m").images == padim.load_updatable(folders / "whole").images


def test_a_checkpoint_of_other_files_is_not_gone_on_from(
    folders: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert run(capsys, "fit", folders / "first", "--out", folders / "m", *SIZES)[0] == 1
    (folders / "first" / "000.png").unlink()
    assert "is of other files or settings; fitting from the start" in fit(capsys, folders / "first", folders / "m")
    assert padim.load(folders / "m").count == 13


def test_checkpoints_are_written_as_often_as_asked(
    folders: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    plain = Checkpoint.write

    def write(self: Checkpoint, engine: Engine, fold: Fold, whole: padim.PadimMoments) -> None:
        written.append(fold.done)
        plain(self, engine, fold, whole)

    monkeypatch.setattr(Checkpoint, "write", write)
    fit(capsys, folders / "first", folders / "m", "--checkpoint-every", "8")
    assert written == [8]


def test_an_interrupted_update_changes_nothing(folders: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(capsys, folders / "first", folders / "m")
    before = maps(folders / "m")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        code, _, err = run(capsys, "update", folders / "m", folders / "second", "--batch-size", "4")
    assert code == 1
    assert "is as it was" in err
    np.testing.assert_array_equal(maps(folders / "m"), before)
