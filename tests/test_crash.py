"""Killed at any moment, fit, update and compact leave a model that loads and is the old one or the new one."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.cli import main
from tests.conftest import SMALL, images, write_images

pytestmark = pytest.mark.slow
SIZES = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48".split()
TRIES = 10  # of each command


READY = "import sys; from padim_jax.cli import main; print('ready', flush=True); sys.exit(main(sys.argv[1:]))"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", READY, *map(str, arguments)]


def start_work(run: list[str]) -> subprocess.Popen[bytes]:
    """A command that has imported what it needs and goes to work now."""
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def scores(folder: Path) -> np.ndarray:
    return np.asarray(padim.score(padim.load(folder), images(4, SMALL, seed=5)).image_score)


@pytest.mark.parametrize("what", ["fit", "update", "compact"])
def test_killed_at_random_moments(tmp_path: Path, what: str) -> None:
    old_dir, new_dir = tmp_path / "old", tmp_path / "new"
    write_images(old_dir, images(12, SMALL))
    write_images(new_dir, images(12, SMALL, seed=1))
    start, model = tmp_path / "start", tmp_path / "model"
    assert main(["fit", str(old_dir), "--out", str(start), *SIZES]) == 0
    other = tmp_path / "other"  # what compact compacts, over an old model
    assert main(["fit", str(new_dir), "--out", str(other), *SIZES]) == 0
    run = {
        "fit": command("fit", new_dir, "--out", model, *SIZES, "--checkpoint-every", 4, "--batch-size", 4),
        "update": command("update", model, new_dir, "--batch-size", 4),
        "compact": command("compact", other, "--out", model),
    }[what]
    if what == "compact":  # over a deployed model, as it is run every week
        assert main(["compact", str(start), "--out", str(tmp_path / "small")]) == 0
        shutil.rmtree(start)
        (tmp_path / "small").rename(start)
    old = scores(start)
    shutil.copytree(start, model)
    subprocess.run(run, check=True, capture_output=True)
    new = scores(model)
    shutil.rmtree(model)
    shutil.copytree(start, model)
    working = start_work(run)
    began = time.perf_counter()  # of a run that compiles nothing, as those to be killed
    working.communicate()
    assert working.returncode == 0
    span = time.perf_counter() - began
    assert not np.allclose(old, new, rtol=1e-3)
    rng, outcomes = random.Random(what), []
    for _ in range(TRIES):
        shutil.rmtree(model)
        shutil.copytree(start, model)
        process = start_work(run)
        time.sleep(rng.uniform(0.1, 1.05) * span)
        if process.poll() is not None:
            span *= 0.8  # other work slowed the run it was measured on
        process.kill()
        process.communicate()
        found = scores(model)
        outcomes.append(np.allclose(found, new, rtol=1e-3))
        assert outcomes[-1] or np.allclose(found, old, rtol=1e-5)
        # and the same command, left alone, ends as it would have
        if outcomes.count(False) == 1 and not outcomes[-1]:
            subprocess.run(run, check=True, capture_output=True)
            np.testing.assert_allclose(scores(model), new, rtol=1e-3)
    assert False in outcomes  # it was killed while at work
