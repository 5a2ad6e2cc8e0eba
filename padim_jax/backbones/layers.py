"""Convolutions of a frozen network, batch norm already folded into kernel and bias."""

import functools

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "n _h _w _c"]
FEW = 4  # channels: those of an image


class Conv(nnx.Module):
    """Convolution with bias, NHWC, in full float32 precision on every device.

    ``y = x * kernel + bias``; ``groups == channels_in`` makes it depthwise.

    Attributes:
      kernel: (k, k, channels_in / groups, channels_out).
      bias: (channels_out,).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        tf_same: bool = False,
    ) -> None:
        shape = (kernel_size, kernel_size, channels_in // groups, channels_out)
        self.kernel = nnx.Param(jnp.zeros(shape, jnp.float32))  # weights are always loaded, never trained
        self.bias = nnx.Param(jnp.zeros(channels_out, jnp.float32))
        self.stride = stride
        self.groups = groups
        self.tf_same = tf_same

    def __call__(self, x: Images) -> Images:
        """Convolve and add the bias."""
        kernel, bias = self.kernel[...], self.bias[...][None, None, None]
        size = kernel.shape[0]
        if size == 1:  # a product is all it is; as such it takes half as long on CPU
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("nhwc,co->nhwo", x, kernel[0, 0], precision=lax.Precision.HIGHEST) + bias
        padding = [pad(length, size, self.stride, self.tf_same) for length in x.shape[1:3]]
        if self.groups == 1 and kernel.shape[2] <= FEW:
            return _of_few_channels(x, kernel, self.stride, padding) + bias
        if self.groups == 1 and size == 3 and self.stride == 1:
            return _three_by_three(x, kernel, padding) + bias
        if self.groups == 1:
            return _convolve(x, kernel, self.stride, padding, 1) + bias
        return _depthwise(x, kernel, self.stride, padding) + bias


def pad(length: int, kernel_size: int, stride: int, tf_same: bool) -> tuple[int, int]:
    """Zeros before and after one axis of ``length``; either rule gives ceil(length / stride) outputs.

    PyTorch pads both sides by ``(kernel_size - 1) // 2``. TensorFlow's "SAME", which the
    EfficientNet-Lite weights were trained with, pads no more than needed and puts the odd zero after.
    """
    if not tf_same:
        return (kernel_size - 1) // 2, (kernel_size - 1) // 2
    total = max((-(-length // stride) - 1) * stride + kernel_size - length, 0)
    return total // 2, total - total // 2


def max_pool(x: Images) -> Images:
    """3×3 max-pooling of activations ≥ 0 with stride 2 and one cell of padding, as after a ResNet's stem."""

    def shifted(x: Array) -> Array:  # XLA's windowed reduction takes four times as long on CPU
        height, width = (-(-length // 2) for length in x.shape[1:3])
        padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        places = [(i, j) for i in range(3) for j in range(3)]
        windows = [padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i, j in places]
        return functools.reduce(jnp.maximum, windows)

    def library(x: Array) -> Array:
        return lax.reduce_window(
            x, jnp.zeros((), x.dtype), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
        )

    return lax.platform_dependent(x, cpu=shifted, default=library)


def _convolve(x: Array, kernel: Array, stride: int, padding: list[tuple[int, int]], groups: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


def _of_few_channels(x: Array, kernel: Array, stride: int, padding: list[tuple[int, int]]) -> Array:
    """Convolution of an image, by the faster of two equal programs.

    On CPU one product with the patches, row by row of the kernel: XLA's convolution can't fill a vector with three
    channels and takes up to three times as long.
    """

    def patches(x: Array, kernel: Array) -> Array:
        size, channels_out = kernel.shape[0], kernel.shape[3]
        padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        height, width = ((padded.shape[axis] - size) // stride + 1 for axis in (1, 2))
        rows = jnp.stack([padded[:, i : i + (height - 1) * stride + 1 : stride] for i in range(size)], axis=2)
        strided = [rows[:, :, :, j : j + (width - 1) * stride + 1 : stride] for j in range(size)]
        by_row = kernel.reshape(size, -1, channels_out)
        return jnp.einsum("nhiwc,ico->nhwo", jnp.concatenate(strided, axis=-1), by_row, precision=lax.Precision.HIGHEST)

    def library(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, stride, padding, 1)

    return lax.platform_dependent(x, kernel, cpu=patches, default=library)


def _three_by_three(x: Array, kernel: Array, padding: list[tuple[int, int]]) -> Array:
    """3×3 convolution of stride 1, by the faster of two equal programs.

    On CPU two rows of the output at a time from four products with input rows instead of six (Winograd's F(2, 3), down
    the columns only: Lavin & Gray 2016, section 4.1), their three columns side by side in one product. Along both
    axes there would be less to multiply, but the sums before and after cost more than that saves.
    """

    def in_pairs(x: Array, kernel: Array) -> Array:
        (n, height, width, _), channels_out = x.shape, kernel.shape[3]
        pairs = -(-height // 2)
        (above, _), sides = padding
        padded = jnp.pad(x, [(0, 0), (above, 2 * pairs + 2 - above - height), sides, (0, 0)])
        columns = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], axis=-1)
        d = [columns[:, i : i + 2 * pairs - 1 : 2] for i in range(4)]
        g = kernel.reshape(3, -1, channels_out)
        inputs = (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])
        kernels = (g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2])
        m = [
            jnp.einsum("nhwc,co->nhwo", rows, taps, precision=lax.Precision.HIGHEST)
            for rows, taps in zip(inputs, kernels, strict=True)
        ]
        both = jnp.stack([m[0] + m[1] + m[2], m[1] - m[2] - m[3]], axis=2)
        return both.reshape(n, 2 * pairs, width, channels_out)[:, :height]

    def library(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, 1, padding, 1)

    return lax.platform_dependent(x, kernel, cpu=in_pairs, default=library)


def _depthwise(x: Array, kernel: Array, stride: int, padding: list[tuple[int, int]]) -> Array:
    """One k×k filter per channel, by the faster of two equal programs.

    XLA's grouped convolution on CPU takes ten times as long as the k·k shifted
    multiply-adds it stands for, which fuse into one loop; elsewhere the library is faster.
    """

    def shifted(x: Array, kernel: Array) -> Array:
        size = kernel.shape[0]
        padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        height, width = ((padded.shape[axis] - size) // stride + 1 for axis in (1, 2))
        total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
        for i in range(size):
            for j in range(size):
                rows = slice(i, i + (height - 1) * stride + 1, stride)
                columns = slice(j, j + (width - 1) * stride + 1, stride)
                total += padded[:, rows, columns] * kernel[i, j][None, None]
        return total

    def library(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, stride, padding, x.shape[3])

    return lax.platform_dependent(x, kernel, cpu=shifted, default=library)


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
