"""The loop that trains: it stops early, goes on after an interruption as if there had been none, and says what fails."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact.ownership import FolderInUse, locked
from padim_jax.baselines import AeSettings, TrainingCheckpoint, TrainingHost, TrainingStopped, ae, scratch, training
from padim_jax.baselines.records import named_arrays
from tests.conftest import rewrite_manifest
from tests.trained_models import CONFIG, GOOD

SETTINGS = AeSettings(CONFIG, width=4, latent=8, steps=40, look_every=5, batch_size=8)


def assert_equal(a: ae.Ae, b: ae.Ae) -> None:
    jax.tree.map(np.testing.assert_array_equal, named_arrays(a), named_arrays(b))


class Stop:
    """Asks to stop when it is asked for the ``last`` time."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    checkpoint, notes = TrainingCheckpoint(tmp_path / "part.unfinished", every=15), list[str]()
    with pytest.raises(TrainingStopped, match=r"ae\.fit: stopped after 20 of at most 40 steps, kept in .*part\.unfini"):
        ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(checkpoint, stopped=Stop(2)))
    resumed = ae.fit(None, [GOOD[::-1]], SETTINGS, host=TrainingHost(checkpoint, note=notes.append))
    assert notes == [f"training goes on from {checkpoint.path}, after step 20"]
    assert_equal(resumed, ae.fit(None, [GOOD], SETTINGS))
    steps = list[int]()
    again = ae.fit(
        None, [GOOD], SETTINGS, host=TrainingHost(checkpoint, advance=lambda step, *more: steps.append(step))
    )
    assert_equal(again, resumed)  # the checkpoint stays until it is removed: a model that was not saved is not lost
    assert not steps
    checkpoint.remove()
    assert not checkpoint.path.exists()
    checkpoint.remove()


def test_without_a_checkpoint_a_stop_says_that_nothing_is_kept() -> None:
    with pytest.raises(TrainingStopped, match="stopped after 10 of at most 40 steps, and nothing is kept"):
        ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(stopped=lambda: True))


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["images", "settings"])
def test_a_checkpoint_of_something_else_is_not_gone_on_from(changed: str, tmp_path: Path) -> None:
    checkpoint, notes = TrainingCheckpoint(tmp_path / "part.unfinished"), list[str]()
    with pytest.raises(TrainingStopped):
        ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(checkpoint, stopped=Stop(1)))
    images = GOOD[:-1] if changed == "images" else GOOD
    settings = replace(SETTINGS, clip=0.5) if changed == "settings" else SETTINGS
    found = ae.fit(None, [images], settings, host=TrainingHost(checkpoint, note=notes.append))
    assert notes == [f"{checkpoint.path} is of other images or settings; training begins anew"]
    assert_equal(found, ae.fit(None, [images], settings))


