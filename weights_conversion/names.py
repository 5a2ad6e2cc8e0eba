"""Source naming to our parameter paths, as tables.

A table row says which source entries become one convolution of ours. Sources are
torchvision's ``resnet*``, ``wide_resnet50_2`` and ``efficientnet_b5``, and the
lukemelas EfficientNet naming that the weights of the Lite variants carry.
"""

import functools
from dataclasses import dataclass

from weights_conversion.architectures import ARCHITECTURES, EfficientNetShape, ResNetShape


@dataclass(frozen=True)
class ConvRow:
    """One convolution: where it goes, where it comes from, and its source shape."""

    path: str  # ours; holds ``kernel`` (kh, kw, in / groups, out) and ``bias`` (out,)
    source: str  # prefix of ``weight`` (and of ``bias`` where ``norm`` is None)
    norm: str | None  # prefix of the batch norm that follows, folded into the convolution
    shape: tuple[int, int, int, int]  # PyTorch's (out, in / groups, kh, kw)

    def source_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every source entry this row uses, with its shape."""
        out = (self.shape[0],)
        if self.norm is None:
            return {f"{self.source}.weight": self.shape, f"{self.source}.bias": out}
        fields = ("weight", "bias", "running_mean", "running_var")
        return {f"{self.source}.weight": self.shape} | {f"{self.norm}.{field}": out for field in fields}

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Our parameters by path, with their shapes."""
        out, in_, height, width = self.shape
        return {f"{self.path}.kernel": (height, width, in_, out), f"{self.path}.bias": (out,)}


@dataclass(frozen=True)
class Table:
    """All rows of one backbone, and which source entries are dropped on purpose."""

    rows: tuple[ConvRow, ...]
    dropped_prefixes: tuple[str, ...]  # layers past the last tap, and the classifier
    norm_epsilon: float

    def drops(self, name: str) -> bool:
        """Whether source entry ``name`` is one that a truncated, frozen network has no use for."""
        return name.startswith(self.dropped_prefixes) or name in self._counters

    @functools.cached_property
    def _counters(self) -> frozenset[str]:
        return frozenset(f"{row.norm}.num_batches_tracked" for row in self.rows)


def table(backbone_name: str) -> Table:
    """Conversion table of ``backbone_name``; ``ValueError`` lists the valid names."""
    shape = ARCHITECTURES.get(backbone_name)
    if shape is None:
        raise ValueError(f"unknown backbone {backbone_name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    if isinstance(shape, ResNetShape):
        return Table(tuple(_resnet_rows(shape)), ("layer4.", "fc."), shape.norm_epsilon)
    if shape.tf_same_padding:
        return Table(tuple(_lukemelas_rows(shape)), _lukemelas_dropped(shape), shape.norm_epsilon)
    return Table(tuple(_torchvision_efficientnet_rows(shape)), _torchvision_dropped(shape), shape.norm_epsilon)


def _resnet_rows(shape: ResNetShape) -> list[ConvRow]:
    rows = [ConvRow("conv1", "conv1", "bn1", (64, 3, 7, 7))]
    for path, channels, width, out, stride in shape.blocks():
        kernels = [(width, channels, 1), (width, width, 3), (out, width, 1)] if shape.bottleneck else []
        kernels = kernels or [(out, channels, 3), (out, out, 3)]
        for number, (o, i, k) in enumerate(kernels, start=1):
            rows.append(ConvRow(f"{path}.conv{number}", f"{path}.conv{number}", f"{path}.bn{number}", (o, i, k, k)))
        if stride != 1 or channels != out:
            source = f"{path}.downsample"
            rows.append(ConvRow(f"{path}.downsample", f"{source}.0", f"{source}.1", (out, channels, 1, 1)))
    return rows


def _torchvision_efficientnet_rows(shape: EfficientNetShape) -> list[ConvRow]:
    rows = [ConvRow("stem", "features.0.0", "features.0.1", (shape.stem, 3, 3, 3))]
    for number, block in enumerate(shape.blocks()):
        path, source = f"blocks.{number}", f"features.{block.stage + 1}.{block.index}.block"
        step = 0  # torchvision numbers the steps a block really has
        if block.has_expansion:
            size = (block.expanded, block.channels_in, 1, 1)
            rows.append(ConvRow(f"{path}.expand", f"{source}.0.0", f"{source}.0.1", size))
            step = 1
        size = (block.expanded, 1, block.kernel, block.kernel)
        rows.append(ConvRow(f"{path}.depthwise", f"{source}.{step}.0", f"{source}.{step}.1", size))
        size = (block.squeezed, block.expanded, 1, 1)
        rows.append(ConvRow(f"{path}.squeeze", f"{source}.{step + 1}.fc1", None, size))
        size = (block.expanded, block.squeezed, 1, 1)
        rows.append(ConvRow(f"{path}.excite", f"{source}.{step + 1}.fc2", None, size))
        size = (block.channels_out, block.expanded, 1, 1)
        rows.append(ConvRow(f"{path}.project", f"{source}.{step + 2}.0", f"{source}.{step + 2}.1", size))
    return rows


def _torchvision_dropped(shape: EfficientNetShape) -> tuple[str, ...]:
    last = shape.blocks()[-1].stage + 1
    return (*(f"features.{index}." for index in range(last + 1, 9)), "classifier.")


def _lukemelas_rows(shape: EfficientNetShape) -> list[ConvRow]:
    rows = [ConvRow("stem", "_conv_stem", "_bn0", (shape.stem, 3, 3, 3))]
    for number, block in enumerate(shape.blocks()):
        path, source = f"blocks.{number}", f"_blocks.{number}"
        if block.has_expansion:
            size = (block.expanded, block.channels_in, 1, 1)
            rows.append(ConvRow(f"{path}.expand", f"{source}._expand_conv", f"{source}._bn0", size))
        size = (block.expanded, 1, block.kernel, block.kernel)
        rows.append(ConvRow(f"{path}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1", size))
        size = (block.channels_out, block.expanded, 1, 1)
        rows.append(ConvRow(f"{path}.project", f"{source}._project_conv", f"{source}._bn2", size))
    return rows


def _lukemelas_dropped(shape: EfficientNetShape) -> tuple[str, ...]:
    later = (f"_blocks.{index}." for index in range(shape.last_block + 1, len(shape.all_blocks())))
    return (*later, "_conv_head.", "_bn1.", "_fc.")
