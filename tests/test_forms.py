"""Compact forms against float64 NumPy: exact packing, 16-bit steps, low rank, and a bound nothing exceeds."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from padim_jax.gaussians import chunks, factors, packing
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.error_bound import MARGIN, spectral_bound, worst_error
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.low_rank import LowRankGaussian, low_rank
from padim_jax.gaussians.moments import Moments
from padim_jax.gaussians.quantised import (
    LEVELS,
    Quantised,
    dequantise,
    dequantise_basis,
    quantise,
    quantise_basis,
    quantise_whitening,
)
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix
from tests.conftest import OPTIMISED

RIDGE = 0.01


LOW_RANK = jax.jit(low_rank, static_argnames=("rank", "ridge"))
WORST_ERROR = jax.jit(worst_error)
FINALIZE = jax.jit(factors.finalize, static_argnames=("ridge", "solver"))
UPDATE = jax.jit(gaussian_moments.update)


def sample(p: int, n: int, d: int, seed: int = 0) -> np.ndarray:
    """Correlated features whose variances span four decades."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(p, d, d)))[0] * np.geomspace(10, 0.1, d)[:, None]
    return (rng.normal(size=(p, n, d)) @ mixing + 2).astype(np.float32)


def moments_of(x: np.ndarray, *, higher: bool = False) -> Moments:
    p, n, d = x.shape
    return UPDATE(gaussian_moments.init(p, d, higher=higher), jnp.asarray(x), jnp.ones(n, bool))


def whitened(x: np.ndarray) -> WhitenedGaussian:
    found = FINALIZE(moments_of(x), RIDGE, "inverse-factor")
    assert isinstance(found, WhitenedGaussian)
    return found


def covariances(x: np.ndarray, *, shrunk: bool = False) -> np.ndarray:
    n, d = x.shape[1:]
    centred = x.astype(np.float64) - x.mean(axis=1, dtype=np.float64, keepdims=True)
    sigma = np.einsum("pni,pnj->pij", centred, centred) / (n - 1)
    if shrunk:  # Ledoit & Wolf 2004, section 3.2
        for index, rows in enumerate(centred):
            sample = rows.T @ rows / n
            distance = np.sum((sample - np.trace(sample) / d * np.eye(d)) ** 2)
            error = sum(np.sum((np.outer(row, row) - sample) ** 2) for row in rows) / n**2
            rho = min(error, distance) / distance if distance > 0 else 0
            sigma[index] = (1 - rho) * sigma[index] + rho * np.trace(sigma[index]) / d * np.eye(d)
    return sigma + RIDGE * np.eye(d)


def distances(x: np.ndarray, test: np.ndarray, *, shrunk: bool = False) -> np.ndarray:
    difference = test - x.mean(axis=1, dtype=np.float64, keepdims=True)
    return np.sqrt(np.einsum("pni,pij,pnj->pn", difference, np.linalg.inv(covariances(x, shrunk=shrunk)), difference))


def dequantised(exact: WhitenedGaussian, quantised: Quantised) -> WhitenedGaussian:
    packed = dequantise(quantised, lower=False)
    return replace(exact, whitening=packing.unpack_panels([packed], len(packed), lower=False))


def precision(form: WhitenedGaussian | LowRankGaussian) -> np.ndarray:
    """P with ``M² = δᵀ P δ``, in float64, from the numbers stored."""
    if isinstance(form, WhitenedGaussian):
        w = np.asarray(form.whitening.square(), np.float64)
        return w @ w.swapaxes(1, 2)
    basis, spread, noise = (np.asarray(array, np.float64) for array in (form.basis, form.spread, form.noise))
    rest = np.eye(basis.shape[2]) - basis.swapaxes(1, 2) @ basis
    within = (basis / (spread + noise[:, None])[..., None]).swapaxes(1, 2) @ basis
    return rest @ rest / noise[:, None, None] + within


