"""Killed at random moments, a watch decides every image exactly once."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from padim_jax.line.store import Store
from tests.conftest import write_images
from tests.line_parts import fit_model, parts, write_frames
from tests.test_cli import rows

pytestmark = pytest.mark.slow
KILLS, FILES = 10, 60


def start(tmp_path: Path, source: str = "camera", *more: object) -> subprocess.Popen[str]:
    """A watch that is ready."""
    options = more or ("--poll", 0.1)
    command = [
        *(sys.executable, "-m", "padim_jax.cli", "watch", tmp_path / source, "--model", tmp_path / "m"),
        *("--store", tmp_path / "l.db", "--append", tmp_path / "a.csv", "--append", tmp_path / "a.jsonl"),
        *("--bad-folder", tmp_path / "bad", "--look-rate", 0.2, "--batch-size", 1, *options),
    ]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ready"):
            return process
    raise AssertionError(f"the watch ended with {process.wait()}")


def test_killed_at_random_moments_every_image_is_decided_exactly_once(tmp_path: Path) -> None:
    fit_model(tmp_path / "m")
    images, rng = parts(FILES, seed=5), random.Random(0)
    images[::6] = parts(FILES // 6, seed=6, defect=True)
    (tmp_path / "camera").mkdir()
    ends = list[int]()
    for index in range(KILLS):  # a few more images each time
        process = start(tmp_path)
        new = slice(index * FILES // KILLS, (index + 1) * FILES // KILLS)
        paths = write_images(tmp_path / f"new-{index}", images[new])
        for path in paths:
            path.rename(tmp_path / "camera" / f"{index}-{path.name}")
        time.sleep(rng.uniform(0.05, 0.6))
        process.kill()
        process.communicate()
        with Store.open(tmp_path / "l.db") as store:
            ends.append(sum(store.count().values()))
    process = start(tmp_path)
    with Store.open(tmp_path / "l.db") as store:
        end = time.monotonic() + 60
        while sum(store.count().values()) < FILES or store.outbox.waiting():
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
        decisions = list(store.decisions())
    items = [found.item for found in decisions]
    assert sorted(items) == sorted(path.name for path in (tmp_path / "camera").iterdir())
    assert len(items) == len(set(items)) == FILES
    assert [row["id"] for row in rows(tmp_path / "a.csv")] == [found.id for found in decisions]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == FILES
    bad = [found for found in decisions if found.verdict == "bad"]
    assert len(bad) >= FILES // 6
    assert len(list((tmp_path / "bad").glob("*.png"))) == len(list((tmp_path / "bad" / "pictures").glob("*.png")))
    assert len(list((tmp_path / "bad").glob("*.png"))) == len(bad)
    assert len(set(ends)) > 3  # killed in the midst of the work, at several points of it


def test_killed_at_random_moments_every_frame_of_a_video_is_decided_exactly_once(tmp_path: Path) -> None:
    fit_model(tmp_path / "m")
    frames, rng = parts(FILES * 2, seed=5), random.Random(0)
    frames[::6] = parts(FILES * 2 // 6, seed=6, defect=True)
    write_frames(tmp_path / "shift.mkv", frames)
    ends = [0]
    while ends[-1] < FILES:
        process = start(tmp_path, "shift.mkv", "--every", 0.08)  # every other one
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        with Store.open(tmp_path / "l.db") as store:
            ends.append(sum(store.count().values()))
    process = start(tmp_path, "shift.mkv", "--every", 0.08)
    process.communicate(timeout=60)
    assert process.returncode == 0
    with Store.open(tmp_path / "l.db") as store:
        decisions = list(store.decisions())
        assert store.outbox.waiting() == []
    assert [found.item for found in decisions] == [f"frame-{n:06}-{n * 0.04:.3f}s" for n in range(0, FILES * 2, 2)]
    assert [row["id"] for row in rows(tmp_path / "a.csv")] == [found.id for found in decisions]
    bad = [found for found in decisions if found.verdict == "bad"]
    assert len(bad) >= FILES // 3
    assert len(list((tmp_path / "bad").glob("*.png"))) == len(list((tmp_path / "bad" / "pictures").glob("*.png")))
    assert len(list((tmp_path / "bad").glob("*.png"))) == len(bad)
    assert len(set(ends)) > 3


def test_a_watch_that_is_asked_to_stop_finishes_what_is_in_hand(tmp_path: Path) -> None:
    fit_model(tmp_path / "m")
    write_images(tmp_path / "camera", parts(40, seed=5))
    process = start(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopping after this batch" in said
    with Store.open(tmp_path / "l.db") as store:
        found = [decision.id for decision in store.decisions()]
        assert store.outbox.waiting() == []
    assert [row["id"] for row in rows(tmp_path / "a.csv")] == found
