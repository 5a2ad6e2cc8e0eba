"""Programs that take photos resize and crop them as padim does, to the last bit, and refuse what they can't."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import padim_jax as padim
from padim_jax.artifact import save_compacted
from padim_jax.export import ExportError, export_model, exporting, verify_export
from padim_jax.export.compare import hostile_images
from padim_jax.export.graph import IR_VERSION, OPSET, Graph
from padim_jax.export.inputs import ProgramInput
from padim_jax.export.onnx_model import onnx_model
from padim_jax.export.photos import write_resampling
from padim_jax.export.resampling import Pass, Resampling, plan_resampling
from padim_jax.export.runtimes import Runtime, open_runtimes
from padim_jax.export.stablehlo import resample
from padim_jax.images import read_image
from tests.conftest import SMALL, images, write_images
from tests.exports import ROI, compacted, fitted, wanted
from tests.photos import photo
from tests.test_export_certificate import rewrite

PHOTO = (71, 90)
PHOTOS = images(26, replace(SMALL, image_size=(72, 92), crop_size=(72, 92)), seed=5)[:, : PHOTO[0], : PHOTO[1]]
TAKEN = ProgramInput(SMALL, PHOTO)
GEOMETRIES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({}, PHOTO),
    ({"interpolation": "bicubic"}, PHOTO),
    ({"resize": "shorter-side"}, (73, 200)),
    ({"resize": "shorter-side", "interpolation": "bicubic"}, (201, 77)),
    ({"resize": "shorter-side", "interpolation": "bicubic"}, (703, 506)),
    ({"resize": "pad"}, (50, 300)),
    ({"resize": "pad", "interpolation": "bicubic"}, (301, 47)),
    ({}, (40, 56)),  # nothing is resized
    ({"interpolation": "bicubic"}, (40, 111)),  # along one axis
    ({}, (400, 56)),
    ({}, (33, 49)),  # made larger
    ({"crop_size": (40, 56)}, (640, 101)),  # rows first
    ({"image_size": (200, 130), "crop_size": (160, 111)}, (480, 640)),
]


def in_onnx(plan: Resampling, crop: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """The resize alone, in ONNX Runtime."""
    graph = Graph()
    name = write_resampling(graph, plan, "photos")
    inputs = [helper.make_tensor_value_info("photos", TensorProto.UINT8, ["n", *plan.photo, 3])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", *crop, 3])]
    made = helper.make_model(
        graph.build("resize", inputs, outputs), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda photos: np.asarray(session.run([name], {"photos": photos})[0])


@pytest.mark.parametrize(("changes", "size"), GEOMETRIES)
def test_pixels_are_those_that_padim_reads_to_the_last_bit(changes: dict[str, Any], size: tuple[int, int]) -> None:
    config = replace(SMALL, **changes)
    plan = plan_resampling(size, config)
    shown = np.concatenate([hostile_images(size), photo((size[1], size[0]))[None]])
    expected = ProgramInput(config, size).seen(shown)
    assert expected.shape == (len(shown), *config.crop, 3)
    np.testing.assert_array_equal(in_onnx(plan, config.crop)(shown), expected)
    np.testing.assert_array_equal(resample(plan, jnp.asarray(shown)), expected)


def test_hostile_photos_take_little_more_memory_than_their_bytes() -> None:
    tracemalloc.start()
    try:
        shown = hostile_images((1000, 1500))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.25 * shown.nbytes
    ramp, chessboard = shown[4:]
    assert (ramp[-1, -1] == (255, 255, (999 + 1499) % 256)).all()
    assert (chessboard[0, :3, 0] == (0, 255, 0)).all()
    assert {*np.unique(shown[3])} == {0, 255}


def test_photos_are_run_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = list[int]()
    right = exporting.open_runtimes

    def counted(*given: Any) -> list[Runtime]:
        def run(old: Runtime, shown: np.ndarray) -> Any:
            most.append(len(shown))
            return old.run(shown)

        return [replace(one, run=lambda shown, one=one: run(one, shown)) for one in right(*given)]

    monkeypatch.setattr(exporting, "open_runtimes", counted)
    export_model(fitted("plain"), tmp_path / "out", PHOTOS[:4], input=("photo", *PHOTO))
    assert sorted({*most}) == [1, 2]  # a pair once in each runtime, since any number is taken
    assert most.count(2) < most.count(1) / 4


def test_pixels_seen_are_those_of_files(tmp_path: Path) -> None:
    """What the test above holds programs against is the reading of files."""
    (path,) = write_images(tmp_path, PHOTOS[:1])
    np.testing.assert_array_equal(TAKEN.seen(PHOTOS[:1])[0], read_image(path, SMALL))


def test_sums_beyond_what_float32_can_add_up_are_refused() -> None:
    config = replace(SMALL, image_size=8, crop_size=8)
    assert plan_resampling((8, 4_000), config)
    with pytest.raises(
        ExportError, match=r"photos of 400000×8 pixels are averaged over so many .* add them up exactly"
    ):
        plan_resampling((8, 400_000), config)
    most = 2**24 // (255 * 64)
    for taps, is_exact in ((most, True), (most + 1, False)):  # low parts of -64, the largest there are
        one = Pass(1, taps, np.zeros(1, int), np.full((1, taps), 64, np.int32))
        assert set(np.unique(one.parts()[1])) == {-64}
        assert one.is_exact() is is_exact


@pytest.mark.parametrize(
    ("name", "calibrated", "roi"),
    [("plain", True, False), ("neighbourhood, semi-orthogonal", False, True), ("standardised, top share", True, True)],
)
@pytest.mark.parametrize("exported", ["onnx", "stablehlo"])
def test_scores_and_maps_are_those_of_files(
    exported: Any, name: str, calibrated: bool, roi: bool, tmp_path: Path
) -> None:
    model = fitted(name, calibrated, roi)
    paths = write_images(tmp_path / "parts", PHOTOS[:3])
    size = 2 if name == "plain" else None
    certificate = export_model(
        model, tmp_path / "out", tmp_path / "parts", format=exported, batch=size, input=("photo", *PHOTO)
    )
    assert (certificate.photo, certificate.largest < 1e-5, len(certificate.good)) == (PHOTO, True, 3)
    runtime, *_ = open_runtimes(tmp_path / "out", exported)
    pixels = np.stack([read_image(path, model.config) for path in paths])
    shown = 1 if exported == "stablehlo" and size is None else size or 3
    found, expected = runtime.run(PHOTOS[:shown]), wanted(model, pixels[:shown])
    for key, values in expected.items():
        scale = np.abs(expected["anomaly_map"]).max()
        np.testing.assert_allclose(found[key], values, rtol=0, atol=0 if values.dtype == bool else 1e-5 * scale)
    checked = verify_export(tmp_path / "out", tmp_path / "parts")
    assert (checked.known, checked.unknown) == (3, 0)
    checked = verify_export(tmp_path / "out", PHOTOS[2:5], model=model)
    assert (checked.known, checked.unknown) == (3, 0)


@pytest.mark.parametrize("form", ["triangle-16bit", "low-rank-16bit"])
def test_of_compact_models_too(form: Any, tmp_path: Path) -> None:
    small = compacted(form)
    save_compacted(small, tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "out", PHOTOS[:2], input=("photo", *PHOTO))
    assert verify_export(tmp_path / "out", PHOTOS[:3], model=tmp_path / "model").known == 3
    found = verify_export(tmp_path / "out", PHOTOS[:3])
    assert (found.known, found.unknown) == (2, 1)


@pytest.mark.parametrize("files", [True, False])
def test_in_eight_bits_too(files: bool, tmp_path: Path) -> None:
    write_images(tmp_path / "parts", PHOTOS)
    model = padim.with_roi(fitted("plain"), ROI)
    given = tmp_path / "parts" if files else iter([PHOTOS[:20], PHOTOS[20:]])
    certificate = export_model(model, tmp_path / "out", given, precision="int8", input=("photo", *PHOTO))
    assert len(certificate.good) == len(PHOTOS)
    assert verify_export(tmp_path / "out", PHOTOS[:3]).known == 3


def test_the_program_says_what_it_takes_and_of_which_size_its_maps_are() -> None:
    made = onnx_model(fitted("plain"), photo=PHOTO)
    facts = {entry.key.removeprefix("padim_jax."): entry.value for entry in made.metadata_props}
    assert facts["input.images"] == (
        "uint8 (n, 71, 90, 3): RGB from 0 to 255, an upright photo, which is resized and cropped here"
    )
    for name in ("anomaly_map", "mask"):
        assert "; of the crop of 32×48, not of the photo" in facts[f"output.{name}"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photo": [90, 71]}, r"reference\.npz is damaged .*images\.npy is uint8"),
        ({"photo": None}, r"reference\.npz is damaged .*images\.npy is uint8"),
        ({"photo": [71]}, r"its photo is \[71\], wanted height and width"),
        ({"photo": [71, 0]}, "its photo is 0, wanted a whole number, 1 or more"),
        ({"photo": "71x90"}, "its photo is '71x90', wanted a list"),
    ],
)
def test_a_certificate_of_another_size_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    export_model(fitted("plain"), tmp_path / "out", input=("photo", *PHOTO))
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["photo"] == [*PHOTO]
    rewrite(tmp_path / "out", honest=True, **changes)
    with pytest.raises(ExportError, match=message):
        verify_export(tmp_path / "out")


def test_photos_must_have_the_size_and_depth_that_were_named(tmp_path: Path) -> None:
    write_images(tmp_path / "parts", PHOTOS[:2, :-1])
    export = {"model": fitted("plain"), "out": tmp_path / "out", "input": ("photo", *PHOTO)}
    with pytest.raises(
        ExportError, match=r"^export_model: .*000\.png has 90×70 pixels, and the program takes photos of 90×71"
    ):
        export_model(images=tmp_path / "parts", **export)
    deep = tmp_path / "000.png"
    cv2.imwrite(str(deep), np.full(PHOTO, 4000, np.uint16))
    with pytest.raises(
        ExportError, match=r"000\.png has more than 8 bits a channel, and the program takes photos of 8"
    ):
        export_model(images=deep, **export)
    with pytest.raises(ValueError, match=r"^export_model: images are \(1, 71, 89, 3\), wanted \(n, 71, 90, 3\)"):
        export_model(images=PHOTOS[:1, :, :-1], **export)
    with pytest.raises(TypeError, match=r"^export_model: images must be a uint8 array .*, got float32"):
        export_model(images=PHOTOS[:1].astype(np.float32), **export)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, {"input": ("image", 4, 4)}, r"input=\('image', 4, 4\), wanted \('photo', height, width\)"),
        ({}, {"input": ("photo", 4.0, 4)}, "wanted .'photo', height, width. in pixels, or None"),
        ({}, {"input": ("photo", 31, 60)}, "photos of 60×31 pixels are smaller than the crop of 48×32"),
        ({"resize": "pad"}, {"input": ("photo", 31, 47)}, "photos of 47×31 pixels are smaller than the crop"),
        ({}, {"input": ("photo", 10_000, 10_000)}, "have 100 megapixels, and padim reads at most 89"),
        ({"value_range": (0.0, 4095.0)}, {"input": ("photo", *PHOTO)}, "is for images of more than 8 bits .value_range."),
        (
            {},
            {"input": ("photo", *PHOTO), "runtimes": ["javascript"]},
            r"read photos of any size themselves, and a program with input=\('photo', 71, 90\) takes them unread",
        ),
    ],
)  # fmt: skip
def test_what_has_no_program_that_takes_photos_is_refused(
    model: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = fitted("plain", calibrated=False)
    changed = replace(given, config=replace(given.config, **model))
    with pytest.raises(ValueError, match=rf"^export_model: .*{message}"):
        export_model(changed, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
