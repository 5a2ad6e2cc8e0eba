"""A model finds out an export that somebody made anew with its digests, its answers and its certificate."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import padim_jax as padim
from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.certificate import digest_files
from padim_jax.export.compare import Decision, check_outputs
from padim_jax.export.describe import model_digest
from tests.conftest import SMALL, images
from tests.exports import GOOD, TEST, fitted


def certify(folder: Path, change: Callable[[dict[str, Any]], object] = lambda record: None) -> None:
    """Make digests and checksum anew, of files and entries that were changed."""
    path = folder / "certificate.json"
    record = json.loads(path.read_text())
    found = digest_files(folder, [*record["files"]])
    record["files"] = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in found.items()}
    change(record)
    path.write_text(json.dumps(record | {"checksum": manifest_checksum(record)}))


def edit_reference(folder: Path, changes: dict[str, np.ndarray]) -> None:
    with np.load(folder / "reference.npz") as stored:
        arrays: dict[str, np.ndarray] = dict(stored)
    np.savez_compressed(folder / "reference.npz", allow_pickle=False, **arrays | changes)


def raise_threshold(folder: Path) -> None:
    """Let all parts pass, and change graph, stored answers and certificate so that they agree on it."""
    made = onnx.load(folder / "model.onnx")
    threshold = np.float32(fitted("plain").calibration.threshold)  # type: ignore[union-attr]
    (tensor,) = [t for t in made.graph.initializer if not t.dims and onnx.numpy_helper.to_array(t) == threshold]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(1e9, np.float32), tensor.name))
    onnx.save(made, folder / "model.onnx")
    edit_reference(folder, {"threshold": np.array(1e9), "anomalous": np.zeros(6, bool)})

    def pass_all(record: dict[str, Any]) -> None:
        for image in record["good"]:
            image["anomalous"] = False

    certify(folder, pass_all)


def test_a_threshold_that_was_raised_everywhere_is_found_out_by_the_model(copy: Path) -> None:
    raise_threshold(copy)
    assert verify_export(copy, GOOD).known == len(GOOD)  # it is an export, of another model
    with pytest.raises(ExportError, match=r"reference\.npz has another calibration than the model given"):
        verify_export(copy, TEST, model=fitted("plain"))


def test_a_graph_with_another_threshold_beside_the_model_s_own_answers(copy: Path, exported: Path) -> None:
    raise_threshold(copy)
    shutil.copy(exported / "reference.npz", copy)
    certify(copy)
    for model in (None, fitted("plain")):
        with pytest.raises(ExportError, match=r"ONNX Runtime: anomalous of \d images does not follow"):
            verify_export(copy, model=model)


def test_the_graph_of_another_model_is_found_out_by_the_model(tmp_path: Path) -> None:
    model, out = fitted("plain"), tmp_path / "out"
    mean = model.gaussian.mean
    export_model(replace(model, gaussian=replace(model.gaussian, mean=mean * 1.05)), out)
    made = onnx.load(out / "model.onnx")
    (entry,) = [entry for entry in made.metadata_props if entry.key == "padim_jax.model"]
    entry.value = model_digest(model)
    onnx.save(made, out / "model.onnx")
    certify(out, lambda record: record.update(model=model_digest(model)))
    assert verify_export(out).certificate.model == model_digest(model)
    with pytest.raises(ExportError, match=r"is off by .* of the maps' scale|no rounding of scores explains it"):
        verify_export(out, model=model)


def test_a_network_of_one_s_own_with_other_code_is_found_out_by_the_model(tmp_path: Path) -> None:
    def network(weights: Any, shown: Any) -> dict[str, Any]:
        n, height, width, _ = shown.shape
        cells = shown.reshape(n, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4))
        return {"colours": cells @ weights}

    def other(weights: Any, shown: Any) -> dict[str, Any]:
        return {name: 0.5 * value + 0.3 for name, value in network(weights, shown).items()}

    weights = np.random.default_rng(0).normal(0, 1, (3, 6)).astype(np.float32)
    one, two = (padim.own_backbone("tiny", code, weights, image_size=SMALL.crop) for code in (network, other))
    model = padim.fit(one, images(9, SMALL), replace(SMALL, taps=None, n_channels=4))
    changed = replace(model, backbone=two)
    assert model_digest(changed) == model_digest(model)
    export_model(model, tmp_path / "out", format="stablehlo")
    assert verify_export(tmp_path / "out", model=model).runtimes[0].differences.relative < 1e-5
    with pytest.raises(ExportError, match=r"JAX .* is off by"):
        verify_export(tmp_path / "out", model=changed)


def test_images_must_be_read_as_the_model_reads_them(copy: Path) -> None:
    certify(copy, lambda record: record["reading"].update(interpolation="bicubic"))
    verify_export(copy)
    with pytest.raises(ExportError, match="reads images by another interpolation than the model given"):
        verify_export(copy, model=fitted("plain"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 1e300, "image_score": 5.0}, r"holds a score against a scale of 1e\+300, where maps are below"),
        ({"anomalous": True, "p_value": 1.0}, "anomalous of 1 images is not what the model gives"),
        ({"p_value": 0.01}, "p_value of 1 images is not what the model gives"),
        ({"p_value": None, "anomalous": None}, "one has verdicts and the other has none"),
    ],
)
def test_answers_about_a_known_image_that_do_not_agree_are_refused(
    changes: dict[str, Any], message: str, copy: Path
) -> None:
    def change(record: dict[str, Any]) -> None:
        for image in record["good"] if None in changes.values() else record["good"][:1]:
            image.update(changes)

    certify(copy, change)
    with pytest.raises(ExportError, match=message):
        verify_export(copy, GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bfloat16", "bound": 0.1}, "it is of format 'onnx', which has no bfloat16"),
        ({"factor_error": 0.05}, "it has factors in integers beside a network of more bits"),
        ({"batch": 10**6}, "its program takes 1000000 images at a time"),
        ({"photo": [10**6, 10**6]}, r"photos of 1000000×1000000 have 1000000 megapixels, and padim reads at most 89"),
        ({"photo": [2, 2]}, r"photos of 2×2 pixels are smaller than the crop"),
    ],
)
def test_what_no_export_of_ours_has_is_refused(changes: dict[str, Any], message: str, copy: Path) -> None:
    certify(copy, lambda record: record.update(changes))
    for model in (None, fitted("plain")):
        with pytest.raises(ExportError, match=rf"certificate\.json can't be right: {message}"):
            verify_export(copy, model=model)


def test_the_runtime_that_a_precision_is_made_for_is_close_to_the_model(copy: Path) -> None:
    def forge(record: dict[str, Any]) -> None:
        record.update(precision="int8", bound=0.1)
        own = next(report for report in record["runtimes"] if report["name"] == "ONNX Runtime")
        own["differences"]["map_relative"] = 0.05

    certify(copy, forge)
    with pytest.raises(ExportError, match=r"can't be right: it claims a difference beyond 0\.0001 in the runtime"):
        verify_export(copy)


def test_a_program_of_stablehlo_has_no_eight_bits(tmp_path: Path) -> None:
    export_model(fitted("plain"), tmp_path / "out", format="stablehlo")
    certify(tmp_path / "out", lambda record: record.update(precision="int8", bound=0.1))
    with pytest.raises(ExportError, match="it is of format 'stablehlo', which has no int8"):
        verify_export(tmp_path / "out")


def test_a_program_that_is_none_or_takes_other_images_is_refused_in_words(copy: Path, exported: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no program")
    certify(copy)
    with pytest.raises(ExportError, match=r"model\.onnx is no ONNX file"):
        verify_export(copy)
    made = onnx.load(exported / "model.onnx")
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(made, copy / "model.onnx")
    certify(copy)
    with pytest.raises(ExportError, match=r"can't run the program|holds no program that runs"):
        verify_export(copy)


DECISION = Decision(np.array([1, 2, 3], np.float32), 2.5, 2.0, 0.5)
RIGHT = {
    "image_score": np.array([2.5, 1.5]),
    "p_value": np.array([0.5, 0.75]),
    "anomalous": np.array([False, False]),
    "match": np.array([0.9, 0.9]),
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, {}),
        ({}, {"anomalous": np.array([True, False])}),  # the score is at the threshold
        ({"match": np.array([0.9, 0.5])}, {"anomalous": np.array([False, True]), "match": np.array([0.9, 0.5])}),
        ({"image_score": np.array([2.5, 2.0])}, {"p_value": np.array([0.5, 0.5])}),  # the score is that of a good one
        ({}, {"image_score": np.array([2.5, 3.5]), "anomalous": np.array([False, True]), "p_value": np.array([0.5, 0.25])}),
    ],
)  # fmt: skip
def test_what_rounding_explains_and_what_the_bound_refuses_passes(wanted: Any, found: Any) -> None:
    DECISION.check_like("here", RIGHT | wanted, RIGHT | found, np.ones(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [("anomalous", [False, True]), ("p_value", [0.5, 0.5]), ("match", [0.9, 0.8]), ("match", [np.nan, 0.9])],
)
def test_what_no_rounding_explains_is_refused(name: str, value: list[Any]) -> None:
    with pytest.raises(ExportError, match=f"^here: {name} of 1 images is not what the model gives"):
        DECISION.check_like("here", RIGHT, RIGHT | {name: np.array(value)}, np.ones(2))


def test_outputs_of_other_names_and_shapes_are_refused() -> None:
    right = {"image_score": np.ones(2), "anomaly_map": np.ones((2, 3, 4)), "match": np.ones(2)}
    check_outputs("here", right, 2, (3, 4), judged=False)
    for wrong in (right | {"image_score": np.ones((2, 1))}, right | {"mask": np.ones((2, 3, 4))}, {}):
        with pytest.raises(ExportError, match=r"^here: it gives .*, wanted"):
            check_outputs("here", wrong, 2, (3, 4), judged=False)
    with pytest.raises(ExportError, match=r"wanted .*'p_value'"):
        check_outputs("here", right, 2, (3, 4), judged=True)
