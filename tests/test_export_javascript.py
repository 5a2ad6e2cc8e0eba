"""What compares with Node.js: its pixels are padim's to the last bit, and its scores those of the model."""

import json
import shutil
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.export import export_model
from padim_jax.export.runtimes import DATA
from padim_jax.export.shipping import TEMPLATES
from padim_jax.images import read_image
from tests.conftest import SMALL
from tests.exports import GOOD, SHOWN, aligned, fitted
from tests.photos import SIZES, npm_packages, photo, readings, write_with_gamma

NODE, NPM = shutil.which("node"), shutil.which("npm")
pytestmark = pytest.mark.skipif(NODE is None or NPM is None, reason="compares with Node.js, which is not in PATH")
READ = """
import {{ readFileSync, writeFileSync }} from "node:fs";
import {{ readPixels }} from {module};
for (const task of JSON.parse(readFileSync({tasks}, "utf-8"))) {{
  const photo = {{ ...task.photo, data: readFileSync(task.photo.data), channels: 3 }};
  writeFileSync(task.to, readPixels(photo, task.settings));
}}
"""


def node(*words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NODE or "", *map(str, words)], capture_output=True, text=True, check=False, **options)


@pytest.mark.slow
def test_photos_are_resized_and_cropped_to_the_last_bit(tmp_path: Path) -> None:
    tasks, wanted = [], []
    for index, (size, config) in enumerate(product(SIZES, readings())):
        pixels = photo(size)
        path, raw = tmp_path / f"{index}.png", tmp_path / f"{index}.rgb"
        Image.fromarray(pixels).save(path)
        raw.write_bytes(pixels.tobytes())
        shown = {"data": str(raw), "width": size[0], "height": size[1]}
        settings = {"image": config.image, "crop": config.crop, "resize": config.resize}
        settings["interpolation"] = config.interpolation
        tasks.append({"photo": shown, "settings": settings, "to": str(tmp_path / f"{index}.out")})
        wanted.append(read_image(path, config))
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    module = json.dumps(str(TEMPLATES / "javascript" / "reading.mjs"))
    code = READ.format(module=module, tasks=json.dumps(str(tmp_path / "tasks.json")))
    done = node("--input-type=module", "-e", code)
    assert done.returncode == 0, done.stderr
    for task, pixels in zip(tasks, wanted, strict=True):
        found = np.frombuffer(Path(task["to"]).read_bytes(), np.uint8).reshape(pixels.shape)
        np.testing.assert_array_equal(found, pixels, err_msg=str(task))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with its packages beside it."""
    packages = npm_packages("onnxruntime-node", "pngjs")
    out = tmp_path_factory.mktemp("javascript") / "part-onnx"
    export_model(fitted("plain"), out, GOOD, runtimes=["javascript"])
    wanted = json.loads((out / "javascript" / "package.json").read_text())["dependencies"]
    installed = {name: json.loads((packages / name / "package.json").read_text())["version"] for name in wanted}
    assert installed == wanted
    (out / "javascript" / "node_modules").symlink_to(packages)
    return out / "javascript"


def test_scores_are_the_models(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run([NPM or "", "test"], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, '{"checked":5,' in done.stdout) == (0, True), done.stderr
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for path, size in zip(paths, SIZES[:2], strict=True):
        Image.fromarray(photo(size)).save(path)
    paths.append(tmp_path / "linear.png")
    write_with_gamma(paths[-1], photo(SIZES[0]))
    link = tmp_path / "score.mjs"
    link.symlink_to(folder / "score.mjs")
    done = node(link, *paths, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[-1]["image_score"] == found[0]["image_score"]
    wanted = padim.score(fitted("plain"), np.stack([read_image(path, SMALL) for path in paths]))
    assert [line["file"] for line in found] == [str(path) for path in paths]
    np.testing.assert_allclose([line["image_score"] for line in found], np.asarray(wanted.image_score), rtol=1e-5)
    np.testing.assert_allclose([line["p_value"] for line in found], np.asarray(wanted.p_value), rtol=1e-5)
    assert [line["anomalous"] for line in found] == np.asarray(wanted.anomalous).tolist()


def test_arrays_beside_the_graph_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = npm_packages("onnxruntime-node", "pngjs")
    monkeypatch.setattr("padim_jax.export.onnx_model.LARGEST", 10_000)
    export_model(fitted("plain"), tmp_path / "out", GOOD, runtimes=["javascript"])
    assert (tmp_path / "out" / DATA).exists()
    (tmp_path / "out" / "javascript" / "node_modules").symlink_to(packages)
    done = subprocess.run(
        [NPM or "", "test"], cwd=tmp_path / "out" / "javascript", capture_output=True, text=True, check=False
    )
    assert (done.returncode, '{"checked":5,' in done.stdout) == (0, True), done.stderr


def test_a_score_that_is_another_fails_its_test(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder.parent / "examples", tmp_path / "examples")
    path = tmp_path / "examples" / "expected.json"
    found = json.loads(path.read_text())
    found["examples"][1]["image_score"] *= 1.01
    path.write_text(json.dumps(found))
    done = node("score.mjs", "--check", tmp_path / "examples", cwd=folder)
    assert (done.returncode, "001.png scores" in done.stderr) == (1, True)


def test_what_it_can_not_read_is_refused_in_words(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(photo((60, 60))).save(tmp_path / "photo.jpg")
    Image.fromarray(photo((40, 20))).save(tmp_path / "small.png")
    Image.new("I;16", (60, 60)).save(tmp_path / "deep.png")
    Image.new("RGBA", (60, 60), (1, 2, 3, 4)).save(tmp_path / "glass.png")
    for name, message in {
        "photo.jpg": "it is no PNG",
        "small.png": "it has 40×20 pixels, smaller than the crop of 48×32",
        "deep.png": "16 bits a channel",
        "glass.png": "transparent pixels",
        "nothing.png": "no such file",
    }.items():
        done = node("score.mjs", tmp_path / name, cwd=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{tmp_path / name}: " in done.stderr
        assert message in done.stderr
    done = node("score.mjs", "--cropped", tmp_path / "small.png", cwd=folder)
    assert "wanted the crop's 48×32" in done.stderr


def test_without_a_calibration_there_is_no_verdict(folder: Path, tmp_path: Path) -> None:
    model = replace(fitted("plain"), calibration=None)
    export_model(model, tmp_path / "out")
    example = folder.parent / "examples" / "000.png"
    done = node("score.mjs", "--model", tmp_path / "out" / "model.onnx", "--cropped", example, cwd=folder)
    assert json.loads(done.stdout).keys() == {"file", "image_score"}, done.stderr


def test_a_model_that_aligns_images_says_how_they_match(folder: Path, tmp_path: Path) -> None:
    model = padim.with_threshold(aligned("rigid"), 1e6)
    export_model(model, tmp_path / "out", SHOWN[:3], runtimes=["javascript"])
    (tmp_path / "out" / "javascript" / "node_modules").symlink_to(folder / "node_modules")
    done = node("score.mjs", "--check", tmp_path / "out" / "examples", cwd=tmp_path / "out" / "javascript")
    assert done.returncode == 0, done.stderr
    paths = [tmp_path / f"{index}.png" for index in (1, 7)]
    for path in paths:
        Image.fromarray(SHOWN[int(path.stem)]).save(path)
    done = node("score.mjs", "--cropped", *paths, cwd=tmp_path / "out" / "javascript")
    found, said = [json.loads(line) for line in done.stdout.splitlines()], padim.score(model, SHOWN[[1, 7]])
    np.testing.assert_allclose([line["match"] for line in found], np.asarray(said.match), atol=1e-4)
    np.testing.assert_allclose([line["image_score"] for line in found], np.asarray(said.image_score), rtol=1e-4)
    assert [line["anomalous"] for line in found] == np.asarray(said.anomalous).tolist() == [False, True]
