"""A model's StableHLO program gives what the model gives, for three platforms, without this package."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.export import export_model, verify_export
from padim_jax.export.describe import output_names
from padim_jax.export.runtimes import open_runtimes
from tests.conftest import SMALL, images
from tests.documents import blocks
from tests.exports import TEST, check_equal, fitted

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("padim_jax", "weights_conversion", "flax", "onnx"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_the_lines_of_the_guide_run_it_where_this_package_is_not(tmp_path: Path) -> None:
    model = fitted("plain")
    export_model(model, tmp_path / "bracket-stablehlo", format="stablehlo", batch=len(TEST))
    np.save(tmp_path / "images.npy", TEST)
    (lines,) = [block.code for block in blocks("export") if "jax.export" in block.code and "padim" not in block.code]
    code = f"{BLOCK}import numpy as np\nimages = np.load('images.npy')\n{lines}\nnp.savez('found.npz', **scores)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        check_equal(model, dict(found), TEST)


@pytest.mark.slow
def test_models_of_other_kinds(tmp_path: Path) -> None:
    for name, calibrated, roi in (("standardised, top share", True, True), ("shared", False, False)):
        model = fitted(name, calibrated, roi)
        certificate = export_model(model, tmp_path / "out", TEST, format="stablehlo")
        assert certificate.batch == 1
        assert certificate.largest < 1e-5
        assert verify_export(tmp_path / "out", TEST).known == len(TEST)
        assert verify_export(tmp_path / "out", TEST, model=model).known == len(TEST)


@pytest.mark.slow
def test_aligned_images_and_triangular_solves(lite0: padim.Backbone, tmp_path: Path) -> None:
    config = replace(SMALL, align="shift", image_size=(64, 64), crop_size=(64, 64))
    good = images(8, config)
    model = padim.calibrate(padim.fit(lite0, good, config), good, false_alarm_rate=0.2)
    certificate = export_model(model, tmp_path / "out", good[:2], format="stablehlo", batch=3)
    assert certificate.largest < 1e-5
    for known in (None, model):
        assert verify_export(tmp_path / "out", good[:2], model=known).known == 2
    (runtime,) = open_runtimes(tmp_path / "out", "stablehlo")
    found, match = runtime.run(good[:3]), padim.score(model, good[:3]).match
    assert match is not None
    assert [*found] == sorted(output_names(model))
    np.testing.assert_allclose(found["match"], np.asarray(match), rtol=1e-5)
    photos = np.pad(good, [(0, 0), (8, 8), (8, 9), (0, 0)])
    assert (
        export_model(model, tmp_path / "photo", photos[:2], format="stablehlo", input=("photo", 80, 81)).largest < 1e-5
    )
    assert verify_export(tmp_path / "photo", photos[:2], model=model).known == 2
    solving = padim.fit(lite0, images(8, SMALL), SMALL, solver="triangular-solve")
    assert export_model(solving, tmp_path / "out", format="stablehlo").largest < 1e-5


def test_one_file_is_for_three_platforms_and_refuses_other_images(tmp_path: Path) -> None:
    export_model(fitted("plain", calibrated=False), tmp_path / "out", format="stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    (runtime,) = open_runtimes(tmp_path / "out", "stablehlo")
    for wrong in (TEST, TEST[:1].astype(np.float32), TEST[:1, 1:]):
        with pytest.raises(ValueError, match=r"(Shape|Dtype|shape) mismatch|shape"):
            runtime.run(wrong)
    check_equal(fitted("plain", calibrated=False), dict(runtime.run(TEST[:1])), TEST[:1])
