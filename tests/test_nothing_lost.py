"""What a command finds in its way stays; thresholds don't move without a word; the last change can be undone."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.ownership import LOCK, locked
from padim_jax.commands import fit as fit_module
from padim_jax.images import find_images
from tests.conftest import SMALL, images, write_images
from tests.test_cli import rows, run

SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --batch-size 8".split()
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images, others, scratched ones, and a model of the first; for copying."""
    folder = tmp_path_factory.mktemp("fitted")
    pixels = images(60, SMALL)
    write_images(folder / "good", pixels[:30])
    write_images(folder / "more", pixels[30:40])
    scratched = pixels[40:].copy()
    scratched[:, 10:20, 10:40] = 255
    write_images(folder / "scratched", scratched)
    from padim_jax.cli import main

    assert main(["fit", str(folder / "good"), "--out", str(folder / "model"), *SIZES]) == 0
    return folder


@pytest.fixture
def folder(fitted: Path, tmp_path: Path) -> Path:
    shutil.copytree(fitted / "model", tmp_path / "model")
    for name in ("good", "more", "scratched"):
        (tmp_path / name).symlink_to(fitted / name)
    return tmp_path


def threshold(model: Path) -> float:
    known = padim.load_updatable(model).calibration
    assert known is not None
    return float(known.threshold)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("more", [(), ("--devices", "1")])
def test_a_folder_where_an_unfinished_fit_would_be_is_left_alone(
    folder: Path, capsys: Capture, more: tuple[str, ...]
) -> None:
    precious = folder / "m.unfinished" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    code, _, err = run(capsys, "fit", folder / "good", "--out", folder / "m", *SIZES, *more)
    assert (code, f"{precious.parent}, where an unfinished fit would be kept, already exists" in err) == (1, True)
    assert precious.read_text() == "years of work"
    assert "images/s" not in err  # before any work
    assert not (folder / "m").exists()


def test_a_model_is_no_unfinished_fit_of_another(folder: Path, capsys: Capture) -> None:
    shutil.copytree(folder / "model", folder / "m.unfinished")
    before = content(folder / "m.unfinished")
    code, _, err = run(capsys, "fit", folder / "good", "--out", folder / "m", *SIZES)
    assert (code, "is none of padim's" in err) == (1, True)
    assert content(folder / "m.unfinished") == before


def test_fit_many_leaves_a_folder_in_its_way_alone(folder: Path, capsys: Capture) -> None:
    precious = folder / "models" / ".bolt.unfinished" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    (folder / "table.csv").write_text("model,good\nbolt,good\n")
    code, _, err = run(capsys, "fit-many", folder / "table.csv", "--out", folder / "models", *SIZES)
    assert (code, "bolt.unfinished, where an unfinished fit would be kept, already exists" in err) == (1, True)
    assert precious.read_text() == "years of work"


def test_an_unfinished_fit_with_something_of_yours_in_it_is_not_removed(folder: Path) -> None:
    from padim_jax.runs.checkpoint import Checkpoint
    from padim_jax.runs.engines import OneDevice
    from padim_jax.runs.records import Fold

    stored = padim.load_updatable(folder / "model")
    checkpoint = Checkpoint(folder / "m.unfinished", "x")
    fold = Fold(stored.moments, dict(stored.images))
    checkpoint.write(OneDevice(stored.backbone), fold, stored.moments)
    (folder / "m.unfinished" / "notes.txt").write_text("mine")
    checkpoint.remove()
    assert (folder / "m.unfinished" / "notes.txt").exists()
    (folder / "m.unfinished" / "notes.txt").unlink()
    checkpoint.remove()
    assert not (folder / "m.unfinished").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "good", "--out", "model"),
        ("update", "model", "more"),
        ("forget", "model", "good"),
        ("calibrate", "model", "good"),
        ("calibrate", "model", "--false-alarm-rate", "0.1"),
        ("merge", "model", "model", "--out", "model"),
        ("undo", "model"),
    ],
    ids=lambda command: command[0],
)
def test_a_writer_is_told_of_another(folder: Path, capsys: Capture, command: tuple[str, ...]) -> None:
    before = content(folder / "model")
    words = [folder / word if (folder / word).exists() else word for word in command]
    with locked_elsewhere(folder / "model"):
        code, _, err = run(capsys, *words, *(SIZES if command[0] == "fit" else ()))
    assert code == 1
    assert re.search(rf"{command[0]}: .*model is being written by process \d+ on", err)
    assert content(folder / "model") == before


