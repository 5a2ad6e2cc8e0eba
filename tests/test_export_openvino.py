"""What compares with OpenVINO, which the extra ``openvino`` brings."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from padim_jax.export import export_model
from padim_jax.export.runtimes import open_runtimes
from tests.exports import TEST, check_equal, compacted, fitted

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="compares with OpenVINO, which the extra openvino brings"
)


@pytest.mark.parametrize(
    ("name", "calibrated", "roi"),
    [("plain", True, False), ("neighbourhood, semi-orthogonal", False, False), ("standardised, top share", True, True)],
)
def test_openvino_gives_what_the_model_gives(name: str, calibrated: bool, roi: bool, tmp_path: Path) -> None:
    model = fitted(name, calibrated, roi)
    certificate = export_model(model, tmp_path / "out")
    assert [report.name for report in certificate.runtimes] == ["ONNX Runtime", "OpenVINO"]
    _, runtime = open_runtimes(tmp_path / "out", "onnx")
    for shown in (TEST, TEST[:1]):
        check_equal(model, dict(runtime.run(shown)), shown)


@pytest.mark.parametrize("form", ["triangle-16bit", "low-rank-16bit"])
def test_of_compact_models_too(form: str, tmp_path: Path) -> None:
    small = compacted(form)  # pyright: ignore[reportArgumentType]
    export_model(small, tmp_path / "out", batch=2)
    _, runtime = open_runtimes(tmp_path / "out", "onnx")
    check_equal(small.model, dict(runtime.run(TEST[:2])), TEST[:2])


def test_a_wrong_type_or_size_is_its_error(tmp_path: Path) -> None:
    export_model(fitted("plain"), tmp_path / "out")
    _, runtime = open_runtimes(tmp_path / "out", "onnx")
    for wrong in (TEST.astype(np.float32), TEST[:, 1:]):
        with pytest.raises(RuntimeError, match=r"(?i)mismatch|incompatible|shape"):
            runtime.run(wrong)


def test_nobody_is_told_that_it_runs(tmp_path: Path) -> None:
    export_model(fitted("plain"), tmp_path / "out")
    assert "openvino" in sys.modules
    assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
