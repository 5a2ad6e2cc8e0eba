"""A checkpoint that anomalib itself wrote becomes a model whose maps are its own, to 1e-4."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.artifact.anomalib import import_anomalib
from padim_jax.images import read_image
from padim_jax.method.anomaly_map import anomaly_map
from tests import torch_reference

SIZE = (64, 80)
EDGE = 16  # pixels, 4σ: their blur mirrors maps about the centre of the outermost pixel, ours about the edge
REASON = "compares with anomalib, which benchmarks/peers.py says how to install"


def pixels(count: int, seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size[0] // 4, size[1] // 4, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


GOOD, TEST = pixels(24, 0), pixels(4, 1)


def prepared(model: Any, images: np.ndarray) -> Any:
    torch = torch_reference.torch()
    return model.pre_processor.transform(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


@pytest.fixture(scope="module", params=[["layer1", "layer2", "layer3"], ["layer1", "layer3"], ["layer2"]], ids=str)
def theirs(request: pytest.FixtureRequest) -> Any:
    """anomalib's model, fitted."""
    torch = torch_reference.torch()
    torch_reference.torchvision()
    pytest.importorskip("anomalib", reason=REASON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = importlib.import_module("anomalib.models").Padim
        torch.manual_seed(0)
        switches = {"evaluator": False, "visualizer": False, "pre_processor": kind.configure_pre_processor(SIZE)}
        model = kind(backbone="resnet18", layers=request.param, pre_trained=False, n_features=20, **switches)
        model.eval()
        model.model.train()
        model.model.feature_extractor.eval()
        model.model(prepared(model, GOOD))
        model.model.fit()
        return model.eval()


@pytest.fixture
def checkpoint(theirs: Any, tmp_path: Path) -> Path:
    """What its trainer saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = importlib.import_module("lightning")
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        trainer.strategy.connect(theirs)
        trainer.save_checkpoint(tmp_path / "padim.ckpt")
    return tmp_path / "padim.ckpt"


def test_maps_are_its_own(theirs: Any, checkpoint: Path) -> None:
    torch = torch_reference.torch()
    ours = import_anomalib(checkpoint)
    assert (ours.config.image, ours.config.crop, ours.config.sigma) == (SIZE, SIZE, 4.0)
    model = theirs.model
    with torch.no_grad():
        shown = prepared(theirs, TEST)
        wanted = np.asarray(model(shown).anomaly_map)[:, 0]
        embedding = model.generate_embedding(model.feature_extractor(shown))
        stats = [model.gaussian.mean, model.gaussian.inv_covariance]
        grid = np.asarray(model.anomaly_map_generator.compute_distance(embedding, stats))[:, 0]
    found = padim.score(ours, TEST)
    inside = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    np.testing.assert_allclose(np.asarray(found.anomaly_map)[inside], wanted[inside], rtol=1e-4)
    # the border too, where its distances are blurred as ours are
    blurred = np.asarray(anomaly_map(jnp.asarray(grid), SIZE, 4.0, "bilinear"))
    np.testing.assert_allclose(found.anomaly_map, blurred, rtol=1e-4)
    np.testing.assert_allclose(found.image_score, blurred.max(axis=(1, 2)), rtol=1e-4)
    assert np.abs(np.asarray(found.anomaly_map) / wanted - 1).max() < 0.05


def test_photos_of_other_sizes_are_resized_as_it_does(theirs: Any, checkpoint: Path, tmp_path: Path) -> None:
    torch = torch_reference.torch()
    ours = import_anomalib(checkpoint)
    large = pixels(2, 2, (200, 152))
    with torch.no_grad():
        wanted = np.asarray(theirs.model(prepared(theirs, large)).anomaly_map)[:, 0]
    read = []
    for index, image in enumerate(large):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        read.append(read_image(tmp_path / f"{index}.png", ours.config))
    found = np.asarray(padim.score(ours, np.stack(read)).anomaly_map)
    inside = (slice(None), slice(EDGE, -EDGE), slice(EDGE, -EDGE))
    np.testing.assert_allclose(found[inside], wanted[inside], rtol=1e-2)  # we round resized pixels to 8 bits
