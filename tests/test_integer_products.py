"""Inverse factors in integers, of one and of two parts: what they stand for, and what rounding does to distances."""

import numpy as np
import pytest

from padim_jax.gaussians.integer_products import LEVELS, PART, round_to_integers
from padim_jax.gaussians.triangle import TriangularMatrix

UNITS = np.repeat(np.array([0.25, 0.5, 0.125], np.float32), 8)
ZEROS = np.full(24, 120, np.float32)


def factors(p: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of channels that rise and fall together, and their inverse factors W, ``Σ⁻¹ = W Wᵀ``, float64."""
    rng = np.random.default_rng(seed)
    shared = 3 * rng.normal(size=(p, d, 4))
    covariance = shared @ shared.swapaxes(1, 2) + 0.3 * np.eye(d)
    return covariance, np.linalg.inv(np.linalg.cholesky(covariance)).swapaxes(1, 2)


def rounded(w: np.ndarray, units: np.ndarray = UNITS, n_parts: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What the integers stand for by hand, and as the record says, float64."""
    triangles = TriangularMatrix.from_square(w.astype(np.float32))
    found = round_to_integers(triangles, units, ZEROS[: len(units)], n_parts)
    values = sum(part.astype(np.float64) * PART**place for place, part in enumerate(reversed(found.parts)))
    by_hand = values * found.step[:, None].astype(np.float64) / units[:, None]
    return by_hand, np.asarray(found.whitening().square(), np.float64)


@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("d", [1, 5, 24])
def test_integers_are_what_the_whitening_says(d: int, n_parts: int) -> None:
    w = factors(6, d)[1]
    units = UNITS[:d]
    found = round_to_integers(TriangularMatrix.from_square(w.astype(np.float32)), units, ZEROS[: len(units)], n_parts)
    assert len(found.parts) == n_parts
    for part in found.parts:
        assert part.dtype == np.int8
        assert np.abs(part.astype(int)).max() <= LEVELS + 1  # seven bits
        assert (np.tril(part, -1) == 0).all()
    by_hand, as_said = rounded(w, units, n_parts)
    np.testing.assert_allclose(as_said, by_hand, rtol=1e-6)


@pytest.mark.parametrize("n_parts", [1, 2])
def test_mean_square_distances_of_its_own_images_stay(n_parts: int) -> None:
    covariance, w = factors(6, 24)
    for found in rounded(w, n_parts=n_parts):
        mean_square = np.einsum("pkj,pki,pij->p", found, covariance, found)
        np.testing.assert_allclose(mean_square, 24, rtol=1e-4)


def test_distances_change_by_little_and_by_less_than_without_feedback() -> None:
    covariance, w = factors(8, 24)
    x = np.random.default_rng(1).normal(size=(8, 400, 24)) @ np.linalg.cholesky(covariance).swapaxes(1, 2)

    def relative(other: np.ndarray) -> float:
        exact, changed = (np.linalg.norm(x @ factor, axis=-1) for factor in (w, other))
        return float(np.sqrt(np.mean((changed / exact - 1) ** 2)))

    of_integers = w * UNITS[:, None]
    step = np.abs(of_integers).max(axis=1, keepdims=True) / LEVELS
    plain = np.rint(of_integers / step) * step / UNITS[:, None]
    found = relative(rounded(w)[0])
    assert found < 0.02
    assert found < relative(plain) / 2


def test_two_parts_serve_where_there_are_fewer_images_than_channels() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 8, 24))
    x -= x.mean(axis=1, keepdims=True)
    covariance = np.einsum("pni,pnj->pij", x, x) / 7 + 0.01 * np.eye(24)
    w = TriangularMatrix.from_square(np.linalg.inv(np.linalg.cholesky(covariance)).swapaxes(1, 2).astype(np.float32))
    one, two = (round_to_integers(w, np.full(24, 0.25, np.float32), None, n_parts) for n_parts in (1, 2))
    assert one.mean_error > 0.04
    assert two.mean_error < one.mean_error / 50
    # which is what images of the Gaussian itself are moved by
    whitening = np.asarray(two.whitening().square(), np.float64)
    factor = np.linalg.cholesky(covariance)
    moved = np.einsum("pkj,pki->pij", whitening - np.asarray(w.square(), np.float64), factor)
    np.testing.assert_allclose(np.sqrt(np.mean(np.sum(moved**2, axis=(1, 2)) / 24)), two.mean_error, rtol=0.05)


def test_it_does_not_depend_on_how_many_positions_there_are() -> None:
    w = factors(6, 24)[1].astype(np.float32)
    whole = round_to_integers(TriangularMatrix.from_square(w), UNITS, ZEROS)
    part = round_to_integers(TriangularMatrix.from_square(w[2:4]), UNITS, ZEROS)
    np.testing.assert_array_equal(whole.parts[0][2:4], part.parts[0])
