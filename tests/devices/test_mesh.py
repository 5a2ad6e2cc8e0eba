"""Fit and score on every mesh of eight devices, against one device."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax import mesh as meshes
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.mesh import programs
from padim_jax.method import scoring
from padim_jax.method.scoring import leave_one_out_scores
from tests.conftest import SMALL, images
from tests.test_aligned import ALIGNED, GOOD, TURNED

UNEVEN = replace(SMALL, crop_size=(40, 56), image_size=(48, 64))  # 10×14 cells: 140 are not a multiple of 8


def by_one(backbone: padim.Backbone, config: padim.PadimConfig) -> padim.Padim:
    moments = padim.init(backbone, config)
    for batch in (images(21, config)[:13], images(21, config)[13:]):
        moments = padim.update(backbone, moments, batch)
    return padim.finalize(backbone, moments)


def by_many(
    mesh: jax.sharding.Mesh, backbone: padim.Backbone, config: padim.PadimConfig
) -> tuple[padim.Backbone, meshes.MeshMoments]:
    network = meshes.replicated(mesh, backbone)
    moments = meshes.init(mesh, network, config)
    for batch in (images(21, config)[:13], images(21, config)[13:]):
        moments = meshes.update(network, moments, batch)
    return network, moments


@pytest.fixture(scope="module")
def one(lite0: padim.Backbone) -> padim.Padim:
    return by_one(lite0, SMALL)


@pytest.fixture(scope="module")
def uneven(lite0: padim.Backbone) -> padim.Padim:
    return by_one(lite0, UNEVEN)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("changed", [False, True], ids=["even", "uneven-shrunk-projected"])
def test_every_mesh_gives_the_model_of_one_device(lite0: padim.Backbone, changed: bool, rows: int) -> None:
    config = replace(UNEVEN, covariance="ledoit-wolf", projection="semi-orthogonal") if changed else SMALL
    model, test = by_one(lite0, config), images(5, config, seed=9)
    wanted, mesh = padim.score(model, test), meshes.device_mesh(rows)
    network, moments = by_many(mesh, lite0, config)
    joined = meshes.joined(moments)
    for fitted in (meshes.finalize(network, joined, mesh), meshes.place(mesh, model)):
        scores = meshes.score(fitted, test)
        np.testing.assert_allclose(scores.anomaly_map, wanted.anomaly_map, rtol=1e-4)
        np.testing.assert_allclose(scores.image_score, wanted.image_score, rtol=1e-4)
    again = meshes.joined(meshes.split(meshes.device_mesh(8 // rows), joined))  # on to another mesh and back
    np.testing.assert_allclose(again.moments.mean, joined.moments.mean, rtol=1e-6)
    assert float(again.count) == 21


def test_p_values_and_verdicts_are_those_of_one_device(one: padim.Padim) -> None:
    model, test = padim.calibrate(one, [images(21, SMALL)]), images(5, SMALL, seed=9)
    scores, wanted = meshes.score(meshes.place(meshes.device_mesh(2), model), test), padim.score(model, test)
    assert scores.p_value is not None
    assert wanted.p_value is not None
    np.testing.assert_allclose(scores.p_value, wanted.p_value)
    np.testing.assert_array_equal(scores.anomalous, wanted.anomalous)
    solving = meshes.place(meshes.device_mesh(4), padim.with_solver(model, "triangular-solve"))
    solved = meshes.score(solving, test).p_value
    assert solved is not None
    np.testing.assert_allclose(solved, wanted.p_value)


@pytest.mark.parametrize("rows", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_standardised_maps_are_those_of_one_device(one: padim.Padim, rows: int) -> None:
    asked = replace(one, config=replace(one.config, anomaly_map="standardised"))
    mesh, test = meshes.device_mesh(rows), images(5, SMALL, seed=9)
    with pytest.raises(ValueError, match=r"^score: the model's maps are to be standardised"):
        meshes.score(meshes.place(mesh, asked), test)
    model = padim.calibrate(asked, [images(21, SMALL)])
    scores, expected = meshes.score(meshes.place(mesh, model), test), padim.score(model, test)
    np.testing.assert_allclose(scores.anomaly_map, expected.anomaly_map, rtol=1e-3, atol=1e-3)
    assert scores.p_value is not None
    assert expected.p_value is not None
    np.testing.assert_allclose(scores.p_value, expected.p_value)


def test_means_of_the_highest_pixels_are_those_of_one_device(one: padim.Padim) -> None:
    asked, test = replace(one, config=replace(one.config, image_score="top-5%")), images(5, SMALL, seed=9)
    for model in (asked, padim.with_roi(asked, np.tri(*SMALL.crop, dtype=bool))):
        scores = meshes.score(meshes.place(meshes.device_mesh(2), model), test)
        np.testing.assert_allclose(scores.image_score, padim.score(model, test).image_score, rtol=1e-4)


@pytest.mark.parametrize("rows", [2, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (1, 4, 8))])
def test_a_shared_gaussian_is_that_of_one_device(lite0: padim.Backbone, rows: int) -> None:
    config = replace(SMALL, positions="shared")
    model, test = by_one(lite0, config), images(5, config, seed=9)
    wanted, mesh = padim.score(model, test), meshes.device_mesh(rows)
    network, moments = by_many(mesh, lite0, config)
    joined = meshes.joined(moments)
    assert float(joined.count) == 21
    on_mesh = meshes.finalize(network, joined, mesh)
    for fitted in (on_mesh, meshes.place(mesh, model)):
        np.testing.assert_allclose(meshes.score(fitted, test).anomaly_map, wanted.anomaly_map, rtol=1e-4)
    good, weights = images(21, config)[:16], np.ones(16, np.float32)
    left_out, *_ = meshes.score_left_out(on_mesh, meshes.shared_out(mesh, good), meshes.shared_out(mesh, weights))
    expected, *_ = scoring.score_left_out(model, good, weights)
    np.testing.assert_allclose(left_out.anomaly_map, expected.anomaly_map, rtol=1e-3)
    again = meshes.joined(meshes.split(meshes.device_mesh(8 // rows), joined))  # on to another mesh and back
    np.testing.assert_allclose(again.moments.mean, joined.moments.mean, rtol=1e-6)
    np.testing.assert_allclose(meshes.handed_over(again).moments.mean, joined.moments.mean, rtol=1e-6)
    assert float(again.count) == 21
    half_life = meshes.init(mesh, network, config)
    faded = padim.init(lite0, config)
    for batch in (images(16, config), images(16, config, seed=3)):
        half_life = meshes.update(network, half_life, batch, half_life=8.0)
        faded = padim.update(lite0, faded, batch, half_life=8.0)
    found = meshes.joined(half_life).moments
    np.testing.assert_allclose(found.count, faded.count, rtol=1e-6)
    np.testing.assert_allclose(found.mean, faded.moments.mean, rtol=1e-5, atol=1e-6)
    for panel, other in zip(found.scatter.panels, faded.moments.scatter.panels, strict=True):
        np.testing.assert_allclose(panel, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_each_device_holds_its_share(lite0: padim.Backbone, uneven: padim.Padim, rows: int) -> None:
    mesh = meshes.device_mesh(rows)
    _, moments = by_many(mesh, lite0, UNEVEN)
    for array in (moments.rows.mean, *moments.rows.scatter.panels):
        whole = 144 * array[0, 0].size  # 140 positions, filled up
        assert {shard.data.size for shard in array.addressable_shards} == {whole // (8 // rows)}
    gaussian = meshes.place(mesh, uneven).model.gaussian
    assert isinstance(gaussian, WhitenedGaussian)
    for array in gaussian.whitening.panels:
        assert {shard.data.size for shard in array.addressable_shards} == {144 * array[0].size // (8 // rows)}


def sent(program: str | None) -> tuple[float, set[str]]:
    """Bytes that leave each device, of all collectives of the program, and the kinds of these."""
    assert program is not None
    total, kinds = 0.0, set()
    collective = r"= (.*?) (all-to-all|all-gather|all-reduce|collective-permute|reduce-scatter)(-start)?\("
    for line in program.splitlines():
        if match := re.search(collective, line):
            kinds.add(match[2])
            groups = re.search(r"replica_groups=(\{\{[\d,]*\}|\[\d+,\d+\])", line)
            assert groups is not None, line
            text = groups[1]
            size = int(text.strip("[]").split(",")[1]) if text[0] == "[" else text.count(",") + 1
            for kind, shape in re.findall(r"(f32|pred|u8|s32)\[([\d,]*)\]", match[1]):
                numbers = np.prod([int(n) for n in shape.split(",") if n], dtype=int)
                total += numbers * {"f32": 4, "s32": 4}.get(kind, 1) * (size - 1) / size
    return total, kinds


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_nothing_but_embeddings_is_exchanged(lite0: padim.Backbone, uneven: padim.Padim, rows: int) -> None:
    mesh = meshes.device_mesh(rows)
    network, moments = by_many(mesh, lite0, UNEVEN)
    batch, valid = (meshes.shared_out(mesh, array) for array in (images(16, UNEVEN), np.ones(16, bool)))
    own = (network, moments.rows, (moments.projection, None), batch, valid, None)
    program = (
        programs._update.lower(*own, embedding=moments.embedding, mesh=mesh, config=UNEVEN.computed).compile().as_text()
    )
    each = meshes.bytes_per_image(mesh, moments.embedding) * 2  # images a device embeds
    total, kinds = sent(program)
    assert each <= total <= each + 16, (total, each)  # and a byte for each image's validity
    assert kinds <= {"all-to-all", "all-gather"}
    total, _ = sent(programs._score.lower(meshes.place(mesh, uneven), batch).compile().as_text())
    d = moments.embedding.dimension
    np.testing.assert_allclose(total, each * (d + 1) / d)


@pytest.mark.parametrize(("data", "grid"), [(3, None), (2, 8), (0, None)])
def test_a_mesh_takes_all_devices(data: int, grid: int | None) -> None:
    with pytest.raises(ValueError, match="8, the devices there are"):
        meshes.device_mesh(data, grid)


def test_images_of_another_size_are_refused(lite0: padim.Backbone) -> None:
    network, moments = by_many(meshes.device_mesh(), lite0, SMALL)
    with pytest.raises(ValueError, match="crop_size"):
        meshes.update(network, moments, images(3, UNEVEN))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 8])
def test_aligned_images_are_those_of_one_device(lite0: padim.Backbone, rows: int) -> None:
    mesh = meshes.device_mesh(rows)
    expected = padim.fit(lite0, [GOOD], ALIGNED)
    network = meshes.replicated(mesh, lite0)
    moments = meshes.init(mesh, network, ALIGNED, reference=expected.alignment)
    for batch in (GOOD[:9], GOOD[9:]):
        moments = meshes.update(network, moments, batch)
    joined = meshes.joined(moments)
    fitted = meshes.finalize(network, joined, mesh)
    weights = np.zeros(16, np.float32)
    weights[: len(GOOD)] = 1
    padded = np.concatenate([GOOD, GOOD[:2]])
    left_out = meshes.leave_one_out_scores(
        fitted, meshes.shared_out(mesh, padded), meshes.shared_out(mesh, weights)
    ).image_score
    by_one = next(iter(leave_one_out_scores(expected, [GOOD]))).image_score
    np.testing.assert_allclose(left_out[: len(GOOD)], by_one, rtol=5e-3)
    wanted = padim.score(expected, TURNED)
    for model in (fitted, meshes.place(mesh, expected)):
        scores = meshes.score(model, TURNED)
        np.testing.assert_allclose(scores.anomaly_map, wanted.anomaly_map, rtol=1e-3, atol=2e-2)
        assert scores.match is not None
        assert wanted.match is not None
        np.testing.assert_allclose(scores.match, wanted.match, atol=1e-4)
    again = meshes.joined(meshes.split(meshes.device_mesh(8 // rows), joined))
    assert again.moments.coverage is not None
    assert expected.coverage is not None
    np.testing.assert_allclose(again.moments.coverage[: expected.embedding.n_positions], expected.coverage)
