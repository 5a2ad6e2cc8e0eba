"""Certificates and archives that somebody made with care are refused in words, and take no memory."""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.export import Certificate, ExportError, export_model, verify_export
from padim_jax.export.archives import Expected, read_arrays
from padim_jax.export.certificate import Reference, digest_files
from padim_jax.export.reading import read_certificate
from padim_jax.export.runtimes import open_runtimes
from tests.exports import fitted


def put(folder: Path, keys: str, value: object) -> None:
    """Change an entry, as "good.0.scale", and the digests and the checksum with it."""
    path = folder / "certificate.json"
    record = json.loads(path.read_text())
    *parents, last = (int(key) if key.isdigit() else key for key in keys.split("."))
    place: Any = record
    for key in parents:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(record | {"checksum": manifest_checksum(record)}))


WRONG: list[tuple[str, object, str]] = [
    ("batch", 0, "its batch is 0, wanted a whole number, 1 or more"),
    ("batch", -1, "its batch is -1"),
    ("batch", "1", "its batch is '1'"),
    ("batch", True, "its batch is True"),
    ("batch", 1.0, r"its batch is 1\.0"),
    ("exported", [], r"its exported is \[\], wanted text"),
    ("exported", "tflite", "it is of format 'tflite'"),
    ("model", 3, "its model is 3, wanted text"),
    ("model", "g" * 64, "wanted 64 hexadecimal digits"),
    ("bound", "x", "its bound is 'x', wanted a finite number, 0 or more"),
    ("bound", float("nan"), "it has NaN for a number"),
    ("bound", 10**400, "its bound is 1000|too large"),
    ("hostile", "many", "its hostile is 'many'"),
    ("hostile", 0, "its hostile is 0"),
    ("hostile", 10**9, "reference.npz is damaged .*images.npy is uint8 of shape"),
    ("made", None, "its made is None"),
    ("made", "yesterday", "Invalid isoformat string"),
    ("padim_jax", {}, "its padim_jax is {}"),
    ("more", 1, "it has 'more'"),
    ("runtimes", {}, "its runtimes is {}, wanted a list"),
    ("runtimes.0", 3, "a runtime is 3"),
    ("runtimes.0.seconds", None, "its seconds is None"),
    ("runtimes.0.differences.map_relative", "a", "its map_relative is 'a'"),
    ("runtimes.0.differences.map_relative", -1.0, r"its map_relative is -1\.0"),
    ("runtimes.0.differences.score_relative", float("nan"), "it has NaN for a number"),
    ("runtimes.0.differences.images", 2.5, r"its images is 2\.5"),
    ("runtimes.0.differences.more", 2, "differences has 'more'"),
    ("good", None, "its good is None"),
    ("good.0.scale", "x", "its scale is 'x'"),
    ("good.0.scale", float("inf"), "it has Infinity for a number"),
    ("good.0.scale", -1, "its scale is -1"),
    ("good.0.image_score", None, "its image_score is None, wanted a finite number"),
    ("good.0.pixels", "", "its pixels is ''"),
    ("good.0.p_value", None, "an image's p-value is None, and its verdict (True|False)"),
    ("good.0.anomalous", 1, "an image's p-value is .*, and its verdict 1"),
    ("reading", [], r"its reading is \[\]"),
    ("reading.resize", "no", "resize"),
    ("reading.crop_size", [10**7, 10**7], "crop|images.npy is uint8 of shape"),
    ("files", [], r"its files is \[\]"),
    ("files.more", 3, "the file 'more' is 3"),
    ("files", {n: {"sha256": "0" * 64, "bytes": 1.5} for n in ("model.onnx", "reference.npz")}, r"its bytes is 1\.5"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG)
def test_an_entry_that_none_can_have_is_refused_in_words(keys: str, value: object, message: str, copy: Path) -> None:
    put(copy, keys, value)
    with pytest.raises(ExportError, match=rf"^verify_export: (?s:.*)({message})"):
        Reference.read(copy / "reference.npz", read_certificate(copy))


def test_some_images_judged_and_others_not_and_a_program_of_no_batch(copy: Path) -> None:
    before = (copy / "certificate.json").read_text()
    put(copy, "good.0.p_value", None)
    put(copy, "good.0.anomalous", None)
    with pytest.raises(ExportError, match="it judges some images and not others"):
        read_certificate(copy)
    (copy / "certificate.json").write_text(before)
    put(copy, "exported", "stablehlo")
    names = ("model.stablehlo", "arrays.npz", "reference.npz")
    put(copy, "files", {name: {"sha256": "0" * 64, "bytes": 1} for name in names})
    with pytest.raises(ExportError, match="it says nothing of how many images its program takes"):
        read_certificate(copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"hostile":', '"hostile": 1, "hostile":', "it has two entries of one name"),
        ('"seconds":', '"seconds": 1, "seconds":', "it has two entries of one name"),
        ('"bound": 0.0001', '"bound": 1e999', "its checksum differs"),
        ('"bound": 0.0001', '"bound": -Infinity', "it has -Infinity for a number"),
        ("{", "[{", "is not as it was written"),
        ("{", "[" * 10**5 + "{", "is not as it was written"),
    ],
)
def test_a_text_that_readers_take_differently_is_refused(old: str, new: str, message: str, copy: Path) -> None:
    path = copy / "certificate.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ExportError, match=message):
        read_certificate(copy)


