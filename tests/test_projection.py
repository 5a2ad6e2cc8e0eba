"""Projections: orthonormal, from the seed or from the data, and kept with the model."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

import padim_jax as padim
from padim_jax.method.projection import semi_orthogonal
from tests import oracle
from tests.conftest import SMALL, images

SEMI = replace(SMALL, projection="semi-orthogonal")
PRINCIPAL = replace(SMALL, projection="principal-components")


def test_semi_orthogonal_is_orthonormal_and_from_the_seed() -> None:
    w = semi_orthogonal(3, 40, 7)
    np.testing.assert_allclose(w.T @ w, np.eye(7), atol=1e-6)
    np.testing.assert_array_equal(w, semi_orthogonal(3, 40, 7))
    assert np.abs(w - semi_orthogonal(4, 40, 7)).max() > 0.1


def test_semi_orthogonal_is_uniform() -> None:
    # without the signs of R's diagonal the first row would be one-sided
    entries = np.array([semi_orthogonal(seed, 8, 2)[0, 0] for seed in range(300)])
    assert abs(entries.mean()) < 5 * np.sqrt(1 / 8 / 300)
    assert abs((entries**2).mean() - 1 / 8) < 0.05


@pytest.mark.slow
def test_principal_components_are_scikit_learns(lite0: padim.Backbone) -> None:
    x = images(7, SMALL)
    model = padim.fit(lite0, [x[:3], x[3:]], PRINCIPAL)
    w = np.asarray(model.projection)
    everything = oracle.embeddings(lite0, replace(model.embedding, projected=None), x).reshape(-1, 64)
    wanted = np.asarray(PCA(12, svd_solver="full").fit(everything).components_).T
    np.testing.assert_allclose(np.abs(np.sum(w * wanted, axis=0)), 1, atol=1e-3)


@pytest.mark.parametrize("config", [SEMI, PRINCIPAL], ids=lambda config: config.projection)
def test_maps_match_the_oracle(lite0: padim.Backbone, config: padim.PadimConfig) -> None:
    train, test = images(20, config), images(3, config, seed=1)
    model = padim.fit(lite0, [train[:9], train[9:]], config)
    w = np.asarray(model.projection)
    x, y = (oracle.embeddings(lite0, model.embedding, z, w) for z in (train, test))
    wanted = oracle.anomaly_maps(
        oracle.distance_grid(x, y, config.regularisation("test")[0]), config.crop, config.sigma
    )
    np.testing.assert_allclose(padim.score(model, test).anomaly_map, wanted, rtol=1e-3)


@pytest.mark.parametrize("config", [SEMI, PRINCIPAL], ids=lambda config: config.projection)
def test_saved_and_loaded(lite0: padim.Backbone, config: padim.PadimConfig, tmp_path: Path) -> None:
    x = images(5, config)
    model = padim.fit(lite0, [x], config)
    padim.save(model, tmp_path / "model")
    loaded = padim.load(tmp_path / "model")
    np.testing.assert_array_equal(padim.score(loaded, x).image_score, padim.score(model, x).image_score)


def test_merge_wants_one_projection(lite0: padim.Backbone) -> None:
    x = images(8, SEMI)
    a, b = (padim.update(lite0, padim.init(lite0, SEMI), part) for part in (x[:4], x[4:]))
    merged = padim.finalize(lite0, padim.merge(a, b))
    whole = padim.fit(lite0, [x], SEMI)
    np.testing.assert_allclose(padim.score(merged, x).image_score, padim.score(whole, x).image_score, rtol=1e-3)
    w = semi_orthogonal(0, 64, 12)
    started = [padim.init(lite0, PRINCIPAL, projection=part) for part in (w, w[:, ::-1])]
    with pytest.raises(ValueError, match=r"merge: the projections differ by up to 0\.\d+"):
        padim.merge(*started)
    jax.jit(padim.merge)(started[0], started[0])


def test_wrong_input(lite0: padim.Backbone) -> None:
    with pytest.raises(ValueError, match="fit: principal components take two passes; give a list"):
        padim.fit(lite0, iter([images(3, SMALL)]), PRINCIPAL)
    with pytest.raises(
        ValueError, match=r"init: projection is missing, with config\.projection='principal-components'"
    ):
        padim.init(lite0, PRINCIPAL)
    with pytest.raises(ValueError, match=r"init: projection is given, with config\.projection='random-channels'"):
        padim.init(lite0, SMALL, projection=np.eye(64, 12, dtype=np.float32))
    with pytest.raises(ValueError, match=r"init: projection is \(3, 3\), wanted \(64, 12\)"):
        padim.init(lite0, PRINCIPAL, projection=np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="principal components: no images"):
        padim.fit(lite0, [], PRINCIPAL)
