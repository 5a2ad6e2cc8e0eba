"""Pixel metrics agree with ADEval, and PRO with the evaluation code of MVTec AD that it carries, to 1e-3."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from padim_jax.evaluation.metrics import PixelScores

TOLERANCE = 1e-3


def blurred_images(n: int, size: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Smooth maps that see most of smooth, irregular regions; the first mask is empty."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(n):
        mask = gaussian_filter(rng.normal(size=(size, size)), 4) > (0.12 if index else np.inf)
        noise = gaussian_filter(rng.normal(size=(size, size)), 3) * 10
        maps.append((5 + noise + gaussian_filter(2.0 * mask, 5)).astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("seed", range(3))
def test_adeval(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "compares with adeval, which installs PyTorch: pip install -e '.[parity]'"
    adeval = pytest.importorskip("adeval", reason=why)
    au_pro = pytest.importorskip("adeval.au_pro", reason=why)
    if not hasattr(np, "trapz"):  # adeval 1.1.0 calls it; NumPy 2.4 dropped it
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    maps, masks = blurred_images(6, 128, seed)
    scores = PixelScores()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        scores.add(anomaly_map, mask)
    found = scores.metrics()
    assert found.n_regions > 10
    assert found.pro is not None
    assert 0.1 < found.pro < 0.95

    reference, _ = au_pro.calculate_au_pro(masks, maps, num_thresholds=5000)
    assert found.pro == pytest.approx(reference, abs=TOLERANCE)

    auroc, _, pro = adeval.auroc_aupr_aupro(maps, [mask.astype(np.uint8) for mask in masks], nstrips=5000)
    assert found.pro == pytest.approx(pro, abs=TOLERANCE)
    assert found.auroc == pytest.approx(auroc, abs=TOLERANCE)
