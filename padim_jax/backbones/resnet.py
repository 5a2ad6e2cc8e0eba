"""ResNet up to ``layer3``: Flax NNX, NHWC, batch norm folded away (arXiv 1512.03385, 1605.07146)."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from padim_jax.backbones.layers import Conv, Images, max_pool
from weights_conversion.architectures import ResNetShape


class Block(nnx.Module):
    """Residual block, basic (3×3, 3×3) or bottleneck (1×1, 3×3, 1×1); the 3×3 that comes first strides.

    ``y = relu(F(x) + S(x))`` with S the identity, or a strided 1×1 convolution where shapes differ.
    """

    def __init__(self, channels_in: int, width: int, channels_out: int, stride: int, *, bottleneck: bool) -> None:
        if bottleneck:
            self.conv1 = Conv(channels_in, width, 1)
            self.conv2 = Conv(width, width, 3, stride=stride)
            self.conv3 = Conv(width, channels_out, 1)
        else:
            self.conv1 = Conv(channels_in, channels_out, 3, stride=stride)
            self.conv2 = Conv(channels_out, channels_out, 3)
        if stride != 1 or channels_in != channels_out:
            self.downsample = Conv(channels_in, channels_out, 1, stride=stride)
        self.bottleneck = bottleneck

    def __call__(self, x: Images) -> Images:
        """Output of the block, after its last ReLU."""
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.conv2(jax.nn.relu(self.conv1(x)))
        if self.bottleneck:
            x = self.conv3(jax.nn.relu(x))
        return jax.nn.relu(x + shortcut)


class ResNet(nnx.Module):
    """Truncated ResNet whose call returns its stages by name."""

    def __init__(self, shape: ResNetShape) -> None:
        self.conv1 = Conv(3, 64, 7, stride=2)
        stages: dict[str, list[Block]] = {}
        for path, channels, width, out, stride in shape.blocks():
            block = Block(channels, width, out, stride, bottleneck=shape.bottleneck)
            stages.setdefault(path.split(".")[0], []).append(block)
        self.layer1, self.layer2, self.layer3 = (nnx.List(blocks) for blocks in stages.values())

    def __call__(self, images: Float[Array, "n h w 3"], taps: tuple[str, ...]) -> dict[str, Images]:
        """Activations of ``taps``, computing nothing past the last of them."""
        x = max_pool(jax.nn.relu(self.conv1(images)))
        found: dict[str, Images] = {}
        for name in ("layer1", "layer2", "layer3"):
            for block in getattr(self, name):
                x = block(x)
            if name in taps:
                found[name] = x
            if len(found) == len(taps):
                break
        return found
