"""Exports whose network is in eight bits: what they were fitted on is what they run, and what can't be is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest

import padim_jax as padim
from padim_jax.export import export_model, verify_export
from padim_jax.export.certificate import CERTIFICATE
from padim_jax.export.compare import BOUND, BOUNDS
from padim_jax.export.describe import ExportError
from padim_jax.export.graph import OPSET
from padim_jax.export.refitting import refit
from padim_jax.export.runtime_network import RuntimeBackbone
from padim_jax.export.runtimes import open_runtimes
from padim_jax.method.calibration import at_threshold
from padim_jax.method.embedding import embed
from tests.conftest import SMALL, images
from tests.exports import ROI, TEST, backbone, check_equal, fitted, in_eight_bits

GOOD = images(24, SMALL)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, padim.Padim]:
    """An export in eight bits, and the model that it holds."""
    folder = tmp_path_factory.mktemp("int8") / "part"
    export_model(fitted("plain"), folder, GOOD, precision="int8")
    return folder, in_eight_bits(fitted("plain"), [GOOD])


def run(folder: Path, shown: np.ndarray) -> dict[str, np.ndarray]:
    return dict(open_runtimes(folder, "onnx")[0].run(shown))


def test_the_program_gives_what_the_model_that_was_fitted_anew_gives(pair: tuple[Path, padim.Padim]) -> None:
    folder, model = pair
    check_equal(model, run(folder, TEST), TEST)
    check_equal(model, run(folder, TEST[:1]), TEST[:1])


def test_network_and_factors_are_in_eight_bits_and_nothing_else_is(pair: tuple[Path, padim.Padim]) -> None:
    graph = onnx.load(pair[0] / "model.onnx").graph
    constants = {constant.name: constant for constant in graph.initializer}
    dequantised = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    products = [node for node in graph.node if node.op_type in ("MatMul", "Einsum") and {*node.input} & {*dequantised}]
    assert convolutions
    assert len(products) == 1  # panels of d = 12
    for node in convolutions + products:
        assert node.input[0] in dequantised
        stored = constants[dequantised[node.input[1]].input[0]]
        assert stored.data_type == onnx.TensorProto.INT8
        assert int(np.abs(onnx.numpy_helper.to_array(stored).astype(int)).max()) <= 64  # seven bits
    for name in products[0].input:  # with a scale of 1 they are integers, whose products are not rounded
        assert onnx.numpy_helper.to_array(constants[dequantised[name].input[1]]) == 1
    assert all(entry.version == OPSET for entry in onnx.load(pair[0] / "model.onnx").opset_import)


def test_factors_in_integers_change_scores_by_little(pair: tuple[Path, padim.Padim]) -> None:
    exact = np.asarray(padim.score(refit(fitted("plain"), [GOOD], "int8", "onnx"), GOOD).image_score)
    found = np.asarray(padim.score(pair[1], GOOD).image_score)
    assert (found != exact).all()
    np.testing.assert_allclose(found, exact, rtol=0.05)
    assert abs(np.mean(found / exact) - 1) < 0.01  # and on the average not at all


def test_it_is_calibrated_anew_at_the_rates_of_the_model(pair: tuple[Path, padim.Padim]) -> None:
    before, after = fitted("plain").calibration, pair[1].calibration
    assert before is not None
    assert after is not None
    assert after.false_alarm_rate == before.false_alarm_rate
    assert after.method == "leave-one-out"
    assert not np.array_equal(after.scores, before.scores)
    # rounding moves what the Gaussians are of, so that those of 32 bits would not do
    stale = replace(fitted("plain"), backbone=pair[1].backbone)
    moved = np.asarray(padim.score(replace(stale, calibration=None), GOOD).image_score)
    own = np.asarray(padim.score(replace(pair[1], calibration=None), GOOD).image_score)
    assert np.median(moved) > 1.03 * np.median(own)


def test_channels_and_layers_are_those_of_the_model(pair: tuple[Path, padim.Padim]) -> None:
    model, network = fitted("plain"), pair[1].backbone
    assert isinstance(network, RuntimeBackbone)
    assert pair[1].embedding == replace(model.embedding, weights_digest=network.weights_digest)
    quantised, whole = (
        np.asarray(jax.jit(lambda x, b=b: embed(b, model.embedding, x))(TEST)) for b in (network, model.backbone)
    )
    error = np.sqrt(np.mean((quantised - whole) ** 2) / np.mean(whole**2))
    assert 0.001 < error < 0.5
    with pytest.raises(ValueError, match="only the layers and channels of its own model are in its program"):
        network(np.zeros((1, *SMALL.crop, 3), np.float32), {"block2": None})  # type: ignore[arg-type]


def test_the_certificate_says_so_and_verifies(pair: tuple[Path, padim.Padim], tmp_path: Path) -> None:
    folder, _ = pair
    found = verify_export(folder, [GOOD[:3]])
    assert (found.certificate.precision, found.certificate.bound) == ("int8", BOUNDS["int8"])
    assert found.known == 3
    assert next(r for r in found.runtimes if r.name == "ONNX Runtime").differences.relative < BOUND
    with pytest.raises(ExportError, match="is in int8, and holds a model of its own, fitted on what the network gives"):
        verify_export(folder, model=fitted("plain"))


def test_folders_that_run_it_know_that_eight_bits_differ(tmp_path: Path) -> None:
    export_model(fitted("plain"), tmp_path / "part", GOOD, precision="int8", runtimes=["javascript", "cpp"])
    expected = json.loads((tmp_path / "part" / "examples" / "expected.json").read_text())
    assert expected["bound"] == BOUNDS["int8"]
    (test,) = [line for line in (tmp_path / "part/cpp/CMakeLists.txt").read_text().splitlines() if "example-0" in line]
    within = float(test.split("--within ")[1].split()[0])
    assert within == pytest.approx(BOUNDS["int8"] * expected["examples"][0]["scale"])


def test_a_certificate_of_32_bits_may_not_have_the_bound_of_eight(copy: Path) -> None:
    from padim_jax.artifact.manifest import manifest_checksum

    path = copy / CERTIFICATE
    for changes in ({"bound": 0.1}, {"precision": "int4"}):
        record = json.loads(path.read_text())
        record.pop("checksum")
        changed = {**record, **changes}
        path.write_text(json.dumps({**changed, "checksum": manifest_checksum(changed)}))
        with pytest.raises(ExportError, match=r"can't be right: its bound is 0\.1|it is of precision 'int4'"):
            verify_export(copy)
        record["checksum"] = manifest_checksum(record)
        path.write_text(json.dumps(record))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standardised, top share", "combined", "shared"])
def test_every_kind_of_model_is_fitted_anew(name: str, tmp_path: Path) -> None:
    model = fitted(name, roi=name == "combined")
    export_model(model, tmp_path / "part", GOOD, precision="int8")
    again = in_eight_bits(model, [GOOD])
    check_equal(again, run(tmp_path / "part", TEST), TEST)
    if name == "combined":
        assert (run(tmp_path / "part", TEST)["anomaly_map"][:, ~ROI] <= 0).all()


@pytest.mark.slow
def test_a_residual_network_is_quantised_too(tmp_path: Path) -> None:
    config = replace(SMALL, taps=("layer1",), n_channels=12)
    model = padim.fit(backbone("resnet18"), GOOD[:6], config)
    export_model(model, tmp_path / "part", GOOD[:6], precision="int8")
    check_equal(in_eight_bits(model, [GOOD[:6]]), run(tmp_path / "part", TEST), TEST)


@pytest.mark.slow
def test_factors_of_several_gaussians_stay_as_they_are(tmp_path: Path) -> None:
    certificate = export_model(fitted("shared"), tmp_path / "part", GOOD, precision="int8")
    assert certificate.factor_error is None
    assert certificate.notes == (
        "whether the 24 images named are those of the fit is not known, since they are arrays",
        "factors are not in integers: several Gaussians at each position are told apart by more than their products",
    )
    found = verify_export(tmp_path / "part", [GOOD[:3]])
    assert found.runtimes[0].differences.relative < BOUND


def test_a_model_that_cannot_be_fitted_anew_is_refused(tmp_path: Path) -> None:
    model = fitted("plain")
    assert model.calibration is not None
    by_hand = replace(model, calibration=at_threshold(model.calibration, 50.0))
    with pytest.raises(ExportError, match="its threshold was set by hand"):
        in_eight_bits(by_hand, [GOOD])
    own = replace(model, embedding=replace(model.embedding, channels=tuple(range(len(model.embedding.channels)))))
    with pytest.raises(ExportError, match="its channels are not those that its settings draw"):
        in_eight_bits(own, [GOOD])
    twice = in_eight_bits(model, [GOOD, GOOD[:5]]).calibration
    assert twice is not None
    assert len(twice.scores) == len(GOOD)


@pytest.mark.parametrize(
    ("options", "shown", "message"),
    [
        ({"precision": "int8"}, GOOD[:2], "takes 3 different good images or more, and 2 were given"),
        ({"precision": "int8"}, [], "takes 3 different good images or more, and 0 were given"),
        (
            {"precision": "int8", "format": "stablehlo"},
            GOOD,
            "precision='int8' takes format='onnx' or 'openvino', and 'stablehlo' was asked for",
        ),
        ({"precision": "int4"}, GOOD, "precision='int4', wanted one of float32, int8, bfloat16"),
    ],
)
def test_what_cannot_be_in_eight_bits_is_refused_in_words(
    options: dict[str, Any], shown: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(fitted("plain"), tmp_path / "part", shown, **options)
    assert not (tmp_path / "part").exists()
