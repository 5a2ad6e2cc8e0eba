"""Factors in integers beside a network in eight bits: of mixed and averaged channels, of few images, in both runtimes."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import padim_jax as padim
from padim_jax.artifact.compaction import Compacted
from padim_jax.export import export_model, verify_export
from padim_jax.export.certificate import Certificate
from padim_jax.export.compare import BOUND, differences, map_scales
from padim_jax.export.integer_factors import LARGEST_ERROR, FactorsKept, in_integers
from padim_jax.export.onnx_model import onnx_model
from padim_jax.export.refitting import refit
from padim_jax.export.runtimes import open_runtimes
from padim_jax.gaussians.integer_products import IntegerWhitening
from tests.conftest import SMALL, images
from tests.exports import PLACED, ROI, SHOWN, TEST, aligned, backbone, compacted, fitted, wanted

GOOD = images(24, SMALL)
FEW = GOOD[:6]
CLOSE, CLOSE_OF_FRACTIONS = 1e-5, 5e-5  # of the maps' scale; the export itself allows 1e-4
FORMATS = [
    "onnx",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("openvino") is None,
            reason="compares with OpenVINO, which the extra openvino brings",
        ),
    ),
]


def export(
    model: padim.Padim | Compacted, good: np.ndarray, shown: np.ndarray, format: Any, out: Path, **options: Any
) -> Certificate:
    """Export in eight bits, and hold the program against the model of integers that it should be."""
    certificate = export_model(model, out, good, format=format, precision="int8", **options)
    whole = model if isinstance(model, padim.Padim) else model.model
    held = in_integers(refit(whole, [good], "int8", format))
    again, integers = held.model, held.quantised
    assert isinstance(integers, IntegerWhitening)
    close = CLOSE_OF_FRACTIONS if integers.zeros is None else CLOSE
    runtime = open_runtimes(out, format, "int8")[0]
    for count in (len(shown), 1) if not options.get("batch") else (options["batch"],):
        expected, found = wanted(again, shown[:count]), dict(runtime.run(shown[:count]))
        off = differences(expected, found, map_scales(again, expected["anomaly_map"]))
        assert off.relative < close
        assert off.flipped == 0
        assert all(np.array_equal(expected[name], found[name]) for name in expected if expected[name].dtype == bool)
    assert certificate.factor_error is not None
    assert certificate.factor_error <= LARGEST_ERROR
    assert verify_export(out, good[:3]).runtimes[0].differences.relative < BOUND
    return certificate


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("name", "calibrated", "roi", "batch"),
    [
        ("neighbourhood, semi-orthogonal", True, False, None),
        ("plus", True, True, None),
        pytest.param("neighbourhood", False, False, 1, marks=pytest.mark.slow),
        pytest.param("plus", True, False, 2, marks=pytest.mark.slow),
        pytest.param("standardised, top share", True, True, None, marks=pytest.mark.slow),
        pytest.param("one for all, neighbourhood", True, False, None, marks=pytest.mark.slow),
    ],
)
def test_channels_that_are_mixed_and_averaged(
    name: str, calibrated: bool, roi: bool, batch: int | None, format: Any, tmp_path: Path
) -> None:
    certificate = export(fitted(name, calibrated, roi), GOOD, TEST, format, tmp_path / "out", batch=batch)
    (note,) = certificate.notes
    assert note.startswith(
        f"whether the {len(GOOD)} images named are those of the fit is not known, since they are arrays"
    )
    if roi:
        found = open_runtimes(tmp_path / "out", format, "int8")[0].run(TEST[: batch or 2])
        assert (found["anomaly_map"][:, ~ROI] <= 0).all()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["plain", pytest.param("plus", marks=pytest.mark.slow)])
def test_aligned_images(name: str, format: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if format == "onnx":
        request.getfixturevalue("without_openvino")
    export(aligned("rigid", name, roi=name == "plus"), PLACED, SHOWN, format, tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["plain", pytest.param("neighbourhood, semi-orthogonal", marks=pytest.mark.slow)])
def test_few_images_take_14_bits_and_the_certificate_says_why(name: str, format: Any, tmp_path: Path) -> None:
    certificate = export(few(name), FEW, TEST, format, tmp_path / "out")
    named, note = certificate.notes
    assert named.startswith("whether the ")
    assert note.startswith("factors take 14 bits: with seven, rounding would move their products by ")
    assert certificate.factor_error is not None
    assert certificate.factor_error < LARGEST_ERROR / 10


@pytest.mark.slow
@pytest.mark.parametrize("form", ["low-rank", "triangle-16bit"])
def test_few_images_of_a_compact_model_too(form: Any, tmp_path: Path) -> None:
    found = compacted(form)
    calibrated = replace(found, model=replace(found.model, calibration=few("plain").calibration))
    certificate = export(calibrated, FEW, TEST, "onnx", tmp_path / "out")
    lost = ["the model was of low rank, and is not any more, since it was fitted anew"] * (form == "low-rank")
    assert certificate.notes[1:-1] == tuple(lost)
    assert certificate.worst_case is None


def test_what_is_stored_has_seven_bits_a_byte(tmp_path: Path) -> None:
    """With eight, processors without VNNI instructions would add up products beyond 16 bits."""
    export_model(few("neighbourhood, semi-orthogonal"), tmp_path / "out", FEW, precision="int8")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    stored = {node.output[0]: constants.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear"}
    (panel,) = [
        values for node in graph.node if node.op_type == "MatMul" and (values := stored.get(node.input[1])) is not None
    ]
    assert panel.dtype == np.int8
    assert panel.shape[2] == 2 * panel.shape[1]  # two parts, side by side
    assert np.abs(panel.astype(int)).max() <= 64


def test_products_are_a_convolution_for_openvino_where_the_number_of_images_is_fixed() -> None:
    held = in_integers(refit(fitted("plain"), [GOOD], "int8", "onnx"))
    cases: list[tuple[Any, int | None, bool]] = [("onnx", 1, False), ("openvino", None, False), ("openvino", 1, True)]
    for runtime, batch, expected in cases:
        graph = onnx_model(held.model, batch, held.quantised, runtime=runtime).graph
        after = [node for node in graph.node if node.op_type == "Conv" and not node.name.startswith("network/")]
        groups = [one.i for node in after for one in node.attribute if one.name == "group"]
        assert groups == [held.model.embedding.n_positions] * expected, (runtime, batch)


def test_digits_are_as_fine_as_float32() -> None:
    """Images that no part looks like too: no embedding lies beyond what the digits hold."""
    model = fitted("neighbourhood, semi-orthogonal")
    again = refit(model, [GOOD], "int8", "onnx")
    found = in_integers(again).model
    exact = np.asarray(padim.score(replace(again, calibration=None), TEST).anomaly_map)
    rounded = np.asarray(padim.score(replace(found, calibration=None), TEST).anomaly_map)
    assert 0 < np.abs(rounded / exact - 1).max() < 0.1


@pytest.mark.slow
def test_what_keeps_factors_from_being_integers_is_said_with_its_measure() -> None:
    again = refit(fitted("plain"), [GOOD], "int8", "onnx")
    with pytest.raises(
        FactorsKept, match=r"would move their products by 0\.000\d+ of a standard deviation, and 1e-06 is the most"
    ):
        in_integers(again, 1e-6)
    with pytest.raises(FactorsKept, match="several Gaussians at each position"):
        in_integers(refit(fitted("shared"), [GOOD], "int8", "onnx"))


def few(name: str) -> padim.Padim:
    """A model of fewer images than channels."""
    config = fitted(name).config
    return padim.calibrate(padim.fit(backbone("efficientnet_lite0"), [FEW], config), [FEW])
