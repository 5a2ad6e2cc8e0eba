"""PaDiM by others and by us: a class for each side, with ``fit(batches)`` and ``score(images)`` of uint8 images.

The peers are installed beside padim_jax; one that is missing is left out, with a message:

    pip install torch==2.13.0; pip install --no-deps torchvision==0.28.0 timm==1.0.20
    pip install --no-deps anomalib==2.7.0; pip install lightning kornia kornia_rs torchmetrics einops freia pandas
    pip install omegaconf rich-argparse 'jsonargparse[signatures]<4.47' scikit-image imagecodecs tifffile python-dotenv
    pip install --no-deps anomavision==3.6.2; pip install matplotlib scikit-image tqdm

``latency.py``, ``fit_speed.py``, ``startup.py`` and ``folder.py`` use it; the last two run it, so that anomalib is
timed in a process of its own (`python benchmarks/peers.py fit FOLDER MODEL`, `... score MODEL IMAGES`). In one
process every side gets the same weights and channels, and its maps are compared with ours under settings that match
its own; run apart, anomalib has random weights of its own and only times are compared.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import padim_jax as padim
from padim_jax.backbones.backbone import backbone_parameters
from padim_jax.gaussians.factors import WhitenedGaussian
from padim_jax.gaussians.triangle import TriangularMatrix
from padim_jax.method.embedding import draw_embedding
from weights_conversion.names import table

INSTALL = {  # in short, for messages; the docstring has every command
    "anomalib": "pip install --no-deps anomalib==2.7.0, and the packages that benchmarks/peers.py lists",
    "anomavision": "pip install --no-deps anomavision==3.6.2, and the packages that benchmarks/peers.py lists",
    "torch": "pip install torch==2.13.0",
    "compiled": "pip install torch==2.13.0, and a C++ compiler",
}
MODELS = {"r18": "resnet18", "lite0": "efficientnet_lite0"}
DISAGREEMENT = 1e-3  # relative to the largest value of a map; float32 inverses of another library


class Side(Protocol):
    """One way to fit and score.

    Attributes:
      comparable: the settings under which padim_jax computes the same thing.
      border: pixels of a map at each edge that can't be compared.
    """

    comparable: padim.PadimConfig
    border: int

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """Fit on uint8 batches (n, H, W, 3)."""
        ...

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n,) and maps (n, H, W) of uint8 images, on the host."""
        ...


class Unsupported(Exception):
    """A backbone or a setting that a side does not support."""


def installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    return importlib.util.find_spec(package) is not None


def load(model: str) -> padim.Backbone:
    """The backbone called ``model`` here; random weights where they would have to be downloaded."""
    name = MODELS.get(model, model)
    return padim.load_backbone(name, None if name == "efficientnet_lite0" else "random")


def random_images(count: int, size: int = 224, seed: int = 0) -> np.ndarray:
    """Coarse random patterns with a camera's noise, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    cells = -(-size // 16)
    coarse = rng.integers(40, 216, (count, cells, cells, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    return coarse[:, :size, :size] + rng.integers(-8, 9, (count, size, size, 1)).astype(np.uint8)


def make_random_model(backbone: padim.Backbone, config: padim.PadimConfig) -> padim.Padim:
    """A model with random inverse factors, for timings of scores at dimensions that would take long to fit."""
    embedding = draw_embedding(backbone, config)
    p, d = embedding.n_positions, embedding.dimension
    rng = np.random.default_rng(0)
    triangle = np.triu(rng.standard_normal((d, d), np.float32))
    whitening = np.broadcast_to(triangle, (p, d, d)).copy()
    gaussian = WhitenedGaussian(jnp.zeros((p, d), jnp.float32), TriangularMatrix.from_square(whitening))
    return padim.Padim(backbone, gaussian, jnp.asarray(200.0), config, embedding)


class Ours:
    """padim_jax as a user calls it."""

    def __init__(self, backbone: padim.Backbone, config: padim.PadimConfig) -> None:
        self.backbone, self.comparable, self.border = backbone, config, 0
        self.model: padim.Padim | None = None

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """``padim_jax.fit``, until its arrays are there."""
        self.model = None  # the new model needs its memory
        self.model = jax.block_until_ready(padim.fit(self.backbone, batches, self.comparable))

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``padim_jax.score``, with its arrays in NumPy."""
        assert self.model is not None
        scores = padim.score(self.model, images)
        return np.asarray(scores.image_score), np.asarray(scores.anomaly_map)


