"""PatchCore agrees with anomalib's own model, and structural similarity with scikit-image, to 1e-3 and 1e-4.

anomalib's model is given the same activations and the same coreset.
"""

import importlib
import warnings
from typing import Any

import numpy as np
import pytest

from padim_jax.baselines import PatchCoreSettings, patchcore
from padim_jax.baselines.ssim import ssim_map
from tests import torch_reference, trained_models
from tests.baseline_models import BACKBONE, CONFIG, GOOD, TEST, activations

TOLERANCE = 1e-3
REASON = "compares with anomalib, which benchmarks/peers.py says how to install"


def anomalib_model(n_neighbours: int) -> Any:
    """anomalib's model with a network that gives our activations."""
    torch = torch_reference.torch()
    torch_reference.torchvision()
    pytest.importorskip("anomalib", reason=REASON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("anomalib.models.image.patchcore.torch_model")
        model = module.PatchcoreModel(
            layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False, num_neighbors=n_neighbours
        )

    class Taps(torch.nn.Module):
        def forward(self, pixels: Any) -> dict[str, Any]:
            found = activations(np.asarray(pixels.permute(0, 2, 3, 1)))[1:]
            tensors = [torch.tensor(part.transpose(0, 3, 1, 2), dtype=torch.float32) for part in found]
            return dict(zip(("layer2", "layer3"), tensors, strict=True))

    model.feature_extractor = Taps()
    return model.eval()


@pytest.mark.parametrize("n_neighbours", [1, 9])
def test_anomalib(n_neighbours: int) -> None:
    theirs = anomalib_model(n_neighbours)
    torch = torch_reference.torch()
    ours = patchcore.fit(BACKBONE, [GOOD], PatchCoreSettings(CONFIG, share=0.2, n_neighbours=n_neighbours))
    pixels = torch.tensor(TEST.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        pooled = {name: theirs.feature_pooler(part) for name, part in theirs.feature_extractor(pixels).items()}
        patches = theirs.reshape_embedding(theirs.generate_embedding(pooled))
        embedding = np.asarray(patchcore.embed_patches(BACKBONE, ours.embedding, TEST))
        np.testing.assert_allclose(embedding.reshape(patches.shape), patches, atol=1e-5)

        theirs.memory_bank = torch.tensor(np.asarray(ours.bank))
        found = theirs(pixels)
        # it upsamples maps to the next cell, where the paper and we interpolate; the blur is its own
        grid, _ = theirs.nearest_neighbors(patches, n_neighbors=1)
        grid = grid.reshape(len(TEST), 1, *ours.embedding.grid)
        theirs.anomaly_map_generator.blur = theirs.anomaly_map_generator.blur.__class__(
            kernel_size=(13, 13), sigma=(CONFIG.sigma, CONFIG.sigma), channels=1
        )
        upsampled = torch.nn.functional.interpolate(grid, CONFIG.crop, mode="bilinear")
        maps = theirs.anomaly_map_generator.blur(upsampled)[:, 0]
    scores = patchcore.score(ours, TEST)
    np.testing.assert_allclose(scores.image_score, found.pred_score, rtol=TOLERANCE)
    edge = 6  # their blur mirrors maps without repeating the outermost pixel
    inside = (slice(None), slice(edge, -edge), slice(edge, -edge))
    np.testing.assert_allclose(np.asarray(scores.anomaly_map)[inside], maps[inside], rtol=TOLERANCE)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_scikit_image_s_structural_similarity(window: Any) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="compares with scikit-image, which the extra parity brings")
    x, y = (pixels.astype(np.float32) / 255 for pixels in (trained_models.TEST, trained_models.BAD[::-1]))
    own: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5} if window == "gaussian" else {"win_size": 11}
    found = ssim_map(x, y, window)
    for index, (one, other) in enumerate(zip(x.astype(float), y.astype(float), strict=True)):
        _, maps = metrics.structural_similarity(
            one, other, data_range=1, channel_axis=-1, full=True, use_sample_covariance=False, **own
        )
        np.testing.assert_allclose(found[index], maps, atol=1e-4)