def true_worst(exact: WhitenedGaussian, other: WhitenedGaussian | LowRankGaussian) -> tuple[np.ndarray, np.ndarray]:
    """The largest ``|M'/M - 1|`` of all x, and the x at which it is: the extreme generalised eigenvector."""
    inverse = np.linalg.inv(np.asarray(exact.whitening.square(), np.float64))  # Lᵀ
    squares, vectors = np.linalg.eigh(inverse @ precision(other) @ inverse.swapaxes(1, 2))
    errors = np.abs(np.sqrt(np.maximum(squares, 0)) - 1)
    index = errors.argmax(axis=1)
    z = np.take_along_axis(vectors, index[:, None, None], axis=2)[..., 0]
    worst = np.einsum("pij,pi->pj", inverse, z) + np.asarray(exact.mean, np.float64)
    return np.take_along_axis(errors, index[:, None], axis=1)[:, 0], worst


@settings(max_examples=60, deadline=None)
@given(p=st.integers(0, 5), d=st.integers(1, 9), lower=st.booleans(), kind=st.sampled_from(["f4", "i2"]))
def test_packing_is_exact(p: int, d: int, lower: bool, kind: str) -> None:
    square = np.random.default_rng(d).integers(-999, 999, (p, d, d)).astype(kind)
    packed = packing.pack_triangle(square, lower=lower)
    rows, columns = np.tril_indices(d) if lower else np.triu_indices(d)  # both row-major
    np.testing.assert_array_equal(packed, square[:, rows, columns], strict=True)
    triangle = np.tril(square) if lower else np.triu(square)
    np.testing.assert_array_equal(packing.unpack_triangle(packed, lower=lower), triangle, strict=True)
    mirrored = triangle + (np.tril(triangle, -1) + np.triu(triangle, 1)).swapaxes(1, 2)
    np.testing.assert_array_equal(packing.unpack_triangle(packed, lower=lower, symmetric=True), mirrored, strict=True)


def test_scatters_are_symmetric_to_the_bit() -> None:
    moments = gaussian_moments.merge(moments_of(sample(4, 9, 7)), moments_of(sample(4, 30, 7, seed=1)))
    packed = packing.pack_triangle(moments.scatter, lower=True)
    np.testing.assert_array_equal(packing.unpack_triangle(packed, lower=True, symmetric=True), moments.scatter.square())


@pytest.mark.slow
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sample(10, 4, 5)

    def everything() -> list[np.ndarray]:
        model, low = whitened(x), LOW_RANK(moments_of(x, higher=True), 3, RIDGE)
        packed = packing.pack_triangle(model.whitening, lower=False)
        plain, steps = quantise(packed, lower=False), quantise_basis(np.asarray(low.basis))
        rounded = dequantised(model, quantise_whitening(model.whitening))
        errors = [WORST_ERROR(model, rounded), WORST_ERROR(model, low)]
        arrays = [packed, plain.values, plain.scale, steps.values, steps.scale, low.spread, low.noise, *errors]
        return [np.asarray(array) for array in (*arrays, dequantised(model, plain).whitening.square())]

    whole = everything()
    monkeypatch.setattr(packing, "_HOST_BYTES", 3 * 5 * 5 * 4)  # 10 positions: a ragged last chunk
    for found, wanted in zip(everything(), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 5 * 5 * 4)
    jax.clear_caches()  # sizes of chunks are read while tracing
    for found, wanted in zip(everything(), whole, strict=True):
        # steps may fall to the other side by rounding; the small errors are rounding themselves
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-5 if found.dtype != np.int16 else 1)


def test_wrong_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"unpack_triangle: 5 numbers a position, wanted d\(d\+1\)/2"):
        packing.unpack_triangle(np.zeros((2, 5), np.float32), lower=True)


@pytest.mark.parametrize("lower", [False, True])
def test_quantised_within_half_a_step(lower: bool) -> None:
    square = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
    square[1, 2] = 0
    triangle = np.tril(square) if lower else np.triu(square)
    found = quantise(packing.pack_triangle(square, lower=lower), lower=lower)
    assert found.values.dtype == np.int16
    assert np.abs(found.values).max() == LEVELS
    np.testing.assert_allclose(found.scale, np.abs(triangle).max(axis=2) / 32767, rtol=1e-6)
    back = packing.unpack_triangle(dequantise(found, lower=lower), lower=lower)
    assert back.dtype == np.float32
    assert (np.abs(back - triangle) <= found.scale[..., None] * 0.5001 + 1e-7 * np.abs(triangle)).all()
    assert (back[1, 2] == 0).all()


