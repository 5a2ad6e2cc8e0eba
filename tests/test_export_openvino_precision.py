"""What compares with OpenVINO in eight bits and in bfloat16: as close to a model fitted on it as in 32 bits."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.compare import BOUND
from padim_jax.export.refitting import refit, usual_score
from padim_jax.export.runtimes import import_openvino, open_runtimes
from tests.conftest import SMALL, images
from tests.exports import TEST, backbone, check_equal, compacted, fitted, in_eight_bits

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="compares with OpenVINO, which the extra openvino brings"
)
SHOWN = images(24, SMALL)
PHOTOS = np.pad(SHOWN, [(0, 0), (4, 4), (4, 5), (0, 0)])
PRECISIONS = ("int8", "bfloat16")


def skip_without(precision: str) -> None:
    if precision == "bfloat16" and "BF16" not in import_openvino().Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        pytest.skip("compares with OpenVINO in bfloat16, which this processor does not have")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "calibrated", "roi", "photo", "batch"),
    [
        ("plain", True, False, False, None),
        ("plain", False, True, True, 1),
        ("standardised, top share", True, True, False, 5),
        ("neighbourhood, semi-orthogonal", True, False, True, None),
        pytest.param("combined", True, False, False, None, marks=pytest.mark.slow),
        pytest.param("shared", True, False, True, None, marks=pytest.mark.slow),
    ],
)
def test_it_is_as_close_to_the_model_that_was_fitted_anew_as_in_32_bits(
    name: str, calibrated: bool, roi: bool, photo: bool, batch: int | None, precision: Any, tmp_path: Path
) -> None:
    skip_without(precision)
    model, shown = fitted(name, calibrated, roi), PHOTOS if photo else SHOWN
    size: Any = ("photo", *shown.shape[1:3]) if photo else None
    options: dict[str, Any] = {"format": "openvino", "precision": precision, "input": size, "batch": batch}
    certificate = export_model(model, tmp_path / "out", shown, **options)
    (report,) = certificate.runtimes
    assert (report.name, report.differences.relative < BOUND) == ("OpenVINO", True)
    found = verify_export(tmp_path / "out", shown[:4])
    assert (found.known, found.runtimes[0].differences.relative < BOUND) == (4, True)
    with pytest.raises(ExportError, match=f"is in {precision}, and holds a model of its own"):
        verify_export(tmp_path / "out", model=model)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_model_is_that_of_a_fit_on_what_openvino_gives(precision: Any, tmp_path: Path) -> None:
    skip_without(precision)
    export_model(fitted("plain"), tmp_path / "out", SHOWN, format="openvino", precision=precision)
    again = refit(fitted("plain"), [SHOWN], precision, "openvino")
    whole = in_eight_bits(fitted("plain"), [SHOWN], "openvino") if precision == "int8" else again
    (runtime,) = open_runtimes(tmp_path / "out", "openvino", precision)
    check_equal(whole, dict(runtime.run(TEST)), TEST)
    by_onnx = refit(fitted("plain"), [SHOWN], "int8", "onnx")
    assert again.embedding.weights_digest != by_onnx.embedding.weights_digest


def test_few_images_and_no_calibration_are_enough_for_every_runtime(tmp_path: Path) -> None:
    """Images that a model of few was fitted on lie almost at the mean, and their own maps are no scale."""
    few = images(4, SMALL)
    model = padim.fit(backbone("efficientnet_lite0"), few, SMALL)
    certificate = export_model(model, tmp_path / "out", few, precision="int8")
    assert [report.name for report in certificate.runtimes] == ["ONNX Runtime", "OpenVINO"]
    again = refit(model, [few], "int8", "onnx")
    usual = float(np.median(np.asarray(padim.calibrate(again, few).calibration.scores)))  # type: ignore[union-attr]
    assert usual_score(again, [few, few]) == pytest.approx(usual)
    assert [image.scale for image in certificate.good] == pytest.approx([usual] * 4)
    assert max(image.image_score for image in certificate.good) < usual / 10
    assert verify_export(tmp_path / "out", few).known == 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_compact_model_too(precision: Any, tmp_path: Path) -> None:
    skip_without(precision)
    options: dict[str, Any] = {"format": "openvino", "precision": precision}
    certificate = export_model(compacted("triangle-16bit"), tmp_path / "out", images(6, SMALL), **options)
    assert certificate.largest < BOUND
    assert (certificate.worst_case is None) == (precision == "int8")  # whose factors are in integers instead
    assert verify_export(tmp_path / "out").runtimes


def test_the_network_alone_is_in_bfloat16(tmp_path: Path) -> None:
    skip_without("bfloat16")
    size = ("photo", *PHOTOS.shape[1:3])
    export_model(fitted("plain"), tmp_path / "out", PHOTOS, format="openvino", precision="bfloat16", input=size)  # pyright: ignore[reportArgumentType]
    core = import_openvino().Core()
    read = core.read_model(str(tmp_path / "out" / "model.xml"))
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    types: dict[str, set[str]] = {}
    for op in compiled.get_runtime_model().get_ops():
        facts = {name: op.get_rt_info()[name].astype(str) for name in ("layerType", "runtimePrecision")}
        if facts["layerType"] not in ("Reorder", "Const", "Input", "Output"):
            types.setdefault(facts["layerType"], set()).add(facts["runtimePrecision"])
    assert types["Convolution"] == {"bf16"}
    for name in ("MatMul", "FullyConnected", "Reduce", "Concatenation"):
        assert "bf16" not in types.get(name, set()), name


def test_the_hint_on_a_program_of_32_bits_is_what_it_is_for(tmp_path: Path) -> None:
    """Why there is a precision of that name: the hint alone moves scores by far more than the bound."""
    skip_without("bfloat16")
    export_model(fitted("plain"), tmp_path / "out", format="openvino")
    found = [dict(open_runtimes(tmp_path / "out", "openvino", hint)[0].run(TEST)) for hint in ("float32", "bfloat16")]
    maps = [one["anomaly_map"] for one in found]
    assert np.abs(maps[1] - maps[0]).max() > 10 * BOUND * np.abs(maps[0]).max()


def test_a_processor_without_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = import_openvino()

    class Plain(openvino.Core):  # type: ignore[misc]
        def get_property(self, *names: str) -> Any:
            return ["FP32", "INT8"] if "OPTIMIZATION_CAPABILITIES" in names else super().get_property(*names)

    monkeypatch.setattr(openvino, "Core", Plain)
    with pytest.raises(
        ExportError,
        match=r"^OpenVINO: precision='bfloat16' takes a processor that computes in it, and this one does not",
    ):
        export_model(fitted("plain"), tmp_path / "out", SHOWN, format="openvino", precision="bfloat16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exported", ["onnx", "stablehlo"])
def test_other_formats_have_no_bfloat16(exported: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"precision='bfloat16' takes format='openvino', and '{exported}' was asked"):
        export_model(fitted("plain"), tmp_path / "out", SHOWN, format=exported, precision="bfloat16")
