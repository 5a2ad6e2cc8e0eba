"""What compares with OpenVINO models that align images: in ONNX, in its own form, and in each precision."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from padim_jax.artifact.compaction import compact
from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.compare import BOUND, BOUNDS
from padim_jax.export.refitting import refit
from padim_jax.export.runtimes import import_openvino, open_runtimes
from tests.exports import PLACED, SHOWN, aligned, check_equal
from tests.test_export_openvino_precision import skip_without

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="compares with OpenVINO, which the extra openvino brings"
)


@pytest.mark.parametrize(
    ("exported", "align", "name", "calibrated", "roi", "batch"),
    [
        ("onnx", "rigid", "plain", True, False, None),
        ("onnx", "shift", "standardised, top share", True, True, 2),
        ("openvino", "rigid", "standardised, top share", True, True, 1),
        ("openvino", "shift", "plain", False, True, None),
        pytest.param("onnx", "rigid", "combined", True, False, None, marks=pytest.mark.slow),
    ],
)
def test_openvino_gives_what_the_model_gives(
    exported: Any, align: Any, name: str, calibrated: bool, roi: bool, batch: int | None, tmp_path: Path
) -> None:
    model = aligned(align, name, calibrated, roi)
    export_model(model, tmp_path / "out", PLACED[:3], format=exported, batch=batch)
    *_, runtime = open_runtimes(tmp_path / "out", exported)
    assert runtime.name == "OpenVINO"
    for count in (len(SHOWN), 1) if batch is None else (batch,):
        check_equal(model, dict(runtime.run(SHOWN[-count:])), SHOWN[-count:])
    assert verify_export(tmp_path / "out", PLACED[:3], model=model).known == 3


def test_of_compact_models_too(tmp_path: Path) -> None:
    small = compact(aligned("rigid"), 0.05)
    export_model(small, tmp_path / "out", batch=2)
    _, runtime = open_runtimes(tmp_path / "out", "onnx")
    check_equal(small.model, dict(runtime.run(SHOWN[4:6])), SHOWN[4:6])


@pytest.mark.slow
def test_eight_bits_of_onnx_runtime_are_exported_where_openvino_is_beyond_the_bound(tmp_path: Path) -> None:
    certificate = export_model(aligned("rigid"), tmp_path / "out", PLACED, precision="int8")
    (own,), (unfit,) = certificate.runtimes, certificate.unfit
    assert (own.name, unfit.name) == ("ONNX Runtime", "OpenVINO")
    assert own.differences.relative < BOUND
    assert BOUNDS["int8"] < unfit.differences.relative < 2 * BOUNDS["int8"]
    found = verify_export(tmp_path / "out", PLACED[:3])
    assert ([report.name for report in found.runtimes], found.unfit) == (["ONNX Runtime"], (unfit,))
    with pytest.raises(ExportError, match="the folder 'cpp' runs the program in OpenVINO"):
        export_model(aligned("rigid"), tmp_path / "out", PLACED, precision="int8", runtimes=["cpp"])
    assert verify_export(tmp_path / "out").certificate.unfit  # the earlier one is still there


@pytest.mark.parametrize(("align", "photo"), [("rigid", False), ("shift", True)])
def test_in_eight_bits_too(align: Any, photo: bool, tmp_path: Path) -> None:
    shown = PLACED.repeat(2, axis=1).repeat(2, axis=2) if photo else PLACED
    size: Any = ("photo", *shown.shape[1:3]) if photo else None
    export_model(aligned(align), tmp_path / "out", shown, format="openvino", precision="int8", input=size)
    (report,) = verify_export(tmp_path / "out", shown[:4]).runtimes
    assert report.differences.relative < BOUND


@pytest.mark.parametrize(
    ("align", "name", "photo", "batch", "changes"),
    [
        ("rigid", "plain", False, None, {}),
        ("rigid", "standardised, top share", False, 1, {}),
        ("rigid", "plain", False, 1, {"max_angle": 20.0}),
        ("shift", "plain", True, None, {}),
        pytest.param("shift", "standardised, top share", False, 1, {}, marks=pytest.mark.slow),
        pytest.param("rigid", "combined", False, 2, {}, marks=pytest.mark.slow),
        pytest.param("rigid", "neighbourhood, semi-orthogonal", False, None, {}, marks=pytest.mark.slow),
    ],
)
def test_in_bfloat16_poses_and_pixels_stay_as_they_are(
    align: Any, name: str, photo: bool, batch: int | None, changes: dict[str, Any], tmp_path: Path
) -> None:
    skip_without("bfloat16")
    model, n = aligned(align, name, **changes), len(SHOWN) if batch is None else batch
    good, shown = [x.repeat(2, axis=1).repeat(2, axis=2) if photo else x for x in (PLACED, SHOWN)]
    size: Any = ("photo", *shown.shape[1:3]) if photo else None
    options: dict[str, Any] = {"format": "openvino", "precision": "bfloat16", "input": size, "batch": batch}
    certificate = export_model(model, tmp_path / "out", good, **options)
    assert certificate.largest < BOUND / 10
    (runtime,) = open_runtimes(tmp_path / "out", "openvino", "bfloat16")
    if photo:  # bytes, which are exact in bfloat16 too, may pass through it while a photo is resized
        return
    again = refit(model, [PLACED], "bfloat16", "openvino")
    for start in (0, 3):
        check_equal(again, dict(runtime.run(SHOWN[start : start + n])), SHOWN[start : start + n])
    core = import_openvino().Core()
    read = core.read_model(str(tmp_path / "out" / "model.xml"))
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    lower = [
        op.get_friendly_name()
        for op in compiled.get_runtime_model().get_ops()
        if op.get_rt_info()["runtimePrecision"].astype(str) == "bf16" and "network/" not in op.get_friendly_name()
    ]
    assert lower == []