def test_quantised_basis_within_half_a_step() -> None:
    basis = np.random.default_rng(0).normal(size=(3, 2, 7)).astype(np.float32)
    found = quantise_basis(basis)
    back = dequantise_basis(found)
    assert (found.values.dtype, back.dtype) == (np.int16, np.float32)
    np.testing.assert_allclose(found.scale, np.abs(basis).max(axis=2) / 32767, rtol=1e-6)
    assert (np.abs(back - basis) <= found.scale[..., None] * 0.5001 + 1e-7 * np.abs(basis)).all()


def test_tiny_numbers_do_not_wrap_around() -> None:
    packed = np.full((1, 1), 2.0e-40, np.float32)  # 32767 steps of a subnormal scale would overshoot int16
    assert quantise(packed, lower=True).values.item() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_named(bad: float) -> None:
    square = np.tile(np.eye(3, dtype=np.float32), (4, 1, 1))
    square[2, 1, 1] = bad
    with pytest.raises(ValueError, match=r"quantise: numbers that are not finite at 1 of 4 positions, 2"):
        quantise(packing.pack_triangle(square, lower=False), lower=False)
    with pytest.raises(ValueError, match=r"quantise_whitening: .* 1 of 4 positions, 2"):
        quantise_whitening(TriangularMatrix.from_square(square))
    with pytest.raises(ValueError, match=r"quantise_basis: .* 1 of 4 positions, 2"):
        quantise_basis(square)


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_rounding_with_feedback_is_rounding(d: int) -> None:
    model = whitened(sample(3, 60, d))
    found = quantise_whitening(model.whitening)
    plain = quantise(packing.pack_triangle(model.whitening, lower=False), lower=False)
    np.testing.assert_allclose(found.scale, plain.scale * (32767 / 32000), rtol=1e-6)
    rounded = dequantised(model, found)
    # each term L_kk E_k + Σ L_jk E_j is at most half a step of row k, times L_kk
    w = np.asarray(model.whitening.square(), np.float64)
    factor = np.linalg.inv(w).swapaxes(1, 2)
    terms = np.triu(factor.swapaxes(1, 2) @ (np.asarray(rounded.whitening.square(), np.float64) - w))
    diagonal = np.diagonal(factor, axis1=1, axis2=2)
    assert (np.abs(terms) <= (diagonal * found.scale)[..., None] * 0.51 + 2e-6).all()


def test_feedback_at_least_halves_the_worst_error() -> None:
    shared = np.random.default_rng(1).normal(size=(5, 60, 3)) @ np.random.default_rng(2).uniform(size=(5, 3, 48))
    own = np.random.default_rng(3).normal(size=(5, 60, 48))
    model = whitened((10 * shared + own).astype(np.float32))  # channels that rise and fall together, as a network's
    plain = quantise(packing.pack_triangle(model.whitening, lower=False), lower=False)
    nearest = WORST_ERROR(model, dequantised(model, plain))
    feedback = WORST_ERROR(model, dequantised(model, quantise_whitening(model.whitening)))
    assert (np.asarray(feedback) < np.asarray(nearest) / 2).all()


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 8), (9, 24), (20, 20), (8, 7), (30, 6)])
def test_low_rank_distances_match_float64(n: int, d: int, shrunk: bool) -> None:
    x, test = sample(6, n, d), sample(6, 5, d, seed=1)
    low = LOW_RANK(moments_of(x, higher=shrunk), min(n - 1, d), RIDGE)
    assert low.basis.shape == (6, min(n - 1, d), d)
    assert (low.strength is not None) == shrunk
    gram = np.einsum("prd,psd->prs", low.basis, low.basis)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(gram.shape[1]), gram.shape), atol=1e-5)
    assert (np.diff(low.spread) <= 0).all()
    assert (np.asarray(low.spread) >= 0).all()
    found = jax.jit(lambda low, x: low.distances(x))(low, jnp.asarray(test))
    np.testing.assert_allclose(found, distances(x, test, shrunk=shrunk), rtol=2e-3)


