"""Triangles in panels against whole matrices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from padim_jax.gaussians import packing, triangle
from padim_jax.gaussians.triangle import Triangle

P = 3
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)


def matrices(d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((P, d, d)).astype(np.float32)


@pytest.mark.parametrize("d", [1, 12, 49, 53, 130])
def test_products_and_squares(d: int) -> None:
    upper, x = np.triu(matrices(d)), matrices(d, 1)[:, :2]
    symmetric = upper + np.triu(upper, 1).swapaxes(1, 2)
    of_upper, of_symmetric = triangle.of_square(upper), triangle.of_square(symmetric)
    assert (len(of_upper), of_upper.side, of_upper.spans) == (P, d, triangle.spans(d))
    np.testing.assert_array_equal(of_upper.square(), upper)
    np.testing.assert_array_equal(of_symmetric.symmetric(), symmetric)
    np.testing.assert_array_equal(of_symmetric[1:2].symmetric(), symmetric[1:2])
    np.testing.assert_array_equal(triangle.diagonal(of_symmetric), np.diagonal(symmetric, axis1=1, axis2=2))
    close(triangle.rows_times(jnp.asarray(x), of_upper), x @ upper)
    transposed = triangle.rows_times_transposed(jnp.asarray(x), of_upper)
    close(transposed, x @ upper.swapaxes(1, 2))
    for n in (1, 2):
        norms = triangle.squared_norms(jnp.asarray(x[:, :n]), of_upper)
        close(norms, np.sum((x[:, :n] @ upper) ** 2, axis=-1), rtol=1e-4)
    along = triangle.symmetric_times(of_symmetric, jnp.asarray(x[:, 0]))
    close(along, np.einsum("pij,pj->pi", symmetric, x[:, 0]))
    more = triangle.added_products(of_symmetric, jnp.asarray(x))
    close(more.symmetric(), symmetric + x.swapaxes(1, 2) @ x)


@pytest.mark.parametrize("d", [1, 53, 130])
def test_packed_and_back(d: int) -> None:
    upper = np.triu(matrices(d))
    symmetric = upper + np.triu(upper, 1).swapaxes(1, 2)
    for square, lower in ((upper, False), (symmetric, True)):
        packed = packing.pack_triangle(triangle.of_square(square), lower=lower)
        np.testing.assert_array_equal(packed, packing.pack_triangle(square, lower=lower))
        again = packing.unpack_panels([packed], len(packed), lower=lower)
        assert isinstance(again, Triangle)
        np.testing.assert_array_equal(again.symmetric() if lower else again.square(), square)


@pytest.mark.parametrize(("d", "share"), [(100, 0.625), (550, 0.6)])
def test_little_more_than_half_is_kept(d: int, share: float) -> None:
    shapes = jax.eval_shape(lambda: triangle.zeros(1, d))
    assert sum(panel.size for panel in shapes.panels) == pytest.approx(share * d * d)
