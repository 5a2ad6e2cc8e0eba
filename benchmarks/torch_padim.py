"""PaDiM as fast as we can write it in PyTorch, with the weights, channels and Gaussians of padim_jax.

Not a benchmark by itself; ``latency.py``, ``fit_speed.py`` and ``cost.py`` use it. Batch norm is folded into the
convolutions, activations are channels_last, nothing past the last tap is computed; channels are selected before they
are upsampled; distances are one batched product with the inverse factor, positions first; upsampling and blur are one
matrix on each side of the grid. ``compiled=True`` puts everything up to the embeddings through ``torch.compile`` with
frozen weights, for which Inductor needs a C++ compiler; the distances stay as they are, because Inductor makes slower
loops of a batched product with one image.
"""

import importlib
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import padim_jax as padim
from padim_jax.backbones.backbone import backbone_parameters
from padim_jax.backbones.layers import pad
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.method import anomaly_map
from padim_jax.method.embedding import Embedding, draw_embedding
from weights_conversion.architectures import ARCHITECTURES, MBConvShape, ResNetShape

torch: Any = importlib.import_module("torch")
torch.set_num_threads(os.cpu_count())
nn, functional = torch.nn, torch.nn.functional


def has_compiler() -> bool:
    """Whether there is a C++ compiler for ``torch.compile``."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


class Conv(nn.Module):
    """Convolution with folded batch norm, padded as ``padim_jax`` pads."""

    def __init__(self, parameters: dict[str, np.ndarray], path: str, stride: int, tf_same: bool) -> None:
        super().__init__()
        kernel = torch.from_numpy(parameters[f"{path}.kernel"].transpose(3, 2, 0, 1).copy())
        out, inner, size, _ = kernel.shape
        groups = out if inner == 1 and size > 1 else 1
        symmetric = 0 if tf_same and stride > 1 else (size - 1) // 2
        self.conv = nn.Conv2d(inner * groups, out, size, stride, symmetric, groups=groups)
        self.conv.weight.data = kernel.contiguous(memory_format=torch.channels_last)
        self.conv.bias.data = torch.from_numpy(parameters[f"{path}.bias"].copy())
        self.size, self.stride, self.explicit = size, stride, tf_same and stride > 1

    def forward(self, x: Any) -> Any:
        """Convolve (n, c, h, w)."""
        if self.explicit:
            rows, columns = (pad(length, self.size, self.stride, True) for length in x.shape[2:])
            x = functional.pad(x, (*columns, *rows))
        return self.conv(x)


class ResidualBlock(nn.Module):
    """Basic or bottleneck block of a ResNet."""

    def __init__(self, parameters: dict[str, np.ndarray], path: str, stride: int, bottleneck: bool) -> None:
        super().__init__()
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        convs = (Conv(parameters, f"{path}.conv{i}", step, False) for i, step in enumerate(strides, start=1))
        self.convs = nn.ModuleList(convs)
        has_downsample = f"{path}.downsample.kernel" in parameters
        self.downsample = Conv(parameters, f"{path}.downsample", stride, False) if has_downsample else nn.Identity()

    def forward(self, x: Any) -> Any:
        """Output of the block, after its last ReLU."""
        y = x
        for conv in self.convs[:-1]:
            y = functional.relu(conv(y), inplace=True)
        return functional.relu(self.convs[-1](y).add_(self.downsample(x)), inplace=True)


class InvertedResidual(nn.Module):
    """Block of EfficientNet-Lite."""

    def __init__(self, parameters: dict[str, np.ndarray], path: str, shape: MBConvShape, tf_same: bool) -> None:
        super().__init__()
        if shape.squeezed:
            raise ValueError("InvertedResidual: squeeze-and-excitation is not implemented here")
        names = ["expand"] * shape.has_expansion + ["depthwise"]
        strides = {"depthwise": shape.stride}
        convs = (Conv(parameters, f"{path}.{name}", strides.get(name, 1), tf_same) for name in names)
        self.convs = nn.ModuleList(convs)
        self.project, self.has_skip = Conv(parameters, f"{path}.project", 1, tf_same), shape.has_skip

    def forward(self, x: Any) -> Any:
        """Output of the block, after its skip connection."""
        y = x
        for conv in self.convs:
            y = functional.relu6(conv(y), inplace=True)
        y = self.project(y)
        return y.add_(x) if self.has_skip else y


class Taps(nn.Module):
    """The truncated network, from normalised (n, 3, H, W) to the activations of the embedding's taps."""

    def __init__(self, backbone: padim.Backbone, taps: Sequence[str]) -> None:
        super().__init__()
        shape, parameters = ARCHITECTURES[backbone.spec.name], backbone_parameters(backbone)
        self.resnet = isinstance(shape, ResNetShape)
        blocks: list[tuple[str, Any]]
        if isinstance(shape, ResNetShape):
            self.stem = Conv(parameters, "conv1", 2, False)
            shapes = shape.blocks()
            blocks = [(path, ResidualBlock(parameters, path, step, shape.bottleneck)) for path, _, _, _, step in shapes]
            ends = {path.split(".")[0]: path for path, *_ in shapes}
        else:
            same = shape.tf_same_padding
            self.stem = Conv(parameters, "stem", 2, same)
            shapes = enumerate(shape.blocks())
            blocks = [(f"block{i}", InvertedResidual(parameters, f"blocks.{i}", mb, same)) for i, mb in shapes]
            ends = {path: path for path, _ in blocks}
        names = [path for path, _ in blocks]
        self.tap_indices = [names.index(ends[tap]) for tap in taps]
        self.blocks = nn.ModuleList(block for _, block in blocks[: max(self.tap_indices) + 1])

    def forward(self, x: Any) -> list[Any]:
        """Activations (n, c, h, w) of the taps, in network order."""
        x = self.stem(x)
        if self.resnet:
            x = functional.max_pool2d(functional.relu(x, inplace=True), 3, 2, 1)
        else:
            x = functional.relu6(x, inplace=True)
        activations = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.tap_indices:
                activations.append(x)
        return activations