def bomb(path: Path, name: str, header: bytes | None, size: int) -> None:
    """Add a member of zeros to an archive, whose file stays small."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as stream:
        stream.write(header or b"")
        for _ in range(size // 2**20):
            stream.write(bytes(2**20))


def header_of(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    record = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, record)
    return stream.getvalue()


EXPECTED: Expected = {"known": (np.dtype(np.float32), (2, 3)), "free": (np.dtype(np.float32), (None,))}
_BOMB = 64 * 2**20
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another name": (lambda p: bomb(p, "more.npy", None, _BOMB), "it holds the arrays known, more, wanted known, free"),
    "no array": (lambda p: bomb(p, "free.npy", None, _BOMB), "magic"),
    "no suffix": (lambda p: bomb(p, "free", None, _BOMB), "it holds the arrays"),
    "a name twice": (lambda p: bomb(p, "known.npy", None, _BOMB), "it holds the arrays known, known"),
    "another type": (lambda p: bomb(p, "free.npy", header_of((3,), "f8"), 0), "free.npy is float64 of shape"),
    "another shape": (lambda p: bomb(p, "free.npy", header_of((3, 1), "f4"), 0), r"is float32 of shape \(3, 1\)"),
    "a pickle": (lambda p: bomb(p, "free.npy", header_of((3,), "O"), 0), "free.npy is object of shape"),
    "a long header": (lambda p: bomb(p, "free.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x03", _BOMB), "another version"),
    "more than its file can hold": (
        lambda p: bomb(p, "free.npy", header_of((_BOMB // 4,), "f4"), _BOMB),
        "it announces 67108888 bytes of arrays, where its file can hold",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BOMBS)
def test_an_archive_takes_no_more_memory_than_expected(name: str, tmp_path: Path) -> None:
    add, message = BOMBS[name]
    path = tmp_path / "small.npz"
    np.savez_compressed(path, known=np.ones((2, 3), np.float32))
    add(path)
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read_arrays(path, EXPECTED, most_compressed=8)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**22


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_as_expected_is_read(save: Callable[..., None], tmp_path: Path) -> None:
    arrays = {"known": np.arange(6, dtype=np.float32).reshape(2, 3), "free": np.ones(5, np.float32)}
    save(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz", EXPECTED, most_compressed=1)
    assert [*found] == [*arrays]
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


def recertify(folder: Path) -> None:
    found = digest_files(folder, [*json.loads((folder / "certificate.json").read_text())["files"]])
    put(folder, "files", {name: {"sha256": digest, "bytes": size} for name, (digest, size) in found.items()})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", np.full(6, 1e300), r"its maps are on a scale of 1e\+300"),
        ("scale", np.full(6, np.inf), "its scores, maps and scales are not of numbers"),
        ("image_score", np.full(6, np.nan, np.float32), "its scores, maps and scales are not of numbers"),
        ("threshold", np.array(np.nan), "its calibration is not of numbers"),
        ("good_scores", np.zeros(2**24, np.float32), r"it announces \d+ bytes of arrays"),
        ("images", np.zeros((6, 1, 1, 3), np.uint8), r"images.npy is uint8 of shape \(6, 1, 1, 3\)"),
    ],
)
def test_a_reference_that_no_model_gave_is_refused(name: str, value: np.ndarray, message: str, copy: Path) -> None:
    with np.load(copy / "reference.npz") as stored:
        arrays = dict(stored)
    np.savez_compressed(copy / "reference.npz", allow_pickle=False, **arrays | {name: value})
    recertify(copy)
    with pytest.raises(ExportError, match=message):
        verify_export(copy)


def test_the_arrays_beside_a_program_are_those_that_it_takes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert isinstance(export_model(fitted("plain", calibrated=False), out, format="stablehlo"), Certificate)
    with np.load(out / "arrays.npz") as stored:
        arrays = dict(stored)
    for changed in (arrays | {"00000": np.zeros(2**24, np.float32)}, arrays | {"more": np.zeros(1)}):
        np.savez_compressed(out / "arrays.npz", allow_pickle=False, **changed)
        with pytest.raises(ValueError, match="wanted"):
            open_runtimes(out, "stablehlo")
