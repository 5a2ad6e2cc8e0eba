"""Files changed at random give a normal result or the error that is promised: never another, a crash, or all memory."""

import subprocess
import sys
from pathlib import Path

import pytest

import padim_jax as padim
import padim_jax.artifact.folder
from tests.conftest import SMALL, images
from tests.mutations import MOST_MEMORY

ROOT = Path(__file__).parent.parent


def keeps_its_promise(what: str, folder: Path, seed: int, count: int) -> None:
    """Run a program of :mod:`tests.mutations` in a process of its own, where a crash shows and a warning is an error."""
    command = [sys.executable, "-W", "error", "-m", "tests.mutations", what, folder, str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    last = (folder / "case").read_text() if (folder / "case").exists() else "none"
    assert done.returncode == 0, f"{what}, seed {seed}, ended by {done.returncode} at {last}: {done.stderr[-2000:]}"
    assert done.stdout == "", f"{what}, seed {seed} (more than {MOST_MEMORY} MiB is too much)"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_changed_images_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    keeps_its_promise("images", tmp_path, seed, 8700)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_changed_weights_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    keeps_its_promise("weights", tmp_path, seed, 6000)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["final", "updatable"])
@pytest.mark.parametrize(
    "what",
    [
        "arrays",
        "manifests",
    ],
)
def test_changed_models_are_refused_or_score_the_same(
    tmp_path: Path, lite0: padim.Backbone, form: str, what: str
) -> None:
    pictures = images(6, SMALL)
    if form == "final":
        padim.save(padim.fit(lite0, [pictures], SMALL), tmp_path / "original")
    else:
        moments = padim.update(lite0, padim.init(lite0, SMALL), pictures)
        padim.save_updatable(padim.Updatable(lite0, moments), tmp_path / "original")
    keeps_its_promise(what, tmp_path, 0, 120)
