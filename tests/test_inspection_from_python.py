"""``inspect_folder`` and ``inspect_model`` as Python users call them: records in, records out, nothing written unasked."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.images import read_image
from padim_jax.images.folder import digest_file
from padim_jax.inspection import inspect_folder, inspect_model
from padim_jax.runs import Watch
from tests.conftest import SMALL, images, write_images


def fit(lite0: padim.Backbone, paths: list[Path]) -> padim.Updatable:
    pixels = np.stack([read_image(path, SMALL) for path in paths])
    moments = padim.update(lite0, padim.init(lite0, SMALL), pixels)
    return padim.Updatable(lite0, moments, {digest_file(path): 1.0 for path in paths})


def test_a_folder_is_inspected_by_a_model_of_its_images(lite0: padim.Backbone, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "good", images(8, SMALL))
    model = fit(lite0, paths)
    (tmp_path / "good" / "copy.png").write_bytes(paths[0].read_bytes())
    (tmp_path / "good" / "broken.png").write_bytes(b"no image")
    stages: list[tuple[str, int]] = []

    @contextmanager
    def progress(stage: str, total: int):
        stages.append((stage, total))
        yield lambda count: None

    inspection = inspect_folder(tmp_path / "good", model, name="mine", batch_size=8, watch=Watch(progress))
    assert stages == [("look", 10), ("score", 9)]
    assert [error.path.name for error in inspection.unreadable] == ["broken.png"]
    assert inspection.duplicates == [[paths[0], tmp_path / "good" / "copy.png"]]
    scores = inspection.leave_one_out
    assert scores is not None
    assert (scores.model, scores.not_done, len(scores.suspects)) == ("mine", None, 9)
    assert [suspect.score for suspect in scores.suspects] == sorted((s.score for s in scores.suspects), reverse=True)
    assert all(suspect.left_out and suspect.stands_out == (suspect.score > scores.limit) for suspect in scores.suspects)
    assert scores.suspects[0].p_value == pytest.approx(1 / 9)
    assert [item.path for item in scores.highest] == [suspect.path for suspect in scores.suspects]
    record = json.loads(json.dumps(inspection.record()))
    assert record["leave_one_out"]["images"][0]["path"] == str(scores.suspects[0].path)
    assert record["counts"]["unreadable"] == 1
    inspection.write(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.csv", "suspects.png"]


def test_a_model_that_lists_no_images_inspects_no_folder(lite0: padim.Backbone, tmp_path: Path) -> None:
    write_images(tmp_path / "good", images(3, SMALL))
    model = padim.Updatable(lite0, padim.init(lite0, SMALL))
    with pytest.raises(ValueError, match="inspect_folder: the model does not list the images"):
        inspect_folder(tmp_path / "good", model)
    quick = inspect_folder(tmp_path / "good", quick=True)
    assert (quick.leave_one_out, len(quick.images)) == (None, 3)


def test_a_model_is_inspected_and_draws_itself_only_when_asked(lite0: padim.Backbone, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "good", images(20, SMALL))
    padim.save_updatable(fit(lite0, paths), tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    inspection = inspect_model(tmp_path / "model", paths, batch_size=8)
    assert sorted(tmp_path.rglob("*")) == before
    assert inspection.images is not None
    assert set(inspection.images) == {digest_file(path) for path in paths}
    assert inspection.log_determinants.shape == inspection.mean_lengths.shape == inspection.model.embedding.grid
    assert inspection.peaks is not None
    assert inspection.peaks.peaks is not None
    assert inspection.peaks.peaks.count == 20
    record = json.loads(json.dumps(inspection.record()))
    assert (record["n"], record["form"], record["calibration"]) == (20, "updatable", None)
    few = inspect_model(tmp_path / "model", paths[:3]).peaks
    assert few is not None
    assert (few.peaks, few.not_done) == (None, "3 images, wanted 20 or more")
    inspection.write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mean.png", "log_determinant.png", "two_peaks.png"}
