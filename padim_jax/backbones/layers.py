"""Convolutions of a frozen network, batch norm already folded into kernel and bias."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from padim_jax.backbones import winograd
from padim_jax.backbones.winograd import Kernel

Images = Float[Array, "n _h _w _c"]
Taps = Mapping[str, np.ndarray | None]  # layers by name, with the indices of the channels wanted; None for all
Block = Callable[..., Images]  # from activations, and the indices of the channels wanted of its output
FEW_CHANNELS = 4  # at most as many as an image has
BANDS = 4  # of rows, in which an image's patches are put together


class Conv(nnx.Module):
    """Convolution with bias, NHWC, in full float32 precision on every device.

    ``y = x * kernel + bias``; ``groups == channels_in`` makes it depthwise.

    Attributes:
      kernel: (k, k, channels_in / groups, channels_out).
      bias: (channels_out,).
      rows: how many rows of output a 3×3 convolution of stride 1 computes at a time on CPU: 4 where there are many.
      prepared: what :meth:`prepare` gives, so that it is not done at every call; empty where it is.
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
        self.prepared: tuple[Array, ...] = nnx.data(())
        self.stride = stride
        self.groups = groups
        self.tf_same = tf_same
        self.rows: winograd.Rows = rows

    def prepare(self, kernel: Kernel) -> tuple[Kernel, ...]:
        """The kernel in the parts that a CPU multiplies by, each an array of its own, since slices would be copied."""
        if self.groups > 1 or kernel.shape[0] != 3 or (kernel.shape[2] <= FEW_CHANNELS and self.stride == 2):
            return ()
        return winograd.prepare(kernel, self.rows) if self.stride == 1 else tuple(kernel)

    def __call__(self, x: Images, channels: np.ndarray | None = None) -> Images:
        """Convolve and add the bias; only those ``channels`` of the output, where given."""
        kernel, bias = self.kernel[...], self.bias[...][None, None, None]
        prepared = self.prepared or self.prepare(kernel)
        if channels is not None:
            kernel, bias = kernel[..., channels], bias[..., channels]
            prepared = tuple(part[..., channels] for part in prepared)
        size = kernel.shape[0]
        if size == 1:  # which is only a product, and as one takes half as long on CPU
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("nhwc,co->nhwo", x, kernel[0, 0], precision=lax.Precision.HIGHEST) + bias
        padding = [pad(length, size, self.stride, self.tf_same) for length in x.shape[1:3]]
        if self.groups > 1:
            return _convolve_depthwise(x, kernel, self.stride, padding) + bias
        if kernel.shape[2] <= FEW_CHANNELS and self.stride == 2:
            return _convolve_image(x, kernel, padding) + bias
        if size == 3 and self.stride == 1:
            return _convolve_rows(x, kernel, prepared, padding) + bias
        if size == 3:
            return _convolve_strided(x, kernel, prepared, self.stride, padding) + bias
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
        # it starts from minus infinity, without which it has no gradient
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])

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


def _convolve_rows(x: Array, kernel: Array, prepared: tuple[Array, ...], padding: list[tuple[int, int]]) -> Array:
    """3×3 convolution of stride 1, by the faster of two equal programs: on CPU Winograd's."""

    def by_winograd(x: Array, kernel: Array, prepared: tuple[Array, ...]) -> Array:
        return winograd.convolve(x, prepared, padding)

    def library(x: Array, kernel: Array, prepared: tuple[Array, ...]) -> Array:
        return _convolve(x, kernel, 1, padding, 1)

    if x.dtype != jnp.float32:  # Winograd's sums lose too much with fewer digits
        return library(x, kernel, prepared)
    return lax.platform_dependent(x, kernel, prepared, cpu=by_winograd, default=library)


