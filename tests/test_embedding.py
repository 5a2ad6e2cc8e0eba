"""Channel selection and upsampling against the oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.method.embedding import _upsample, check_embedding, draw_embedding, embed
from tests import oracle
from tests.conftest import images


@pytest.mark.parametrize("crop", [(32, 48), (33, 50)], ids=str)
@pytest.mark.parametrize("taps", [None, ("block4",), ("block2", "block10")], ids=str)
def test_matches_the_oracle(lite0: padim.Backbone, crop: tuple[int, int], taps) -> None:
    config = padim.PadimConfig(n_channels=20, image_size=crop, crop_size=crop, taps=taps)
    embedding = draw_embedding(lite0, config)
    x = images(3, padim.PadimConfig(image_size=(48, 64), crop_size=(36, 52)))[:, : crop[0], : crop[1]]
    found = embed(lite0, embedding, jnp.asarray(x))
    wanted = oracle.embeddings(lite0, embedding, x)
    assert found.shape == (embedding.n_positions, 3, 20)
    np.testing.assert_allclose(np.asarray(found).transpose(1, 0, 2).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("neighbourhood", [3, 5, 9])
@pytest.mark.parametrize("projection", ["random-channels", "semi-orthogonal"])
def test_neighbourhoods_and_projections_match_the_oracle(lite0: padim.Backbone, neighbourhood: int, projection) -> None:
    config = padim.PadimConfig(
        n_channels=20, image_size=(33, 50), crop_size=(33, 50), neighbourhood=neighbourhood, projection=projection
    )
    started = padim.init(lite0, config)
    x = images(3, padim.PadimConfig(image_size=(36, 52), crop_size=(36, 52)))[:, :33, :50]
    found = embed(lite0, started.embedding, jnp.asarray(x), started.projection)
    w = None if started.projection is None else np.asarray(started.projection)
    wanted = oracle.embeddings(lite0, started.embedding, x, w)
    assert wanted.shape == (3, *started.embedding.grid, started.embedding.dimension) == (3, 9, 13, 20)
    np.testing.assert_allclose(np.asarray(found).transpose(1, 0, 2).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


def test_channels_are_drawn_from_the_seed_alone(lite0: padim.Backbone) -> None:
    drawn = [draw_embedding(lite0, padim.PadimConfig(seed=seed)).channels for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 100
    assert list(drawn[0]) == sorted(set(drawn[0]))
    assert 0 <= drawn[0][0] <= drawn[0][-1] < 256


def test_every_channel_is_as_likely(lite0: padim.Backbone) -> None:
    counts = np.zeros(256)
    for seed in range(200):
        counts[list(draw_embedding(lite0, padim.PadimConfig(n_channels=64, seed=seed)).channels)] += 1
    # each count is binomial (200, 1/4): five standard deviations
    assert np.abs(counts - 50).max() < 5 * np.sqrt(200 * 0.25 * 0.75)


def test_all_channels_and_one_channel(lite0: padim.Backbone) -> None:
    assert draw_embedding(lite0, padim.PadimConfig(n_channels=256)).channels == tuple(range(256))
    assert len(draw_embedding(lite0, padim.PadimConfig(n_channels=1)).channels) == 1


def test_default_dimension_shrinks_to_the_taps_there_are(lite0: padim.Backbone) -> None:
    assert len(draw_embedding(lite0, padim.PadimConfig(taps=("block2",))).channels) == 24


def test_wrong_input(lite0: padim.Backbone) -> None:
    with pytest.raises(
        ValueError, match=r"n_channels=257 is more than the 256 channels of efficientnet_lite0 block2 \(24\)"
    ):
        draw_embedding(lite0, padim.PadimConfig(n_channels=257))
    with pytest.raises(ValueError, match="unknown tap 'layer1'"):
        draw_embedding(lite0, padim.PadimConfig(taps=("layer1",)))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2", "resnet18", "resnet50"])
@pytest.mark.parametrize("projection", ["random-channels", "semi-orthogonal"])
@pytest.mark.slow
def test_bfloat16_is_the_backbones_alone(name: str, projection) -> None:
    backbone = padim.load_backbone(name, "random")
    config = padim.PadimConfig(n_channels=20, image_size=(33, 50), crop_size=(33, 50), projection=projection)
    half = dataclasses.replace(config, precision="bfloat16")
    started = padim.init(backbone, half)
    x = images(4, padim.PadimConfig(image_size=(36, 52), crop_size=(36, 52)))[:, :33, :50]
    of = jax.jit(embed, static_argnums=1)
    found = of(backbone, started.embedding, jnp.asarray(x), started.projection)
    whole = of(backbone, draw_embedding(backbone, config), jnp.asarray(x), started.projection)
    assert found.dtype == jnp.float32
    off = np.abs(np.asarray(found - whole)).max() / np.abs(np.asarray(whole)).max()
    assert 1e-5 < off < 0.05  # 8 significant bits, through some twenty layers
    moments = padim.update(backbone, started, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(moments.moments)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="precision: 'bfloat16' against 'float32'"):
        padim.merge(moments, padim.update(backbone, padim.init(backbone, config), x))


def test_check_embedding_refuses_what_could_not_be_drawn(lite0: padim.Backbone) -> None:
    config = padim.PadimConfig(n_channels=3)
    good = draw_embedding(lite0, config)
    check_embedding(good, config)
    for change, words in (
        ({"channels": (3, 2, 1)}, "channels must be increasing integers from 0 to 255"),
        ({"channels": (1, 2, 256)}, "channels must be increasing integers from 0 to 255"),
        ({"channels": (1, 256)}, "2 dimensions are not what n_channels=3 asks for"),
        ({"channels": ()}, "0 dimensions are not what n_channels=3 asks for"),
        ({"grid": (1, 1)}, r"grid \(1, 1\) does not belong to crop_size="),
        ({"taps": ("block2",)}, r"taps \('block2',\) are not those of the settings"),
        ({"neighbourhood": 3}, "neighbourhood 3 is not the settings' 1"),
        ({"projected": 3}, "projected=3 does not belong to projection='random-channels'"),
        ({"precision": "bfloat16"}, "precision 'bfloat16' is not the settings' 'float32'"),
    ):
        with pytest.raises(ValueError, match=words):
            check_embedding(dataclasses.replace(good, **change), config)


def test_nearest_upsampling_matches_torch_rule() -> None:
    x = jnp.arange(3.0).reshape(1, 3, 1, 1)
    assert np.asarray(_upsample(x, (7, 1))).ravel().tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert jax.eval_shape(lambda x: _upsample(x, (5, 4)), x).shape == (1, 5, 4, 1)
