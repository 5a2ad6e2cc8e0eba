"""Checkpoints as anomalib writes them, of models that padim fitted, so that both can be compared without it."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import padim_jax as padim
from padim_jax.backbones.backbone import build_backbone
from padim_jax.backbones.spec import IMAGENET_MEAN, IMAGENET_STD
from tests import torch_files
from tests.conftest import images
from weights_conversion import convert
from weights_conversion.names import table

CONFIG = padim.PadimConfig(
    taps=("layer1", "layer2"), n_channels=12, image_size=(40, 56), crop_size=(32, 48), sigma=1.5, ridge=0.01 + 1e-5
)
GOOD, TEST = images(10, CONFIG), images(3, CONFIG, seed=5)
NETWORK = "model.feature_extractor.feature_extractor."


@cache
def network_weights() -> dict[str, np.ndarray]:
    """Random weights by the names of their publisher."""
    rng, found = np.random.default_rng(0), dict[str, np.ndarray]()
    for row in table("resnet18").rows:
        for name, shape in row.source_shapes().items():
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
            values = rng.standard_normal(shape) * scale + (name.endswith(("bn.weight", "norm.weight")))
            if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
                values = 1 + np.abs(values)
            found[name] = values.astype(np.float32)
    return found


@cache
def fitted() -> padim.Padim:
    """What the checkpoints are of."""
    return padim.fit(build_backbone("resnet18", convert("resnet18", network_weights())), GOOD, CONFIG)


def transform(*steps: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A record of transforms."""
    rows = [{"class_path": f"torchvision.transforms.v2.{name}", "init_args": dict(options)} for name, options in steps]
    return {"transform": {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": rows}}}


RESIZE = ("Resize", {"size": [40, 56], "interpolation": "bilinear", "max_size": None, "antialias": True})
CROP = ("CenterCrop", {"size": [32, 48]})
NORMALIZE = ("Normalize", {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD], "inplace": False})


def record(layers: Sequence[str] = ("layer1", "layer2")) -> dict[str, Any]:
    """What a checkpoint says beside its arrays."""
    return {
        "epoch": 0,
        "hyper_parameters": {"backbone": "resnet18", "layers": [*layers], "n_features": 12},
        "anomalib_pre_processor_config": transform(RESIZE, CROP, NORMALIZE),
    }


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """The state dict, its channels in another order; layers past the last tap are left out, as there."""
    model = fitted()
    order = np.random.default_rng(seed).permutation(12)
    factors = model.gaussian.lower_factors(np.arange(model.embedding.n_positions))  # type: ignore[union-attr]
    inverse = np.linalg.inv(factors @ factors.swapaxes(1, 2))[:, order[:, None], order[None]]
    offsets = np.arange(-6, 7)
    line = np.exp(-0.5 * (offsets / CONFIG.sigma) ** 2)
    line /= line.sum()
    found = {
        "model.idx": np.asarray(model.embedding.channels)[order],
        "model.gaussian.mean": np.asarray(model.gaussian.mean).T[order],
        "model.gaussian.inv_covariance": inverse.astype(np.float32),
        "model.anomaly_map_generator.blur.kernel": (line[:, None] * line[None])[None, None].astype(np.float32),
        "post_processor._image_threshold": np.float32(0.5).reshape(()),
    }
    weights = {f"{NETWORK}{name}": array for name, array in network_weights().items() if "layer3" not in name}
    return found | weights


def write(path: Path, changes: Mapping[str, np.ndarray | None] | None = None, **facts: Any) -> Path:
    """Write a checkpoint, some of its arrays or entries changed, or left out for None."""
    state = {name: array for name, array in (arrays() | dict(changes or {})).items() if array is not None}
    said = {name: value for name, value in (record() | facts).items() if value is not None}
    path.write_bytes(torch_files.training_format(state, said))
    return path
