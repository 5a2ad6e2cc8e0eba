"""Taps agree with the publishers' own PyTorch modules, to 1e-4 of the largest activation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.backbones import BACKBONES
from tests import torch_reference
from tests.conftest import packaged_weights
from weights_conversion import read_checkpoint

TOLERANCE = 1e-4
SIZES = [(64, 64), (64, 96), (75, 101)]
PACKAGED = [name for name, spec in BACKBONES.items() if spec.package]


@pytest.fixture(autouse=True)
def _torch() -> None:
    """Skip before a process is started where there is nothing to compare with."""
    torch_reference.torch()


def _randomise(model: Any, torch: Any) -> None:
    """Give batch norms statistics that matter."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.2)
            module.bias.data.normal_(0, 0.2)


def _compare(backbone: padim.Backbone, model: Any, modules: list[Any], size: tuple[int, int], torch: Any) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    outputs: list[Any] = []
    hooks = [module.register_forward_hook(lambda _, __, out: outputs.append(out)) for module in modules]
    with torch.no_grad():
        model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()
    found = padim.extract(backbone, x)
    assert len(outputs) == len(found)
    for tap, output in zip(found.values(), outputs, strict=True):
        wanted = output.permute(0, 2, 3, 1).numpy()
        assert tap.shape == wanted.shape
        assert np.abs(tap - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.optimised
@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if spec.download])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_torchvision(name: str, legacy: bool, tmp_path: Path) -> None:
    torch, torchvision = torch_reference.torch(), torch_reference.torchvision()
    model = getattr(torchvision.models, name)(weights=None).eval()
    _randomise(model, torch)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    backbone = padim.load_backbone(name, weights=path)
    if name.startswith("efficientnet"):  # blocks 7, 20 and 26, counted over all stages
        blocks = [block for stage in model.features[1:-1] for block in stage]
        modules = [blocks[7], blocks[20], blocks[26]]
    else:
        modules = [model.layer1, model.layer2, model.layer3]
    for size in SIZES[: 1 if legacy else None]:
        _compare(backbone, model, modules, size, torch)


@pytest.mark.optimised
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PACKAGED)
def test_lite(name: str, size: tuple[int, int]) -> None:
    torch = torch_reference.torch()
    package = pytest.importorskip("efficientnet_lite_pytorch", reason=torch_reference.REASON)
    # this port fixes TensorFlow's "SAME" padding when it is built, for the size it is told
    model = package.EfficientNet.from_name(name.replace("_", "-"), image_size=size).eval()
    model.load_state_dict(torch.load(packaged_weights(name), weights_only=True))
    backbone = padim.load_backbone(name)
    modules = [model._blocks[int(tap.removeprefix("block"))] for tap in backbone.spec.default_taps]
    _compare(backbone, model, modules, size, torch)


@pytest.mark.parametrize("name", PACKAGED)
def test_reads_what_torch_reads(name: str) -> None:
    torch = torch_reference.torch()
    path = packaged_weights(name)
    wanted, found = torch.load(path, weights_only=True), read_checkpoint(path)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in wanted.items())


def test_torchvision_publishes_the_files_we_name() -> None:
    torchvision = torch_reference.torchvision()
    published = {
        weights.url
        for name in ("ResNet18_Weights", "ResNet50_Weights", "Wide_ResNet50_2_Weights", "EfficientNet_B5_Weights")
        for weights in getattr(torchvision.models, name)
    }
    ours = {spec.download.url for spec in BACKBONES.values() if spec.download is not None}
    assert ours <= published
