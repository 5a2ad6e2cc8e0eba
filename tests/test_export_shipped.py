"""Folders in an export that run it without Python: what is written, what covers it, and what is refused."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.ownership import NotOurs
from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.page import read_ort_web
from padim_jax.export.shipped import TARGET_FILES, strangers
from tests.conftest import write_images
from tests.exports import GOOD, fitted, ort_web
from tests.test_cli import run
from tests.test_export_certificate import record, rewrite

TARGETS: list[Any] = ["browser", "javascript", "cpp", "csharp"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with all folders, whose page has no runtime in it; not to be changed."""
    folder = tmp_path_factory.mktemp("shipped")
    export_model(
        fitted("plain"), folder / "part-onnx", GOOD, runtimes=TARGETS, ort_web=ort_web(folder / "onnxruntime-web.tgz")
    )
    return folder / "part-onnx"


@pytest.fixture
def copy(shipped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped, tmp_path / "copy"))


def test_the_examples_are_what_the_model_saw_and_said(shipped: Path) -> None:
    found = json.loads((shipped / "examples" / "expected.json").read_text())
    model = fitted("plain")
    pixels = np.stack([np.asarray(Image.open(shipped / "examples" / e["file"])) for e in found["examples"]])
    np.testing.assert_array_equal(pixels[:3], GOOD[:3])
    scores = padim.score(model, pixels)
    for name, wanted in (("image_score", scores.image_score), ("p_value", scores.p_value)):
        np.testing.assert_allclose([e[name] for e in found["examples"]], np.asarray(wanted), rtol=1e-5)
    assert [e["anomalous"] for e in found["examples"]] == np.asarray(scores.anomalous).tolist()
    assert len({e["anomalous"] for e in found["examples"]}) == 2  # else a runtime that knows one answer would pass


def test_the_certificate_covers_every_file_and_a_check_compares_the_examples_too(shipped: Path) -> None:
    files = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()}
    assert {*record(shipped)["files"]} == files - {"certificate.json", ".written-by-padim"}
    assert {f"{target}/{name}" for target, names in TARGET_FILES.items() for name in names} < files
    plain, checked = verify_export(shipped), verify_export(shipped, model=fitted("plain"))
    assert plain.runtimes[0].differences.images == 6 + 5
    assert checked.runtimes[0].differences.images == 6 + 6 + 5 + 5


def test_no_name_between_signs_is_left_in_a_file(shipped: Path) -> None:
    model = fitted("plain").config
    for name in record(shipped)["files"]:
        if name.endswith((".npz", ".png", ".onnx")):
            continue
        text = (shipped / name).read_text(encoding="utf-8")
        assert "@SETTINGS" not in text
        assert "_ROWS@" not in text
    assert f"crop_rows = {model.crop[0]}, crop_columns = {model.crop[1]}" in (shipped / "cpp/settings.hpp").read_text()
    settings = json.loads((shipped / "javascript" / "settings.json").read_text())
    assert (settings["image"], settings["crop"]) == ([*model.image], [*model.crop])


def _expect(folder: Path, **changes: Any) -> None:
    path = folder / "examples" / "expected.json"
    found = json.loads(path.read_text())
    found["examples"][0] |= changes
    path.write_text(json.dumps(found))
    rewrite(folder, honest=True)


def _link_folder(folder: Path) -> None:
    (folder / "cpp").rename(folder.parent / "elsewhere")
    (folder / "cpp").symlink_to(folder.parent / "elsewhere")


def _other_pixels(folder: Path) -> None:
    Image.fromarray(GOOD[4]).save(folder / "examples" / "000.png")
    rewrite(folder, honest=True)


def _large_png(folder: Path) -> None:
    Image.new("RGB", (4000, 4000)).save(folder / "examples" / "000.png")
    rewrite(folder, honest=True)


def _other_model(folder: Path) -> None:
    path = folder / "examples" / "expected.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": "0" * 64}))
    rewrite(folder, honest=True)


def _claim(folder: Path, name: str) -> None:
    rewrite(folder, honest=True, files=record(folder)["files"] | {name: {"sha256": "0" * 64, "bytes": 1}})


