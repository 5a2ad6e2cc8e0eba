"""A model's ONNX graph gives what the model gives, whatever its form, in ONNX Runtime."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import padim_jax as padim
from padim_jax.artifact.compaction import DeployedForm, compact
from padim_jax.export import ExportError
from padim_jax.export.describe import model_digest
from padim_jax.export.distances import panel_spans
from padim_jax.export.graph import IR_VERSION, OPSET
from padim_jax.export.onnx_model import LARGEST, onnx_model
from padim_jax.gaussians.quantised import Quantised
from padim_jax.method.calibration import calibration
from tests.conftest import SMALL, images
from tests.exports import SETTINGS, TEST, check_equal, compacted, fitted

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def opened(model: padim.Padim, batch: int | None = None, quantised: Quantised | None = None) -> Run:
    made = onnx_model(model, batch, quantised)
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda shown: dict(zip(names, [np.asarray(v) for v in session.run(names, {"images": shown})], strict=True))


@pytest.mark.parametrize(
    ("name", "calibrated", "roi"),
    [
        ("plain", True, False),
        ("plain", False, True),
        ("neighbourhood, semi-orthogonal", False, False),
        ("standardised, top share", True, True),
        ("combined", True, False),
        ("combined", True, True),
        pytest.param("shared", False, False, marks=pytest.mark.slow),
        pytest.param("one for all, no blur", False, False, marks=pytest.mark.slow),
    ],
)
def test_scores_maps_and_verdicts_are_the_models(name: str, calibrated: bool, roi: bool) -> None:
    model = fitted(name, calibrated, roi)
    run = opened(model)
    check_equal(model, run(TEST), TEST)
    check_equal(model, run(TEST[:1]), TEST[:1])  # the number of images is free


def test_p_values_and_verdicts_are_not_all_alike() -> None:
    """What the test above compares says something."""
    found = opened(fitted("plain"))(np.concatenate([images(24, SMALL)[:2], TEST]))
    assert len({*found["p_value"]}) > 1
    assert {*found["anomalous"]} == {True, False}
    assert {*found["mask"].ravel()} == {True, False}


def test_a_score_that_is_among_the_good_ones_and_at_the_threshold() -> None:
    model = fitted("plain")
    assert model.calibration is not None
    (score,) = opened(model)(TEST[:1])["image_score"]
    good, pixels = score * np.array([0.5, 1, 2], np.float32), np.asarray(model.calibration.pixels)
    tied = replace(model, calibration=calibration(good, pixels, "held-out", threshold=float(score)))
    found = opened(tied)(TEST[:1])
    assert (found["p_value"].item(), found["anomalous"].item()) == (0.75, False)


@pytest.mark.parametrize("form", ["triangle-16bit", "low-rank", "low-rank-16bit"])
def test_a_compact_model_is_as_small_in_the_file_and_gives_the_same(form: DeployedForm) -> None:
    small = compacted(form)
    made = onnx_model(small.model, quantised=small.quantised)
    check_equal(small.model, opened(small.model, quantised=small.quantised)(TEST), TEST)
    types = {tensor.name.split("_")[0]: tensor for tensor in made.graph.initializer}
    stored = types["basis" if "low-rank" in form else "triangle"]
    assert (stored.data_type == onnx.TensorProto.INT16) == form.endswith("16bit")
    p, d = SMALL.crop[0] // 4 * SMALL.crop[1] // 4, 12
    assert [*stored.dims] == ([p, 5, d] if "low-rank" in form else [p, d * (d + 1) // 2])


@pytest.mark.parametrize(
    ("network", "taps"),
    [
        ("resnet18", ("layer1", "layer2")),
        pytest.param("resnet50", ("layer1",), marks=pytest.mark.slow),
        pytest.param("efficientnet_b5", ("block3", "block5"), marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_network(network: str, taps: tuple[str, ...] | None) -> None:
    model = padim.fit(
        padim.load_backbone(network, weights="random"), images(8, SMALL), replace(SMALL, taps=taps, n_channels=20)
    )
    check_equal(model, opened(model, batch=3)(TEST), TEST)


@pytest.mark.slow
def test_odd_sizes_and_triangular_solves(lite0: padim.Backbone) -> None:
    config = replace(SMALL, image_size=(33, 47), crop_size=(33, 47), neighbourhood=9, taps=("block1", "block4"))
    good, shown = (np.random.default_rng(seed).integers(0, 256, (8, 33, 47, 3), np.uint8) for seed in range(2))
    model = padim.fit(lite0, good, config, solver="triangular-solve")
    check_equal(model, opened(model)(shown), shown)


@pytest.mark.parametrize("d", [1, 12, 31, 48, 100, 140, 550])
def test_panels_cover_the_triangle_once(d: int) -> None:
    spans = panel_spans(d)
    assert [column for start, stop in spans for column in range(start, stop)] == [*range(d)]
    assert all((stop - start) % 32 == 0 for start, stop in spans[:-1])
    stored = sum(stop * (stop - start) for start, stop in spans)
    assert stored <= d * d
    assert d < 64 or stored <= 0.68 * d * d


@pytest.mark.slow
def test_factors_in_several_panels(lite0: padim.Backbone) -> None:
    model = padim.fit(
        lite0, images(8, SMALL)[:, :16, :16], replace(SMALL, taps=None, n_channels=100, crop_size=(16, 16))
    )
    check_equal(model, opened(model)(TEST[:, :16, :16]), TEST[:, :16, :16])
    small = compact(model, 0.5)
    assert small.form == "triangle-16bit"
    check_equal(small.model, opened(small.model, quantised=small.quantised)(TEST[:, :16, :16]), TEST[:, :16, :16])


def test_only_channels_that_are_kept_are_computed() -> None:
    model = fitted("plain", calibrated=False)
    made = onnx_model(model)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in onnx.shape_inference.infer_shapes(made).graph.value_info}  # fmt: skip
    *_, last = [node for node in made.graph.node if node.op_type == "Conv"]
    kept = [channel for channel in model.embedding.channels if channel >= 24]  # of block 4, after 24 of block 2
    assert shapes[last.output[0]][1] == len(kept)


def test_a_wrong_type_or_size_is_the_runtimes_error_and_no_number() -> None:
    run, fixed = opened(fitted("plain")), opened(fitted("plain"), batch=2)
    for wrong in (TEST.astype(np.float32), TEST[:, :-1], TEST[..., :2], TEST[0]):
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT|Unexpected input|Got invalid dimensions|Invalid rank"):
            run(wrong)
    with pytest.raises(Exception, match=r"(?s)Got: 3 Expected: 2"):
        fixed(TEST)
    check_equal(fitted("plain"), fixed(TEST[:2]), TEST[:2])


def test_the_file_says_what_it_takes_and_gives_and_of_which_model_it_is() -> None:
    model = fitted("plain")
    made = onnx_model(model)
    facts = {entry.key.removeprefix("padim_jax."): entry.value for entry in made.metadata_props}
    assert facts["model"] == model_digest(model)
    assert facts["version"] == padim.__version__
    assert "(n, 32, 48, 3)" in facts["input.images"]
    values = [*made.graph.input, *made.graph.output]
    assert {f"{kind}.{value.name}" for kind, value in zip(["input", *["output"] * 5], values, strict=True)} <= {*facts}
    assert all(
        value.doc_string == facts[f"{'input' if value.name == 'images' else 'output'}.{value.name}"] for value in values
    )
    assert repr(float(model.calibration.threshold)) in facts["output.anomalous"]  # type: ignore[union-attr]
    assert (made.ir_version, [(entry.domain, entry.version) for entry in made.opset_import]) == (
        IR_VERSION,
        [("", OPSET)],
    )
    assert [value.name for value in onnx_model(fitted("plain", calibrated=False)).graph.output] == [
        "image_score",
        "anomaly_map",
    ]


def test_a_digest_tells_models_apart() -> None:
    model = fitted("plain")
    assert model_digest(model) == model_digest(replace(model))
    others = [
        padim.with_threshold(model, 3.5),
        padim.with_roi(model, np.ones(SMALL.crop, bool)),
        replace(model, gaussian=replace(model.gaussian, mean=model.gaussian.mean.at[0, 0].add(1e-3))),
        fitted("plain", calibrated=False),
    ]
    assert len({model_digest(other) for other in [model, *others]}) == 5


def refusals() -> dict[str, tuple[Callable[[], padim.Padim], str]]:
    def network(parameters: Any, shown: Any) -> dict[str, Any]:
        return {"a": shown[:, ::4, ::4] * parameters["a"][None, None, None]}

    def own() -> padim.Padim:
        mine = padim.own_backbone("mine", network, {"a": jnp.ones(3)}, image_size=SMALL.crop)
        return padim.fit(mine, images(4, SMALL), padim.PadimConfig(image_size=SMALL.crop, crop_size=SMALL.crop))

    plain = fitted("plain", calibrated=False)
    half = replace(plain.embedding, precision="bfloat16")
    return {
        "own network": (own, r"backbone 'mine' is your own.*export format='stablehlo'"),
        "bfloat16": (lambda: replace(plain, embedding=half), r"precision='bfloat16'.*fit the model"),
        "standardised": (
            lambda: replace(plain, config=replace(SMALL, **SETTINGS["standardised, top share"])),
            "not calibrated; calibrate it first",
        ),
    }


@pytest.mark.parametrize("name", ["own network", "bfloat16", "standardised"])
def test_what_has_no_graph_yet_is_refused_in_words(name: str) -> None:
    make, message = refusals()[name]
    with pytest.raises(ExportError, match=rf"(?s)^export_model: .*{message}"):
        onnx_model(make())


def test_a_file_ends_before_two_gigabytes() -> None:
    assert LARGEST < 2**31
