"""From files to scores in a line each, and arrays as ever."""

import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.images import UnreadableImage, find_images
from padim_jax.images.folder import digest_file
from padim_jax.method import scoring
from padim_jax.method.fitting import fit as fit_arrays
from padim_jax.runs import Watch
from padim_jax.runs.calibrate import Terms, calibrate_model
from padim_jax.runs.engines import OneDevice
from tests.conftest import SMALL, images, write_images
from tests.image_files import png

SEEN = padim.PadimConfig(**{**SMALL.__dict__, "image_size": SMALL.crop})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight good images, in a folder with a folder in it, and a file that is none."""
    folder = tmp_path_factory.mktemp("files") / "good"
    write_images(folder, images(5, SMALL))
    write_images(folder / "later", images(3, SMALL, seed=4))
    (folder / "notes.txt").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def model(good: Path, lite0: padim.Backbone) -> padim.Padim:
    return padim.fit(lite0, good, SEEN)


def every(good: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(good.rglob("*.png"))])


def assert_same(found: padim.Padim, wanted: padim.Padim) -> None:
    test = images(2, SMALL, seed=9)
    np.testing.assert_allclose(
        scoring.score(found, test).anomaly_map, scoring.score(wanted, test).anomaly_map, rtol=2e-3
    )


@pytest.mark.slow
def test_a_folder_of_files_is_fitted_as_its_images(good: Path, model: padim.Padim, lite0: padim.Backbone) -> None:
    assert int(model.count) == 8
    wanted = fit_arrays(lite0, [every(good)], SEEN)
    assert_same(model, wanted)
    paths = sorted(good.rglob("*.png"))
    for given in (str(good), paths, [str(path) for path in paths], (path for path in paths), [*paths, good]):
        assert_same(padim.fit(lite0, given, SEEN, batch_size=8), wanted)


def test_a_name_loads_the_backbone(good: Path, model: padim.Padim) -> None:
    assert_same(padim.fit("efficientnet_lite0", good, SEEN), model)
    with pytest.raises(ValueError, match="unknown backbone 'vgg'"):
        padim.fit("vgg", good)


def test_a_preset_given_as_backbone_is_called_a_preset(good: Path) -> None:
    with pytest.raises(ValueError, match=r"^fit: 'lite0' is a preset, wanted a backbone; .*padim\.preset\('lite0'\)"):
        padim.fit("lite0", good)
    assert padim.preset("lite0") is padim.PRESETS["lite0"]


def test_principal_components_read_the_files_twice(good: Path, lite0: padim.Backbone) -> None:
    config = padim.PadimConfig(**{**SEEN.__dict__, "projection": "principal-components"})
    assert padim.fit(lite0, good, config).projection is not None


def test_scores_come_in_the_order_of_the_files(good: Path, model: padim.Padim) -> None:
    wanted = scoring.score(model, every(good))
    found = padim.score(model, good, batch_size=3)
    assert isinstance(found.anomaly_map, jax.Array)
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-4)
    paths = sorted(good.rglob("*.png"))[::-1]
    np.testing.assert_allclose(padim.score(model, paths).image_score, wanted.image_score[::-1], rtol=1e-4)
    np.testing.assert_allclose(padim.score(model, str(paths[0])).image_score, wanted.image_score[-1:], rtol=1e-4)
    twice = padim.score(model, [paths[0], paths[0]]).image_score
    np.testing.assert_allclose(twice, [wanted.image_score[-1]] * 2, rtol=1e-4)


def test_files_calibrate_as_their_images(good: Path, model: padim.Padim) -> None:
    found, wanted = padim.calibrate(model, good, batch_size=3), scoring.calibrate(model, [every(good)])
    assert found.calibration is not None
    assert wanted.calibration is not None
    np.testing.assert_allclose(found.calibration.scores, wanted.calibration.scores, rtol=5e-3)
    assert padim.score(found, good).p_value is not None
    other = padim.calibrate(model, [good / "later"], held_out=True).calibration
    assert other is not None
    assert other.method == "held-out"


def test_a_file_that_the_model_was_not_fitted_on_is_named(
    model: padim.Padim, lite0: padim.Backbone, tmp_path: Path
) -> None:
    first = write_images(tmp_path, images(3, SMALL, seed=7))[0]
    said = rf"^calibrate: {re.escape(str(first))} is not among the {int(model.count)} images .*pass held_out=True"
    with pytest.raises(scoring.NoLeaveOneOut, match=said):
        padim.calibrate(model, tmp_path)
    engine, listed = OneDevice(lite0), {digest_file(path): 1.0 for path in tmp_path.iterdir()}
    with pytest.raises(scoring.NoLeaveOneOut, match=said):
        calibrate_model(engine, engine.hold(model), find_images([tmp_path]).paths, listed, Terms(), 4, Watch())


def test_the_range_of_deep_images_is_found(tmp_path: Path, lite0: padim.Backbone) -> None:
    for index, image in enumerate(images(3, SMALL)):
        (tmp_path / f"{index}.png").write_bytes(png(image.astype(np.uint16) * 16))
    assert padim.fit(lite0, tmp_path, SEEN).config.value_range == (0, 4095)


def test_what_is_decided_about_files_is_warned_of_once(good: Path, model: padim.Padim, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGBA", (48, 32), (9, 9, 9, 100)).save(tmp_path / f"{name}.png")
    with pytest.warns(UserWarning, match=r"a\.png: .*black.* \(and 2 more files\)") as told:
        padim.score(model, tmp_path)
    assert [one.filename for one in told] == [__file__]


def test_arrays_pass_straight_through(model: padim.Padim, lite0: padim.Backbone) -> None:
    x = images(8, SMALL)
    wanted = fit_arrays(lite0, [x], SEEN)
    for given in ([x[:4], x[4:]], x, (part for part in (x[:4], x[4:])), jax.numpy.asarray(x)):
        assert_same(padim.fit(lite0, given, SEEN), wanted)
    test = images(2, SMALL, seed=1)
    inside = jax.jit(lambda model, x: padim.score(model, x).image_score)(model, test)
    np.testing.assert_allclose(inside, scoring.score(model, test).image_score, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert padim.calibrate(wanted, x).calibration is not None


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b, m, t: padim.fit(b, "nowhere"), FileNotFoundError, "fit: there is no file or folder nowhere"),
        (lambda b, m, t: padim.score(m, "no.png"), FileNotFoundError, "score: there is no file or folder no.png"),
        (lambda b, m, t: padim.calibrate(m, t), ValueError, "calibrate: found no images in .*only 1 .txt"),
        (lambda b, m, t: padim.score(m, [t / "a.txt"]), UnreadableImage, r"can't read .*a\.txt"),
        (lambda b, m, t: padim.fit(b, t / "a.txt"), UnreadableImage, r"can't read .*a\.txt"),
        (lambda b, m, t: padim.fit(b, 3), TypeError, "fit: images are of type int, wanted a path, several paths, or"),  # type: ignore[arg-type]
        (lambda b, m, t: padim.score(m, None), TypeError, "score: images are of type NoneType"),  # type: ignore[arg-type]
        (lambda b, m, t: padim.fit(b, [t, images(1, SMALL)]), TypeError, "fit: paths and objects of type ndarray are m"),  # type: ignore[arg-type]
        (lambda b, m, t: padim.fit(None, t), TypeError, "fit: backbone is of type NoneType, wanted a name or what load"),  # type: ignore[arg-type]
        (lambda b, m, t: padim.score(m, images(1, SMALL)[0]), ValueError, r"one image, \(32, 48, 3\).*pass images\[None\]"),
        (lambda b, m, t: padim.fit(b, images(1, SMALL)[0], SEEN), ValueError, r"fit: this is one image.*images\[None\]"),
        (lambda b, m, t: padim.score(m, images(1, SMALL) / 255), TypeError, r"got float64; .*\(255 \* images\)\.round"),
        (lambda b, m, t: padim.fit(b, iter(()), SEEN), ValueError, "0 images give no covariance"),
    ],
)  # fmt: skip
def test_wrong_input_is_told(
    lite0: padim.Backbone, model: padim.Padim, tmp_path: Path, call: Any, error: type[Exception], words: str
) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(error, match=words):
        call(lite0, model, tmp_path)
