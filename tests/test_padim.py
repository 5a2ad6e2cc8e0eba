"""The trio init / update / finalize, and score, end to end on a small grid with real weights."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.method import programs
from tests import oracle
from tests.conftest import SMALL, images


def oracle_maps(backbone: padim.Backbone, model: padim.Padim, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    train, test = (oracle.embeddings(backbone, model.embedding, x) for x in (train, test))
    grids = oracle.distance_grid(train, test, model.config.regularisation("test")[0])
    return oracle.anomaly_maps(grids, model.config.crop, model.config.sigma)


@pytest.mark.parametrize("solver", ["triangular-solve", "inverse-factor"])
@pytest.mark.parametrize("n", [20, 5], ids=["n>d", "n<=d"])
def test_maps_match_the_oracle(lite0: padim.Backbone, small: padim.PadimConfig, n: int, solver) -> None:
    train, test = images(n, small), images(3, small, seed=1)
    model = padim.fit(lite0, [train], small, solver=solver)
    wanted = oracle_maps(lite0, model, train, test)
    found = padim.score(model, test)
    np.testing.assert_allclose(found.anomaly_map, wanted, rtol=1e-3)
    np.testing.assert_allclose(found.image_score, wanted.max(axis=(1, 2)), rtol=1e-3)


def test_odd_size_matches_the_oracle(lite0: padim.Backbone) -> None:
    config = padim.PadimConfig(n_channels=8, image_size=(37, 45), crop_size=(37, 45))
    x = images(9, padim.PadimConfig(image_size=(40, 48), crop_size=(40, 48)))[:, :37, :45]
    model = padim.fit(lite0, [x[:7]], config)
    assert model.embedding.grid == (10, 12)
    np.testing.assert_allclose(
        padim.score(model, x[7:]).anomaly_map, oracle_maps(lite0, model, x[:7], x[7:]), rtol=1e-3
    )


def test_solvers_agree(small_model: padim.Padim, small: padim.PadimConfig) -> None:
    test = images(4, small, seed=2)
    product, solve = (
        padim.score(small_model, test),
        padim.score(padim.with_solver(small_model, "triangular-solve"), test),
    )
    np.testing.assert_allclose(product.anomaly_map, solve.anomaly_map, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [1] * 20, [3, 17], [17, 3], [0, 20]], ids=str)
def test_batch_size_does_not_matter(lite0: padim.Backbone, small_model: padim.Padim, sizes: list[int]) -> None:
    x = images(20, SMALL)
    batches = np.split(x, np.cumsum(sizes)[:-1])
    model = padim.fit(lite0, batches, SMALL)
    assert int(model.count) == 20
    test = images(3, SMALL, seed=1)
    wanted = padim.score(small_model, test).anomaly_map
    np.testing.assert_allclose(padim.score(model, test).anomaly_map, wanted, rtol=2e-3)


def test_order_does_not_matter(lite0: padim.Backbone, small_model: padim.Padim) -> None:
    model = padim.fit(lite0, [images(20, SMALL)[::-1]], SMALL)
    test = images(3, SMALL, seed=1)
    np.testing.assert_allclose(
        padim.score(model, test).anomaly_map, padim.score(small_model, test).anomaly_map, rtol=2e-3
    )


def test_merge_is_one_fit(lite0: padim.Backbone, small_model: padim.Padim) -> None:
    x = images(20, SMALL)
    a, b = (padim.update(lite0, padim.init(lite0, SMALL), part) for part in (x[:6], x[6:]))
    merged = padim.finalize(lite0, padim.merge(a, b))
    test = images(3, SMALL, seed=1)
    wanted = padim.score(small_model, test).anomaly_map
    np.testing.assert_allclose(padim.score(merged, test).anomaly_map, wanted, rtol=2e-3)
    with_nothing = padim.merge(padim.init(lite0, SMALL), padim.merge(a, b))
    np.testing.assert_allclose(
        with_nothing.moments.scatter.square(), padim.merge(a, b).moments.scatter.square(), rtol=1e-6
    )


def test_update_leaves_its_input_untouched(lite0: padim.Backbone) -> None:
    start = padim.init(lite0, SMALL)
    once = padim.update(lite0, start, images(2, SMALL))
    twice = padim.update(lite0, once, images(2, SMALL))
    assert [int(m.count) for m in (start, once, twice)] == [0, 2, 4]
    assert float(jnp.abs(start.moments.scatter.square()).max()) == 0


def test_same_scores_alone_and_in_a_batch(small_model: padim.Padim) -> None:
    test = images(5, SMALL, seed=1)
    together = padim.score(small_model, test).image_score
    alone = [float(padim.score(small_model, test[i : i + 1]).image_score[0]) for i in range(5)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_pure_functions_compose_with_jit_and_vmap(lite0: padim.Backbone) -> None:
    x = jnp.asarray(images(8, SMALL))

    @jax.jit
    def whole(backbone: padim.Backbone, x: jax.Array, test: jax.Array) -> padim.Scores:
        moments = padim.init(backbone, SMALL)
        moments = padim.merge(padim.update(backbone, moments, x[:4]), padim.update(backbone, moments, x[4:]))
        return padim.score(padim.finalize(backbone, moments), test)

    test = jnp.asarray(images(2, SMALL, seed=1))
    wanted = padim.score(padim.fit(lite0, [x], SMALL), test).anomaly_map
    np.testing.assert_allclose(whole(lite0, x, test).anomaly_map, wanted, rtol=2e-3)
    model = padim.fit(lite0, [x], SMALL)
    mapped = jax.vmap(lambda one: padim.score(model, one[None]).image_score[0])(test)
    np.testing.assert_allclose(mapped, padim.score(model, test).image_score, rtol=1e-4)


def test_everything_is_a_pytree_of_arrays(lite0: padim.Backbone, small_model: padim.Padim) -> None:
    moments = padim.init(lite0, SMALL)
    for tree in (lite0, moments, small_model, padim.score(small_model, images(1, SMALL))):
        leaves = jax.tree.leaves(tree)
        assert leaves
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert jax.tree.map(lambda leaf: leaf, moments).config == SMALL


def test_ragged_batches_compile_once(lite0: padim.Backbone) -> None:
    config = dataclasses.replace(SMALL, seed=77)
    compiled: Any = programs.update_donating
    before = compiled._cache_size()
    padim.fit(lite0, [images(n, config) for n in (4, 4, 3, 1)], config)
    assert compiled._cache_size() == before + 1


def test_flat_training_images_give_finite_scores(lite0: padim.Backbone) -> None:
    black = np.zeros((3, *SMALL.crop, 3), np.uint8)
    model = padim.fit(lite0, [black], SMALL)  # no variance at all: ε alone
    scores = padim.score(model, np.concatenate([black[:1], black[:1] + 255]))
    assert np.isfinite(scores.anomaly_map).all()
    assert scores.image_score[0] < 1e-2 < scores.image_score[1]


def test_all_black_image_is_far_from_normal(small_model: padim.Padim) -> None:
    normal = float(padim.score(small_model, images(1, SMALL)).image_score[0])
    black = float(padim.score(small_model, np.zeros((1, *SMALL.crop, 3), np.uint8)).image_score[0])
    assert np.isfinite(black)
    assert black > normal


def test_threads_may_solve_at_once(small_model: padim.Padim) -> None:
    # jaxlib hangs on this unless the calls take turns; the pool would then never finish
    model, test = padim.with_solver(small_model, "triangular-solve"), images(4, SMALL, seed=1)
    wanted = padim.score(model, test).image_score
    with ThreadPoolExecutor(2) as pool:
        for scores in pool.map(lambda _: padim.score(model, test), range(20)):
            np.testing.assert_allclose(scores.image_score, wanted, rtol=1e-6)


def test_no_images_give_no_scores(small_model: padim.Padim) -> None:
    scores = padim.score(small_model, images(0, SMALL))
    assert scores.image_score.shape == (0,)
    assert scores.anomaly_map.shape == (0, *SMALL.crop)


def test_defaults_are_the_papers(lite0: padim.Backbone) -> None:
    config = padim.PadimConfig()
    assert (config.ridge, config.image, config.crop, config.sigma) == (0.01, (256, 256), (224, 224), 4.0)
    moments = jax.eval_shape(lambda: padim.init(lite0))
    assert moments.embedding.grid == (56, 56)
    assert len(moments.embedding.channels) == 100


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b, m: padim.fit(b, [images(1, SMALL)], SMALL), ValueError, r"1 images give no covariance \(its divisor is n - 1\)"),
        (lambda b, m: padim.fit(b, [], SMALL), ValueError, "0 images give no covariance"),
        (lambda b, m: padim.finalize(b, padim.init(b, SMALL)), ValueError, "fit on 2 or more"),
        (lambda b, m: padim.score(m, np.full((1, 32, 48, 3), np.nan)), TypeError, "uint8"),
        (lambda b, m: padim.score(m, [[[1]]]), TypeError, "got list"),  # type: ignore[arg-type]
        (lambda b, m: padim.score(m, images(1, SMALL)[:, :20]), ValueError, r"smaller than the crop: \(1, 20, 48, 3\), wanted \(n, 32, 48, 3\)"),
        (lambda b, m: padim.score(m, np.zeros((32, 48, 3), np.uint8)), ValueError, r"wanted \(n, 32, 48, 3\)"),
        (lambda b, m: padim.fit(b, [np.zeros((2, 3, 32, 48), np.uint8)], SMALL), ValueError, "fit: images are"),
        (lambda b, m: padim.fit(b, [], dataclasses.replace(SMALL, n_channels=300)), ValueError, "300 is more than the 64"),
        (lambda b, m: padim.fit(b, [], dataclasses.replace(SMALL, taps=("layer1",))), ValueError, "unknown tap 'layer1'"),
        (lambda b, m: padim.merge(padim.init(b, SMALL), padim.init(b, dataclasses.replace(SMALL, seed=5))), ValueError, "seed: 0 against 5; channels"),
        (lambda b, m: padim.update(padim.load_backbone("resnet18", "random"), padim.init(b, SMALL), images(1, SMALL)), ValueError, "update: backbone resnet18.*begun with, efficientnet_lite0"),
        (lambda b, m: padim.update(b, padim.init(b, SMALL), images(2, SMALL), np.ones(3, bool)), ValueError, r"valid is bool \(3,\), wanted bool \(2,\)"),
        (lambda b, m: padim.with_solver(m, "cholesky"), ValueError, "solver='cholesky', wanted one of"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_wrong_input(lite0: padim.Backbone, small_model: padim.Padim, call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call(lite0, small_model)


def test_positions_that_cannot_be_factored_are_named(lite0: padim.Backbone) -> None:
    moments = padim.update(lite0, padim.init(lite0, SMALL), images(4, SMALL))
    broken = SymmetricMatrix.from_square(moments.moments.scatter.square().at[13].set(-100 * jnp.eye(12)))
    inner = dataclasses.replace(moments.moments, scatter=broken)
    with pytest.raises(FloatingPointError, match=r"at 1 of 96 positions, \(row, column\) \(1, 1\); raise ridge"):
        padim.finalize(lite0, dataclasses.replace(moments, moments=inner))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_channels": 0}, "n_channels=0, wanted a positive integer"),
        ({"ridge": 0}, "ridge=0.0, wanted a positive number"),
        ({"ridge": float("nan")}, "ridge=nan"),
        ({"sigma": -1}, "sigma=-1.0, wanted a number of pixels"),
        ({"sigma": 1e6}, "sigma=1000000.0, wanted a number of pixels from 0 to the crop's 224"),
        ({"taps": "block2"}, r"taps='block2', wanted a tuple of names, such as \('block2', 'block4'\), or None"),
        ({"image_size": (True, True)}, r"image_size=\(True, True\)"),
        ({"seed": -1}, "seed=-1"),
        ({"image_size": 128}, r"image_size=\(128, 128\) is smaller than crop_size=\(224, 224\)"),
        ({"crop_size": (0, 5)}, "crop_size=\\(0, 5\\), wanted a positive integer or a"),
        ({"interpolation": "nearest"}, "interpolation='nearest', wanted one of bilinear, bicubic"),
        ({"neighbourhood": 2}, "neighbourhood=2, wanted an odd number of cells"),
        ({"covariance": "oas"}, "covariance='oas', wanted one of ridge, ledoit-wolf"),
        ({"projection": "pca"}, "projection='pca', wanted one of random-channels, semi-orthogonal, principal-"),
        ({"resize": "fit"}, "resize='fit', wanted one of stretch, shorter-side, pad"),
        ({"value_range": (5, 5)}, r"value_range=\(5, 5\), wanted \(low, high\), two numbers, low below high, or None"),
        ({"value_range": (0, float("inf"))}, "value_range="),
        ({"value_range": 255}, "value_range=255"),
        ({"value_range": (0, 1, 2)}, "value_range="),
    ],
)
def test_wrong_settings(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        padim.PadimConfig(**settings)


def test_settings_are_normalised() -> None:
    numpy: Any = {"crop_size": np.int64(224), "ridge": np.float32(0.25), "seed": np.int32(3)}
    a = padim.PadimConfig(image_size=(256, 256), sigma=4, **numpy)
    b = padim.PadimConfig(image_size=256, crop_size=224, sigma=4.0, ridge=0.25, seed=3)
    assert a == b
    assert hash(a) == hash(b)
    assert (b.image_size, b.crop_size, b.image, b.crop) == (256, 224, (256, 256), (224, 224))
    assert padim.PadimConfig(image_size=(300, 400)).image_size == (300, 400)
    ranged: Any = {"value_range": [np.int32(0), np.float32(4095)]}
    assert padim.PadimConfig(**ranged) == padim.PadimConfig(value_range=(0, 4095))
    assert isinstance(hash(padim.PadimConfig(**ranged)), int)


def test_float64_moments_agree(lite0: padim.Backbone) -> None:
    """Float32 accumulation over many batches stays close to the covariance in float64."""
    x = images(60, SMALL)
    moments = padim.init(lite0, SMALL)
    for start in range(0, 60, 4):
        moments = padim.update(lite0, moments, x[start : start + 4])
    at = oracle.embeddings(lite0, moments.embedding, x).reshape(60, -1, 12).transpose(1, 0, 2)
    wanted = np.stack([np.cov(one, rowvar=False, ddof=1) for one in at])
    found = np.asarray(moments.moments.scatter.square()) / 59
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert isinstance(moments.moments, Moments)
