"""Commands on several devices, against the same commands on one."""

from pathlib import Path

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_updatable
from padim_jax.cli import main
from tests.conftest import SMALL, images, write_images

SIZES = (
    "--tap block2 --tap block4 --n-channels 12 --image-size 40x56 --crop-size 32x48 --sigma 1.5 --batch-size 8".split()
)
MANY = ["--devices", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two of which are copies and one of which can't be read."""
    folder = tmp_path_factory.mktemp("devices")
    write_images(folder / "good", images(21, SMALL))
    write_images(folder / "more", images(9, SMALL, seed=5))
    (folder / "good" / "copy.png").write_bytes((folder / "good" / "003.png").read_bytes())
    (folder / "good" / "broken.png").write_bytes(b"no image")
    return folder


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


def assert_alike(found: Path, wanted: Path, rtol: float = 1e-4) -> None:
    """The same files with the same weights, the same distances, calibration scores and sizes of files."""
    test = images(4, SMALL, seed=9)
    one, other = padim.load(found), padim.load(wanted)
    np.testing.assert_allclose(padim.score(one, test).anomaly_map, padim.score(other, test).anomaly_map, rtol=rtol)
    assert one.calibration is not None
    assert other.calibration is not None
    np.testing.assert_allclose(one.calibration.scores, other.calibration.scores, rtol=rtol)
    assert load_updatable(found).images == pytest.approx(load_updatable(wanted).images)
    assert load_updatable(found).image_sizes == load_updatable(wanted).image_sizes


def test_a_fit_on_many_devices_tells_what_one_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for name, more in (("one", ()), ("many", MANY)):
        run("fit", folder / "good", "--out", folder / name, "--skip-unreadable", *SIZES, *more)
        said[name] = [line for line in capsys.readouterr().err.splitlines() if "━" not in line]
    assert_alike(folder / "many", folder / "one")
    assert said["many"] == said["one"]
    assert any("the parts do not lie alike" in line for line in said["one"])
    assert any("1 of 22 images are copies" in line for line in said["one"])


@pytest.mark.slow
def test_principal_components_are_those_of_one_device(folder: Path) -> None:
    for name, more in (("pca-one", ()), ("pca-many", MANY)):
        words = ("--projection", "principal-components", "--skip-unreadable", *SIZES, *more)
        run("fit", folder / "good", "--out", folder / name, *words)
    matrices = [np.asarray(load_updatable(folder / name).moments.projection) for name in ("pca-one", "pca-many")]
    np.testing.assert_allclose(matrices[1], matrices[0], atol=1e-3)
    assert_alike(folder / "pca-many", folder / "pca-one", rtol=1e-3)


@pytest.mark.parametrize("half_life", [pytest.param((), marks=pytest.mark.slow), ("--half-life", "10")])
def test_an_update_is_that_of_one_device(folder: Path, half_life: tuple[str, ...]) -> None:
    run("fit", folder / "good", "--out", folder / "base", "--skip-unreadable", *SIZES)
    for name, more in (("update-one", ()), ("update-many", MANY)):
        words = ("--batch-size", 8, *half_life, *more)
        run("update", folder / "base", folder / "more", "--out", folder / name, *words)
    assert_alike(folder / "update-many", folder / "update-one", rtol=1e-3)


def test_scores_are_those_of_one_device(folder: Path) -> None:
    run("fit", folder / "good", "--out", folder / "base", "--skip-unreadable", *SIZES)
    for name, more in (("scores-one", ()), ("scores-many", MANY)):
        run(
            "score", folder / "base", folder / "more", "--out", folder / name, "--no-heatmaps", "--batch-size", 4, *more
        )
    tables = [(folder / name / "scores.csv").read_text().splitlines() for name in ("scores-one", "scores-many")]
    assert len(tables[0]) == len(tables[1]) == 10
    for one, many in zip(*(table[1:] for table in tables), strict=True):
        assert one.split(",")[0] == many.split(",")[0]
        assert float(one.split(",")[1]) == pytest.approx(float(many.split(",")[1]), rel=1e-4)