class Embed(nn.Module):
    """From uint8 images (n, H, W, 3), H and W whole cells of every tap, to embeddings (p, n, d), positions first."""

    def __init__(self, backbone: padim.Backbone, embedding: Embedding) -> None:
        super().__init__()
        spec, self.grid = backbone.spec, embedding.grid
        self.taps = Taps(backbone, embedding.taps)
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        first, n_selected, self.selections, self.slices = 0, 0, [], []
        for tap in spec.select(embedding.taps):
            selected = [c - first for c in embedding.channels if first <= c < first + tap.channels]
            self.selections.append(torch.tensor(selected, dtype=torch.int64))
            self.slices.append(slice(n_selected, n_selected + len(selected)))
            first, n_selected = first + tap.channels, n_selected + len(selected)

    def forward(self, images: Any) -> Any:
        """Embeddings of every patch."""
        pixels = torch.addcmul(self.shift, images.permute(0, 3, 1, 2).float(), self.scale)
        activations = self.taps(pixels.contiguous(memory_format=torch.channels_last))
        (height, width), n = self.grid, len(images)
        out = torch.empty(height, width, n, sum(map(len, self.selections)))
        for x, selection, channels in zip(activations, self.selections, self.slices, strict=True):
            h, w = x.shape[2:]  # each activation is copied straight to all the cells that it covers
            cells = out.view(h, height // h, w, width // w, n, -1)[..., channels]
            cells.copy_(x.permute(2, 3, 0, 1).index_select(3, selection)[:, None, :, None])
        return out.flatten(0, 1)


class Score(nn.Module):
    """From uint8 images to image scores and maps, in units of distance."""

    def __init__(self, embed: Any, grid: tuple[int, int], mean: Any, inverse: Any, config: padim.PadimConfig) -> None:
        super().__init__()
        self.embed, self.grid = embed, grid
        self.register_buffer("mean", mean[:, None])
        self.register_buffer("inverse", inverse)
        sides = zip(self.grid, config.crop, strict=True)
        for name, (cells, pixels) in zip(("rows", "columns"), sides, strict=True):
            matrix = anomaly_map.resampling(cells, pixels, config.sigma, config.interpolation)
            self.register_buffer(name, torch.from_numpy(matrix))

    def forward(self, images: Any) -> tuple[Any, Any]:
        """Scores (n,) and maps (n, height, width)."""
        z = torch.bmm(self.inverse, (self.embed(images) - self.mean).mT)  # at one image twice as fast as the transpose
        distances = torch.linalg.vector_norm(z, dim=1).T.reshape(-1, *self.grid)
        maps = self.rows @ (distances @ self.columns.T)
        return maps.amax((1, 2)), maps


class TorchPadim:
    """PaDiM in PyTorch with one backbone's weights and the channels that ``config`` draws."""

    def __init__(self, backbone: padim.Backbone, config: padim.PadimConfig, *, compiled: bool = False) -> None:
        self.comparable, self.border = config, 0
        self.embedding = draw_embedding(backbone, config)
        embed = Embed(backbone, self.embedding).eval()
        if compiled:  # once for each shape; beyond this many, Dynamo would silently stop compiling
            importlib.import_module("torch._dynamo").config.recompile_limit = 64
        self._embed = torch.compile(embed, dynamic=False, options={"freezing": True}) if compiled else embed
        self._score = None

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """Fit on uint8 images: moments batch by batch (Chan et al. 1983), then Cholesky and inverse factors."""
        p, d = self.embedding.n_positions, self.embedding.dimension
        count, mean, scatter = 0, torch.zeros(p, 1, d), torch.zeros(p, d, d)
        with torch.no_grad():
            for images in batches:
                x, n = self._embed(torch.from_numpy(images)), len(images)
                batch_mean = x.mean(1, keepdim=True)
                shift, share = batch_mean - mean, n / (count + n)
                rows = torch.cat([x - batch_mean, shift * (count * share) ** 0.5], dim=1)
                scatter.baddbmm_(rows.mT, rows)
                mean += shift * share
                count += n
            scatter /= count - 1
            scatter.diagonal(dim1=1, dim2=2).add_(self.comparable.ridge)
            self.use(mean[:, 0], _inverse_factors(scatter))

    def use(self, mean: Any, inverse: Any) -> None:
        """Score with these means (p, d) and inverse factors L⁻¹ (p, d, d)."""
        self._score = Score(self._embed, self.embedding.grid, mean, inverse, self.comparable).eval()

    def use_model(self, model: padim.Padim) -> None:
        """Score with the Gaussians of a model of ``padim_jax``, fitted on the same channels."""
        assert isinstance(model.gaussian, WhitenedGaussian)
        mean, whitening = (
            torch.from_numpy(np.array(a)) for a in (model.gaussian.mean, model.gaussian.whitening.square())
        )
        self.use(mean, whitening.mT.contiguous())

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n,) and maps (n, height, width) of uint8 images."""
        assert self._score is not None
        with torch.no_grad():
            scores, maps = self._score(torch.from_numpy(images))
            return scores.numpy(), maps.numpy()


def _inverse_factors(covariance: Any) -> Any:
    """L⁻¹ of each covariance L Lᵀ, with one part of the positions for each thread."""

    def factor(part: Any) -> Any:
        lower = torch.linalg.cholesky(part)
        identity = torch.eye(part.shape[-1]).expand_as(part)
        return torch.linalg.solve_triangular(lower, identity, upper=False)

    parts = covariance.chunk(torch.get_num_threads())
    with ThreadPoolExecutor(len(parts)) as pool:
        return torch.cat(list(pool.map(factor, parts))).contiguous()
