"""ONNX graphs of models that align images: the same poses, bytes, scores, maps and verdicts as the model's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import padim_jax as padim
from padim_jax.artifact.compaction import Compacted, compact
from padim_jax.export import ExportError, export_model, exporting, verify_export
from padim_jax.export.compare import hostile_images
from padim_jax.export.graph import IR_VERSION, OPSET, Graph
from padim_jax.export.onnx_model import onnx_model
from padim_jax.export.registration import PoseNodes, write_poses
from padim_jax.export.runtimes import Runtime, open_runtimes
from padim_jax.export.warping import Move
from padim_jax.gaussians.low_rank import low_rank
from padim_jax.method.aligned import Alignment, cells_inside
from padim_jax.method.warping import Poses, rotations, unwarp_map, warp
from tests.conftest import write_images
from tests.exports import PLACED, SHOWN, aligned, check_equal, in_eight_bits
from tests.test_export_onnx import opened
from tests.test_registration import ANGLES, SHIFTS, SIDE, bracket, placed

Run = Callable[[np.ndarray], list[np.ndarray]]
WIDE = (170, 201)  # twice as large as edge images, and of an odd side


def in_onnx(write: Callable[[Graph], list[str]], size: tuple[int, int]) -> Run:
    """A part of a graph alone, in ONNX Runtime."""
    graph = Graph()
    names = [graph.add("Cast", value, to=1) for value in write(graph)]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *size, 3])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "a", "b"]) for name in names]
    built = graph.build("part", inputs, outputs)
    made = helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: [np.asarray(found) for found in session.run(names, {"images": images})]


def wide(angles: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Brackets in images of another shape and size."""
    small = placed(bracket(), angles, shifts)
    rows, columns = (np.arange(side) * 64 // side for side in WIDE)
    return small[:, rows[:, None], columns[None]]


@pytest.mark.parametrize("max_angle", [0, 2.5, 20, 180])
def test_poses_are_the_models(max_angle: float) -> None:
    images = np.concatenate([wide(ANGLES, SHIFTS), hostile_images(WIDE)])
    alignment = Alignment.to(wide(np.zeros(1), np.zeros((1, 2)))[0], max_angle)

    def write(graph: Graph) -> list[str]:
        found = write_poses(graph, alignment, "images")
        return [found.down, found.across, found.quality, *([] if found.angle is None else [found.angle])]

    poses = alignment.poses(jnp.asarray(images))
    down, across, quality, *angle = (values.reshape(-1) for values in in_onnx(write, WIDE)(images))
    np.testing.assert_array_equal(down, poses.shift[:, 0])
    np.testing.assert_array_equal(across, poses.shift[:, 1])
    np.testing.assert_allclose(quality, poses.quality, atol=2e-5)
    assert len(angle) == (max_angle > 0)
    np.testing.assert_array_equal(angle[0] if angle else np.zeros(len(images)), poses.angle)
    assert (np.asarray(poses.angle) != 0).any() == (max_angle > 0)
    # rounded, so that others find the same: a 32nd of a degree and a 16th of a pixel
    np.testing.assert_array_equal(np.asarray(poses.angle) * 32 % 1, 0)
    np.testing.assert_array_equal(np.asarray(poses.shift) * 16 % 1, 0)


@pytest.mark.parametrize("turned", [True, False])
def test_images_and_maps_are_moved_alike_to_the_last_bit(turned: bool) -> None:
    size, grid, n = (51, 38), (13, 10), 40
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *size, 3), np.uint8)
    angles = np.round(rng.uniform(-180, 180, n) * 32) / 32 if turned else np.zeros(n)
    angles[:3] = angles[:3] if not turned else (-180, 180, -90)
    shifts = np.round(rng.uniform(-14, 14, (n, 2)) * 16) / 16 if turned else rng.integers(-14, 15, (n, 2))
    given = np.stack([*shifts.T, angles], axis=1).astype(np.float32)
    poses = Poses(jnp.asarray(given[:, 2]), jnp.asarray(given[:, :2]), jnp.ones(n))

    def write(graph: Graph) -> list[str]:
        down, across, angle = (graph.constant(given[:, place, None, None], "pose") for place in range(3))
        move = Move.of(graph, PoseNodes(down, across, down, angle if turned else None), size)
        moved = move.warp("images")
        maps = graph.reshape(graph.slice(graph.add("Cast", "images", to=1), 0, 1, 3), [0, *size])
        return [moved, move.inside(grid), *move.unwarp(maps)]

    moved, inside, maps, reached = in_onnx(write, size)(images)
    expected, _ = warp(images, poses)
    np.testing.assert_array_equal(moved, expected)
    assert (moved != images).mean() > 0.9
    np.testing.assert_array_equal(inside.reshape(n, -1), np.asarray(cells_inside(poses, grid, size)).T)
    back, is_reached = unwarp_map(images[..., 0].astype(np.float32), poses)
    np.testing.assert_array_equal(reached, is_reached)
    np.testing.assert_allclose(np.where(reached, maps, 0), back, atol=0.01)
    assert 0.2 < inside.mean() < 0.98


