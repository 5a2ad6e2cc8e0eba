"""Convolutions of a frozen network, batch norm already folded into kernel and bias."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from padim_jax.backbones import winograd

Images = Float[Array, "n _h _w _c"]
Taps = Mapping[str, np.ndarray | None]  # layers by name, with the indices of the channels wanted; None for all
FEW = 4  # channels: those of an image


class Prepared(nnx.Variable):
    """A kernel in the form its platform wants; follows from the parameters and is none of them."""


class Conv(nnx.Module):
    """Convolution with bias, NHWC, in full float32 precision on every device.

    ``y = x * kernel + bias``; ``groups == channels_in`` makes it depthwise.

    Attributes:
      kernel: (k, k, channels_in / groups, channels_out).
      bias: (channels_out,).
      rows: of the output that a 3×3 convolution of stride 1 computes at a time on CPU: 4 where there are many.
      prepared: the kernel as :func:`padim_jax.backbones.winograd.prepare` gives it; None to do so at every call.
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
        rows: winograd.Rows = 2,
    ) -> None:
        shape = (kernel_size, kernel_size, channels_in // groups, channels_out)
        self.kernel = nnx.Param(jnp.zeros(shape, jnp.float32))  # weights are always loaded, never trained
        self.bias = nnx.Param(jnp.zeros(channels_out, jnp.float32))
        self.prepared: Prepared | None = nnx.data(None)
        self.stride = stride
        self.groups = groups
        self.tf_same = tf_same
        self.rows: winograd.Rows = rows

    @property
    def by_rows(self) -> bool:
        """Whether it computes several rows at a time on CPU."""
        return self.groups == 1 and self.stride == 1 and self.kernel.shape[0] == 3

    def __call__(self, x: Images, channels: np.ndarray | None = None) -> Images:
        """Convolve and add the bias; only those ``channels`` of the output, where given."""
        kernel, bias = self.kernel[...], self.bias[...][None, None, None]
        prepared = None if self.prepared is None else self.prepared[...]
        if channels is not None:
            kernel, bias = kernel[..., channels], bias[..., channels]
            prepared = None if prepared is None else prepared[..., channels]
        size = kernel.shape[0]
        if size == 1:  # a product is all it is; as such it takes half as long on CPU
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("nhwc,co->nhwo", x, kernel[0, 0], precision=lax.Precision.HIGHEST) + bias
        padding = [pad(length, size, self.stride, self.tf_same) for length in x.shape[1:3]]
        if self.groups > 1:
            return _depthwise(x, kernel, self.stride, padding) + bias
        if self.by_rows:
            return _by_rows(x, kernel, prepared, self.rows, padding) + bias
        if size == 3:
            return _strided(x, kernel, self.stride, padding) + bias
        return _convolve(x, kernel, self.stride, padding, 1) + bias


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


def _by_rows(
    x: Array, kernel: Array, prepared: Array | None, rows: winograd.Rows, padding: list[tuple[int, int]]
) -> Array:
    """3×3 convolution of stride 1, by the faster of two equal programs: on CPU Winograd's."""

    def winograds(x: Array, kernel: Array, prepared: Array | None) -> Array:
        return winograd.convolve(x, winograd.prepare(kernel, rows) if prepared is None else prepared, padding)

    def library(x: Array, kernel: Array, prepared: Array | None) -> Array:
        return _convolve(x, kernel, 1, padding, 1)

    if x.dtype != jnp.float32:  # fewer digits would not bear its sums
        return library(x, kernel, prepared)
    return lax.platform_dependent(x, kernel, prepared, cpu=winograds, default=library)


def _strided(x: Array, kernel: Array, stride: int, padding: list[tuple[int, int]]) -> Array:
    """3×3 convolution of a larger stride, by the faster of two equal programs.

    On CPU a product with the patches: all at once those of an image, whose few channels can't fill a vector in XLA's
    convolution, which takes three times as long; of more channels one for each row of the kernel, for want of room.
    """

    def patches(x: Array, kernel: Array) -> Array:
        channels_in, channels_out = kernel.shape[2:]
        padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        height, width = ((padded.shape[axis] - 3) // stride + 1 for axis in (1, 2))
        shifted = [padded[:, i : i + (height - 1) * stride + 1 : stride] for i in range(3)]
        parts = [jnp.stack(shifted, axis=2)] if channels_in <= FEW else [rows[:, :, None] for rows in shifted]
        total = jnp.zeros((), x.dtype)
        for rows, taps in zip(parts, kernel.reshape(len(parts), -1, 3 * channels_in, channels_out), strict=True):
            columns = [rows[:, :, :, j : j + (width - 1) * stride + 1 : stride] for j in range(3)]
            joined = jnp.concatenate(columns, axis=-1)
            total += jnp.einsum("nhiwc,ico->nhwo", joined, taps, precision=lax.Precision.HIGHEST)
        return total

    def library(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, stride, padding, 1)

    return lax.platform_dependent(x, kernel, cpu=patches, default=library)


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


def selected(x: Images, channels: np.ndarray | None) -> Images:
    """Those ``channels`` of x; None for all."""
    return x if channels is None else x[..., channels]


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
