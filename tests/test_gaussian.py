"""Streaming moments and distances against float64 NumPy, over awkward sizes."""

import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from padim_jax.gaussians import chunks, factors
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.factors import Gaussian, WhitenedGaussian
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix
from tests.conftest import OPTIMISED

RIDGE = 0.01


def sample(p: int, n: int, d: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(p, d, d)) / np.sqrt(d)
    return (np.einsum("pnd,pde->pne", rng.normal(size=(p, n, d)), mixing) + offset).astype(np.float32)


def moments_of(x: np.ndarray, sizes: list[int]) -> Moments:
    p, n, d = x.shape
    assert sum(sizes) == n
    moments = gaussian_moments.init(p, d)
    for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
        moments = gaussian_moments.update(moments, jnp.asarray(x[:, start : start + size]), jnp.ones(size, bool))
    return moments


def covariances(x: np.ndarray) -> np.ndarray:
    d = x.shape[2]
    return np.stack([np.cov(at.astype(np.float64), rowvar=False, ddof=1).reshape(d, d) for at in x])


@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize("n", [2, 3, 20, 50])
@pytest.mark.parametrize("solver", ["triangular-solve", "inverse-factor"])
def test_distances_match_float64(n: int, d: int, solver) -> None:
    x, test = sample(7, n, d), sample(7, 5, d, seed=1)
    model = factors.finalize(moments_of(x, [n]), RIDGE, solver)
    found = model.distances(jnp.asarray(test))
    sigma = covariances(x) + RIDGE * np.eye(d)
    difference = test - x.mean(axis=1, dtype=np.float64)[:, None]
    wanted = np.sqrt(np.einsum("pni,pij,pnj->pn", difference, np.linalg.inv(sigma), difference))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_solvers_agree_and_convert() -> None:
    x, test = sample(9, 30, 16), jnp.asarray(sample(9, 4, 16, seed=1))
    moments = moments_of(x, [30])
    solve = factors.finalize(moments, RIDGE, "triangular-solve")
    product = factors.finalize(moments, RIDGE, "inverse-factor")
    assert isinstance(solve, Gaussian)
    assert isinstance(product, WhitenedGaussian)
    np.testing.assert_allclose(np.triu(solve.factor, 1), 0)
    np.testing.assert_allclose(np.tril(product.whitening.square(), -1), 0)
    wanted = solve.distances(test)
    np.testing.assert_allclose(product.distances(test), wanted, rtol=1e-4)
    back = solve.with_solver("inverse-factor").with_solver("triangular-solve")
    assert isinstance(back, Gaussian)
    np.testing.assert_allclose(back.factor, solve.factor, rtol=1e-3, atol=1e-4)
    assert solve.with_solver("triangular-solve") is solve


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [23, 1], [8, 8, 8], [0, 24], [5, 0, 19]], ids=str)
def test_any_batching_gives_the_same_moments(sizes: list[int]) -> None:
    x = sample(5, 24, 6, offset=3.0)
    found = moments_of(x, sizes)
    assert float(found.count) == 24
    np.testing.assert_allclose(found.mean, x.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found.scatter.square()) / 23, covariances(x), rtol=1e-4, atol=1e-5)


def test_far_from_zero_does_not_cancel() -> None:
    # the sum of squares minus the square of the mean would lose every digit here
    x = sample(3, 64, 4, offset=3000.0)
    found = moments_of(x, [16] * 4)
    np.testing.assert_allclose(np.asarray(found.scatter.square()) / 63, covariances(x), rtol=2e-2, atol=1e-2)