class locked_elsewhere:
    """The lock of a folder, held by another thread."""

    def __init__(self, folder: Path) -> None:
        import threading

        self._held, self._done = threading.Event(), threading.Event()

        def hold() -> None:
            with locked(folder, "other"):
                self._held.set()
                self._done.wait()

        self._thread = threading.Thread(target=hold)

    def __enter__(self) -> None:
        self._thread.start()
        self._held.wait()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.slow
def test_few_new_images_do_not_ruin_the_threshold_and_undo_brings_it_back(folder: Path, capsys: Capture) -> None:
    before = threshold(folder / "model")
    code, out, err = run(capsys, "update", folder / "model", folder / "more")
    assert code == 0
    assert re.search(
        r"30 calibration scores of the model before are kept beside 10 new ones; .* [\d.]+ times as high", err
    )
    assert "calibrated on 40 good images" in out
    assert threshold(folder / "model") >= 0.95 * before
    code, out, _ = run(capsys, "undo", folder / "model")
    assert (code, "as it was before the last change; fitted on 30 images, calibrated" in out) == (0, True)
    assert (threshold(folder / "model"), len(padim.load_updatable(folder / "model").images)) == (before, 30)
    assert run(capsys, "undo", folder / "model")[0] == 0
    assert len(padim.load_updatable(folder / "model").images) == 40
    assert sorted(path.name for path in (folder / "model").iterdir() if path.is_file()) == [
        "model.json",
        "previous.json",
    ]


@pytest.mark.parametrize("command", ["fit {0}/good", "merge {0}/model {0}/model"])
def test_a_model_whose_place_another_takes_can_be_brought_back(folder: Path, capsys: Capture, command: str) -> None:
    out, arguments = folder / "model", command.format(folder).split()
    assert run(capsys, "update", out, folder / "more")[0] == 0
    told = run(capsys, *arguments, "--out", out, *(SIZES if arguments[0] == "fit" else ()))[2]
    assert f"padim undo {out} brings that back" in told
    assert run(capsys, "undo", out)[0] == 0
    assert len(padim.load_updatable(out).images) == 40


def test_forget_and_calibrate_can_be_undone(folder: Path, capsys: Capture) -> None:
    before = threshold(folder / "model")
    (folder / "some").mkdir()
    for path in sorted((folder / "good").iterdir())[:3]:
        (folder / "some" / path.name).symlink_to(path)
    assert run(capsys, "forget", folder / "model", folder / "some")[0] == 0
    assert padim.load_updatable(folder / "model").calibration is None
    assert run(capsys, "undo", folder / "model")[0] == 0
    assert threshold(folder / "model") == before
    assert run(capsys, "calibrate", folder / "model", "--false-alarm-rate", "0.3")[0] == 0
    assert threshold(folder / "model") < before
    assert run(capsys, "undo", folder / "model")[0] == 0
    assert threshold(folder / "model") == before


def test_new_images_that_look_bad_are_told_at_update(folder: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "update", folder / "model", folder / "scratched")
    assert code == 0
    assert "the new images scored much higher than the model's own" in err


@pytest.mark.parametrize(("half_life", "kept"), [(0.001, None), (0.5, None), (2, 40)])
def test_a_half_life_never_makes_a_model_that_does_not_load(
    folder: Path, capsys: Capture, half_life: float, kept: int | None
) -> None:
    before = content(folder / "model")
    code, _, err = run(capsys, "update", folder / "model", folder / "more", "--half-life", half_life, "--batch-size", 4)
    assert code == (kept is None)
    if kept is not None:
        stored = padim.load_updatable(folder / "model")
        assert all(weight > 0 for weight in stored.images.values())
        assert len(stored.images) == kept
        padim.load(folder / "model")
    else:
        assert "finalize" in err
        assert content(folder / "model") == before


def test_a_weight_of_nothing_is_not_saved(folder: Path) -> None:
    from dataclasses import replace

    from padim_jax.artifact import save_updatable

    stored = padim.load_updatable(folder / "model")
    before = content(folder / "model")
    with pytest.raises(ValueError, match=r"has the weight 0\.0, wanted a number above 0"):
        save_updatable(replace(stored, images={**stored.images, "f" * 32: 0.0}), folder / "model")
    assert content(folder / "model") == before


