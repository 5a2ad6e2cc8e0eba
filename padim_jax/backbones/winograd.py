"""3×3 convolutions several rows at a time: Winograd's F(2, 3) and F(4, 3), down the columns only.

From r + 2 products with rows of the input come r rows of the output, instead of from 3r (Lavin & Gray 2016, sections
4.1 and 4.3). Each product takes all three columns of the kernel at once, and their results are shifted and added
after it. Along both axes there would be less to multiply, but the sums before and after cost more than that saves.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Rows = Literal[2, 4]  # of the output, computed at a time
Kernel = TypeVar("Kernel", Array, np.ndarray)

# For each product the weights of the input rows and of the kernel rows; for each output row those of the products.
_INPUT = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
_KERNEL = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
_OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}


def prepare(kernel: Kernel, rows: Rows) -> tuple[Kernel, ...]:
    """A kernel (3, 3, c, o) as :func:`convolve` takes it, (c, 3, o) for each product; in NumPy if the kernel is."""
    return tuple(_combine(weights, kernel).transpose(1, 0, 2) for weights in _KERNEL[rows])


def convolve(
    x: Float[Array, "n h w c"], prepared: Sequence[Float[Array, "c 3 o"]], padding: Sequence[tuple[int, int]]
) -> Float[Array, "n h w o"]:
    """Convolution of stride 1; by ``padding`` the output is as large as x."""
    (n, height, width, channels_in), channels_out = x.shape, prepared[0].shape[-1]
    rows = len(prepared) - 2
    groups = -(-height // rows)
    (above, _), sides = padding
    padded = jnp.pad(x, [(0, 0), (above, rows * groups + 2 - above - height), sides, (0, 0)])
    inputs = [padded[:, i : i + rows * (groups - 1) + 1 : rows] for i in range(rows + 2)]
    products = []
    for weights, kernel in zip(_INPUT[rows], prepared, strict=True):
        columns = kernel.reshape(channels_in, 3 * channels_out)
        product = jnp.einsum("nhwc,co->nhwo", _combine(weights, inputs), columns, precision=lax.Precision.HIGHEST)
        left, middle, right = jnp.split(product, 3, axis=-1)
        products.append(left[:, :, :width] + middle[:, :, 1 : width + 1] + right[:, :, 2 : width + 2])
    outputs = jnp.stack([_combine(weights, products) for weights in _OUTPUT[rows]], axis=2)
    return outputs.reshape(n, rows * groups, width, channels_out)[:, :height]


def _combine(weights: Sequence[float], arrays: Any) -> Any:
    return functools.reduce(operator.add, (w * array for w, array in zip(weights, arrays, strict=True) if w))
