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
from tests.conftest import SMALL, images

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
    own = (network, moments.rows, moments.projection, batch, valid, None)
    program = programs._update.lower(*own, embedding=moments.embedding, mesh=mesh).compile().as_text()
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
