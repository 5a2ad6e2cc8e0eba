"""A fit on files chooses its ridge and prior images: what it says, keeps, and goes on from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.cli import main
from padim_jax.config import PadimConfig
from padim_jax.fleet.fitting import fit_many
from padim_jax.fleet.journal import Journal
from padim_jax.runs.calibrate import Terms
from padim_jax.runs.checkpoint import Checkpoint
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fit import fit_files
from padim_jax.runs.watch import Advance, Interrupted, Watch, ignore_note
from tests.conftest import SMALL, images, write_images
from tests.test_fleet import TERMS, jobs_in

CONFIG = replace(SMALL, image_size=SMALL.crop, covariance="pooled", ridge="auto")
OPTIONS = "--tap block2 --tap block4 --n-channels 12 --image-size 32x48 --crop-size 32x48 --sigma 1.5".split()
CHOOSING = [*OPTIONS, "--covariance", "pooled", "--ridge", "auto"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choosing")
    write_images(folder / "good", images(12, CONFIG))
    write_images(folder / "more", images(4, CONFIG, seed=5))
    assert main(["fit", str(folder / "good"), "--out", str(folder / "model"), *CHOOSING]) == 0
    return folder


@pytest.mark.slow
def test_the_command_chooses_what_python_chooses(folder: Path, lite0: padim.Backbone) -> None:
    config = padim.fit(lite0, [images(12, CONFIG)], CONFIG).config
    model = padim.load(folder / "model")
    assert model.config == config
    assert model.calibration is not None
    assert len(model.calibration.scores) == 12


@pytest.mark.slow
def test_a_copy_of_a_file_counts_as_what_it_weighs(folder: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    good = images(12, CONFIG)
    write_images(tmp_path / "good", np.concatenate([good, good[:1]]))
    assert main(["fit", str(tmp_path / "good"), "--out", str(tmp_path / "model"), *CHOOSING]) == 0
    moments = load_updatable(tmp_path / "model").moments
    undecided = replace(moments, config=CONFIG)
    chosen = padim.regularise(lite0, undecided, [good, good[:1]], [2.0, *[1.0] * 11, 2.0])
    assert moments.config == chosen.config


def test_copies_in_other_files_do_not_make_images_likely(folder: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    good = images(12, CONFIG)
    for index, path in enumerate(write_images(tmp_path / "good", good)):
        Image.fromarray(good[index]).save(path.with_suffix(".bmp"))
    assert main(["fit", str(tmp_path / "good"), "--out", str(tmp_path / "model"), *CHOOSING]) == 0
    ridge, prior = padim.load(tmp_path / "model").config.regularisation("test")
    alone = padim.load(folder / "model").config.regularisation("test")
    assert 0.3 < ridge / alone[0] < 3.3  # the next value that is tried, because n - 1 is another number
    assert prior == alone[1]
    twice = padim.fit(lite0, [good, good], CONFIG).config
    assert twice.regularisation("test") == pytest.approx((ridge, prior), rel=0.02)


def test_an_update_keeps_the_numbers(folder: Path, tmp_path: Path) -> None:
    before = padim.load(folder / "model").config
    words = ["update", str(folder / "model"), str(folder / "more"), "--out", str(tmp_path / "updated")]
    assert main(words) == 0
    after = load_updatable(tmp_path / "updated").moments
    assert (after.config, int(after.count)) == (before, 16)


def test_a_model_that_chose_can_take_part_in_a_merge_with_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    ridge, prior = padim.load(folder / "model").config.regularisation("test")
    words = [*OPTIONS, "--covariance", "pooled", "--ridge", f"{ridge:g}", "--prior-images", f"{prior:g}"]
    assert main(["fit", str(folder / "more"), "--out", str(tmp_path / "part"), *words]) == 0
    assert main(["merge", str(folder / "model"), str(tmp_path / "part"), "--out", str(tmp_path / "whole")]) == 0
    assert padim.load(tmp_path / "whole").count == 16


def test_an_interruption_while_choosing_keeps_the_fit(folder: Path, tmp_path: Path, lite0: padim.Backbone) -> None:
    stages, stop = list[str](), "regularise"

    @contextmanager
    def progress(stage: str, total: int) -> Iterator[Advance]:
        stages.append(stage)
        yield lambda count: None

    watch = Watch(progress=progress, note=ignore_note, remark=lambda text: None, stopped=lambda: stages[-1:] == [stop])
    paths = sorted((folder / "good").iterdir())
    checkpoint = Checkpoint(tmp_path / "model.unfinished", "same")

    def fit() -> None:
        fit_files(OneDevice(lite0), paths, CONFIG, tmp_path / "model", checkpoint, 8, watch, terms=Terms())

    with pytest.raises(Interrupted, match=r"while the ridge was chosen; the fit is kept in .*unfinished"):
        fit()
    stop = ""
    fit()
    assert stages == ["fit", "regularise", "fit", "regularise", "calibrate"]
    assert padim.load(tmp_path / "model").config == padim.load(folder / "model").config
    assert not checkpoint.folder.exists()


@pytest.mark.slow
def test_models_of_a_fleet_choose_each_for_itself_and_share_programs(
    lite0: padim.Backbone, tmp_path: Path, compilations: list[str]
) -> None:
    terms = replace(TERMS, config=PadimConfig(**{**vars(TERMS.config), "covariance": "pooled", "ridge": "auto"}))
    jobs, out = jobs_in(tmp_path, [14, 5, 17]), tmp_path / "models"
    out.mkdir()
    run = fit_many(lite0, jobs, terms, out, Journal(out))
    assert next(run).status == "fitted"
    so_far = len(compilations)
    assert {outcome.status for outcome in run} == {"fitted"}
    assert len(compilations) == so_far
    assert len({padim.load(out / job.name).config.ridge for job in jobs}) > 1
    assert {outcome.status for outcome in fit_many(lite0, jobs, terms, out, Journal(out))} == {"kept"}
