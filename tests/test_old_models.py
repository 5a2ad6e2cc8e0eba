"""Models that earlier versions wrote load for ever, and score as they did."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import save_updatable
from padim_jax.artifact.folder import SCHEMA, read_manifest
from tests.conftest import images

FORMS = ("updatable", "triangle", "triangle-16bit", "low-rank", "low-rank-16bit")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each form in schema 4, of 6 images with a sparse network, and what each scored then."""
    folder = tmp_path_factory.mktemp("models")
    with tarfile.open(Path(__file__).parent / "models-schema-4.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


# the updatable form is factored anew, which magnifies the rounding of its program
@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.optimised] * (form == "updatable")) for form in FORMS]
)
def test_scores_are_those_of_then(old: Path, form: str) -> None:
    folder = old / f"schema-4-{form}"
    assert read_manifest(folder)["schema"] == 4
    model = padim.load(folder)
    wanted = json.loads((old / "scores.json").read_text())[folder.name]
    np.testing.assert_allclose(padim.score(model, images(3, model.config, seed=9)).image_score, wanted, rtol=1e-5)
    assert model.calibration is not None


def test_an_old_model_goes_on_in_the_new_schema(old: Path, tmp_path: Path) -> None:
    stored = padim.load_updatable(old / "schema-4-updatable")
    assert len(stored.images) == 6
    save_updatable(stored, tmp_path / "new")
    assert read_manifest(tmp_path / "new")["schema"] == SCHEMA
    new = images(3, stored.moments.config, seed=9)
    then, now = (padim.score(padim.load(path), new) for path in (old / "schema-4-updatable", tmp_path / "new"))
    np.testing.assert_array_equal(then.image_score, now.image_score)
