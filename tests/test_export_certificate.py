"""An export is certified or not there at all, and a check finds whatever was changed since."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import padim_jax as padim
from padim_jax.artifact import save_compacted
from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.artifact.ownership import FolderInUse, NotOurs, locked
from padim_jax.export import Certificate, ExportError, export_model, verify_export
from padim_jax.export import exporting as module
from padim_jax.export.certificate import digest_files
from padim_jax.export.compare import BOUND, Decision, Differences, differences, hostile_images, map_scales
from padim_jax.export.describe import model_digest
from tests.conftest import SMALL, images, write_images
from tests.exports import GOOD, TEST, compacted, fitted


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "certificate.json").read_text(encoding="utf-8"))


def rewrite(folder: Path, *, honest: bool = False, **changes: Any) -> None:
    """Edit a certificate; with ``honest``, as somebody who knows of its checksum, and certifies the files anew."""
    found = record(folder) | changes
    if honest:
        names = [*found["files"]]
        files = digest_files(folder, [name for name in names if (folder / name).exists()])
        found["files"] |= {name: {"sha256": digest, "bytes": size} for name, (digest, size) in files.items()}
        del found["checksum"]
        found["checksum"] = manifest_checksum(found)
    (folder / "certificate.json").write_text(json.dumps(found), encoding="utf-8")


def test_the_certificate_says_what_was_compared_and_how_far_each_runtime_was_off(exported: Path) -> None:
    found, model = record(exported), fitted("plain")
    assert found["model"] == model_digest(model)
    assert found["bound"] == BOUND == 1e-4
    assert (found["exported"], found["batch"], found["hostile"]) == ("onnx", None, len(hostile_images(SMALL.crop)))
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.onnx", "reference.npz", "certificate.json", ".written-by-padim"}
    assert {name: (file["sha256"], file["bytes"]) for name, file in found["files"].items()} == digest_files(
        exported, ["model.onnx", "reference.npz"]
    )
    runtimes = {report["name"]: report["differences"] for report in found["runtimes"]}
    assert "ONNX Runtime" in runtimes
    for report in runtimes.values():
        assert report["images"] == len(GOOD) + found["hostile"] + 1  # one of them by itself too
        assert 0 < report["map_relative"] < 1e-5
        assert report["flipped"] == 0
    np.testing.assert_allclose(
        [image["image_score"] for image in found["good"]], padim.score(model, GOOD).image_score, rtol=1e-5
    )


def test_a_check_knows_the_images_it_was_certified_on(exported: Path) -> None:
    found = verify_export(exported, np.concatenate([GOOD, TEST]))
    assert (found.known, found.unknown) == (len(GOOD), len(TEST))
    assert found.runtimes[0].differences.images == len(hostile_images(SMALL.crop)) + len(GOOD)
    assert all(report.differences.relative < 1e-5 for report in found.runtimes)
    with_model = verify_export(exported, [GOOD, TEST], model=fitted("plain"))
    assert (with_model.known, with_model.unknown) == (len(GOOD) + len(TEST), 0)
    with pytest.raises(ExportError, match=r"is of another model than the one given \(\w{12} against \w{12}\)"):
        verify_export(exported, model=padim.with_threshold(fitted("plain"), 4.5))


def flip_byte(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 64
    path.write_bytes(data)


def _other_calibration(folder: Path) -> None:
    other = folder.parent / "other"
    export_model(padim.with_threshold(fitted("plain"), 4.5), other)
    shutil.copy(other / "model.onnx", folder)


def _other_threshold_in_the_graph(folder: Path) -> None:
    """As by somebody who wants fewer alarms, and keeps all else as it is."""
    made = onnx.load(folder / "model.onnx")
    threshold = np.float32(fitted("plain").calibration.threshold)  # type: ignore[union-attr]
    (tensor,) = [t for t in made.graph.initializer if not t.dims and onnx.numpy_helper.to_array(t) == threshold]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(1e6 * threshold, np.float32), tensor.name))
    onnx.save(made, folder / "model.onnx")
    rewrite(folder, honest=True)


def _weights_and_digest(folder: Path) -> None:
    made = onnx.load(folder / "model.onnx")
    mean = next(tensor for tensor in made.graph.initializer if tensor.name.startswith("mean"))
    mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean) * np.float32(1.01), mean.name))
    onnx.save(made, folder / "model.onnx")
    rewrite(folder, honest=True)


def _other_file_with_digest(folder: Path) -> None:
    _other_calibration(folder)
    rewrite(folder, honest=True)


def _reference_of_another(folder: Path) -> None:
    with np.load(folder / "reference.npz") as stored:
        arrays = dict(stored)
    arrays["anomaly_map"] = arrays["anomaly_map"] * np.float32(1.001)
    np.savez(folder / "reference.npz", **arrays)
    rewrite(folder, honest=True)


def _link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def _smaller_difference(folder: Path) -> None:
    found = record(folder)["runtimes"]
    found[0]["differences"]["map_relative"] /= 2
    rewrite(folder, runtimes=found)


def _claim(folder: Path, name: str) -> None:
    rewrite(folder, honest=True, files=record(folder)["files"] | {name: {"sha256": "0" * 64, "bytes": 1}})


def _claim_less(folder: Path) -> None:
    (folder / "reference.npz").unlink()
    rewrite(folder, honest=True, files={"model.onnx": record(folder)["files"]["model.onnx"]})


def _beyond_the_bound(folder: Path) -> None:
    found = record(folder)["runtimes"]
    found[0]["differences"]["map_relative"] = 0.5
    rewrite(folder, honest=True, runtimes=found)


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the weights": (lambda f: flip_byte(f / "model.onnx"), "model.onnx is not the file that was certified"),
    "a cut file": (
        lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-100]),
        "model.onnx is not the file that was certified",
    ),
    "another calibration": (_other_calibration, "model.onnx is not the file that was certified"),
    "another calibration, with its digest": (_other_file_with_digest, "is of model .* and its certificate of"),
    "another threshold, with its digest": (_other_threshold_in_the_graph, "anomalous of .* does not follow"),
    "other weights, with their digest": (_weights_and_digest, "ONNX Runtime .* is off by"),
    "other answers of the model, with their digest": (_reference_of_another, "is off by|does not follow"),
    "a bit of the model's answers": (lambda f: flip_byte(f / "reference.npz"), "reference.npz is not the file"),
    "a missing file": (lambda f: (f / "model.onnx").unlink(), "model.onnx is missing; copy the export again"),
    "a link in place of a file": (_link, "model.onnx is missing"),
    "a foreign file": (lambda f: (f / "model.xml").write_text("<net/>"), "model.xml is not of the export"),
    "a file claimed that is not there": (lambda f: _claim(f, "model.bin"), "claims the file 'model.bin'"),
    "a file claimed outside": (lambda f: _claim(f, "../elsewhere"), r"claims the file '\.\./elsewhere'"),
    "a file not claimed": (_claim_less, "does not claim 'reference.npz'"),
    "no certificate": (lambda f: (f / "certificate.json").unlink(), "is no export: it has no certificate.json"),
    "a certificate that is none": (
        lambda f: (f / "certificate.json").write_text("{"),
        "certificate.json is not as it was written",
    ),
    "a smaller difference": (_smaller_difference, "its checksum differs: it was changed"),
    "another model's digest": (
        lambda f: rewrite(f, honest=True, model="0" * 64),
        "and its certificate of 000000000000",
    ),
    "a wider bound": (lambda f: rewrite(f, honest=True, bound=0.1), r"its bound is 0\.1, not 0\.0001 or less"),
    "a difference beyond the bound": (_beyond_the_bound, r"claims a difference of 0\.5, beyond its bound"),
    "another format": (lambda f: rewrite(f, honest=True, exported="stablehlo"), "claims the file 'model.onnx'"),
    "a later version's": (lambda f: rewrite(f, honest=True, schema=4), "its schema is 4, this version reads 2 and 3"),
    "an earlier version's": (
        lambda f: rewrite(f, schema=1),
        "was made by an earlier version of padim; export the model",
    ),
    "a certificate that lacks something": (lambda f: rewrite(f, honest=True, runtimes=[{}]), "lacks 'name'"),
    "differences that are no numbers": (
        lambda f: rewrite(f, honest=True, runtimes=[record(f)["runtimes"][0] | {"differences": {"images": "many"}}]),
        "is not as it was written",
    ),
    "notes that are none": (lambda f: rewrite(f, honest=True, notes=[1]), "its note is 1, wanted text"),
    "settings that are none": (lambda f: rewrite(f, honest=True, reading={"resize": "no"}), "its reading is"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_whatever_was_changed_is_refused(name: str, copy: Path) -> None:
    change, message = TAMPERINGS[name]
    change(copy)
    with pytest.raises(ExportError, match=rf"(?s){message}"):
        verify_export(copy)


def test_an_export_that_differs_is_not_written_and_what_was_there_stays(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    right = module.open_runtimes

    def wrong(folder: Path, exported: str, precision: str) -> list[Any]:
        def run(run: Any, shown: np.ndarray) -> dict[str, np.ndarray]:
            found = run(shown)
            return found | {"anomaly_map": found["anomaly_map"] * np.float32(1.0005)}

        return [
            replace(runtime, run=lambda shown, old=runtime.run: run(old, shown))
            for runtime in right(folder, exported, precision)
        ]

    monkeypatch.setattr(module, "open_runtimes", wrong)
    for out in (copy, tmp_path / "new"):
        with pytest.raises(
            ExportError, match=r"is off by 0\.0005 of the maps' scale, beyond the bound of 0\.0001; nothing"
        ):
            export_model(fitted("plain", calibrated=False), out)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_an_export_takes_the_place_of_one_and_of_nothing_else(copy: Path, tmp_path: Path) -> None:
    certificate = export_model(fitted("plain", calibrated=False), copy, batch=2)
    assert (certificate.batch, verify_export(copy, TEST).unknown) == (2, len(TEST))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    padim.save(fitted("plain"), tmp_path / "model")
    for taken in ("precious", "precious/notes.txt", "model"):
        with pytest.raises(
            NotOurs, match="already exists and is no export of padim; choose another folder, or move it"
        ):
            export_model(fitted("plain", calibrated=False), tmp_path / taken)
    with locked(tmp_path, "test", ".copy.padim-lock"):
        busy = subprocess.run(
            [sys.executable, "-c", f"from padim_jax.artifact.ownership import locked\nwith locked(__import__('pathlib').Path({str(tmp_path)!r}), 'x', '.copy.padim-lock'): pass"],
            capture_output=True,
            text=True,
        )  # fmt: skip
    assert FolderInUse.__name__ in busy.stderr


def test_a_compact_model_stays_compact_whether_it_is_given_or_read(tmp_path: Path) -> None:
    small = compacted("low-rank-16bit")
    save_compacted(small, tmp_path / "model")
    given, read = (export_model(model, tmp_path / "out") for model in (small, tmp_path / "model"))
    assert given.files["model.onnx"] == read.files["model.onnx"]
    whole = export_model(small.model, tmp_path / "out").files["model.onnx"][1]
    assert read.files["model.onnx"][1] < whole - small.model.gaussian.basis.size  # type: ignore[union-attr]


def test_images_in_files_are_read_as_the_model_reads_them(exported: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "parts", images(3, replace(SMALL, crop_size=(40, 56)), seed=4))
    export_model(fitted("plain"), tmp_path / "out", tmp_path / "parts")
    found = verify_export(tmp_path / "out", [tmp_path / "parts" / "000.png", tmp_path / "parts" / "002.png"])
    assert (found.known, found.unknown) == (2, 0)
    with pytest.raises(FileNotFoundError, match=r"^verify_export: there is no file or folder"):
        verify_export(exported, tmp_path / "nothing")
    with pytest.raises(TypeError, match=r"^export_model: images must be a uint8 array"):
        export_model(fitted("plain"), tmp_path / "other", TEST.astype(np.float32))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "tflite"}, "format='tflite', wanted one of onnx, openvino, stablehlo"),
        ({"batch": 0}, "batch=0, wanted a number of images from 1 to 1024, or None"),
        ({"model": 3}, "model is of type int, wanted a model or the folder of one"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"model": fitted("plain")} | wrong
    with pytest.raises((TypeError, ValueError), match=f"^export_model: {message}"):
        export_model(arguments.pop("model"), tmp_path / "out", **arguments)
    assert not [*tmp_path.iterdir()]


def test_differences_are_the_largest_and_what_is_no_number_is_infinite() -> None:
    maps = np.ones((2, 2, 2), np.float32)
    wanted = {
        "image_score": np.ones(2),
        "anomaly_map": maps,
        "p_value": np.ones(2),
        "anomalous": np.array([True, False]),
    }
    found = {
        **wanted,
        "anomaly_map": maps + np.array([[[0.25]], [[0.5]]], np.float32),
        "image_score": np.array([1, 0.75]),
    }
    scale = np.array([1.0, 4.0])
    assert differences(wanted, wanted, scale) == Differences(images=2)
    assert differences(wanted, found, scale) == Differences(2, 0.5, 0.25, 0.25, 0.0625, 0, 0)
    assert differences(wanted, {**found, "anomalous": np.array([True, True])}, scale).flipped == 1
    for value in (np.nan, np.inf):
        assert differences(wanted, {**found, "image_score": np.array([1, value])}, scale).relative == np.inf
    assert differences(wanted, found, np.zeros(2)).relative == np.inf
    both = differences(wanted, found, scale) + Differences(3, map_relative=1.0, flipped=2)
    assert (both.images, both.map_relative, both.flipped) == (5, 1.0, 2)


def test_the_scale_of_a_map_is_its_largest_distance_or_what_good_images_have() -> None:
    model = fitted("plain")
    usual = float(np.median(np.asarray(model.calibration.scores)))  # type: ignore[union-attr]
    maps = np.zeros((2, *SMALL.crop), np.float32)
    maps[1, 3, 3] = 3 * usual
    np.testing.assert_allclose(map_scales(model, maps), [usual, 3 * usual])
    np.testing.assert_allclose(map_scales(fitted("plain", calibrated=False), maps), [0, 3 * usual])


def test_a_decision_that_does_not_follow_is_named() -> None:
    decision = Decision(np.array([1, 2, 3], np.float32), 2.5, 2.0)
    maps = np.array([[[1.0, 2.5]], [[1.0, 1.0]]], np.float32)
    right = {
        "image_score": np.array([2.5, 1], np.float32),
        "anomaly_map": maps,
        "p_value": np.array([0.5, 1], np.float32),
    }
    right |= {"anomalous": np.array([False, False]), "mask": maps > 2}
    decision.check("here", right)
    for name, value in (
        ("p_value", np.array([0.5, 0.75], np.float32)),
        ("p_value", np.array([0.5, np.nan], np.float32)),
        ("anomalous", np.array([True, False])),
        ("mask", maps > 9),
    ):
        with pytest.raises(ExportError, match=f"^here: {name} of 1 images does not follow"):
            decision.check("here", {**right, name: value})


def test_a_certificate_is_read_as_it_was_written(exported: Path) -> None:
    certificate = verify_export(exported).certificate
    assert isinstance(certificate, Certificate)
    assert json.loads(certificate.text()) == record(exported)
    assert certificate.settings.crop == SMALL.crop
