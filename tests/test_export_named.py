"""Images that a model is fitted anew on: which are those of its fit, whether others are good, and what they count as."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import Updatable, save_updatable
from padim_jax.export import ExportError, export_model
from padim_jax.export.named import Named
from padim_jax.export.program_model import open_model
from padim_jax.images.folder import digest_file
from tests.conftest import SMALL, images, write_images
from tests.exports import backbone, fitted
from tests.test_cli import run

GOOD = images(24, SMALL)
BAD = images(12, SMALL, seed=3) // 4
BAD[:, 10:30, 10:40] = 255 * (np.indices((20, 30)).sum(0) % 2)[..., None]
CALL = "export_model: precision='int8'"


def files_of(folder: Path, shown: np.ndarray) -> list[Path]:
    """Files that are read as these images, which are the middle of what is in them."""
    return write_images(folder, np.pad(shown, [(0, 0), (4, 4), (4, 4), (0, 0)], mode="edge"))


def stored(tmp_path: Path, half_life: float | None = None, **changes: Any) -> tuple[Path, list[Path]]:
    """A model that lists its images, and their files."""
    network, files = backbone("efficientnet_lite0"), files_of(tmp_path / "good", GOOD)
    moments = padim.update(network, padim.init(network, SMALL), GOOD, half_life=half_life)
    ages = range(len(files))[::-1]
    weights = {
        digest_file(path): 1.0 if half_life is None else 2 ** (-age / half_life)
        for path, age in zip(files, ages, strict=True)
    }
    found = Updatable(network, moments, weights, calibration=fitted("plain").calibration)
    save_updatable(replace(found, **changes), tmp_path / "model")
    return tmp_path / "model", files


def test_images_with_defects_do_not_make_another_model(tmp_path: Path) -> None:
    model, _ = stored(tmp_path)
    files_of(tmp_path / "bad", BAD)
    message = "int8.: the 12 images named that are not its own score much higher by the model than its good images"
    with pytest.raises(ExportError, match=message):
        export_model(model, tmp_path / "out", tmp_path / "bad", precision="int8")
    with pytest.raises(ExportError, match="the 12 images named score much higher by the model"):
        export_model(fitted("plain"), tmp_path / "out", BAD, precision="int8")
    assert not (tmp_path / "out").exists()


def test_a_few_images_with_defects_among_those_of_the_fit_are_found(tmp_path: Path) -> None:
    model, _ = stored(tmp_path)
    mixed = [tmp_path / "good", *files_of(tmp_path / "bad", BAD[:5])]
    with pytest.raises(ExportError, match="the 5 images named that are not its own score much higher"):
        export_model(model, tmp_path / "out", mixed, precision="int8")


def test_which_images_are_those_of_the_fit_is_said_by_command_and_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, files = stored(tmp_path)
    others = files_of(tmp_path / "others", images(2, SMALL, seed=7))
    certificate = export_model(model, tmp_path / "out", [*files[:20], *others], precision="int8")
    among = "20 of the 22 images named are among those of the fit; 4 of the fit are missing"
    counts = "the images of the fit counted as 24; the 22 different ones named count as 1 each"
    assert certificate.notes[:2] == (among, counts)
    code, _, said = run(capsys, "export", model, *files[:20], *others, "--out", tmp_path / "out", "--precision", "int8")
    assert code == 0, said
    assert f"note: {among}" in said
    assert f"note: {counts}" in said


def named(places: Any, model: Path) -> Named:
    return Named(CALL, places, open_model(model).weights)


def test_all_images_of_the_fit_are_not_compared_and_none_is_missing(tmp_path: Path) -> None:
    model, files = stored(tmp_path, calibration=None)
    before = padim.load(model)
    found = named(files, model)
    assert found.notes(before, before, 24) == [
        "24 of the 24 images named are among those of the fit; 0 of the fit are missing"
    ]
    calibration = replace(fitted("plain").calibration, scores=np.zeros(24, np.float32))  # type: ignore[type-var]
    found.check_good(replace(before, calibration=calibration), [GOOD])  # its own may score as they do
    with pytest.raises(ExportError, match="the 24 images named score much higher"):
        Named(CALL, None, None).check_good(replace(before, calibration=calibration), [GOOD])


def test_weights_of_images_that_had_faded_are_not_lost_without_a_word(tmp_path: Path) -> None:
    model, files = stored(tmp_path, half_life=5.0)
    before, after = padim.load(model), fitted("plain")
    faded = (
        f"the images of the fit counted as {float(before.count):.4g}, since older ones had faded (padim update "
        "--half-life); the 24 different ones named count as 1 each"
    )
    assert named(files, model).notes(before, after, 24)[1:] == [faded]
    assert Named(CALL, None, None).notes(before, after, 24)[1:] == [faded]  # of arrays too
    certificate = export_model(model, tmp_path / "out", files, precision="int8")
    assert faded in certificate.notes


def test_what_is_not_known_of_the_images_is_said(tmp_path: Path) -> None:
    _, files = stored(tmp_path)
    before = fitted("plain", calibrated=False)
    unchecked = "; whether others are as good was not checked, since the model is not calibrated"
    start = "whether the 24 images named are those of the fit is not known, since "
    arrays, deployed = Named(CALL, None, None), Named(CALL, files, None)
    assert arrays.notes(fitted("plain"), before, 24) == [start + "they are arrays"]
    assert arrays.notes(before, before, 24) == [start + "they are arrays" + unchecked]
    assert deployed.notes(fitted("plain"), before, 24) == [start + "the model does not list these"]
    padim.save(before, tmp_path / "deployed")
    assert open_model(tmp_path / "deployed").weights is None