@pytest.mark.parametrize("kind", ["duplicates", "one position constant", "all constant"])
def test_low_rank_below_n_minus_1(kind: str) -> None:
    x, test = sample(4, 8, 20), sample(4, 3, 20, seed=1)
    if kind == "duplicates":
        x[:, 3:] = x[:, :1]
    elif kind == "one position constant":
        x[2] = 2
    else:
        x[:] = 2
    low = LOW_RANK(moments_of(x), 7, RIDGE)
    np.testing.assert_allclose(low.distances(jnp.asarray(test)), distances(x, test), rtol=2e-3)


def test_low_rank_truncates_openly() -> None:
    x = sample(3, 30, 12)
    model = whitened(x)
    errors = [WORST_ERROR(model, LOW_RANK(moments_of(x), rank, RIDGE)) for rank in (12, 8)]
    assert (np.asarray(errors[0]) < 1e-3).all()
    assert (np.asarray(errors[1]) > 0.5).all()


@pytest.mark.parametrize("rank", [0, 6])
def test_low_rank_needs_a_rank_that_exists(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"low_rank: rank={rank}, wanted 1 to 5, the channels"):
        LOW_RANK(moments_of(sample(2, 3, 5)), rank, RIDGE)


def test_failure_is_flagged_per_position() -> None:
    x = sample(3, 4, 5)
    low = LOW_RANK(moments_of(x), 3, RIDGE)
    assert np.asarray(low.is_finite()).all()
    assert not np.asarray(LOW_RANK(moments_of(x[:, :1]), 3, RIDGE).is_finite()).any()
    for name in ("mean", "basis", "spread", "noise"):
        broken = replace(low, **{name: getattr(low, name).at[1].set(jnp.nan)})
        assert np.asarray(broken.is_finite()).tolist() == [True, False, True]
        assert np.isinf(WORST_ERROR(whitened(x), broken)).tolist() == [False, True, False]
    model = whitened(x)
    assert np.asarray(replace(model, mean=model.mean.at[0].set(jnp.nan)).is_finite()).tolist() == [
        False,
        True,
        True,
    ]


def test_every_form_measures_the_same() -> None:
    x, test = sample(3, 6, 9), jnp.asarray(sample(3, 4, 9, seed=1))
    model = whitened(x)
    for form in (model.with_solver("triangular-solve"), LOW_RANK(moments_of(x), 5, RIDGE)):
        np.testing.assert_allclose(form.distances(test), model.distances(test), rtol=1e-3)


