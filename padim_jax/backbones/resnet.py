"""ResNet up to ``layer3``: Flax NNX, NHWC, batch norm folded away (arXiv 1512.03385, 1605.07146)."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from padim_jax.backbones.layers import Conv, Images, Taps, collect_taps, max_pool, select_channels
from padim_jax.backbones.winograd import Rows
from weights_conversion.architectures import ResNetShape


class Block(nnx.Module):
    """Residual block, basic (3×3, 3×3) or bottleneck (1×1, 3×3, 1×1); the first 3×3 convolution has the stride.

    ``y = relu(F(x) + S(x))`` with S the identity, or a strided 1×1 convolution where shapes differ.
    """

    def __init__(
        self, channels_in: int, width: int, channels_out: int, stride: int, *, bottleneck: bool, rows: Rows
    ) -> None:
        if bottleneck:
            self.conv1 = Conv(channels_in, width, 1)
            self.conv2 = Conv(width, width, 3, stride=stride, rows=rows)
            self.conv3 = Conv(width, channels_out, 1)
        else:
            self.conv1 = Conv(channels_in, channels_out, 3, stride=stride, rows=rows)
            self.conv2 = Conv(channels_out, channels_out, 3, rows=rows)
        if stride != 1 or channels_in != channels_out:
            self.downsample = Conv(channels_in, channels_out, 1, stride=stride)
        self.bottleneck = bottleneck

    def __call__(self, x: Images, channels: np.ndarray | None = None) -> Images:
        """Output of the block, after its last ReLU; only those ``channels`` of it, where given."""
        shortcut = self.downsample(x, channels) if hasattr(self, "downsample") else select_channels(x, channels)
        x = jax.nn.relu(self.conv1(x))
        x = self.conv3(jax.nn.relu(self.conv2(x)), channels) if self.bottleneck else self.conv2(x, channels)
        return jax.nn.relu(x + shortcut)


class ResNet(nnx.Module):
    """Truncated ResNet whose call returns its stages by name."""

    def __init__(self, shape: ResNetShape) -> None:
        self.conv1 = Conv(3, 64, 7, stride=2)
        stages: dict[str, list[Block]] = {}
        for path, channels, width, out, stride in shape.blocks():
            stage = path.split(".")[0]
            rows = 2 if stage == "layer3" else 4  # measured: of the 14 rows there are at 224 pixels, two at a time
            block = Block(channels, width, out, stride, bottleneck=shape.bottleneck, rows=rows)
            stages.setdefault(stage, []).append(block)
        self.layer1, self.layer2, self.layer3 = (nnx.List(blocks) for blocks in stages.values())

    def __call__(self, images: Float[Array, "n h w 3"], taps: Taps) -> dict[str, Images]:
        """Activations of ``taps``, each with the channels chosen of it; no more of the last is computed."""
        x = max_pool(jax.nn.relu(self.conv1(images)))
        return collect_taps(x, ((name, getattr(self, name)) for name in ("layer1", "layer2", "layer3")), taps)