class Anomalib:
    """anomalib's ``PadimModel`` on timm's networks, in NCHW, under ``inference_mode``.

    Its ridge is 0.01 and 1e-5, and its blur mirrors maps about the centre of the outermost pixel, ours about the edge.
    Of Lite0 timm offers stages, not blocks: those that end in blocks 2, 4 and 10.
    """

    def __init__(self, backbone: padim.Backbone, config: padim.PadimConfig) -> None:
        self.torch, _ = import_torch()
        names = {
            "resnet18": ("resnet18", ["layer1", "layer2", "layer3"], None),
            "efficientnet_lite0": (
                "tf_efficientnet_lite0",
                ["blocks.1", "blocks.2", "blocks.4"],
                ("block2", "block4", "block10"),
            ),
        }
        if backbone.spec.name not in names:
            raise Unsupported(f"the benchmarks run no {backbone.spec.name} with anomalib")
        name, layers, taps = names[backbone.spec.name]
        self.comparable = replace(config, taps=taps, ridge=config.regularisation("peers")[0] + 1e-5)
        self.border = int(4 * config.sigma + 1)
        self.pixels = _normaliser(self.torch, backbone)
        embedding = draw_embedding(backbone, self.comparable)
        with _quiet():
            module = importlib.import_module("anomalib.models.image.padim.torch_model")
            self.model = module.PadimModel(name, layers, pre_trained=False, n_features=embedding.dimension).eval()
        give_weights(self.torch, self.model.feature_extractor, backbone)
        self.model.idx = self.torch.tensor(embedding.channels)

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """Fill the memory bank batch by batch, then fit the Gaussians."""
        self.model.train()
        with self.torch.no_grad():
            for images in batches:
                self.model(self.pixels(images))
            self.model.fit()
        self.model.eval()

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Call the model."""
        with self.torch.inference_mode():
            output = self.model(self.pixels(images))
        return output.pred_score.numpy(), output.anomaly_map[:, 0].numpy()


class AnomaVision:
    """AnomaVision's ``Padim`` on torchvision's ResNet18; it does not blur maps, and scores the grid's largest cell."""

    def __init__(self, backbone: padim.Backbone, config: padim.PadimConfig) -> None:
        if backbone.spec.name != "resnet18":
            raise Unsupported(f"AnomaVision has no {backbone.spec.name}")
        self.torch, torchvision = import_torch()
        self.comparable, self.border = replace(config, sigma=0.0), 0
        self.pixels = _normaliser(self.torch, backbone)
        channels = self.torch.tensor(draw_embedding(backbone, config).channels)
        with _quiet():
            extraction = importlib.import_module("anomavision.algorithm.common.feature_extraction")
            extraction.BACKBONES["resnet18"] = (torchvision.models.resnet18, None)  # or it would download
            module = importlib.import_module("anomavision.algorithm.padim")
            self.model = module.Padim("resnet18", channel_indices=channels, layer_indices=[0, 1, 2]).eval()
        give_weights(self.torch, self.model.embeddings_extractor.backbone, backbone)

    def fit(self, batches: Iterable[np.ndarray]) -> None:
        """Fit on a list of tensors in place of a ``DataLoader``."""
        with _quiet():
            self.model.fit([self.pixels(images) for images in batches])

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Call ``predict``."""
        with self.torch.inference_mode():
            scores, maps = self.model.predict(self.pixels(images))
        return scores.numpy(), maps.numpy()


def _plain(backbone: padim.Backbone, config: padim.PadimConfig) -> Side:
    return importlib.import_module("torch_padim").TorchPadim(backbone, config)


def _compiled(backbone: padim.Backbone, config: padim.PadimConfig) -> Side:
    torch_padim = importlib.import_module("torch_padim")
    if not torch_padim.has_compiler():
        raise Unsupported("torch.compile finds no C++ compiler (apt install g++)")
    return torch_padim.TorchPadim(backbone, config, compiled=True)


SIDES: dict[str, Callable[[padim.Backbone, padim.PadimConfig], Side]] = {
    "ours": Ours,
    "anomalib": Anomalib,
    "anomavision": AnomaVision,
    "torch": _plain,
    "compiled": _compiled,
}


def build(names: Sequence[str], backbone: padim.Backbone, config: padim.PadimConfig) -> dict[str, Side]:
    """The sides called ``names`` that run here; for every other one, a line says why it is left out."""
    sides: dict[str, Side] = {}
    for name in names:
        try:
            sides[name] = SIDES[name](backbone, config)
        except ImportError as error:
            print(f"{name} is left out: {error} ({INSTALL.get(name, '')})", flush=True)
        except Unsupported as error:
            print(f"{name} is left out: {error}", flush=True)
    return sides


def fit_sides(
    names: Sequence[str],
    backbone: padim.Backbone,
    config: padim.PadimConfig,
    batches: Sequence[np.ndarray],
    images: np.ndarray,
) -> tuple[dict[str, Side], dict[str, float]]:
    """Fit the sides of :func:`build`; return them, and how far each one's maps of ``images`` are from ours.

    That is the largest difference over the largest value of ours, under the side's comparable settings and inside its
    border. A side further away than ``DISAGREEMENT`` computes something else, and ends the run.
    """
    sides = build(names, backbone, config)
    differences: dict[str, float] = {}
    ours: dict[padim.PadimConfig, Ours] = {}
    for name, side in sides.items():
        side.fit(batches)
        if side.comparable not in ours:
            ours[side.comparable] = Ours(backbone, side.comparable)
            ours[side.comparable].fit(batches)
        our_maps, maps = (_inner(scorer.score(images)[1], side.border) for scorer in (ours[side.comparable], side))
        differences[name] = float(np.abs(maps - our_maps).max() / our_maps.max())
        if not differences[name] <= DISAGREEMENT:
            raise SystemExit(f"{name} differs from ours by {differences[name]:.2g} of the largest distance")
    return sides, differences


def give_weights(torch: Any, network: Any, backbone: padim.Backbone) -> None:
    """Copy ``backbone``'s weights into the same network of PyTorch, whose batch norms then only add the bias."""
    parameters = backbone_parameters(backbone)
    convs = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    rows = table(backbone.spec.name).rows
    for row, conv, norm in zip(rows, convs[: len(rows)], norms[: len(rows)], strict=True):
        if tuple(conv.weight.shape) != row.shape:
            raise ValueError(f"{row.path} has shape {row.shape}, the network's {tuple(conv.weight.shape)}")
        kernel = parameters[f"{row.path}.kernel"].transpose(3, 2, 0, 1)
        conv.weight.data = torch.from_numpy(kernel.copy())
        norm.weight.data.fill_(1)
        norm.bias.data = torch.from_numpy(parameters[f"{row.path}.bias"].copy())
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)