def others(model: WhitenedGaussian, x: np.ndarray) -> dict[str, WhitenedGaussian | LowRankGaussian]:
    noise = np.random.default_rng(5).normal(size=model.whitening.square().shape).astype(np.float32)
    low = LOW_RANK(moments_of(x), min(x.shape[1] - 1, x.shape[2]), RIDGE)
    packed = packing.pack_triangle(model.whitening, lower=False)
    coarse = dequantise_basis(quantise_basis(np.asarray(low.basis)))
    return {
        "16-bit": dequantised(model, quantise(packed, lower=False)),
        "16-bit, feedback": dequantised(model, quantise_whitening(model.whitening)),
        "bfloat16": replace(
            model,
            whitening=TriangularMatrix.from_square(model.whitening.square().astype(jnp.bfloat16).astype(jnp.float32)),
        ),
        "half as far": replace(model, whitening=TriangularMatrix.from_square(model.whitening.square() * 0.5)),
        "nowhere": replace(model, whitening=TriangularMatrix.from_square(model.whitening.square() * 0)),
        "far too far": replace(model, whitening=TriangularMatrix.from_square(model.whitening.square() * 30)),
        "noisy": replace(model, whitening=TriangularMatrix.from_square(model.whitening.square() + jnp.triu(noise))),
        "low rank, 16-bit": replace(low, basis=jnp.asarray(coarse)),
        "low rank, cut": LOW_RANK(moments_of(x), max(1, x.shape[2] // 3), RIDGE),
        "low rank, other noise": replace(low, noise=low.noise * 1.1),
    }


@pytest.mark.parametrize(("n", "d"), [(30, 1), (2, 7), (9, 20), (100, 33)])
def test_worst_error_is_a_tight_bound(n: int, d: int) -> None:
    x = sample(6, n, d)
    model = whitened(x)
    rng, tight = np.random.default_rng(2), set()
    for name, other in others(model, x).items():
        bound = np.asarray(WORST_ERROR(model, other))
        wanted, worst = true_worst(model, other)
        # the rounding of float32, which is no error of the form, is what remains beside the margin
        assert (bound >= wanted - 2e-6).all(), name
        # ‖A‖₂ alone says less where distances grow much than where they shrink, and the reverse
        if wanted.max() < 0.1:
            assert (bound <= 1.25 * wanted + 5e-5).all(), name
            tight.add(name)
        tests = [worst[:, None], rng.normal(size=(6, 50, d)), model.mean[:, None] + rng.normal(size=(6, 50, d)) * 1e-3]
        delta = np.concatenate(tests, axis=1) - np.asarray(model.mean, np.float64)[:, None]
        m, m_other = (
            np.sqrt(np.maximum(np.einsum("pni,pij,pnj->pn", delta, precision(form), delta), 0))
            for form in (model, other)
        )
        errors = np.abs(m_other / m - 1)
        assert (errors <= bound[:, None] + 2e-6).all(), name
        np.testing.assert_allclose(errors[:, 0], wanted, rtol=1e-2, atol=1e-6, err_msg=name)
    assert tight >= {"16-bit", "16-bit, feedback", "low rank, 16-bit"}


def test_worst_error_of_nothing_and_of_another_mean() -> None:
    model = whitened(sample(3, 20, 6))
    assert (np.asarray(WORST_ERROR(model, model)) == 0).all()
    moved = replace(model, mean=model.mean.at[1, 0].add(1))
    assert np.isinf(WORST_ERROR(model, moved)).tolist() == [False, True, False]


@pytest.mark.parametrize("size", [1e-35, 1.0, 1e35])
@pytest.mark.parametrize("d", [1, 2, 31, 64])
def test_spectral_bound_in_every_range(d: int, size: float) -> None:
    rng = np.random.default_rng(d)
    a = rng.normal(size=(4, d, d)) * size
    a = (a + a.swapaxes(1, 2)).astype(np.float32)
    a[1], a[2] = np.eye(d) * size, 0  # the loosest, and nothing
    a[3] = np.diag([size] + [0.0] * (d - 1))
    wanted = np.abs(np.linalg.eigvalsh(a.astype(np.float64))).max(axis=1)
    found = np.asarray(spectral_bound(jnp.asarray(a)))
    assert (found * MARGIN >= wanted).all()
    assert (found <= 1.0001 * wanted * d ** (1 / 32)).all()


def test_no_temporary_is_as_large_as_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    p, d, r = 1024, 64, 7
    triangles, square = jax.eval_shape(lambda: SymmetricMatrix.zeros(p, d)), p * d * d * 4
    state = sum(panel.size * 4 for panel in triangles.panels)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", square // 64)

    def shape(*sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    mean = shape(p, d)
    low = LowRankGaussian(mean, shape(p, r, d), shape(p, r), shape(p))
    exact = WhitenedGaussian(mean, TriangularMatrix(triangles.panels))
    for program, arguments in (
        (lambda moments: low_rank(moments, r, RIDGE), (Moments(shape(), mean, triangles),)),
        (worst_error, (exact, exact)),
        (worst_error, (exact, low)),
    ):
        memory = jax.jit(program).lower(*arguments).compile(OPTIMISED).memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < state / 2
