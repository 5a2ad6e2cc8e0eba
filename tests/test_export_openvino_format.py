"""What compares with OpenVINO's own form of a program: what it gives, its eight bits, and what was forged of it."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.describe import model_digest
from padim_jax.export.openvino_model import recorded_digest
from padim_jax.export.runtimes import import_openvino, open_runtimes
from tests.conftest import SMALL, images
from tests.exports import GOOD, TEST, check_equal, compacted, fitted
from tests.test_cli import run
from tests.test_export_certificate import flip_byte, rewrite
from tests.test_export_forgeries import certify, edit_reference

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="compares with OpenVINO, which the extra openvino brings"
)
SHOWN = images(24, SMALL)


def opened(folder: Path, precision: str = "float32") -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    (runtime,) = open_runtimes(folder, "openvino", precision)
    return lambda shown: dict(runtime.run(shown))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino") / "part"
    export_model(fitted("plain"), folder, GOOD, format="openvino")
    return folder


@pytest.fixture
def changed(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


@needs_openvino
@pytest.mark.parametrize(
    ("name", "calibrated", "roi", "batch"),
    [
        ("plain", True, False, None),
        ("plain", False, True, 2),
        ("neighbourhood, semi-orthogonal", False, False, None),
        ("standardised, top share", True, True, None),
        ("combined", True, False, 3),
        pytest.param("shared", False, False, None, marks=pytest.mark.slow),
    ],
)
def test_it_gives_what_the_model_gives(
    name: str, calibrated: bool, roi: bool, batch: int | None, tmp_path: Path
) -> None:
    model = fitted(name, calibrated, roi)
    certificate = export_model(model, tmp_path / "out", format="openvino", batch=batch)
    assert [report.name for report in certificate.runtimes] == ["OpenVINO"]
    assert {*certificate.files} == {"model.xml", "model.bin", "reference.npz"}
    for count in (len(TEST), 1) if batch is None else (batch,):
        shown = np.concatenate([TEST, TEST])[:count]
        check_equal(model, opened(tmp_path / "out")(shown), shown)
    assert verify_export(tmp_path / "out", TEST, model=model).known == len(TEST)


@needs_openvino
@pytest.mark.parametrize("form", ["triangle-16bit", "low-rank-16bit"])
def test_a_compact_model_is_as_small_in_it(form: Any, tmp_path: Path) -> None:
    small = compacted(form)
    sizes = [
        export_model(small, tmp_path / name, format=name).files[file][1]  # pyright: ignore[reportArgumentType]
        for name, file in (("openvino", "model.bin"), ("onnx", "model.onnx"))
    ]
    assert sizes[0] < 1.02 * sizes[1]
    check_equal(small.model, opened(tmp_path / "openvino")(TEST), TEST)


@needs_openvino
def test_photos_and_arrays_beyond_an_onnx_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("padim_jax.export.onnx_model.LARGEST", 10_000)
    photos = images(3, padim.PadimConfig(image_size=(60, 80), crop_size=(60, 80)))
    export_model(fitted("plain"), tmp_path / "out", photos, format="openvino", input=("photo", 60, 80))
    assert verify_export(tmp_path / "out", photos, model=fitted("plain")).known == 3


@needs_openvino
def test_the_file_says_what_the_onnx_file_says(original: Path) -> None:
    made = import_openvino().Core().read_model(str(original / "model.xml"))
    assert recorded_digest(original / "model.xml") == model_digest(fitted("plain"))
    facts = {name: made.get_rt_info(["padim_jax", *name]).astype(str) for name in (("version",), ("input", "images"), ("output", "anomaly_map"))}  # fmt: skip
    assert facts["version",] == padim.__version__
    assert "(n, 32, 48, 3)" in facts["input", "images"]
    assert "Mahalanobis distances" in facts["output", "anomaly_map"]
    weights = [
        op.get_output_element_type(0).get_type_name() for op in made.get_ops() if op.get_type_name() == "Constant"
    ]
    assert "f16" not in weights


def _edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "model.xml").read_text()
    assert old in text
    (folder / "model.xml").write_text(text.replace(old, new))


def _other_numbers(folder: Path) -> None:
    data = np.fromfile(folder / "model.bin", np.uint8)
    kept = len(data) // 4
    numbers = data[: 4 * kept].view(np.float32)
    finite = np.isfinite(numbers) & (np.abs(numbers) > 1e-3) & (np.abs(numbers) < 1e3)
    numbers[finite] *= np.float32(1.01)
    data.tofile(folder / "model.bin")


def _calibrated_otherwise(folder: Path) -> None:
    other = folder.parent / "other"
    export_model(padim.with_threshold(fitted("plain"), 1e9), other, format="openvino")
    for name in ("model.xml", "model.bin"):
        shutil.copy(other / name, folder)
    digest = model_digest(padim.with_threshold(fitted("plain"), 1e9))
    _edit(folder, digest, model_digest(fitted("plain")))


def _other_digest(folder: Path) -> None:
    _edit(folder, model_digest(fitted("plain")), "0" * 64)


def _scale(folder: Path) -> None:
    with np.load(folder / "reference.npz") as stored:
        maps = stored["anomaly_map"] * np.float32(1.001)
    edit_reference(folder, {"anomaly_map": maps})


# each certifies the files anew
FORGERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "other numbers": (_other_numbers, "is off by|explains it|does not follow|can't run|holds no program"),
    "another threshold": (_calibrated_otherwise, "anomalous of .* does not follow"),
    "another digest": (_other_digest, r"model\.xml is of model 000000000000, and its certificate of"),
    "other answers": (_scale, "is off by|does not follow"),
    "no numbers": (lambda f: (f / "model.bin").write_bytes(b""), "is no program of OpenVINO|can't run|no program that runs"),
    "cut numbers": (lambda f: (f / "model.bin").write_bytes((f / "model.bin").read_bytes()[:-9]), "is no program|can't run|no program that runs"),
    "no program": (lambda f: (f / "model.xml").write_text("<net/>"), r"model\.xml is no program of OpenVINO"),
    "a program of other images": (lambda f: _edit(f, ',32,48,3"', ',33,48,3"'), "no program|can't run"),
    "another format": (lambda f: rewrite(f, honest=True, exported="onnx"), "claims the file 'model.bin', which no such"),
    "another model in the certificate": (lambda f: rewrite(f, honest=True, model="0" * 64), "and its certificate of 000000000000"),
}  # fmt: skip


@needs_openvino
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused(name: str, changed: Path) -> None:
    change, message = FORGERIES[name]
    change(changed)
    certify(changed)
    with pytest.raises(ExportError, match=message):
        verify_export(changed)


@needs_openvino
@pytest.mark.parametrize("file", ["model.xml", "model.bin"])
def test_a_bit_that_was_changed_and_a_file_that_is_missing(file: str, changed: Path) -> None:
    flip_byte(changed / file)
    with pytest.raises(ExportError, match=f"{file} is not the file that was certified"):
        verify_export(changed)
    (changed / file).unlink()
    with pytest.raises(ExportError, match=f"{file} is missing"):
        verify_export(changed)


@needs_openvino
def test_the_command_writes_and_checks_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    padim.save(fitted("plain"), tmp_path / "model")
    code, told, said = run(capsys, "export", tmp_path / "model", "--out", tmp_path / "out", "--format", "openvino")
    assert (code, "OpenVINO" in told, f"{tmp_path / 'out'}: openvino, " in told) == (0, True, True), said
    code, told, said = run(capsys, "verify", tmp_path / "out", "--model", tmp_path / "model")
    assert (code, "right on this machine within 0.0001" in told) == (0, True), said


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'padim-jax\[openvino\]'"):
        export_model(fitted("plain"), tmp_path / "out", format="openvino")
    assert not (tmp_path / "out").exists()


def test_what_others_run_is_not_in_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"runtimes=\('cpp',\) run format='onnx', not 'openvino'; export that"):
        export_model(fitted("plain"), tmp_path / "out", format="openvino", runtimes=["cpp"])