def _append(folder: Path, name: str) -> None:
    with (folder / name).open("a") as stream:
        stream.write(" ")


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        name: (lambda f, n=name: _append(f, n), f"{name} is not the file that was certified")
        for name in ("examples/000.png", "examples/expected.json", "browser/index.html", "cpp/main.cpp")
    },
    "a file that is missing": (lambda f: (f / "csharp" / "Png.cs").unlink(), r"Png\.cs is missing"),
    "a file that was added": (lambda f: (f / "cpp" / "x.hpp").write_text(""), r"cpp/x\.hpp is not of the export"),
    "a folder that was added": (lambda f: (f / "cpp" / "build").mkdir(), "cpp/build is not of the export"),
    "a folder that is a link": (_link_folder, "cpp is not of the export"),
    "another score, certified anew": (lambda f: _expect(f, image_score=1.0), "off by|no rounding of scores explains"),
    "no number": (lambda f: _expect(f, image_score="high"), "its scores are not of numbers"),
    "no verdict": (lambda f: _expect(f, anomalous=0), "its verdicts are not true or false"),
    "another entry": (lambda f: _expect(f, more=0), "an example has"),
    "other pixels, certified anew": (_other_pixels, "off by|no rounding of scores explains"),
    "a larger image": (_large_png, "it is 4000×4000 RGB, wanted 48×32 RGB"),
    "examples of another model": (_other_model, "it is of another model"),
    "a claim to a file of no folder": (lambda f: _claim(f, "cpp/x.hpp"), r"it claims the file 'cpp/x\.hpp'"),
    "a claim to a file outside": (lambda f: _claim(f, "cpp/../../x"), "which no such export has"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_whatever_was_changed_is_refused(name: str, copy: Path) -> None:
    tamper, message = TAMPERINGS[name]
    tamper(copy)
    with pytest.raises(ExportError, match=rf"(?s)(verify_export: |Runtime).*({message})"):
        verify_export(copy)


def test_an_earlier_export_with_folders_is_replaced_and_what_a_user_built_there_is_not(copy: Path) -> None:
    (copy / "javascript" / "node_modules").mkdir()
    with pytest.raises(NotOurs, match=r"javascript/node_modules is not of the export in .*move it away"):
        export_model(fitted("plain"), copy)
    (copy / "javascript" / "node_modules").rmdir()
    export_model(fitted("plain"), copy)
    assert not (copy / "javascript").exists()
    verify_export(copy)


def test_strangers_are_named_by_their_highest_folder(tmp_path: Path) -> None:
    for name in ("a/b/known", "a/b/other", "a/c/d/e", "known"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert strangers(tmp_path, {"a/b/known", "known"}) == ["a/b/other", "a/c"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"runtimes": ["cpp"], "format": "stablehlo"}, "run format='onnx', not 'stablehlo'"),
    "a batch": ({"runtimes": ["cpp"], "batch": 4}, "score one image at a time, and batch=4"),
    "no package": ({"runtimes": ["browser"]}, r"needs ort_web.*npm pack onnxruntime-web@1\.30\.0"),
    "a package for nothing": ({"runtimes": ["cpp"], "ort_web": "x"}, "is for the runtime 'browser'"),
    "another runtime": ({"runtimes": ["tflite"]}, "runtimes has 'tflite', wanted of browser, javascript, cpp, csharp"),
    "twice": ({"runtimes": ["cpp", "cpp"]}, "names one twice"),
    "no file": (
        {"runtimes": ["browser"], "ort_web": "nowhere.tgz"},
        r"nowhere\.tgz is not the package onnxruntime-web",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_shipped_is_refused_in_words(name: str, tmp_path: Path) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"(?s)^export_model: .*{message}"):
        export_model(fitted("plain"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_of_deeper_images_has_no_folders(tmp_path: Path) -> None:
    model = fitted("plain")
    deep = replace(model, config=replace(model.config, value_range=(0.0, 4095.0)))
    with pytest.raises(ExportError, match="images of more than 8 bits"):
        export_model(deep, tmp_path / "out", runtimes=["javascript"])


def _packed(path: Path, **files: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_another_package_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.tgz").write_text("no archive")
    own = ort_web(tmp_path / "own.tgz")
    assert json.loads(read_ort_web(own)["package.json"])["version"] == "1.30.0"
    for place, message in {
        tmp_path / "folder": "No such file",
        tmp_path / "text.tgz": "not a gzip file",
        _packed(tmp_path / "empty.tgz", x="y"): "it has no package.json",
        ort_web(tmp_path / "other.tgz", name="left-pad"): "it is the package 'left-pad'",
    }.items():
        with pytest.raises(ExportError, match=rf"(?s)ort_web: {place} is not the package.*{message}"):
            read_ort_web(place)


def test_the_page_holds_nothing_that_a_title_or_a_setting_could_end(tmp_path: Path) -> None:
    out = tmp_path / "<b>&amp;"
    export_model(fitted("plain"), out, runtimes=["browser"], ort_web=ort_web(tmp_path / "ort.tgz"))
    page = (out / "browser" / "index.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;&amp;amp;</title>" in page
    assert "<b>" not in page
    assert "connect-src" not in page.split("</head>")[0]  # default-src 'none' holds for it
    assert "default-src 'none'" in page


def test_the_command_writes_folders_and_says_where_to_read_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    padim.save(fitted("plain"), tmp_path / "bracket.padim")
    options = ["--runtime", "cpp", "--runtime", "javascript"]
    code, told, said = run(capsys, "export", tmp_path / "bracket.padim", "--out", tmp_path / "out", *options)
    assert (code, f"{tmp_path / 'out' / 'cpp'}: README.md there says how to run it" in told) == (0, True), said
    found = json.loads((tmp_path / "out" / "examples" / "expected.json").read_text())
    assert len(found["examples"]) == 2  # no image was named
    assert "pixels of" not in said
    good = write_images(tmp_path / "good", GOOD[:2])
    code, _, said = run(capsys, "export", tmp_path / "bracket.padim", *good, "--out", tmp_path / "out", *options)
    assert (code, "examples holds pixels of 2 of the images named" in said) == (0, True)
    code, _, said = run(capsys, "export", tmp_path / "bracket.padim", "--out", tmp_path / "out", "--runtime", "browser")
    assert (code, "npm pack onnxruntime-web@1.30.0" in said, (tmp_path / "out" / "cpp").exists()) == (1, True, True)
