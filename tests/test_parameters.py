"""What a model holds at a position against NumPy, whatever form it scores in."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.gaussians.low_rank import low_rank
from padim_jax.method.embedding import embed
from tests.conftest import SMALL, images

ROW, COLUMN = 1, 2


@pytest.mark.parametrize("form", ["triangular-solve", "inverse-factor", "low-rank"])
def test_mean_covariance_and_factor_are_numpys(lite0: padim.Backbone, form: str) -> None:
    n = 8  # fewer than channels, so that a low rank of n - 1 is exact
    good = images(n, SMALL)
    moments = padim.update(lite0, padim.init(lite0, SMALL), good)
    model = padim.finalize(lite0, moments, solver="triangular-solve")
    if form == "inverse-factor":
        model = padim.with_solver(model, "inverse-factor")
    elif form == "low-rank":
        model = replace(
            model,
            gaussian=jax.jit(low_rank, static_argnums=(1, 2))(moments.moments, n - 1, SMALL.regularisation("test")[0]),
        )
    at = padim.parameters_at(model, ROW, COLUMN)
    x = np.asarray(jax.jit(embed, static_argnums=1)(lite0, model.embedding, good), np.float64)[
        ROW * model.embedding.grid[1] + COLUMN
    ]
    covariance = np.cov(x, rowvar=False, ddof=1) + SMALL.regularisation("test")[0] * np.eye(x.shape[1])
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(at.mean, x.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(at.covariance, covariance, rtol=1e-3, atol=1e-4 * scale)
    np.testing.assert_allclose(at.factor @ at.factor.T, at.covariance, rtol=1e-9, atol=1e-12)
    assert (np.triu(at.factor, 1) == 0).all()
    distance = np.linalg.norm(np.linalg.solve(at.factor, x[0] - at.mean))
    np.testing.assert_allclose(
        distance, np.sqrt((x[0] - at.mean) @ np.linalg.solve(covariance, x[0] - at.mean)), rtol=1e-3
    )


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (8, 0), (0, 12), (8, 12)])
def test_a_position_outside_the_grid_is_named(small_model: padim.Padim, position: tuple[int, int]) -> None:
    assert small_model.embedding.grid == (8, 12)
    with pytest.raises(
        IndexError,
        match=rf"parameters_at: position \({position[0]}, {position[1]}\) is outside the grid; pass a row from 0 to 7 and a column from 0 to 11",
    ):
        padim.parameters_at(small_model, *position)
