"""Models whose arrays take more than an ONNX file holds have them in a file beside it, which is as well guarded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.runtimes import DATA, open_runtimes
from tests.exports import GOOD, TEST, check_equal, compacted, fitted, ort_web
from tests.test_export_certificate import flip_byte, record, rewrite


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file of ONNX ended after 10 kB."""
    monkeypatch.setattr("padim_jax.export.onnx_model.LARGEST", 10_000)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    export_model(fitted("plain"), tmp_path / "large", GOOD, batch=None)
    return tmp_path / "large"


@pytest.mark.parametrize("name", ["plain", "standardised, top share"])
@pytest.mark.parametrize("batch", [None, 3])
def test_a_large_model_gives_what_it_should(name: str, batch: int | None, tmp_path: Path) -> None:
    model = fitted(name, roi=name != "plain")
    certificate = export_model(model, tmp_path / "out", batch=batch)
    assert {*certificate.files} == {"model.onnx", DATA, "reference.npz"}
    assert certificate.files["model.onnx"][1] < 100_000 < certificate.files[DATA][1]
    check_equal(model, dict(open_runtimes(tmp_path / "out", "onnx")[0].run(TEST)), TEST)
    assert verify_export(tmp_path / "out", TEST, model=model).known == len(TEST)


def test_compact_in_eight_bits_and_of_photos_too(tmp_path: Path) -> None:
    export_model(compacted("triangle-16bit"), tmp_path / "small")
    export_model(fitted("plain"), tmp_path / "int8", np.concatenate([GOOD, TEST]), precision="int8")
    export_model(fitted("plain"), tmp_path / "photo", input=("photo", 60, 80))
    for name in ("small", "int8", "photo"):
        assert (tmp_path / name / DATA).exists()
        assert verify_export(tmp_path / name).runtimes


def test_it_takes_the_place_of_a_small_one_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for largest, has_data in ((10**9, False), (10_000, True), (10**9, False)):
        monkeypatch.setattr("padim_jax.export.onnx_model.LARGEST", largest)
        export_model(fitted("plain"), tmp_path / "out")
        assert (tmp_path / "out" / DATA).exists() is has_data
        verify_export(tmp_path / "out")


def test_folders_that_run_it_come_with_it_and_a_page_can_not(tmp_path: Path) -> None:
    certificate = export_model(fitted("plain"), tmp_path / "out", GOOD, runtimes=["javascript", "cpp", "csharp"])
    assert DATA in certificate.files
    with pytest.raises(ExportError, match="a page holds at most 300; compact the model first"):
        export_model(
            fitted("plain"), tmp_path / "page", GOOD, runtimes=["browser"], ort_web=ort_web(tmp_path / "ort.tgz")
        )


def _elsewhere(folder: Path, location: str) -> None:
    """Take the arrays from another file, as somebody who certifies anew would."""
    made = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    rewrite(folder, honest=True)


def _named_twice(folder: Path) -> None:
    """Of two entries of one name, some readers take the first and others the last."""
    made = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in made.graph.initializer:
        if tensor.external_data:
            tensor.external_data.add(key="location", value="../secret")
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    rewrite(folder, honest=True)


def _in_a_node(folder: Path) -> None:
    made = onnx.load(folder / "model.onnx", load_external_data=False)
    tensor = TensorProto(name="t", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    made.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    rewrite(folder, honest=True)


def _without_data(folder: Path) -> None:
    (folder / DATA).unlink()
    rewrite(folder, honest=True, files={n: f for n, f in record(folder)["files"].items() if n != DATA})


def _left_over(folder: Path) -> None:
    rewrite(folder, honest=True, files={n: f for n, f in record(folder)["files"].items() if n != DATA})


def _other_numbers(folder: Path) -> None:
    data = bytearray((folder / DATA).read_bytes())
    half = np.frombuffer(data, np.float32, len(data) // 4)
    (folder / DATA).write_bytes((half * np.float32(1.001)).tobytes())
    rewrite(folder, honest=True)


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the arrays": (lambda f: flip_byte(f / DATA), "model.onnx.data is not the file that was certified"),
    "a cut file": (lambda f: (f / DATA).write_bytes(b"x"), "model.onnx.data is not the file that was certified"),
    "a missing file": (lambda f: (f / DATA).unlink(), "model.onnx.data is missing"),
    "a file that is not claimed": (_left_over, "takes numbers from 'model.onnx.data'|model.onnx.data is not of the export"),
    "no file, and none claimed": (_without_data, "takes numbers from 'model.onnx.data', which is not of the export"),
    "arrays from elsewhere": (lambda f: _elsewhere(f, "../secret"), r"takes numbers from '\.\./secret'"),
    "arrays from the answers": (lambda f: _elsewhere(f, "reference.npz"), "takes numbers from 'reference.npz'"),
    "arrays from two places": (_named_twice, r"takes numbers from '\.\./secret'"),
    "arrays of a node from elsewhere": (_in_a_node, r"takes numbers from '\.\./secret'"),
    "other numbers, with their digest": (_other_numbers, "is off by|follow|can't run|holds no program|explains"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_whatever_was_changed_is_refused(name: str, large: Path) -> None:
    (large.parent / "secret").write_bytes(bytes(10**6))
    change, message = TAMPERINGS[name]
    verify_export(large)
    change(large)
    with pytest.raises(ExportError, match=message):
        verify_export(large)


def test_no_other_format_has_such_a_file(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(fitted("plain", calibrated=False), out, format="stablehlo")
    shutil.copy(large / DATA, out)
    with pytest.raises(ExportError, match=r"model\.onnx\.data is not of the export"):
        verify_export(out)
    rewrite(out, honest=True, files=record(out)["files"] | {DATA: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(ExportError, match=r"claims the file 'model\.onnx\.data', which no such export has"):
        verify_export(out)