def import_torch() -> tuple[Any, Any]:
    """``torch`` and ``torchvision``, whose operators are declared where its build does not fit torch's."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count())
    try:
        return torch, importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        torchvision: Any = importlib.import_module("torchvision")
        torchvision._declared = library  # the declarations live as long as their library object
        return torch, torchvision


def _normaliser(torch: Any, backbone: padim.Backbone) -> Callable[[np.ndarray], Any]:
    """Prepare images as the peers' loaders do: float32, NCHW, contiguous, normalised."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (backbone.spec.mean, backbone.spec.std))

    def normalise(images: np.ndarray) -> Any:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)
        return pixels.sub_(mean).div_(std)

    return normalise


def _inner(maps: np.ndarray, border: int) -> np.ndarray:
    return maps[:, border : maps.shape[1] - border, border : maps.shape[2] - border]


@contextlib.contextmanager
def _quiet() -> Any:
    """Suppress what a library prints and warns about while it loads."""
    out, err = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with out, err, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _anomalib_fit(folder: Path, model: Path, batch_size: int) -> None:
    """Engine and Folder datamodule on good images, one in ten held back for the validation that Engine requires."""
    import_torch()
    data, engines = importlib.import_module("anomalib.data"), importlib.import_module("anomalib.engine")
    models = importlib.import_module("anomalib.models")
    datamodule = data.Folder(
        name=folder.name,
        root=folder.parent,
        normal_dir=folder.name,
        test_split_mode="none",
        val_split_mode="from_train",
        val_split_ratio=0.1,
        train_batch_size=batch_size,
        eval_batch_size=batch_size,
        num_workers=os.cpu_count() or 1,
    )
    network = models.Padim(pre_trained=False, evaluator=False, visualizer=False)
    engine = engines.Engine(default_root_dir=model, logger=False, accelerator="cpu", enable_progress_bar=False)
    engine.fit(model=network, datamodule=datamodule)
    engine.export(network, "torch", export_root=model)


def _anomalib_score(model: Path, images: Path) -> None:
    """TorchInferencer, as anomalib's documentation has it, on each image; prints scores, writes no heat maps."""
    import_torch()
    os.environ["TRUST_REMOTE_CODE"] = "1"  # a pickled module
    deploy = importlib.import_module("anomalib.deploy")
    (exported,) = model.rglob("*.pt")
    inferencer = deploy.TorchInferencer(exported, device="cpu")
    for path in sorted(images.iterdir()) if images.is_dir() else [images]:
        print(path.name, float(inferencer.predict(str(path)).pred_score))


def main() -> int:
    """Fit or score with anomalib on files."""
    parser = argparse.ArgumentParser(description="anomalib's PaDiM on files, in a process of its own.")
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="Engine.fit on a folder of good images, then Engine.export")
    fit.add_argument("folder", type=Path)
    fit.add_argument("model", type=Path)
    fit.add_argument("--batch-size", type=int, default=16)
    score = commands.add_parser("score", help="TorchInferencer on one image or a folder of them")
    score.add_argument("model", type=Path)
    score.add_argument("images", type=Path)
    options = parser.parse_args()
    if options.command == "fit":
        _anomalib_fit(options.folder, options.model, options.batch_size)
    else:
        _anomalib_score(options.model, options.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