def test_padding_does_not_count() -> None:
    x = sample(4, 10, 3)
    padded = np.concatenate([x, np.full((4, 6, 3), 1e6, np.float32)], axis=1)
    valid = jnp.arange(16) < 10
    found = gaussian_moments.update(gaussian_moments.init(4, 3), jnp.asarray(padded), valid)
    wanted = moments_of(x, [10])
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.scatter.square(), wanted.scatter.square(), rtol=1e-4, atol=1e-4)
    nothing = gaussian_moments.update(wanted, jnp.asarray(padded), jnp.zeros(16, bool))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, nothing, wanted))


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 20), seed=st.integers(0, 2**16), offset=st.floats(-10, 10))
def test_merge_is_one_fit(cut: int, seed: int, offset: float) -> None:
    x = sample(3, 20, 4, seed, offset)
    merged = gaussian_moments.merge(moments_of(x[:, :cut], [cut]), moments_of(x[:, cut:], [20 - cut]))
    together = moments_of(x, [20])
    assert float(merged.count) == 20
    np.testing.assert_allclose(merged.mean, together.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(merged.scatter.square(), together.scatter.square(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, test = sample(12, 9, 5), jnp.asarray(sample(12, 2, 5, seed=1))

    def everything() -> list[np.ndarray]:
        moments = gaussian_moments.merge(moments_of(x, [4, 5]), moments_of(x, [9]))
        solve = factors.finalize(moments, RIDGE, "triangular-solve")
        product = solve.with_solver("inverse-factor")
        return [
            np.asarray(moments.scatter.square()),
            *(np.asarray(g.distances(test)) for g in (solve, product)),
        ]

    whole = everything()
    for positions in (1, 2, 5, 6):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", positions * 5 * 5 * 4)
        assert (
            chunks.positions_per_chunk(jnp.zeros((12, 5, 5)), chunks.CHUNK_BYTES) == {1: 1, 2: 2, 5: 4, 6: 6}[positions]
        )
        for chunked, wanted in zip(everything(), whole, strict=True):
            np.testing.assert_allclose(chunked, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["triangular-solve", "inverse-factor"])
def test_no_temporary_is_as_large_as_the_state(solver, monkeypatch: pytest.MonkeyPatch) -> None:
    p, d, n = 1024, 64, 4
    triangles = jax.eval_shape(lambda: SymmetricMatrix.zeros(p, d))
    state = sum(panel.size * 4 for panel in triangles.panels)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", state // 16)
    record = Gaussian if solver == "triangular-solve" else WhitenedGaussian
    count, mean = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((p, d), jnp.float32)
    square, x = jax.ShapeDtypeStruct((p, d, d), jnp.float32), jax.ShapeDtypeStruct((p, n, d), jnp.float32)
    factor = square if solver == "triangular-solve" else TriangularMatrix(triangles.panels)
    programs = {
        "update": (
            lambda s, c, m, x: gaussian_moments.update(Moments(c, m, s), x, jnp.ones(n, bool)),
            (triangles, count, mean, x),
        ),
        "merge": (
            lambda s, c, m, t: gaussian_moments.merge(Moments(c, m, s), Moments(c, m, t)),
            (triangles, count, mean, triangles),
        ),
        "finalize": (lambda s, c, m: factors.finalize(Moments(c, m, s), RIDGE, solver), (triangles, count, mean)),
        "mahalanobis": (lambda s, m, x: record(m, s).distances(x), (factor, mean, x)),
    }
    for what, (program, arguments) in programs.items():
        in_place = what != "mahalanobis" and (what, solver) != ("finalize", "triangular-solve")  # that makes squares
        memory: Any = (
            jax.jit(program, donate_argnums=0 if in_place else ())
            .lower(*arguments)
            .compile(OPTIMISED)
            .memory_analysis()
        )
        assert memory.temp_size_in_bytes < state / 2, what
        assert not in_place or memory.alias_size_in_bytes >= state, what


def test_works_under_vmap() -> None:
    x = jnp.asarray(np.stack([sample(3, 8, 4, seed) for seed in range(2)]))
    start = jax.tree.map(lambda a: jnp.stack([a, a]), gaussian_moments.init(3, 4))
    both = jax.vmap(gaussian_moments.update, (0, 0, None))(start, x, jnp.ones(8, bool))
    for index in range(2):
        one = gaussian_moments.update(gaussian_moments.init(3, 4), x[index], jnp.ones(8, bool))
        np.testing.assert_allclose(
            jax.tree.map(operator.itemgetter(index), both.scatter).square(),
            one.scatter.square(),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.slow
def test_failure_is_flagged_per_position() -> None:
    moments = moments_of(sample(3, 8, 4), [8])
    broken = Moments(
        moments.count, moments.mean, SymmetricMatrix.from_square(moments.scatter.square().at[1].set(-jnp.eye(4) * 100))
    )
    for solver in ("triangular-solve", "inverse-factor"):
        assert np.asarray(factors.finalize(broken, RIDGE, solver).is_finite()).tolist() == [True, False, True]
