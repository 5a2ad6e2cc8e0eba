"""``padim export`` and ``padim verify`` as a user meets them."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import padim_jax as padim
from padim_jax.images import read_image
from tests.conftest import SMALL, images, write_images
from tests.exports import fitted
from tests.test_cli import run


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    padim.save(fitted("plain"), tmp_path / "bracket.padim")
    return tmp_path / "bracket.padim"


def test_export_then_verify(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, out = write_images(tmp_path / "good", images(3, SMALL, seed=2)), tmp_path / "out"
    code, told, said = run(capsys, "export", model_dir, tmp_path / "good", "--out", out)
    assert code == 0, said
    assert "ONNX Runtime" in told
    assert f"{out}: onnx, 0." in told
    assert "compared on 3 images named and 6 others, within 0.0001" in told
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    pixels = np.stack([read_image(path, SMALL) for path in good])
    (found,) = session.run(["image_score"], {"images": pixels})
    np.testing.assert_allclose(np.asarray(found), padim.score(fitted("plain"), pixels).image_score, rtol=1e-5)
    code, told, said = run(capsys, "verify", out, tmp_path / "good")
    assert (code, "3 of 3 images named are compared" in told, "note:" in said) == (0, True, False)
    write_images(tmp_path / "others", images(2, SMALL, seed=3))
    code, told, said = run(capsys, "verify", out, tmp_path / "others")
    assert (code, "0 of 2 images named are compared" in told) == (0, True)
    assert "the certificate knows nothing of 2 images; --model compares them too" in said
    code, told, _ = run(capsys, "verify", out, tmp_path / "others", "--model", model_dir)
    assert (code, "2 of 2 images named are compared" in told) == (0, True)
    (out / "reference.npz").write_bytes(b"")
    code, _, said = run(capsys, "verify", out)
    assert (code, "reference.npz is not the file that was certified" in said) == (1, True)


def test_without_images_it_says_so_and_a_model_is_not_written_over(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told, said = run(
        capsys, "export", model_dir, "--out", tmp_path / "out", "--format", "stablehlo", "--batch", 2
    )
    assert (code, "note: no good images were named" in said, "JAX" in told) == (0, True, True)
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["batch"] == 2
    code, _, said = run(capsys, "export", model_dir, "--out", model_dir)
    assert (code, "which results must not be mixed with" in said) == (2, True)
    code, _, said = run(capsys, "export", tmp_path / "nothing", "--out", tmp_path / "new")
    assert (code, "there is no model at" in said, (tmp_path / "new").exists()) == (1, True, False)
    code, _, said = run(capsys, "export", model_dir, "--out", tmp_path / "new", "--format", "tflite")
    assert (code, "'tflite' is not one of" in said) == (2, True)