@pytest.mark.parametrize("side", [32, 224, 1024, 4096])
def test_turned_pixels_are_exact_in_float32(side: int) -> None:
    """A pixel's place is the same number however it is added up, with or without fused products."""
    table = rotations((side, side // 2))
    assert np.abs(table - rotations((32, 32))).max() < 3 / side
    rng = np.random.default_rng(0)
    cosines, sines = table[rng.integers(0, len(table), 5000)].T
    rows, columns = (rng.integers(0, side, (2, 5000)) - (side - 1) / 2).astype(np.float32)
    shift = np.round(rng.uniform(-side / 4, side / 4, 5000) * 16) / 16
    exact = cosines.astype(np.float64) * rows - sines.astype(np.float64) * columns
    np.testing.assert_array_equal(cosines * rows - sines * columns, exact)
    whole = exact + (side - 1) / 2 + shift
    kept = np.abs(whole) < side
    moved = (exact.astype(np.float32) + np.float32((side - 1) / 2) + shift.astype(np.float32))[kept]
    np.testing.assert_array_equal(moved, whole[kept])


@pytest.mark.parametrize(
    ("align", "name", "calibrated", "roi", "changes"),
    [
        ("rigid", "plain", True, False, {}),
        pytest.param("shift", "plain", True, False, {}, marks=pytest.mark.slow),
        ("rigid", "standardised, top share", True, True, {}),
        pytest.param("shift", "combined", True, True, {}, marks=pytest.mark.slow),
        pytest.param("rigid", "plain", False, True, {"max_angle": 20.0}, marks=pytest.mark.slow),
        pytest.param("rigid", "combined", True, False, {}, marks=pytest.mark.slow),
        pytest.param("shift", "standardised, top share", True, False, {}, marks=pytest.mark.slow),
        pytest.param("rigid", "neighbourhood, semi-orthogonal", True, True, {}, marks=pytest.mark.slow),
    ],
)
def test_scores_maps_verdicts_and_matches_are_the_models(
    align: Any, name: str, calibrated: bool, roi: bool, changes: dict[str, Any]
) -> None:
    model = aligned(align, name, calibrated, roi, **changes)
    assert model.alignment is not None
    assert (model.alignment.max_angle > 0) == (align == "rigid")
    run = opened(model)
    check_equal(model, run(SHOWN), SHOWN)
    check_equal(model, run(SHOWN[-1:]), SHOWN[-1:])  # the number of images is free
    fixed = opened(model, batch=3)
    check_equal(model, fixed(SHOWN[3:6]), SHOWN[3:6])


def test_an_image_that_does_not_match_is_anomalous_whatever_its_score() -> None:
    model = padim.with_threshold(aligned("rigid"), 1e6)
    found = opened(model)(SHOWN)
    check_equal(model, found, SHOWN)
    assert {*found["anomalous"][:5]} == {False}
    assert found["anomalous"][5:].all()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["triangle-16bit", "low-rank"])
def test_of_compact_models_too(form: str) -> None:
    model = aligned("rigid")
    if form == "low-rank":
        start = padim.init(model.backbone, model.config, reference=model.alignment)
        moments = padim.update(model.backbone, start, PLACED).moments
        small = Compacted(form, replace(model, gaussian=low_rank(moments, 6, 0.01)), None, 0.0, ())
    else:
        small = compact(model, 0.05)
        assert small.form == form
    check_equal(small.model, opened(small.model, quantised=small.quantised)(SHOWN), SHOWN)


def test_certified_of_photos_and_with_folders(tmp_path: Path) -> None:
    model = aligned("rigid")
    photos = PLACED[:4].repeat(2, axis=1).repeat(2, axis=2)
    certificate = export_model(model, tmp_path / "photo", photos, input=("photo", 128, 128))
    assert certificate.largest < 1e-5
    assert verify_export(tmp_path / "photo", photos, model=model).known == 4
    export_model(model, tmp_path / "out", PLACED[:4], runtimes=["javascript"])
    assert verify_export(tmp_path / "out", PLACED[:4]).known == 4


@pytest.mark.usefixtures("without_openvino")
@pytest.mark.parametrize("align", ["rigid", pytest.param("shift", marks=pytest.mark.slow)])
def test_in_eight_bits_it_is_what_the_model_that_was_fitted_anew_gives(align: Any, tmp_path: Path) -> None:
    certificate = export_model(aligned(align), tmp_path / "out", PLACED, precision="int8")
    (report, *_) = certificate.runtimes
    assert report.differences.relative < 1e-5
    assert verify_export(tmp_path / "out", PLACED[:3]).known == 3
    (runtime, *_) = open_runtimes(tmp_path / "out", "onnx")
    again = in_eight_bits(aligned(align), [PLACED])
    check_equal(again, dict(runtime.run(SHOWN)), SHOWN)
    # and lies as the model did, whose region of interest may be drawn
    np.testing.assert_array_equal(again.alignment.image, aligned(align).alignment.image)  # type: ignore[union-attr]


@pytest.mark.parametrize("files", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_image_of_which_a_runtime_takes_another_pose_is_named(
    files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange, others = PLACED[2], [False]

    def open_turned(folder: Path, format: Any, precision: Any) -> list[Runtime]:
        (own, *_) = open_runtimes(folder, format, precision)

        def run(shown: np.ndarray) -> Any:
            is_strange = others[0] | (shown == strange).all(axis=(1, 2, 3))
            return own.run(np.where(is_strange[:, None, None, None], np.rot90(shown, 2, (1, 2)), shown))

        return [replace(own, run=run)]

    monkeypatch.setattr(exporting, "open_runtimes", open_turned)
    model, given = aligned("rigid", calibrated=False), PLACED[:8]
    shown = write_images(tmp_path / "parts", given) if files else given
    name = "002.png" if files else "number 3"
    message = f"It is off on 1 of the 8 images named: .*{name}. The model aligns images, .*leave that image out of the command"
    with pytest.raises(ExportError, match=message):
        export_model(model, tmp_path / "out", shown)
    rest = [path for index, path in enumerate(shown) if index != 2] if files else np.delete(given, 2, axis=0)
    export_model(model, tmp_path / "out", rest)
    others[0] = True  # where all are, no image is to blame
    with pytest.raises(ExportError, match=r"nothing was written\. Export another format, or report it"):
        export_model(model, tmp_path / "out", rest)


def test_no_operator_that_runtimes_round_otherwise_or_do_not_have() -> None:
    """Fourier transforms are products, sines come from a table, and nothing loops."""
    operators = {node.op_type for node in onnx_model(aligned("rigid")).graph.node}
    assert not operators & {"DFT", "Loop", "Scan", "If", "Cos", "Sin", "ArgMax", "GridSample"}


@pytest.mark.slow
def test_pixels_are_the_last_axis_wherever_a_photo_is_moved() -> None:
    """ONNX Runtime takes up to thirty times as long for axes of 1 or 3 behind those of the pixels."""
    made = onnx.shape_inference.infer_shapes(onnx_model(aligned("rigid"), batch=2))
    shapes = {
        value.name: [one.dim_value for one in value.type.tensor_type.shape.dim] for value in made.graph.value_info
    }
    computed = {"Add", "Mul", "Sub", "Min", "Max", "Clip", "Round", "Abs", "Floor"}
    slow = [
        (node.op_type, shapes[node.output[0]])
        for node in made.graph.node
        if node.op_type in computed and SIDE**2 in shapes.get(node.output[0], [])[:-1]
    ]
    assert not slow
    assert any(shapes.get(node.output[0]) == [2, 3, SIDE, SIDE] for node in made.graph.node if node.op_type == "Add")
