"""Shapes of the supported backbones, up to the deepest layer PaDiM taps.

This is the one place that states depths and widths: the naming tables in
``names.py`` and the Flax modules of ``padim_jax.backbones`` are both built from it.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ResNetShape:
    """Residual stages ``layer1..layer3`` (He et al. 2016, arXiv 1512.03385, table 1).

    ``layer4`` and the classifier are left out: PaDiM never reads them.
    """

    bottleneck: bool
    depths: tuple[int, int, int]
    width_factor: int = 1  # inner width of a bottleneck, 2 for Wide-ResNet50-2
    norm_epsilon: float = 1e-5

    @property
    def expansion(self) -> int:
        """Output channels of a block over its stage's base width."""
        return 4 if self.bottleneck else 1

    def blocks(self) -> list[tuple[str, int, int, int, int]]:
        """Every block as ``(path, channels in, inner width, channels out, stride)``."""
        blocks, channels = [], 64
        for stage, depth in enumerate(self.depths):
            base = 64 * 2**stage
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                out = base * self.expansion
                blocks.append((f"layer{stage + 1}.{index}", channels, base * self.width_factor, out, stride))
                channels = out
        return blocks


@dataclass(frozen=True)
class MBConvShape:
    """One inverted-residual block (Sandler et al. 2018, arXiv 1801.04381, figure 3)."""

    stage: int  # counts from 0
    index: int  # inside the stage
    channels_in: int
    expanded: int
    channels_out: int
    kernel: int
    stride: int
    squeezed: int  # channels of the squeeze-and-excitation bottleneck; 0 where there is none

    @property
    def has_expansion(self) -> bool:
        """Whether a 1×1 convolution widens the input first."""
        return self.expanded != self.channels_in

    @property
    def has_skip(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.channels_in == self.channels_out


@dataclass(frozen=True)
class EfficientNetShape:
    """Scaled MBConv stages (Tan & Le 2019, arXiv 1905.11946, table 1) up to block ``last_block``."""

    width: float
    depth: float
    squeeze_ratio: float  # 0 switches squeeze-and-excitation off
    fixed_ends: bool  # the Lite variants scale neither the stem nor the first and last stage's depth
    last_block: int
    tf_same_padding: bool
    norm_epsilon: float = 1e-3

    @property
    def stem(self) -> int:
        """Output channels of the stem convolution."""
        return 32 if self.fixed_ends else _round_channels(32 * self.width)

    def blocks(self) -> list[MBConvShape]:
        """Blocks 0 to ``last_block`` in order, counted over all stages."""
        return self.all_blocks()[: self.last_block + 1]

    def all_blocks(self) -> list[MBConvShape]:
        """Every block of the published network, those past ``last_block`` too."""
        stages = [  # expansion, channels, repeats, stride, kernel
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        ]
        blocks: list[MBConvShape] = []
        channels = self.stem
        for stage, (expansion, base, repeats, first_stride, kernel) in enumerate(stages):
            out = _round_channels(base * self.width)
            fixed = self.fixed_ends and stage in (0, len(stages) - 1)
            for index in range(repeats if fixed else math.ceil(repeats * self.depth)):
                blocks.append(
                    MBConvShape(
                        stage=stage,
                        index=index,
                        channels_in=channels,
                        expanded=channels * expansion,
                        channels_out=out,
                        kernel=kernel,
                        stride=first_stride if index == 0 else 1,
                        squeezed=int(channels * self.squeeze_ratio),
                    )
                )
                channels = out
        return blocks


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor`` that is not more than 10 % below ``channels``."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


ARCHITECTURES: dict[str, ResNetShape | EfficientNetShape] = {
    "resnet18": ResNetShape(bottleneck=False, depths=(2, 2, 2)),
    "resnet50": ResNetShape(bottleneck=True, depths=(3, 4, 6)),
    "wide_resnet50_2": ResNetShape(bottleneck=True, depths=(3, 4, 6), width_factor=2),
    "efficientnet_b5": EfficientNetShape(
        width=1.6, depth=2.2, squeeze_ratio=0.25, fixed_ends=False, last_block=26, tf_same_padding=False
    ),
    "efficientnet_lite0": EfficientNetShape(
        width=1.0, depth=1.0, squeeze_ratio=0.0, fixed_ends=True, last_block=10, tf_same_padding=True
    ),
    "efficientnet_lite2": EfficientNetShape(
        width=1.1, depth=1.2, squeeze_ratio=0.0, fixed_ends=True, last_block=14, tf_same_padding=True
    ),
}
