"""EfficientNet up to its last tapped block: Flax NNX, NHWC, batch norm folded away (arXiv 1905.11946)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from padim_jax.backbones.layers import Conv, Images, Taps, collect_taps, relu6, select_channels
from weights_conversion.architectures import EfficientNetShape, MBConvShape


class MBConv(nnx.Module):
    """Inverted residual: expand 1×1, depthwise k×k, squeeze-and-excite, project 1×1.

    The Lite variants have no squeeze-and-excitation and use ReLU6 where the others use SiLU.
    """

    def __init__(self, shape: MBConvShape, *, tf_same: bool) -> None:
        if shape.has_expansion:
            self.expand = Conv(shape.channels_in, shape.expanded, 1)
        self.depthwise = Conv(
            shape.expanded,
            shape.expanded,
            shape.kernel,
            stride=shape.stride,
            groups=shape.expanded,
            tf_same=tf_same,
        )
        if shape.squeezed:
            self.squeeze = Conv(shape.expanded, shape.squeezed, 1)
            self.excite = Conv(shape.squeezed, shape.expanded, 1)
        self.project = Conv(shape.expanded, shape.channels_out, 1)
        self.shape = shape

    def __call__(self, x: Images, channels: np.ndarray | None = None) -> Images:
        """Output of the block, after its skip connection; only those ``channels`` of it, where given."""
        activation = jax.nn.silu if self.shape.squeezed else relu6
        shortcut = x
        if self.shape.has_expansion:
            x = activation(self.expand(x))
        x = activation(self.depthwise(x))
        if self.shape.squeezed:
            gate = self.excite(activation(self.squeeze(jnp.mean(x, axis=(1, 2), keepdims=True))))
            x = x * jax.nn.sigmoid(gate)
        x = self.project(x, channels)
        return x + select_channels(shortcut, channels) if self.shape.has_skip else x


class EfficientNet(nnx.Module):
    """Truncated EfficientNet whose call returns its blocks by name, ``block0`` first."""

    def __init__(self, shape: EfficientNetShape) -> None:
        self.stem = Conv(3, shape.stem, 3, stride=2, tf_same=shape.tf_same_padding)
        self.blocks = nnx.List(MBConv(block, tf_same=shape.tf_same_padding) for block in shape.blocks())
        self.lite = shape.squeeze_ratio == 0

    def __call__(self, images: Float[Array, "n h w 3"], taps: Taps) -> dict[str, Images]:
        """Activations of ``taps``, each with the channels chosen of it; no more of the last is computed."""
        x = self.stem(images)
        x = relu6(x) if self.lite else jax.nn.silu(x)
        return collect_taps(x, ((f"block{number}", [block]) for number, block in enumerate(self.blocks)), taps)
