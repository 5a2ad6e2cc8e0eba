"""What compares with a program in C++ that the export brings, on OpenVINO, which the extra ``openvino`` brings."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.export import export_model
from padim_jax.export.shipping import TEMPLATES
from padim_jax.images import read_image
from tests.conftest import SMALL
from tests.exports import GOOD, SHOWN, aligned, fitted
from tests.photos import SIZES, photo, readings, write_with_gamma

CMAKE, COMPILER = shutil.which("cmake"), shutil.which("c++")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None or CMAKE is None or COMPILER is None,
        reason="compares with OpenVINO in C++, which takes the extra openvino, cmake and a compiler",
    ),
]
READER = """
#include <iostream>
#include "photo.hpp"
int main(int, char** words) {
    const auto pixels = reading::read_pixels(photo::read(words[1]));
    std::cout.write(reinterpret_cast<const char*>(pixels.data()), pixels.size());
}
"""


def call(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)


def checked(*words: Any) -> str:
    done = call(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder of an export, which lies beside it."""
    return build(fitted("plain"), GOOD, tmp_path_factory.mktemp("cpp"))


def build(model: padim.Padim, good: np.ndarray, folder: Path) -> Path:
    """Export to a folder and build there."""
    export_model(model, folder / "part-onnx", good, runtimes=["cpp"])
    where = checked(sys.executable, "-c", "import openvino; print(openvino.utils.get_cmake_path())").strip()
    checked(
        CMAKE, "-S", folder / "part-onnx" / "cpp", "-B", folder / "build", "-D", f"OpenVINO_DIR={where}",
        "-D", "CMAKE_CXX_FLAGS=-Wall -Wextra -Werror",
    )  # fmt: skip
    checked(CMAKE, "--build", folder / "build")
    return folder / "build"


def score(built: Path, *words: Any) -> list[dict[str, Any]]:
    model = built.parent / "part-onnx" / "model.onnx"
    return [json.loads(line) for line in checked(built / "score", "--model", model, *words).splitlines()]


def test_its_own_tests_pass_and_one_of_another_score_does_not(built: Path) -> None:
    said = checked(CMAKE, "-E", "chdir", built, "ctest")
    assert "100% tests passed, 0 tests failed out of 5" in said
    export = built.parent / "part-onnx"
    wrong = ["--expect", "1.0", "--within", "0.01", "--cropped", export / "examples" / "000.png"]
    done = call(built / "score", "--model", export / "model.onnx", *wrong)
    assert (done.returncode, "expected 1" in done.stderr) == (1, True)


