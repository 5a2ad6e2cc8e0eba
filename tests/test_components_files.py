"""Several Gaussians that all positions share, from files: fit, interruption, update, forget, merge, many models."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.cli import main
from padim_jax.fleet.fitting import fit_many
from padim_jax.fleet.journal import Journal
from padim_jax.runs.calibrate import Terms
from padim_jax.runs.checkpoint import Checkpoint
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fit import fit_files
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_note
from tests.conftest import SMALL, images, write_images
from tests.test_fleet import TERMS, jobs_in

CONFIG = replace(
    SMALL,
    image_size=SMALL.crop,
    positions="shared",
    n_components=3,
    covariance="pooled",
    prior_images=2.0,
)
OPTIONS = (
    "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --sigma 1.5 "
    "--positions shared --n-components 3 --covariance pooled --prior-images 2"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_images(folder / "good", images(12, CONFIG))
    write_images(folder / "more", images(4, CONFIG, seed=5))
    assert main(["fit", str(folder / "good"), "--out", str(folder / "model"), *OPTIONS]) == 0
    return folder


@pytest.mark.slow
def test_the_command_fits_what_python_fits(folder: Path, lite0: padim.Backbone) -> None:
    model, good = padim.load(folder / "model"), images(12, CONFIG)
    fitted = padim.calibrate(padim.fit(lite0, [good], CONFIG), [good])
    assert (model.config, int(model.count)) == (CONFIG, 12)
    assert model.calibration is not None
    assert fitted.calibration is not None
    np.testing.assert_allclose(model.calibration.scores, fitted.calibration.scores, rtol=1e-3)


@pytest.mark.slow
def test_an_update_and_what_it_added_forgotten(folder: Path, tmp_path: Path) -> None:
    updated, left = tmp_path / "updated", tmp_path / "left"
    assert main(["update", str(folder / "model"), str(folder / "more"), "--out", str(updated)]) == 0
    assert int(load_updatable(updated).moments.count) == 16
    assert main(["forget", str(updated), str(folder / "more"), "--out", str(left)]) == 0
    test = images(3, CONFIG, seed=9)
    found, expected = (padim.score(padim.load(path), test) for path in (left, folder / "model"))
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=5e-3)


@pytest.mark.slow
def test_only_models_of_one_fit_merge(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, updated, other = folder / "model", tmp_path / "updated", tmp_path / "other"
    assert main(["update", str(model), str(folder / "more"), "--out", str(updated)]) == 0
    assert main(["merge", str(model), str(updated), "--out", str(tmp_path / "whole")]) == 0
    assert int(padim.load(tmp_path / "whole").count) == 28
    assert main(["fit", str(folder / "more"), "--out", str(other), *OPTIONS]) == 0
    capsys.readouterr()
    assert main(["merge", str(model), str(other), "--out", str(tmp_path / "none")]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "merge: the two have other components (their centres differ); update one with the images" in said


def test_compact_and_inspect(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", str(folder / "model"), "--out", str(tmp_path / "small"), "--max-error", "0.01"]) == 0
    manifest = json.loads((tmp_path / "small" / "model.json").read_text())
    assert manifest["form"] == "triangle"
    assert manifest["arrays"]["gaussian.triangle"] == [3, 78]
    capsys.readouterr()
    assert main(["inspect", str(folder / "model"), "--images", str(folder / "good"), "--out", str(tmp_path / "o")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "condition numbers of the 3 covariances that all positions share: median" in said
    assert "all positions share Gaussians; two peaks are looked for where each has its own" in said


def test_an_interruption_keeps_the_centres(folder: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    done = list[int]()

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Advance]:
        done.append(0)

        def advance(count: int) -> None:
            done[-1] += count

        yield advance
        assert stage != "fit" or done[-1] <= total

    stopping = True
    watch = Watch(
        progress=progress, note=ignore_note, remark=lambda text: None, stopped=lambda: stopping and done[-1] >= 12
    )
    paths = sorted((folder / "good").iterdir())
    checkpoint = Checkpoint(tmp_path / "model.unfinished", "same")

    def fit() -> None:
        fit_files(OneDevice(lite0), paths, CONFIG, tmp_path / "model", checkpoint, 4, watch, terms=Terms())

    with pytest.raises(Interrupted, match=r"files are kept in|before anything could be kept"):
        fit()
    stopping = False
    fit()
    assert done[1] == 24  # both passes, of which some was kept, or none
    test = images(3, CONFIG, seed=9)
    found, expected = (padim.score(padim.load(path), test) for path in (tmp_path / "model", folder / "model"))
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=5e-3)


def test_models_of_a_fleet_have_components_each(lite0: padim.Backbone, tmp_path: Path) -> None:
    shared = {"positions": "shared", "n_components": 3, "covariance": "pooled", "prior_images": 2.0}
    config = padim.PadimConfig(**(vars(TERMS.config) | shared))
    jobs, out = jobs_in(tmp_path, [14, 5]), tmp_path / "models"
    out.mkdir()
    outcomes = list(fit_many(lite0, jobs, replace(TERMS, config=config), out, Journal(out)))
    assert {outcome.status for outcome in outcomes} == {"fitted"}
    first, second = (padim.load(out / job.name).gaussian.components for job in jobs)
    assert first is not None
    assert second is not None
    assert np.abs(np.asarray(first.centres) - np.asarray(second.centres)).max() > 0