@pytest.mark.parametrize("fault", ["array", "counts", "large", "progress"])
def test_a_damaged_checkpoint_is_begun_anew_and_says_so(fault: str, tmp_path: Path) -> None:
    checkpoint, notes = TrainingCheckpoint(tmp_path / "part.unfinished"), list[str]()
    with pytest.raises(TrainingStopped):
        ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(checkpoint, stopped=Stop(1)))
    if fault == "array":
        largest = max(checkpoint.path.rglob("*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1])
    else:
        manifest = json.loads((checkpoint.path / "model.json").read_text())
        faults: dict[str, Any] = {
            "counts": {"counts": {"0": 1}},
            "large": {"counts": dict.fromkeys(manifest["counts"], 10**30)},
            "progress": {"progress": {**manifest["progress"], "step": ""}},
        }
        rewrite_manifest(checkpoint.path, **faults[fault])
    ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(checkpoint, note=notes.append))
    assert len(notes) == 1
    assert "can't be read (" in notes[0]
    assert notes[0].endswith("; training begins anew")


@pytest.mark.slow
def test_a_folder_that_is_something_else_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").touch()
    (tmp_path / "file").touch()
    for name, message in [("photos", r"holds other things \(a\.txt\)"), ("file", "is a file")]:
        checkpoint = TrainingCheckpoint(tmp_path / name)
        with pytest.raises(padim.ArtifactError, match=message):
            ae.fit(
                None, [GOOD], SETTINGS, host=TrainingHost(checkpoint, advance=lambda *values: pytest.fail("it trains"))
            )
        checkpoint.remove()
    assert (tmp_path / "photos" / "a.txt").exists()
    other = TrainingCheckpoint(tmp_path / "part")
    with locked(other.path, "another"), pytest.raises((FolderInUse, padim.ArtifactError)):
        _in_a_process(
            f"ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(TrainingCheckpoint(Path({str(other.folder)!r}))))"
        )


def test_training_ends_early_where_the_images_held_out_gain_nothing_and_keeps_the_best_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked, seen = iter([0.5, 0.3, 0.4, 0.35, 0.2]), list[Any]()

    def look(program: Any, parameters: Any, *more: Any) -> float:
        seen.append(parameters)
        return next(looked)

    monkeypatch.setattr(training, "_look", look)
    notes = list[str]()
    model = ae.fit(None, [GOOD], replace(SETTINGS, patience=2), host=TrainingHost(note=notes.append))
    assert notes == [
        "stopped after 20 of at most 40 steps: the loss of the 2 images held out was lowest 2 looks before"
    ]
    jax.tree.map(np.testing.assert_array_equal, dict(model.parameters), seen[1])
    np.testing.assert_allclose(model.history[:, 2], [0.5, 0.3, 0.4, 0.35])
    assert not np.array_equal(seen[1]["narrow.kernel"], seen[3]["narrow.kernel"])


def test_images_held_out_are_good_ones_that_no_step_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, step = list[Any](), training._step
    monkeypatch.setattr(
        training, "_step", lambda program, state, given, images, *more: drawn.append(images) or step(program, state, given, images, *more)
    )  # fmt: skip
    ae.fit(None, [GOOD], replace(SETTINGS, held_out=0.25, steps=9))
    learnt = {image.tobytes() for images in drawn for image in images}
    assert len(learnt) == 18  # of 24, each in three rounds of 18 by 8
    counts = [sum(image.tobytes() == one for images in drawn for image in images) for one in learnt]
    assert counts == [4] * 18
    assert learnt < {image.tobytes() for image in GOOD}


def test_without_images_held_out_all_steps_are_made_and_the_last_weights_kept() -> None:
    model = ae.fit(None, [GOOD[:2]], replace(SETTINGS, held_out=0, patience=1, epochs=15, steps=None))
    np.testing.assert_array_equal(model.history[:, 0], [5, 10, 15])  # one step of both images is an epoch
    assert model.history.shape == (3, 2)


def test_epochs_count_images_and_not_steps() -> None:
    seen = list[tuple[int, int]]()
    settings = replace(SETTINGS, steps=None, epochs=2, held_out=0.1)  # 22 images learnt from, by 8
    ae.fit(None, [GOOD], settings, host=TrainingHost(advance=lambda step, steps, *more: seen.append((step, steps))))
    assert seen == [(6, 6)]


def test_progress_is_told_in_steps_of_all_with_the_loss_and_the_speed() -> None:
    seen = list[tuple[int, int, float, float]]()
    model = ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(advance=lambda *values: seen.append(values)))
    assert [value[:2] for value in seen] == [(10, 40), (20, 40), (30, 40), (40, 40)]
    assert all(loss > 0 and speed > 0 for _, _, loss, speed in seen)
    assert seen[-1][2] == pytest.approx(float(model.history[-1, 1]), rel=0.2)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_names_the_step_and_what_to_do(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Recipe(ae._Recipe):
        def loss(self, parameters: Any, constants: Any, images: Any, key: Any) -> jax.Array:
            dark = jnp.sum(images == 0, axis=(1, 2, 3)) > 1000
            total = sum(jnp.sum(leaf) for leaf in parameters.values())
            if where == "loss":
                return jnp.where(dark, jnp.nan, total * 1e-3)
            return jnp.sqrt(jnp.where(dark, total * 0, 1.0))  # 0, whose gradient is 0 times infinity

    monkeypatch.setattr(ae, "_Recipe", Recipe)
    images = GOOD.copy()
    images[3] = 0
    checkpoint = TrainingCheckpoint(tmp_path / "part", every=1)
    settings = replace(SETTINGS, held_out=0, batch_size=1, steps=24)
    message = r"ae\.fit: the loss or its gradient is not finite at step (\d+); lower learning_rate=0.002 or clip=1, or"
    with pytest.raises(FloatingPointError, match=message) as raised:
        ae.fit(None, [images], settings, host=TrainingHost(checkpoint))
    step = int(str(raised.value).split("at step ")[1].split(";")[0])
    with scratch.scratch_images("", [images], CONFIG, 2) as ordered:
        key = jax.random.fold_in(jax.random.key(0), 2)
        rows = training._Order(key, np.arange(24), 1)
        assert [number + 1 for number in range(24) if not ordered[rows.batch(number)].any()] == [step]


def test_a_loss_of_the_images_held_out_that_is_not_finite_is_no_reason_to_stop_quietly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "_look", lambda *given: np.nan)
    with pytest.raises(FloatingPointError, match=r"the loss of the images held out is not finite after step 5; lower"):
        ae.fit(None, [GOOD], SETTINGS)


def test_two_images_are_learnt_from_however_many_are_to_be_held_out() -> None:
    held_out, kept = training._split(jax.random.key(0), 3, 0.5)
    assert (len(held_out), len(kept)) == (1, 2)
    assert sorted([*held_out, *kept]) == [0, 1, 2]


def test_a_scratch_file_that_cannot_be_written_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, content: memoryview) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"ae\.fit: can't write the images to a scratch file in .*\(No space left on dev"):
        scratch._write("ae.fit", Full(), memoryview(b"1"))  # type: ignore[arg-type]


def test_without_optax_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ModuleNotFoundError, match=r"optax is not installed; .* pip install 'padim-jax\[train\]'"):
        ae.fit(None, [GOOD], SETTINGS)


PREAMBLE = """
import sys
from pathlib import Path
from padim_jax.baselines import TrainingCheckpoint, TrainingHost, ae
from tests.test_baselines_training import GOOD, SETTINGS
"""


def _in_a_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FolderInUse(done.stderr.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [10, 30])
def test_a_training_killed_at_any_moment_comes_to_the_same_weights(killed_at: int, tmp_path: Path) -> None:
    folder = tmp_path / "part.unfinished"
    code = (
        f"ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(TrainingCheckpoint(Path({str(folder)!r}), every=3), "
        "advance=lambda step, *more: print(step, flush=True)))"
    )
    process = subprocess.Popen([sys.executable, "-c", PREAMBLE + code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= killed_at:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    notes = list[str]()
    resumed = ae.fit(None, [GOOD], SETTINGS, host=TrainingHost(TrainingCheckpoint(folder, every=3), note=notes.append))
    assert any("training goes on from" in note for note in notes)
    assert_equal(resumed, ae.fit(None, [GOOD], SETTINGS))