def test_scores_are_the_models(built: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", 'b "c".png', "d.ppm")]
    for path, size in zip(paths, SIZES, strict=False):
        Image.fromarray(photo(size)).save(path)
    paths.append(tmp_path / "linear.png")
    write_with_gamma(paths[-1], photo(SIZES[0]))
    found = score(built, *paths)
    assert found[-1]["image_score"] == found[0]["image_score"]
    wanted = padim.score(fitted("plain"), np.stack([read_image(path, SMALL) for path in paths]))
    assert [line["file"] for line in found] == [str(path) for path in paths]
    np.testing.assert_allclose([line["image_score"] for line in found], np.asarray(wanted.image_score), rtol=1e-5)
    np.testing.assert_allclose([line["p_value"] for line in found], np.asarray(wanted.p_value), rtol=1e-5)
    assert [line["anomalous"] for line in found] == np.asarray(wanted.anomalous).tolist()


def test_photos_are_resized_and_cropped_to_the_last_bit(tmp_path: Path) -> None:
    (tmp_path / "reader.cpp").write_text(READER)
    template = (TEMPLATES / "cpp" / "settings.hpp").read_text()
    for name in ("reading.hpp", "photo.hpp"):
        shutil.copy(TEMPLATES / "cpp" / name, tmp_path)
    for index, config in enumerate([*readings()][1::2]):
        words = {"RESIZE": config.resize, "INTERPOLATION": config.interpolation, "MODEL_DIGEST": ""}
        for name, (rows, columns) in {"IMAGE": config.image, "CROP": config.crop}.items():
            words |= {f"{name}_ROWS": str(rows), f"{name}_COLUMNS": str(columns)}
        text = template
        for name, value in words.items():
            text = text.replace(f"@{name}@", value)
        (tmp_path / "settings.hpp").write_text(text)
        checked(COMPILER, "-std=c++17", "-O1", tmp_path / "reader.cpp", "-o", tmp_path / f"reader{index}")
        for size in SIZES:
            path = tmp_path / "photo.ppm"
            Image.fromarray(photo(size)).save(path)
            done = subprocess.run([tmp_path / f"reader{index}", path], capture_output=True, check=True)
            wanted = read_image(path, config)
            found = np.frombuffer(done.stdout, np.uint8).reshape(wanted.shape)
            np.testing.assert_array_equal(found, wanted, err_msg=f"{size} {config}")


def test_what_it_can_not_read_is_refused_in_words(built: Path, tmp_path: Path) -> None:
    Image.fromarray(photo((60, 60))).save(tmp_path / "photo.jpg")
    Image.fromarray(photo((40, 20))).save(tmp_path / "small.png")
    Image.new("I;16", (60, 60)).save(tmp_path / "deep.png")
    Image.new("RGBA", (60, 60), (1, 2, 3, 4)).save(tmp_path / "glass.png")
    (tmp_path / "cut.ppm").write_bytes(b"P6 60 60 255\n" + bytes(100))
    (tmp_path / "huge.ppm").write_bytes(b"P6 99999999 99999999 255\n")
    (tmp_path / "head.ppm").write_bytes(b"P6 #")
    for name, message in {
        "photo.jpg": "it is neither PNG nor binary PPM",
        "small.png": "it has 40x20 pixels, smaller than the crop of 48x32",
        "deep.png": "16 bits a channel",
        "glass.png": "transparent pixels",
        "nothing.png": "it can't be opened",
        "cut.ppm": "it was cut short",
        "huge.ppm": "pixels",
        "head.ppm": "it has 0x0 pixels",
    }.items():
        done = call(built / "score", "--model", built.parent / "part-onnx" / "model.onnx", tmp_path / name)
        assert (done.returncode, done.stdout) == (1, ""), name
        assert f"{tmp_path / name}: " in done.stderr
        assert message in done.stderr
    done = call(built / "score", "--model")
    assert (done.returncode, "usage:" in done.stderr) == (2, True)


def test_without_a_calibration_there_is_no_verdict(built: Path, tmp_path: Path) -> None:
    export_model(replace(fitted("plain"), calibration=None), tmp_path / "out")
    example = built.parent / "part-onnx" / "examples" / "000.png"
    said = checked(built / "score", "--model", tmp_path / "out" / "model.onnx", "--cropped", example)
    assert json.loads(said).keys() == {"file", "image_score"}


def test_a_model_that_aligns_images_says_how_they_match(tmp_path: Path) -> None:
    model = padim.with_threshold(aligned("rigid"), 1e6)
    built = build(model, SHOWN[:3], tmp_path)
    checked(CMAKE, "-E", "chdir", built, "ctest")
    paths = [tmp_path / f"{index}.png" for index in (1, 7)]
    for path in paths:
        Image.fromarray(SHOWN[int(path.stem)]).save(path)
    found, said = score(built, "--cropped", *paths), padim.score(model, SHOWN[[1, 7]])
    np.testing.assert_allclose([line["match"] for line in found], np.asarray(said.match), atol=1e-4)
    np.testing.assert_allclose([line["image_score"] for line in found], np.asarray(said.image_score), rtol=1e-4)
    assert [line["anomalous"] for line in found] == np.asarray(said.anomalous).tolist() == [False, True]