def _convolve_image(x: Array, kernel: Array, padding: list[tuple[int, int]]) -> Array:
    """Convolution of stride 2 of few channels, by the faster of two equal programs.

    On CPU the patches are multiplied as rows of a matrix, in bands that stay in its cache. XLA's convolution can't fill
    a vector with three channels and takes up to three times as long, and so would patches put together pixel by pixel:
    two pixels beside each other are one stretch of memory, and patches are put together from such stretches.
    """

    def by_patches(x: Array, kernel: Array) -> Array:
        size, _, channels_in, channels_out = kernel.shape
        (above, below), (before, after) = padding
        padded = jnp.pad(x, [(0, 0), (above, below), (before, after + (x.shape[2] + before + after) % 2), (0, 0)])
        n, rows, columns, _ = padded.shape
        height, width = (rows - size) // 2 + 1, (x.shape[2] + before + after - size) // 2 + 1
        pairs = padded.reshape(n, rows, columns // 2, 2 * channels_in)
        band, outputs = -(-height // BANDS), []
        for first in range(0, height, band):
            last = min(first + band, height) - 1
            inputs = pairs[:, 2 * first : 2 * last + size]
            stretches = [inputs[:, :, j // 2 : j // 2 + width, : (size - j) * channels_in] for j in range(0, size, 2)]
            patch_rows = lax.optimization_barrier(jnp.concatenate(stretches, axis=-1))
            patches = [patch_rows[:, i : i + 2 * (last - first) + 1 : 2] for i in range(size)]
            joined, by_patch = jnp.concatenate(patches, axis=-1), kernel.reshape(-1, channels_out)
            outputs.append(jnp.einsum("nhwc,co->nhwo", joined, by_patch, precision=lax.Precision.HIGHEST))
        return jnp.concatenate(outputs, axis=1)

    def library(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, 2, padding, 1)

    return lax.platform_dependent(x, kernel, cpu=by_patches, default=library)


def _convolve_strided(
    x: Array, kernel: Array, prepared: tuple[Array, ...], stride: int, padding: list[tuple[int, int]]
) -> Array:
    """3×3 convolution of a larger stride, by the faster of two equal programs: on CPU one product a kernel row."""

    def by_rows(x: Array, kernel: Array, prepared: tuple[Array, ...]) -> Array:
        padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        height, width = ((padded.shape[axis] - 3) // stride + 1 for axis in (1, 2))
        total = jnp.zeros((), x.dtype)
        for i, kernel_row in enumerate(prepared):
            rows = padded[:, i : i + (height - 1) * stride + 1 : stride]
            columns = [rows[:, :, j : j + (width - 1) * stride + 1 : stride] for j in range(3)]
            joined, by_row = jnp.concatenate(columns, axis=-1), kernel_row.reshape(-1, kernel_row.shape[2])
            total += jnp.einsum("nhwc,co->nhwo", joined, by_row, precision=lax.Precision.HIGHEST)
        return total

    def library(x: Array, kernel: Array, prepared: tuple[Array, ...]) -> Array:
        return _convolve(x, kernel, stride, padding, 1)

    return lax.platform_dependent(x, kernel, prepared, cpu=by_rows, default=library)


def _convolve_depthwise(x: Array, kernel: Array, stride: int, padding: list[tuple[int, int]]) -> Array:
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


def collect_taps(x: Images, stages: Iterable[tuple[str, Sequence[Block]]], taps: Taps) -> dict[str, Images]:
    """Activations of ``taps`` from layers given by name with their blocks; nothing past the last tap is computed."""
    activations: dict[str, Images] = {}
    for name, (*blocks, last) in stages:
        for block in blocks:
            x = block(x)
        if name in taps and len(activations) == len(taps) - 1:  # the last one, of which only its channels
            return activations | {name: last(x, taps[name])}
        x = last(x)
        if name in taps:
            activations[name] = select_channels(x, taps[name])
    return activations


def select_channels(x: Images, channels: np.ndarray | None) -> Images:
    """Only those ``channels`` of x; None for all."""
    return x if channels is None else x[..., channels]


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)