@pytest.mark.slow
def test_copies_are_one_image(folder: Path, capsys: Capture) -> None:
    for copy in range(6):
        (folder / "six" / str(copy)).mkdir(parents=True)
        for path in sorted((folder / "good").iterdir())[:12]:
            (folder / "six" / str(copy) / path.name).symlink_to(path)
    code, out, err = run(capsys, "fit", folder / "six", "--out", folder / "m", *SIZES)
    assert code == 0
    assert "60 of 72 files are copies of others" in err
    assert "calibrated on 12 good images" in out
    code, out, err = run(capsys, "fit", folder / "six", "--out", folder / "m2", *SIZES, "--devices", "1")
    assert (code, "calibrated on 12 good images" in out) == (0, True)
    # left out with all its copies, an image scores as in a fit on one of each
    once, six = (padim.load_updatable(folder / name).calibration for name in ("m2", "m"))
    assert once is not None
    assert six is not None
    np.testing.assert_allclose(once.scores, six.scores, rtol=1e-3)


def test_equal_pixels_in_other_files_are_one_image(folder: Path, capsys: Capture) -> None:
    for copy, kind in enumerate(("png", "bmp", "tif")):
        (folder / "three" / str(copy)).mkdir(parents=True)
        for path in sorted((folder / "good").iterdir())[:12]:
            Image.open(path).save(folder / "three" / str(copy) / f"{path.stem}.{kind}")
    code, _, err = run(capsys, "fit", folder / "three", "--out", folder / "m", *SIZES)
    assert code == 0
    assert "24 of 36 images are copies of others (the same pixels); calibrated on 12 different ones" in err
    one = [*("fit", folder / "three" / "0", "--out", folder / "one"), *SIZES]
    assert run(capsys, *one)[0] == 0
    # every copy is left out: no twin makes an image look better than a new one would
    known = padim.load_updatable(folder / "m").calibration
    assert known is not None
    assert float(np.min(known.scores)) > 3


def test_copies_of_one_file_are_told_as_such(folder: Path, capsys: Capture) -> None:
    (folder / "eight").mkdir()
    first = min((folder / "good").iterdir())
    for copy in range(8):
        shutil.copy(first, folder / "eight" / f"{copy}.png")
    code, _, err = run(capsys, "fit", folder / "eight", "--out", folder / "m", *SIZES)
    assert code == 0
    assert (
        "not calibrated: leaving one image out takes 3 or more different ones, and there is 1; add good images" in err
    )
    assert "held_out" not in err
    (folder / "again").mkdir()
    for copy in range(8):  # the same pixels in other files
        Image.open(first).save(folder / "again" / f"{copy}.png", compress_level=copy)
    for batch_size in (2, 8):
        words = ("fit", folder / "again", "--out", folder / "m", *SIZES, "--batch-size", batch_size)
        code, _, err = run(capsys, *words)
        assert code == 0
        assert "not calibrated: leaving one image out takes 3 or more different ones, and there is 1" in err


@pytest.mark.slow
def test_scratched_parts_are_not_believed_to_be_good(folder: Path, capsys: Capture) -> None:
    before = content(folder / "model")
    code, _, err = run(capsys, "calibrate", folder / "model", folder / "scratched")
    assert code == 1
    assert re.search(r"score much higher than the model's own good images .*\(median .* p = .*--trust-calibration", err)
    assert content(folder / "model") == before
    assert run(capsys, "calibrate", folder / "model", folder / "more")[0] == 0  # good ones are
    assert run(capsys, "calibrate", folder / "model", folder / "scratched", "--trust-calibration")[0] == 0
    for more in ((), ("--devices", "1")):
        words = ("fit", folder / "good", "--out", folder / "m", "--calibration", folder / "scratched", *SIZES, *more)
        code, _, err = run(capsys, *words)
        assert (code, "score much higher than the model's own" in err) == (1, True)


