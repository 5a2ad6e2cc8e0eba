"""Triangles in panels against whole matrices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from padim_jax.gaussians import packing, triangle
from padim_jax.gaussians.triangle import SymmetricMatrix, TriangularMatrix

P = 3
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)


def matrices(d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((P, d, d)).astype(np.float32)


@pytest.mark.parametrize("d", [1, 12, 49, 53, 130])
def test_products_and_squares(d: int) -> None:
    upper, x = np.triu(matrices(d)), matrices(d, 1)[:, :2]
    symmetric = upper + np.triu(upper, 1).swapaxes(1, 2)
    of_upper, of_symmetric = TriangularMatrix.from_square(upper), SymmetricMatrix.from_square(symmetric)
    assert (len(of_upper), of_upper.side, of_upper.spans) == (P, d, triangle.spans(d))
    np.testing.assert_array_equal(of_upper.square(), upper)
    np.testing.assert_array_equal(of_symmetric.square(), symmetric)
    np.testing.assert_array_equal(of_symmetric[1:2].square(), symmetric[1:2])
    np.testing.assert_array_equal(of_upper[np.array([2, 0])].square(), upper[[2, 0]])
    for matrix, square in ((of_upper, upper), (of_symmetric, symmetric)):
        np.testing.assert_array_equal(matrix.diagonal(), np.diagonal(square, axis1=1, axis2=2))
    close(of_upper.rows_times(jnp.asarray(x)), x @ upper)
    close(of_upper.rows_times_transposed(jnp.asarray(x)), x @ upper.swapaxes(1, 2))
    for n in (1, 2):
        norms = of_upper.squared_norms(jnp.asarray(x[:, :n]))
        close(norms, np.sum((x[:, :n] @ upper) ** 2, axis=-1), rtol=1e-4)
    close(of_symmetric.times(jnp.asarray(x[:, 0])), np.einsum("pij,pj->pi", symmetric, x[:, 0]))
    close(of_symmetric.add_products(jnp.asarray(x)).square(), symmetric + x.swapaxes(1, 2) @ x)


def test_a_matrix_offers_only_what_makes_sense_for_it() -> None:
    for name in ("rows_times", "rows_times_transposed", "squared_norms"):
        assert not hasattr(SymmetricMatrix, name)
    for name in ("zeros", "times", "add_products"):
        assert not hasattr(TriangularMatrix, name)
    with pytest.raises(ValueError, match=r"pack_triangle: upper triangular matrices have no lower triangle"):
        packing.pack_triangle(TriangularMatrix.from_square(np.triu(matrices(4))), lower=True)


@pytest.mark.parametrize("d", [1, 53, 130])
def test_packed_and_back(d: int) -> None:
    upper = np.triu(matrices(d))
    symmetric = upper + np.triu(upper, 1).swapaxes(1, 2)
    packed = packing.pack_triangle(SymmetricMatrix.from_square(symmetric), lower=True)
    np.testing.assert_array_equal(packed, packing.pack_triangle(symmetric, lower=True))
    np.testing.assert_array_equal(packing.unpack_panels([packed], P, lower=True).square(), symmetric)
    packed = packing.pack_triangle(TriangularMatrix.from_square(upper), lower=False)
    np.testing.assert_array_equal(packed, packing.pack_triangle(upper, lower=False))
    np.testing.assert_array_equal(packing.unpack_panels([packed], P, lower=False).square(), upper)


@pytest.mark.parametrize(("d", "share"), [(100, 0.625), (550, 0.6)])
def test_little_more_than_half_is_kept(d: int, share: float) -> None:
    shapes = jax.eval_shape(lambda: SymmetricMatrix.zeros(1, d))
    assert sum(panel.size for panel in shapes.panels) == pytest.approx(share * d * d)