def test_a_mesh_does_not_calibrate_on_training_scores(folder: Path, capsys: Capture) -> None:
    words = ("fit", folder / "good", "--out", folder / "m", *SIZES, "--devices", "1", "--calibration")
    code, out, _ = run(capsys, *words, folder / "good")
    assert (code, "calibrated on 30 good images (leave-one-out)" in out) == (0, True)
    assert threshold(folder / "m") == pytest.approx(threshold(folder / "model"), rel=1e-3)
    (folder / "mix").mkdir()
    for index, path in enumerate((*sorted((folder / "good").iterdir())[:3], *sorted((folder / "more").iterdir())[:3])):
        (folder / "mix" / f"{index}.png").symlink_to(path)
    code, _, err = run(capsys, *words, folder / "mix")
    assert (code, "3 of 6 images were fitted on and the others" in err) == (2, True)


@pytest.mark.parametrize("more", [(), ("--devices", "1")])
def test_what_cannot_be_factored_leaves_no_unfinished_fit(folder: Path, capsys: Capture, more: tuple[str, ...]) -> None:
    (folder / "single").mkdir()
    shutil.copy(sorted((folder / "good").iterdir())[0], folder / "single")
    code, _, err = run(capsys, "fit", folder / "single", "--out", folder / "m", *SIZES, *more)
    assert (code, "1 images give no covariance" in err) == (1, True)
    assert not list(folder.glob("m*.unfinished"))


def test_an_error_after_factoring_does_not_lose_the_fit_on_a_mesh(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("fit", folder / "good", "--out", folder / "m", *SIZES, "--devices", "1")
    with monkeypatch.context() as patch:
        from padim_jax.runs import fit

        def fails(*_: object, **__: object) -> None:
            raise FloatingPointError("calibrate: a score is not finite")

        patch.setattr(fit, "calibrate_model", fails)
        assert run(capsys, *words)[0] == 1
    assert (folder / "m.unfinished").exists()
    code, _, err = run(capsys, *words)
    assert (code, "fit ━" in err and "30/30" in err) == (0, True)
    assert not (folder / "m.unfinished").exists()


def test_sizes_of_the_files_are_remembered_by_every_form(folder: Path, capsys: Capture) -> None:
    from padim_jax.artifact import load_image_sizes

    assert load_image_sizes(folder / "model") == ((48, 32),)
    assert run(capsys, "compact", folder / "model", "--out", folder / "small")[0] == 0
    assert run(capsys, "calibrate", folder / "small", folder / "more")[0] == 0
    assert load_image_sizes(folder / "small") == ((48, 32),)


def test_no_lock_is_left_behind(folder: Path) -> None:
    assert not list(folder.rglob(f"{LOCK}*"))
    assert "since" not in (read_manifest(folder / "model").get("progress") or {})


def test_fit_says_how_much_of_an_image_the_model_sees(folder: Path, capsys: Capture) -> None:
    code, out, _ = run(capsys, "fit", folder / "good", "--out", folder / "m", *SIZES, "--no-calibrate")
    assert (code, "the model sees 100% of the area of each image\n" in out) == (0, True)
    sizes = ("--image-size", "40x56", "--no-calibrate")
    code, out, _ = run(capsys, "fit", folder / "good", "--out", folder / "m", *SIZES, *sizes)
    assert re.search(
        r"sees \d\d% of the area of each image; .* never judged \(--image-size 32x48 sees all of it\)", out
    )
    assert find_images([folder / "good"]).paths
    assert fit_module.seen((48, 32), padim.PadimConfig(image_size=224)).all()


def test_images_of_another_size_are_named(folder: Path, capsys: Capture) -> None:
    (folder / "new").mkdir()
    for name, size in (("same", (48, 32)), ("larger", (96, 64)), ("wider", (96, 32))):
        Image.new("RGB", size).save(folder / "new" / f"{name}.png")
    assert run(capsys, "compact", folder / "model", "--out", folder / "small")[0] == 0
    for model in ("model", "small"):
        code, _, err = run(capsys, "score", folder / model, folder / "new", "--out", folder / f"{model}-out")
        assert code == 0
        assert "2 of 3 images are of another size than every image the model was fitted on or aspect ratio" in err
        notes = {Path(row["path"]).stem: row["note"] for row in rows(folder / f"{model}-out" / "scores.csv")}
        assert notes == {
            "same": "",
            "larger": "96×64 pixels, another size than every image the model was fitted on",
            "wider": "96×32 pixels, another size than every image the model was fitted on and another aspect ratio",
        }
